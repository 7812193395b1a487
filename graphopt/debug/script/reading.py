"""From the options of a tool to what it works with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.debug.case import Case
    from graphopt.debug.checks import Check, CommandCheck
    from graphopt.debug.recipe import Recipe
    from graphopt.runtime import Runtime

__all__ = ["memory_bytes", "read_case", "read_check", "read_how", "read_recipe"]


def read_recipe(given: dict[str, Any]) -> Recipe:
    """Return the recipe that the options of ``recipe_options`` describe."""
    from graphopt import pipeline
    from graphopt.debug.recipe import Recipe
    from graphopt.passbase import Target

    return Recipe(
        given["model"].absolute(),
        tuple(pipeline.without(pipeline.parse(given["passes"]), given["skip"])),
        given["data"] and given["data"].absolute(),
        given["batch_size"],
        given["seed"],
        Target(given["emit"]),
    )


def read_check(given: dict[str, Any], recipe: Recipe, runtime: Runtime) -> Check:
    """Return the check that the options of ``check_options`` describe."""
    from graphopt.debug.checks import CommandCheck, NumericCheck
    from graphopt.validation import accepted

    how = read_how(given, recipe)
    if isinstance(how, CommandCheck):
        return how
    samples = recipe.samples()
    assert samples is not None
    samples = accepted(samples, recipe.model, runtime)
    return NumericCheck.of(recipe.model, samples, runtime, **how)


def read_case(
    given: dict[str, Any], recipe: Recipe, runtime: Runtime, *, must_run: bool = True
) -> tuple[Case, bool]:
    """Return the model with three feeds at most, and whether it runs on them.

    Raises:
        ValidationError: It does not run, though it must.
    """
    from graphopt import model_io
    from graphopt.answers import first_feeds
    from graphopt.debug.case import Case
    from graphopt.errors import ValidationError
    from graphopt.validation import accepted

    samples = recipe.samples()
    assert samples is not None
    count, runs = min(given["count"], 3), True
    try:
        feeds = first_feeds(accepted(samples, recipe.model, runtime), count)
    except ValidationError:
        if must_run:
            raise
        feeds, runs = first_feeds(samples, count), False
    return Case(model_io.load(recipe.model), tuple(feeds)), runs


def read_how(given: dict[str, Any], recipe: Recipe) -> CommandCheck | dict[str, Any]:
    """Return a command, or the options of ``NumericCheck.of``.

    Raises:
        MetricError: There is no such metric.
    """
    from graphopt.debug.checks import CommandCheck
    from graphopt.passbase import Promise
    from graphopt.pipeline import promise_of
    from graphopt.scores import metric_of
    from graphopt.validation import Tolerance

    metric_of(given["metric"])
    if given["command"]:
        return CommandCheck.parse(given["command"], given["timeout"])
    how: dict[str, Any] = {
        "count": given["count"],
        "promise": promise_of(recipe.passes),
        "metric": given["metric"],
        "target": given["target"],
    }
    if given["atol"] is not None or given["rtol"] is not None:
        how["tolerance"] = Tolerance(rtol=given["rtol"] or 0.0, atol=given["atol"] or 0.0)
        how["promise"] = Promise.CLOSE
    return how


def memory_bytes(given: dict[str, Any]) -> int | None:
    """Return ``--memory`` in bytes."""
    return None if given["memory"] is None else given["memory"] << 20
