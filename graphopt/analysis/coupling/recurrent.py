"""Rules of LSTM, GRU and RNN: the hidden units of a layer.

``X [time, batch, I]``, ``W [D, gates * H, I]``, ``R [D, gates * H, H]``,
``B [D, 2 * gates * H]``, initial states ``[D, batch, H]``, ``Y [time, D, batch, H]``. A unit
is a row in every gate of W and R, a column of R, and an index of the states. Both directions
of a bidirectional layer lose the same units, since one tensor holds them.
"""

from __future__ import annotations

from graphopt.analysis.coupling.rules import Axis, Op, rule

__all__: list[str] = []

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@rule("LSTM", "GRU", "RNN")
def recurrent(op: Op) -> None:
    """The hidden units are one dimension in all tensors, the inputs another."""
    gates, batch_first = _GATES[op.node.op_type], bool(op.attr_int("layout", 0))
    x, w, r = op.axes(0), op.axes(1), op.axes(2)
    size = r[2].size
    if size is None or w[1].size != gates * size or r[1].size != gates * size:
        op.refuse("its weights do not fit each other")
    op.whole([w[0], r[0]], "holds its directions there")
    op.whole([x[1 if batch_first else 0]], "runs along it")
    units = r[2]
    op.contract((0, x[2]), (1, w[2]))
    for axis in (w[1], r[1]):
        op.unify(axis, _gated(op, gates, units))
    if op.has(3):
        bias = op.axes(3)
        op.whole(bias[:1], "holds its directions there")
        op.unify(bias[1], _gated(op, 2 * gates, units))
    time, batch = (x[1], x[0]) if batch_first else (x[0], x[1])
    if op.has(4):
        op.whole(op.axes(4), "reads lengths")
    for index in (5, 6):
        if op.has(index):
            state = op.axes(index)
            of_batch, direction = (state[0], state[1]) if batch_first else (state[1], state[0])
            op.whole([direction], "holds its directions there")
            batch = op.broadcast(batch, of_batch)
            op.unify(state[2], units)
    if op.has(7):
        peepholes = op.axes(7)
        op.whole(peepholes[:1], "holds its directions there")
        op.unify(peepholes[1], _gated(op, 3, units))
    op.mixes(units)
    op.layer(1)
    op.layer(2)
    op.cost([w[1], w[2], batch, time], w[0].size or 1)
    op.cost([r[1], r[2], batch, time], w[0].size or 1)
    op.count("hidden_size", units)
    directions = op.frozen(w[0].size, "returns its directions there")
    if batch_first:
        op.output([batch, time, directions, units])
        states = [batch, directions, units]
    else:
        op.output([time, directions, batch, units])
        states = [directions, batch, units]
    op.output(states, 1)
    op.output(states, 2)


def _gated(op: Op, gates: int, units: Axis) -> Axis:
    """Return the axis ``[gates, units]`` of which every gate is needed."""
    return op.merge([op.frozen(gates, "has gates there"), units])
