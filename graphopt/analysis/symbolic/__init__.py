"""Sizes as polynomials over symbolic dimensions: shapes, and the integers they come from."""

from __future__ import annotations

from graphopt.analysis.symbolic.base import Shape
from graphopt.analysis.symbolic.expressions import Dim, Expr
from graphopt.analysis.symbolic.symbols import Symbols

__all__ = ["Dim", "Expr", "Shape", "Symbols"]
