"""What a sequence of passes is worth, and sequences without some of their passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.errors import PipelineError, nearest
from graphopt.passbase import Pass, Promise
from graphopt.pipeline.text import format_pass
from graphopt.rewrite import Fixpoint, RulePass

__all__ = ["check_order", "promise_of", "without", "without_last_optional"]


def check_order(passes: Sequence[Pass]) -> None:
    """Check the order constraints that passes declare (``Pass.after``).

    Raises:
        PipelineError: A pass stands before one that it must follow.
    """
    flat = [one for pass_ in passes for one in _flat(pass_)]
    for index, pass_ in enumerate(flat):
        before = {earlier.name for earlier in flat[:index]}
        for later in flat[index + 1 :]:
            if later.name in pass_.after and later.name not in before:
                raise PipelineError(
                    "order",
                    f"{pass_.name!r} stands before {later.name!r}.",
                    hint=f"Put {later.name!r} first.",
                )


def promise_of(passes: Sequence[Pass]) -> Promise:
    """Return the weakest promise of the passes: what their sequence is worth."""
    promises = (one.promise for pass_ in passes for one in _flat(pass_))
    return max(promises, key=list(Promise).index, default=Promise.EXACT)


def without(passes: Sequence[Pass], names: Iterable[str]) -> list[Pass]:
    """Return the passes without those that are called by one of ``names``, in brackets or not.

    Raises:
        PipelineError: A name is not in the pipeline, or nothing is left.
    """
    unwanted = set(names)
    present = {one.name for pass_ in passes for one in _flat(pass_)}
    for name in sorted(unwanted - present):
        raise PipelineError(
            "not-in-pipeline",
            f"there is no {name!r} in the pipeline to leave out.",
            hint=nearest(name, present),
        )
    left: list[Pass] = []
    for pass_ in passes:
        kept = [one for one in _flat(pass_) if one.name not in unwanted]
        if isinstance(pass_, Fixpoint) and kept:
            left.append(Fixpoint(tuple(one for one in kept if isinstance(one, RulePass))))
        else:
            left += kept
    if not left:
        raise PipelineError("empty", "no pass of the pipeline is left.")
    return left


def without_last_optional(passes: Sequence[Pass]) -> tuple[str, list[Pass]] | None:
    """Return the pass to leave out first, as text, and the passes without it.

    That is the last of those that promise least, in brackets or not. Exact passes stay: what
    they gain does not depend on the machine, and the same input should give the same file.
    """
    for promise in (Promise.LOSSY, Promise.CLOSE):
        for index in reversed(range(len(passes))):
            pass_ = passes[index]
            if promise_of([pass_]) is not promise:
                continue
            rest = [*passes[:index], *passes[index + 1 :]]
            if not isinstance(pass_, Fixpoint):
                return format_pass(pass_), rest
            last = max(i for i, one in enumerate(pass_.passes) if one.promise is promise)
            inner = (*pass_.passes[:last], *pass_.passes[last + 1 :])
            if inner:
                rest.insert(index, Fixpoint(inner))
            return format_pass(pass_.passes[last]), rest
    return None


def _flat(pass_: Pass) -> Sequence[Pass]:
    return pass_.passes if isinstance(pass_, Fixpoint) else [pass_]
