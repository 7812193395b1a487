"""Prune channels, units and heads: remove them, so that the model gets smaller and faster.

Before -> after::

    h = Relu(Conv(x, W1)); y = Conv(h, W2)     W1 [64, 3, 3, 3], W2 [32, 64, 3, 3]
    h = Relu(Conv(x, W1')); y = Conv(h, W2')   W1' [32, 3, 3, 3], W2' [32, 32, 3, 3]

The coupling analysis finds every dimension of the model whose indices can be removed together,
whatever operators lie in between (see ``graphopt.analysis.coupling``). Each gets an importance
for every index, and the least important ones go: one numbered rewrite a group, which slices
all the weights and repairs what counts or measures them.

Preconditions, per group (a group that fails one is left alone and the reason recorded):
    1. None of its indices is needed: by the interface of the model, by a subgraph, by an
       operator that works by position, or by one that has no rule.
    2. It has more than ``minimum`` indices, and no pattern excludes it.
    3. No normalization takes statistics over it, unless ``statistics`` is set.
    4. It is not another factor of an axis that is cut already (heads before their width).

With samples, every layer that lost inputs is then fitted to what it returned before, by least
squares on what the smaller model now gives it: one more rewrite a layer, no training. What
cannot be fitted (a Conv in groups) and is followed by a BatchNormalization gets its statistics
estimated again, so prune before those are fused.

Numerics: lossy. Before layers are fitted the result equals the original with the consumers'
slices of the removed indices set to zero, up to the order of summation (tested to 1e-5).
Scope: main graph and subgraphs; nothing is cut across the border of a subgraph.
Leaves alone: what the groups' reasons say; ``graphopt inspect --groups`` lists them.
Reference: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", arXiv 2301.12900; He
et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv 1707.06168.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.graph import analyse
from graphopt.analysis.coupling.groups import Dimensions, find_groups
from graphopt.analysis.shapes import shapes_of_run
from graphopt.passbase import Context, Pass, PassResult, Promise

from .allocation import Limits
from .compaction import Compactor
from .one_thread import one_thread
from .plan import Plan
from .planning import Budget, make_plan
from .ranking import MEASURED, Measuring
from .recovered import recovery_summary
from .recovery import recover
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from graphopt.samples import Samples

__all__ = ["PruneChannels", "apply_plan"]


@dataclasses.dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove the least important indices of every dimension; see the module docstring.

    Attributes:
        ratio: Share of the indices that every group loses, 0 to 1; where there is a budget it
            says nothing.
        parameters, size, macs, latency: Budgets: what may be left of the parameters, of their
            bytes, of the multiplications, of the measured time of a run, as a share of the
            original's; 0: no such budget. Groups then lose as much as costs least; several
            budgets are all met. Multiplications are those of the first sample; without samples
            what is open counts as 1.
        maximum: Largest share of its indices that a group loses under a budget.
        criterion: How the importance of an index is measured: by the weights (``l1``, ``l2``,
            ``geometric-median``, ``batchnorm``: its scale), by the weights that read it and
            what they read on the samples (``wanda``), by what the outputs of the layers that
            read it lose at best (``obs``), or not at all (``random``).
        include: Cut only groups with a member that matches one of these patterns: node names,
            operators or names of weights, with ``*`` and ``?``. Empty: all.
        exclude: Leave groups alone that have a member that matches one of these.
        minimum: Indices that every group keeps.
        multiple_of: Kept counts are multiples of this; 0: what the kernels like, which is 16
            channels (8 or 4 where that is too coarse) for Conv and any count for the rest.
        statistics: Cut axes that a normalization takes statistics over, too; the result is
            then no longer the original with weights set to zero.
        untie: Let every use of a shared vector be cut by itself; matrices stay shared.
        recovery: ``least-squares``: layers that lost inputs are fitted to what they returned
            before, on the samples, and statistics of BatchNormalization that follow no such
            layer are estimated again; ``batchnorm``: statistics only, all of them; ``auto``:
            ``least-squares`` if there are samples; ``none``.
        memory_limit: Bytes that sums over activations may take at a time: a layer that needs
            more is not fitted; ``obs`` measures as few groups at a time as it takes.
        plan: A file with a plan to replay; the options above but ``untie`` and ``recovery``
            then say nothing.
    """

    name: ClassVar[str] = "prune-channels"
    promise: ClassVar[Promise] = Promise.LOSSY

    ratio: float = 0.3
    criterion: Literal[
        "l1", "l2", "geometric-median", "batchnorm", "random", "wanda", "obs"
    ] = "l2"
    parameters: float = 0.0
    size: float = 0.0
    macs: float = 0.0
    latency: float = 0.0
    maximum: float = 0.9
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    minimum: int = 1
    multiple_of: int = 0
    statistics: bool = False
    untie: bool = True
    recovery: Literal["auto", "least-squares", "batchnorm", "none"] = "auto"
    memory_limit: int = 3 << 27
    plan: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must be at least 0 and below 1, got {self.ratio}")
        if not 0 <= self.maximum < 1:
            raise ValueError(f"maximum must be at least 0 and below 1, got {self.maximum}")
        for name in ("parameters", "size", "macs", "latency"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be at least 0 and at most 1")
        if self.minimum < 1 or self.multiple_of < 0:
            raise ValueError("minimum must be at least 1 and multiple_of at least 0")

    @one_thread()
    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Analyse, plan, cut."""
        coupling = analyse(model, self.untie)
        if context.samples is not None:
            coupling.count_run(shapes_of_run(model, context.samples.first_shapes()))
        dimensions = find_groups(coupling)
        limits = Limits(
            self.include,
            self.exclude,
            self.minimum,
            self.multiple_of,
            self.statistics,
            self.maximum,
        )
        if self.plan:
            plan = Plan.load(self.plan)
        else:
            plan = self._make_plan(dimensions, limits, model, context)
        samples = self._samples(context)
        original = model.clone() if samples is not None else None
        rewriter = context.rewriter(model, self)
        compactor = Compactor(dimensions, rewriter)
        result = apply_plan(plan, compactor)
        if not result.modified or original is None or samples is None:
            return result
        recovered = recover(
            original,
            compactor,
            rewriter,
            samples,
            context,
            self.memory_limit,
            fit_layers=self.recovery != "batchnorm",
        )
        return dataclasses.replace(
            result,
            summary=f"{result.summary}; {recovery_summary(recovered)}",
            details={
                **result.details,
                "recovered": [dataclasses.asdict(one) for one in recovered],
            },
        )

    def _make_plan(
        self, dimensions: Dimensions, limits: Limits, model: ir.Model, context: Context
    ) -> Plan:
        measuring = stopwatch = None
        if self.criterion in MEASURED:
            given = context.required_samples(self)
            measuring = Measuring(model, given, context, self.memory_limit)
        if self.latency:
            stopwatch = Stopwatch(model, context, self.untie)
        return make_plan(
            dimensions,
            self.ratio,
            self.criterion,
            limits,
            context.seed,
            measuring,
            Budget(self.parameters, self.size, self.macs, self.latency),
            stopwatch,
        )

    def _samples(self, context: Context) -> Samples | None:
        """Return what the result is fitted on; ``None``: it is not."""
        if self.recovery in ("least-squares", "batchnorm"):
            return context.required_samples(self)
        use = self.recovery == "auto" and context.samples is not None
        return context.samples if use else None


def apply_plan(plan: Plan, compactor: Compactor) -> PassResult:
    """Cut what ``plan`` says, one rewrite a group."""
    dimensions, rewriter = compactor.dimensions, compactor.rewriter
    removals = plan.removals(dimensions.groups)
    before = _sizes(dimensions, compactor.dead)
    done = sum(compactor.cut(group, removed) for group, removed in removals)
    after = _sizes(dimensions, compactor.dead)
    for entry in plan.entries:
        if entry.reason:
            rewriter.skip("cut-group", entry.name, entry.reason)
    for node, reason in dimensions.coupling.refused:
        rewriter.skip("couple", node, reason)
    return PassResult(
        rewriter.model,
        modified=done > 0,
        summary=(
            f"cut {done} of {len(dimensions.groups)} groups: "
            f"parameters {_change(before[0], after[0])}, "
            f"multiplications {_change(before[1], after[1])}"
        ),
        details={
            "plan": plan.to_json(),
            "parameters": before[0],
            "parameters_after": after[0],
            "multiplications": before[1],
            "multiplications_after": after[1],
        },
    )


def _sizes(dimensions: Dimensions, dead: np.ndarray) -> tuple[int, int]:
    return dimensions.parameters(dead), dimensions.multiplications(dead)


def _change(before: int, after: int) -> str:
    share = 100 * (after - before) / before if before else 0.0
    return f"{before:,} -> {after:,} ({share:+.1f} %)"
