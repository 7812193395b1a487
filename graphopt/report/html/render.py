"""Writes what was collected as one HTML file: the template, our own scripts, the libraries."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import jinja2
import markupsafe

from graphopt.report.console import size

from .content import Content, RewriteRow
from .graph_rows import GraphContent

__all__ = ["render"]

ASSETS = pathlib.Path(__file__).with_name("assets")
LIBRARIES = ("d3.min.js", "plot.min.js", "dagre.min.js")
SCRIPTS = ("dom.js", "table.js", "charts.js", "graph_model.js", "graph_view.js", "main.js")

_DIGITS = 6
"""Significant digits of a figure: more than any picture shows."""


def render(content: Content) -> bytes:
    """Return the report as one HTML file. The same content gives the same bytes."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "signed": _signed, "clip": _clip}
    page = environment.get_template("report.html.j2").render(
        content=content,
        style=_inline("report.css"),
        libraries=[_inline(f"vendor/{name}") for name in LIBRARIES],
        scripts=[_inline(name) for name in SCRIPTS],
        data=markupsafe.Markup(_json(_data(content))),
    )
    return page.encode("utf-8", errors="replace")


def _signed(number: int) -> str:
    return f"{number:+,}".replace("-", "\N{MINUS SIGN}") if number else ""


def _clip(text: str, length: int) -> str:
    """Return ``text`` without its middle where it is too long to be read."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def _inline(name: str) -> markupsafe.Markup:
    """Return an asset as it stands in the page, where nothing in it can end its element."""
    text = (ASSETS / name).read_text(encoding="utf-8")
    return markupsafe.Markup(text.replace("</script", "<\\/script").replace("</style", ""))


def _json(value: object) -> str:
    """Return JSON that may stand in a ``script`` element: no name in it can end that."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(content: Content) -> dict[str, Any]:
    """Return what the scripts show. Text that comes again and again is written once."""
    texts = _Texts()
    data = {
        "start": _plain(content.start),
        "steps": _plain(content.steps),
        "search": _plain(content.search),
        "searchAbout": _plain(content.search_about),
        "layers": _plain(content.layers),
        "before": _graph(content.before, texts),
        "after": _graph(content.after, texts),
        "rewrites": [_rewrite(row, texts) for row in content.rewrites],
        "skips": _plain(content.skips),
    }
    data["texts"] = texts.known
    return data


class _Texts:
    """Gives every text a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def known(self) -> list[str]:
        return list(self._numbers)


def _graph(graph: GraphContent, texts: _Texts) -> dict[str, Any]:
    return {
        "nodes": [
            [
                texts(node.name),
                texts(node.op_type),
                node.inputs,
                node.outputs,
                texts(node.attributes),
                texts(node.state),
                node.rewrites,
                texts(node.where),
                node.inner,
            ]
            for node in graph.nodes
        ],
        "values": [[texts(v.name), texts(v.type), texts(v.kind)] for v in graph.values],
        "inputs": graph.inputs,
        "outputs": graph.outputs,
    }


def _rewrite(row: RewriteRow, texts: _Texts) -> list[Any]:
    return [
        row.number,
        *map(texts, (row.pass_name, row.rule, row.anchor, row.note)),
        *(list(map(texts, nodes)) for nodes in (row.removed, row.added, row.changed)),
        row.bytes_delta,
        texts(row.undone),
    ]


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON has it; a figure that is not finite is ``None``."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
