"""Deliberately broken passes, and models they break.

The passes are installed as a plug-in, also where there are no tests: what makes models imports
its helpers itself.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.edit import Edit
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Rule, RulePass


@dataclasses.dataclass(frozen=True)
class Faulty(RulePass):
    """Removes ``Identity`` nodes, and does something else at the node named ``at``.

    Attributes:
        at: Name of the node at which it goes wrong; empty: nowhere.
        how: What goes wrong there: ``"negate"`` and ``"double"`` (wrong answers), ``"raise"``
            (in the rewrite), ``"raise-early"`` (while matching), ``"invalid"`` (an operator
            that does not exist), ``"kill"`` and ``"abort"`` (native code dies), ``"hang"``
            and ``"spin"``, ``"memory"`` and ``"array"`` (it runs out).
    """

    name: ClassVar[str] = "faulty"
    promise: ClassVar[Promise] = Promise.EXACT

    at: str = ""
    how: str = "negate"

    def rules(self, context: Context) -> Sequence[Rule]:
        return [Rule("remove-identity", ("Identity",), self._match)]

    def _match(self, node: ir.Node, facts):
        bad = node.name == self.at
        if node.outputs[0].is_graph_output() and not bad:
            return None  # an output needs a node
        if bad and self.how == "raise-early":
            raise ZeroDivisionError("on purpose, early")

        def rewrite(edit: Edit) -> None:
            new = node.inputs[0]
            if bad and self.how in ("negate", "invalid"):
                op_type = "Neg" if self.how == "negate" else "NoSuchOperator"
                (new,) = edit.node(op_type, node.inputs, before=node, like=node.outputs)
            elif bad and self.how == "double":
                twice = [node.inputs[0]] * 2
                (new,) = edit.node("Add", twice, before=node, like=node.outputs)
            elif bad and self.how == "raise":
                raise ZeroDivisionError("on purpose")
            elif bad and self.how == "kill":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif bad and self.how == "abort":
                os.abort()
            elif bad and self.how == "hang":
                time.sleep(1000)
            elif bad and self.how == "memory":
                edit.note(f"{len(bytearray(1 << 36))} bytes")
            elif bad and self.how == "array":
                edit.note(f"{np.ones(1 << 33).nbytes} bytes")
            while bad and self.how == "spin":
                pass
            edit.replace(node.outputs[0], new)
            edit.remove(node)

        return rewrite


@dataclasses.dataclass(frozen=True)
class Unnumbered(Pass):
    """Changes the model without telling the ledger."""

    name: ClassVar[str] = "unnumbered"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> PassResult:
        next(node for node in model.graph if node.op_type == "Sigmoid").op_type = "Tanh"
        return PassResult(model, modified=True)


def chain(size: int) -> ir.Model:
    """Return a model with ``size`` nodes of ``Identity`` in a row, named ``i1``, ``i2`` …"""
    import graphs

    lines = [f"v{i} = Identity(v{i - 1})" for i in range(1, size + 1)]
    model = graphs.load(
        f"""g (float[N,4] x) => (float[N,4] y) <float[4] w={{1,2,3,4}}> {{
            v0 = Add(x, w) {" ".join(lines)} y = Sigmoid(v{size}) }}"""
    )
    for node in model.graph:
        node.name = node.outputs[0].name.replace("v", "i")
    return model


def save_chain(path: pathlib.Path, size: int) -> pathlib.Path:
    """Write ``chain(size)``, and samples for it next to it."""
    onnx.save(ir.to_proto(chain(size)), path)
    np.savez(
        path.with_suffix(".npz"), x=np.linspace(-2, 2, 24, dtype=np.float32).reshape(6, 4)
    )
    return path


def save_choosy(path: pathlib.Path) -> pathlib.Path:
    """Write a model that refuses pictures below 131 x 131, which are what is made up first."""
    import graphs

    model = graphs.load(
        """g (float[B,1,H,W] x) => (float[B,1,P,Q] z)
        <int64[2] start = {130, 130}, int64[2] one = {1, 1}> {
            big = Shape <start = 2, end = 4> (x)
            left = Sub (big, start)
            size = Concat <axis = 0> (one, left)
            y = ConstantOfShape <value = float[1] {2}> (size)
            i = Identity (y)
            z = Sigmoid (i) }"""
    )
    for node in model.graph:
        node.name = node.outputs[0].name
    onnx.save(ir.to_proto(model), path)
    return path
