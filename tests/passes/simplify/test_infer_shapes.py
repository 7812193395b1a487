"""Tests of InferShapes: what is recorded, and what is left as the file has it."""

import onnx_ir as ir
from graphopt.passes.simplify.infer_shapes import InferShapes
from graphs import apply, load


def bare(text: str) -> ir.Model:
    """Return a model whose inner values have neither type nor shape."""
    model = load(text)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    return model


def shapes(model: ir.Model) -> dict[str, str]:
    return {
        value.name: f"{value.dtype.name.lower() if value.dtype else '?'}{value.shape or ''}"
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        for value in node.outputs
    }


CHAIN = """g (float[N, M, 96] x) => (float[A, B, C, D] y)
           <int64[2] nm = {0, 1}, int64[2] rest = {12, -1}>
           { s = Shape(x)
             h = Gather(s, nm)
             t = Concat <axis=0> (h, rest)
             r = Reshape(x, t)
             y = Relu(r) }"""


def test_what_onnx_gives_up_on_is_followed() -> None:
    model = bare(CHAIN)
    assert apply(model, InferShapes()).modified
    found = shapes(model)
    assert found["r"] == "float[N,M,12,8]"
    assert found["t"] == "int64[4]"
    assert not apply(model, InferShapes()).modified


def test_outputs_stay_as_they_are_declared() -> None:
    model = bare(CHAIN)
    apply(model, InferShapes())
    assert shapes(model)["y"] == "float[A,B,C,D]"


def test_types_of_branches_are_found() -> None:
    model = bare(
        """g (bool c, float[N] x) => (float[N] y)
           { y = If (c) <then_branch = t () => (float[N] p) { a = Cast <to=7> (x)
                                                            p = Cast <to=1> (a) },
                         else_branch = e () => (float[N] q) { q = Exp(x) }> }"""
    )
    apply(model, InferShapes())
    assert shapes(model)["a"] == "int64[N]"


def test_a_batch_that_the_file_has_wrong_is_corrected() -> None:
    model = load("g (float[N, 3] x) => (float[N, 3] y) { h = Relu(x)\n y = Exp(h) }")
    model.graph[0].outputs[0].shape = ir.Shape([1, 3])
    assert apply(model, InferShapes()).modified
    assert shapes(model)["h"] == "float[N,3]"


def test_what_only_the_file_knows_is_kept() -> None:
    text = """g (float[N, 3] x) => (float[N, 3] y)
              { h = my.domain.Op(x)
                k = Relu(h)
                y = my.domain.Op(k) }"""
    model = load(text, domains=("my.domain",))
    h = model.graph[0].outputs[0]
    h.type, h.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", 7])
    assert apply(model, InferShapes()).modified
    found = shapes(model)
    assert found["h"] == "float[None,7]"
    assert found["k"] == "float[None,7]"


def test_a_name_is_only_used_for_the_dimension_of_an_input() -> None:
    model = bare("g (float[N] x) => (float[M] y) { a, i = Unique(x)\n y = Relu(a) }")
    apply(model, InferShapes())
    assert shapes(model)["a"] == "float[None]"


def test_sparse_and_sequence_values_have_types() -> None:
    model = bare(
        """g (float[N] x) => (float[M] y) <int64 i = {0}>
           { s = SequenceConstruct(x, x)
             y = SequenceAt(s, i) }"""
    )
    assert apply(model, InferShapes()).modified
    assert isinstance(model.graph[0].outputs[0].type, ir.SequenceType)
