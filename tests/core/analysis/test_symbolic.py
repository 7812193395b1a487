"""Symbolic shapes and contents, held against what onnxruntime computes."""

import collections

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import pytest
from expression_values import value_of
from graphs import load
from random_graphs import Builder

from graphopt.analysis.symbolic import Symbols
from graphopt.analysis.symbolic.symbols import MAX_ELEMENTS


def by_name(model: ir.Model) -> dict[str, ir.Value]:
    return {value.name or "": value for node in model.graph for value in node.outputs}


def shape_of(
    text: str, name: str = "y", opset: int = 21, domains: tuple[str, ...] = ()
) -> str:
    """Return the shape of a value in words."""
    model = load(text, opset, domains)
    shape = Symbols(model).shape(by_name(model)[name])
    return "?" if shape is None else "(" + ", ".join(map(str, shape)) + ")"


def content_of(text: str, name: str = "y") -> str:
    """Return the content of a value in words."""
    model = load(text)
    content = Symbols(model).content(by_name(model)[name])
    if content is None:
        return "?"
    return str([str(item) for item in content.flat]).replace("'", "")


SHAPES = {
    "reshape_by_the_shape_of_its_input": (
        """s = Shape(x)
           n = Gather <axis=0> (s, zero)
           t = Concat <axis=0> (n, rest)
           y = Reshape(x, t)""",
        "<int64[1] zero = {0}, int64[2] rest = {-1, 4}>",
        "(N, 3*M, 4)",
    ),
    "reshape_copies_sizes": (
        "y = Reshape(x, t)",
        "<int64[4] t = {0, 0, 3, -1}>",
        "(N, M, 3, 4)",
    ),
    "reshape_with_allowzero": (
        "z = Slice(x, zero, zero, one)\n y = Reshape <allowzero=1> (z, t)",
        "<int64[1] zero = {0}, int64[1] one = {1}, int64[2] t = {0, 7}>",
        "(0, 7)",
    ),
    "reshape_to_what_is_fed": ("y = Reshape(x, v)", "", "(?3, ?4)"),
    "flatten": ("y = Flatten <axis=2> (x)", "", "(M*N, 12)"),
    "slice_to_the_end": (
        "y = Slice(x, one, big, one)",
        "<int64[1] one = {1}, int64[1] big = {9223372036854775807}>",
        "(N, max(0, M + -1*min(1, M)), 12)",
    ),
    "slice_all": (
        "y = Slice(x, zero, big, one)",
        "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] big = {9223372036854775807}>",
        "(N, M, 12)",
    ),
    "split_evenly": ("y, z, w = Split <axis=2, num_outputs=3> (x)", "", "(N, M, 4)"),
    "split_a_symbol": (
        "y, z = Split <axis=0, num_outputs=2> (x)",
        "",
        "(floor((1 + N)/(2)), M, 12)",
    ),
    "concat_adds": ("y = Concat <axis=1> (x, x, x)", "", "(N, 3*M, 12)"),
    "broadcast": (
        "t = Transpose <perm=[1, 0, 2]> (x)\n y = Add(x, t)",
        "",
        "(bc(M, N), bc(M, N), 12)",
    ),
    "matmul": ("t = Transpose <perm=[0, 2, 1]> (x)\n y = MatMul(x, t)", "", "(N, M, M)"),
    "matmul_of_a_vector": (
        "y = MatMul(x, w)",
        "<float[12] w = {1,1,1,1,1,1,1,1,1,1,1,1}>",
        "(N, M)",
    ),
    "gather": ("y = Gather <axis=-1> (x, v)", "", "(N, M, 2)"),
    "reduce": ("y = ReduceMean <keepdims=0> (x, a)", "<int64[1] a = {-2}>", "(N, 12)"),
    "reduce_all": ("y = ReduceMax (x)", "", "(1, 1, 1)"),
    "argmax": ("y = ArgMax <axis=1, keepdims=0> (x)", "", "(N, 12)"),
    "top_k": ("y, i = TopK (x, k)", "<int64[1] k = {3}>", "(N, M, 3)"),
    "unsqueeze": ("y = Unsqueeze(x, a)", "<int64[2] a = {0, -1}>", "(1, N, M, 12, 1)"),
    "squeeze": (
        "u = Unsqueeze(x, a)\n y = Squeeze(u, a)",
        "<int64[2] a = {0, -1}>",
        "(N, M, 12)",
    ),
    "squeeze_what_is_one": ("u = Unsqueeze(x, a)\n y = Squeeze(u)", "<int64[1] a = {0}>", "?"),
    "tile": ("y = Tile(x, r)", "<int64[3] r = {1, 2, 3}>", "(N, 2*M, 36)"),
    "pad": ("y = Pad(x, p)", "<int64[6] p = {0, 1, 0, 0, 2, -2}>", "(N, 3 + M, 10)"),
    "expand_to_its_shape": (
        "s = Shape(x)\n y = Expand(one, s)",
        "<float one = {1.0}>",
        "(N, M, 12)",
    ),
    "range": (
        """s = Shape <start=0, end=1> (x)
           n = Squeeze(s)
           y = Range(zero, n, two)""",
        "<int64 zero = {0}, int64 two = {2}>",
        "(floor((1 + N)/(2)))",
    ),
    "one_hot": (
        "y = OneHot <axis=0> (v, d, o)",
        "<int64 d = {5}, float[2] o = {0.0, 1.0}>",
        "(5, 2)",
    ),
    "einsum": ('y = Einsum <equation="nmk, nmj -> nkj"> (x, x)', "", "(N, 12, 12)"),
    "what_no_rule_knows": ("y, i = Unique <axis=0> (x)", "", "(?1, ?2, 12)"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str) -> None:
    lines, weights, expected = SHAPES[name]
    text = f"""g (float[N, M, 12] x, int64[2] v) => (float[A, B] out) {weights}
               {{ {lines}
                  out = Flatten(x) }}"""
    assert shape_of(text) == expected


CONTRIBUTED = {
    "com.microsoft.BiasGelu (x, b)": "(N, M, 12)",
    "com.microsoft.SkipLayerNormalization <epsilon = 0.1> (x, x, b)": "(N, M, 12)",
    "com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, w)": "(N, M, 6)",
    "com.microsoft.Attention <num_heads = 2, qkv_hidden_sizes = [4, 4, 6]> (x, p, b)": (
        "(N, M, 6)"
    ),
}


@pytest.mark.parametrize("call", CONTRIBUTED)
def test_shape_of_operators_of_onnxruntime(call: str) -> None:
    text = f"""g (float[N, M, 12] x, float[12] b, float[N, M, 6] w, float[12, 14] p)
        => (float[A, B] out) {{ y = {call} out = Flatten(x) }}"""
    assert shape_of(text, domains=("com.microsoft",)) == CONTRIBUTED[call]


CONVOLUTIONS = {
    "same": ("Conv <pads=[1, 1, 1, 1]> (x, w)", "(N, 4, H, W)"),
    "strided": (
        "Conv <pads=[1, 1, 1, 1], strides=[2, 2]> (x, w)",
        "(N, 4, floor((1 + H)/(2)), floor((1 + W)/(2)))",
    ),
    "valid": ("Conv (x, w)", "(N, 4, -2 + H, -2 + W)"),
    "auto": (
        'Conv <auto_pad="SAME_UPPER", strides=[2, 2]> (x, w)',
        "(N, 4, floor((1 + H)/(2)), floor((1 + W)/(2)))",
    ),
    "pool": (
        "MaxPool <kernel_shape=[2, 2], strides=[2, 2]> (x)",
        "(N, 4, floor((H)/(2)), floor((W)/(2)))",
    ),
    "pool_rounded_up": (
        "MaxPool <kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1> (x)",
        "(N, 4, ?1, ?2)",
    ),
    "global": ("GlobalAveragePool (x)", "(N, 4, 1, 1)"),
    "transposed": (
        "ConvTranspose <strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]> (x, w)",
        "(N, 4, 2*H, 2*W)",
    ),
    "resized": ("Resize (x, , s)", "(N, 4, 2*H, ?1)"),
    "normalized": ("InstanceNormalization (x, b, b)", "(N, 4, H, W)"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_shape_of_images(name: str) -> None:
    call, expected = CONVOLUTIONS[name]
    zeros = ", ".join(["0.5"] * 144)
    text = f"""g (float[N, 4, H, W] x) => (float[N, 4] out)
        <float[4, 4, 3, 3] w = {{{zeros}}}, float[4] s = {{1.0, 1.0, 2.0, 1.5}},
         float[4] b = {{1.0, 1.0, 1.0, 1.0}}>
        {{ y = {call}
           p = GlobalMaxPool(x)
           out = Flatten(p) }}"""
    assert shape_of(text) == expected


CONTENTS = {
    "part_of_a_shape": ("y = Shape <start=1> (x)", "[M, 12]"),
    "size": ("y = Size(x)", "[12*M*N]"),
    "arithmetic": ("s = Shape(x)\n y = Mul(s, two)", "[2*N, 2*M, 24]"),
    "division": ("s = Shape(x)\n y = Div(s, two)", "[floor((N)/(2)), floor((M)/(2)), 6]"),
    "product": ("s = Shape(x)\n y = ReduceProd <keepdims=0> (s, axis)", "[12*M*N]"),
    "a_size_is_not_minus_one": (
        "s = Shape(x)\n e = Equal(s, minus)\n y = Where(e, one, s)",
        "[N, M, 12]",
    ),
    "a_size_may_be_zero": ("s = Shape(x)\n y = Equal(s, axis)", "?"),
    "comparison": ("s = Shape(x)\n y = GreaterOrEqual(s, axis)", "[True, True, True]"),
    "through_int32": (
        "s = Shape(x)\n i = Cast <to=6> (s)\n y = Cast <to=7> (i)",
        "[N, M, 12]",
    ),
    "too_large_for_int32": ("i = Cast <to=6> (big)\n y = Cast <to=7> (i)", "[?1]"),
    "from_floats": ("y = Cast <to=7> (whole)", "[2, -3]"),
    "from_fractions": ("y = Cast <to=7> (half)", "[?1, ?2]"),
    "gather_from_the_back": ("s = Shape(x)\n y = Gather(s, minus)", "[12]"),
    "slice_backwards": (
        "s = Shape(x)\n y = Slice(s, minus, small, axis, minus)",
        "[12, M, N]",
    ),
    "reshape_and_transpose": (
        "c = Concat <axis=0> (two, axis, one, two)\n r = Reshape(c, square)\n"
        "t = Transpose <perm=[1, 0]> (r)\n y = Reshape(t, minus)",
        "[2, 1, 0, 2]",
    ),
    "fed": ("y = Add(v, one)", "[1 + ?1, 1 + ?2]"),
    "range": ("y = Range(zero, three, unit)", "[0, 1, 2]"),
    "constant_of_shape": ("y = ConstantOfShape <value = int64[1] {7}> (two)", "[7, 7]"),
    "constant_of_floats": ("y = ConstantOfShape (two)", "?"),
    "extremes": ("s = Shape(x)\n y = Min(s, two)", "[min(2, N), min(2, M), 2]"),
    "beyond_int64": ("y = Mul(big, big)", "[?1]"),
    "division_by_zero": ("y = Div(two, axis)", "[?1]"),
    "gather_out_of_range": ("y = Gather(two, two)", "[?1]"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_content(name: str) -> None:
    lines, expected = CONTENTS[name]
    text = f"""g (float[N, M, 12] x, int64[2] v) => (float[A, B] out)
        <int64[1] two = {{2}}, int64[1] one = {{1}}, int64[1] axis = {{0}},
         int64[1] minus = {{-1}}, int64[1] big = {{9223372036854775807}},
         int64[1] small = {{-9223372036854775807}}, int64[2] square = {{2, 2}},
         float[2] whole = {{2.0, -3.0}}, float[2] half = {{2.0, 0.5}},
         int64 zero = {{0}}, int64 three = {{3}}, int64 unit = {{1}}>
        {{ {lines}
           out = Flatten(x) }}"""
    assert content_of(text) == expected


def test_a_large_tensor_is_data() -> None:
    count = MAX_ELEMENTS + 1
    numbers = ", ".join(["1"] * count)
    text = f"""g (int64[{count}] x) => (int64[{count}] y) <int64[{count}] c = {{{numbers}}}>
               {{ y = Add(c, c) }}"""
    assert content_of(text) == "?"


def test_an_input_that_the_caller_may_override_is_not_known() -> None:
    text = """g (float[N] x, int64[1] s) => (float[A] y) <int64[1] s = {3}>
              { y = Expand(x, s) }"""
    assert shape_of(text) == "(bc(?2, N))"


@pytest.mark.parametrize("dim", ["", "?", "-1"])
def test_a_size_without_a_name_is_equal_to_no_other(dim: str) -> None:
    model = load("g (float[N, N] x) => (float[A, B] y) { y = Relu(x) }")
    (x,) = model.graph.inputs
    size = -1 if dim == "-1" else ir.SymbolicDim(dim or None)
    x.shape = ir.Shape([size, size])
    first, second = Symbols(model).shape(x) or ()
    assert first != second


def test_a_name_that_looks_like_arithmetic_is_one_symbol() -> None:
    model = load("g (float[N, N] x) => (float[A, B] y) { y = Relu(x) }")
    (x,) = model.graph.inputs
    x.shape = ir.Shape(["N + 1", "N"])
    first, second = Symbols(model).shape(x) or ()
    assert first != second + 1


def test_the_rules_know_better_than_the_file() -> None:
    # A batch size that was fixed at export and edited in the inputs alone.
    model = load("g (float[N, 3] x) => (float[N, 3] y) { h = Relu(x)\n y = Exp(h) }")
    h = by_name(model)["h"]
    h.shape = ir.Shape([1, 3])
    assert str(Symbols(model).shape(h)) == "(Expr(N), 3)"


def test_the_file_is_believed_where_no_rule_knows() -> None:
    model = load(
        "g (float[N, 3] x) => (float[A, 3] y) { h = Unique <axis=0> (x)\n y = Relu(h) }"
    )
    h = by_name(model)["h"]
    h.shape = ir.Shape([8, "anything"])
    shape = Symbols(model).shape(h)
    assert shape is not None
    assert shape[0] == 8
    assert str(shape[1]) == "?2"


def test_what_a_loop_carries_is_not_known() -> None:
    text = """g (float[N] x, int64 n) => (float[A] y) <bool t = {1}>
              { y = Loop <body = b (int64 i, bool c, float[N] h) => (bool d, float[B] k)
                    { d = Identity(c)
                      k = Concat <axis=0> (h, h) }> (n, t, x) }"""
    model = load(text)
    (loop,) = model.graph
    inner = loop.attributes["body"].as_graph()
    symbols = Symbols(model)
    assert symbols.shape(inner.inputs[2]) is None
    assert [str(dim) for dim in symbols.shape(inner.outputs[1]) or ()] == ["?1"]


def test_old_operator_sets_broadcast_by_an_attribute() -> None:
    text = """<ir_version: 3, opset_import: ["" : 6]>
              g (float[N, 3] x, float[N] b) => (float[N, 3] y)
              { y = Add <broadcast=1, axis=0> (x, b) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    symbols = Symbols(model)
    assert [str(dim) for dim in symbols.shape(model.graph.outputs[0]) or ()] == ["?1", "3"]


def test_a_long_chain_needs_no_deep_stack() -> None:
    nodes = [oh.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(20_000)]
    info = [oh.make_tensor_value_info(n, 1, ["N", 3]) for n in ("v0", "v20000")]
    graph = oh.make_graph(nodes, "g", info[:1], info[1:])
    model = ir.from_proto(oh.make_model(graph))
    assert str(Symbols(model).shape(model.graph.outputs[0])) == "(Expr(N), 3)"


def test_random_graphs_agree_with_onnxruntime() -> None:
    checked: collections.Counter[str] = collections.Counter()
    for seed in range(40):
        builder = Builder(seed)
        for _ in range(30):
            builder.grow()
        model = builder.model()
        symbols = Symbols(model)
        for node in model.graph:
            for value in node.outputs:
                for sizes, run in zip(builder.sizes, builder.runs, strict=True):
                    _compare(symbols, value, run[value.name or ""], sizes, checked)
    # So that the test cannot pass by knowing nothing.
    assert checked["dims"] > 3000
    assert checked["items"] > 1500


def _compare(
    symbols: Symbols,
    value: ir.Value,
    actual: np.ndarray,
    sizes: dict[str, int],
    checked: collections.Counter[str],
) -> None:
    shape, content = symbols.shape(value), symbols.content(value)
    if shape is not None:
        assert len(shape) == actual.ndim
        for dim, size in zip(shape, actual.shape, strict=True):
            if "?" not in str(dim):
                assert value_of(dim, **sizes) == size, value.producer()
                checked["dims"] += 1
    if content is not None:
        assert content.shape == actual.shape
        for item, number in zip(content.flat, actual.flat, strict=True):
            if "?" not in str(item):
                assert value_of(item, **sizes) == number, value.producer()
                checked["items"] += 1
