"""The table of ``graphopt inspect --groups``: what can be pruned together, or why not."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import rich.box
import rich.table
import rich.text

from graphopt.analysis.coupling.graph import analyse
from graphopt.analysis.coupling.groups import Dimensions, Group

__all__ = ["groups_table", "groups_to_json"]


def groups_table(model: ir.Model) -> rich.table.Table:
    """Return one row a coupled group: size, members, cost per index, or why it is frozen."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group", overflow="fold")
    for column in ("size", "members", "parameters per index"):
        table.add_column(column, justify="right")
    table.add_column("frozen, or lossy, because", overflow="fold")
    for group in Dimensions(analyse(model)).groups:
        table.add_row(
            rich.text.Text(group.name),
            f"{group.size:,}",
            f"{len(group.members):,}",
            f"{group.parameters:,}",
            rich.text.Text(_why(group)),
        )
    return table


def groups_to_json(model: ir.Model) -> list[dict[str, Any]]:
    """Return the groups as JSON values."""
    return [
        {
            "name": group.name,
            "size": group.size,
            "members": [f"{m.site.value.name}:{m.axis}" for m in group.members],
            "parameters_per_index": group.parameters,
            "frozen": group.reason,
            "lossy": group.statistics,
        }
        for group in Dimensions(analyse(model)).groups
    ]


def _why(group: Group) -> str:
    if group.reason:
        return f"frozen: {group.reason}"
    return f"lossy: {group.statistics}" if group.statistics else ""
