"""Before -> after tests of FoldConstants."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphopt.passes.simplify.fold_constants import FoldConstants
from graphs import apply, assert_rewrites, assert_same_answers, assert_unchanged, load

from graphopt import model_io, pipeline
from graphopt.errors import PipelineError
from graphopt.passbase import Context
from graphopt.runtime import Runtime

REWRITES = {
    "constants_meet": (
        """g (float[N, 2] x) => (float[N, 2] y)
           <float[2] a = {1.0, 2.0}, float[2] b = {3.0, 4.0}>
           { c = Add(a, b)
             y = Mul(x, c) }""",
        """g (float[N, 2] x) => (float[N, 2] y)
           <float[2] a = {1.0, 2.0}, float[2] b = {3.0, 4.0}, float[2] c = {4.0, 6.0}>
           { y = Mul(x, c) }""",
    ),
    "constant_becomes_an_initializer": (
        """g (float[N, 2] x) => (float[N, 2] y)
           { c = Constant <value = float[2] {1.0, 2.0}> ()
             y = Mul(x, c) }""",
        """g (float[N, 2] x) => (float[N, 2] y) <float[2] c = {1.0, 2.0}>
           { y = Mul(x, c) }""",
    ),
    "constants_of_every_form": (
        """g (int64[N] x) => (int64[N] y)
           { c = Constant <value_int = 3> ()
             d = Constant <value_ints = [5]> ()
             h = Mul(x, c)
             y = Add(h, d) }""",
        """g (int64[N] x) => (int64[N] y) <int64 c = {3}, int64[1] d = {5}>
           { h = Mul(x, c)
             y = Add(h, d) }""",
    ),
    "an_overflow_of_32_bits": (
        """g (int32[1] x) => (int32[1] y) <int32[1] a = {2147483647}>
           { b = Add(a, a)
             y = Add(x, b) }""",
        """g (int32[1] x) => (int32[1] y) <int32[1] a = {2147483647}, int32[1] b = {-2}>
           { y = Add(x, b) }""",
    ),
    # onnxruntime 1.31 stops at the largest number here.
    "an_overflow_of_a_sum": (
        """g (int64[1] x) => (int64[1] y) <int64[2] a = {9223372036854775807, 2}>
           { b = ReduceSum(a)
             y = Add(x, b) }""",
        """g (int64[1] x) => (int64[1] y)
             <int64[2] a = {9223372036854775807, 2}, int64[1] b = {9223372036854775807}>
           { y = Add(x, b) }""",
    ),
    "backwards_from_in_front_of_the_first": (
        """g (float[1] x) => (float[1] y)
             <float[2] a = {7.0, 8.0}, int64[1] far = {-9}, int64[1] back = {-1},
             int64[1] axis = {0}>
           { b = Slice(a, far, far, axis, back)
             y = Add(x, b) }""",
        """g (float[1] x) => (float[1] y)
             <float[2] a = {7.0, 8.0}, int64[1] far = {-9}, int64[1] back = {-1},
             int64[1] axis = {0}, float[1] b = {7.0}>
           { y = Add(x, b) }""",
    ),
    "a_chain": (
        """g (float[N, 2] x) => (float[N, 2] y) <float[2] a = {1.0, 4.0}>
           { b = Sqrt(a)
             c = Neg(b)
             y = Mul(x, c) }""",
        """g (float[N, 2] x) => (float[N, 2] y)
           <float[2] a = {1.0, 4.0}, float[2] b = {1.0, 2.0}, float[2] c = {-1.0, -2.0}>
           { y = Mul(x, c) }""",
    ),
    "shape_of_a_fixed_input": (
        """g (float[2, 3] x) => (int64[2] y)
           { s = Shape(x)
             y = Add(s, s) }""",
        """g (float[2, 3] x) => (int64[2] y) <int64[2] s = {2, 3}, int64[2] y_g1 = {4, 6}>
           { y = Identity(y_g1) }""",
    ),
    "one_size_of_a_dynamic_shape": (
        """g (float[N, 3] x) => (float[N, 3] y) <int64 i = {1}>
           { s = Shape(x)
             n = Gather(s, i)
             f = Cast <to=1> (n)
             y = Div(x, f) }""",
        """g (float[N, 3] x) => (float[N, 3] y) <int64 i = {1}, int64 n = {3}, float f = {3.0}>
           { s = Shape(x)
             y = Div(x, f) }""",
    ),
    "shape_with_bounds": (
        """g (float[N, 3, 4] x) => (int64[2] y) <int64[2] a = {1, 1}>
           { s = Shape <start=1> (x)
             y = Add(s, a) }""",
        """g (float[N, 3, 4] x) => (int64[2] y) <int64[2] a = {1, 1}, int64[2] s = {3, 4},
             int64[2] y_g1 = {4, 5}>
           { y = Identity(y_g1) }""",
    ),
    "graph_output_keeps_a_node": (
        """g (float[N] x) => (float[2] y, float[N] z) <float[2] a = {1.0, 4.0}>
           { y = Sqrt(a)
             z = Relu(x) }""",
        """g (float[N] x) => (float[2] y, float[N] z) <float[2] a = {1.0, 4.0},
             float[2] y_g1 = {1.0, 2.0}>
           { y = Identity(y_g1)
             z = Relu(x) }""",
    ),
    "only_the_used_of_two_outputs": (
        """g (float[N] x) => (float[N] y) <float[4] a = {1.0, 2.0, 3.0, 4.0}>
           { b, c = Split <num_outputs=2> (a)
             d = ReduceSum(c)
             y = Mul(x, d) }""",
        """g (float[N] x) => (float[N] y)
           <float[4] a = {1.0, 2.0, 3.0, 4.0}, float[2] c = {3.0, 4.0}, float[1] d = {7.0}>
           { y = Mul(x, d) }""",
    ),
    "omitted_inputs": (
        """g (float[N, 2] x) => (float[N, 2] y)
           <float[2] a = {-1.0, 4.0}, float hi = {2.0}>
           { c = Clip(a, , hi)
             y = Mul(x, c) }""",
        """g (float[N, 2] x) => (float[N, 2] y)
           <float[2] a = {-1.0, 4.0}, float hi = {2.0}, float[2] c = {-1.0, 2.0}>
           { y = Mul(x, c) }""",
    ),
    "weight_is_transposed_in_place": (
        """g (float[N, 2] x) => (float[N, 3] y)
           <float[3, 2] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>
           { t = Transpose(w)
             y = MatMul(x, t) }""",
        """g (float[N, 2] x) => (float[N, 3] y)
           <float[3, 2] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0},
            float[2, 3] t = {1.0, 3.0, 5.0, 2.0, 4.0, 6.0}>
           { y = MatMul(x, t) }""",
    ),
    "inside_a_branch": (
        """g (bool c, float[2] x) => (float[2] y) <float[2] a = {1.0, 4.0}>
           { y = If (c) <then_branch = t () => (float[2] p) { q = Sqrt(a)
                                                            p = Add(x, q) },
                         else_branch = e () => (float[2] r) { r = Identity(x) }> }""",
        """g (bool c, float[2] x) => (float[2] y) <float[2] a = {1.0, 4.0}>
           { y = If (c) <then_branch = t () => (float[2] p) <float[2] q = {1.0, 2.0}>
                                              { p = Add(x, q) },
                         else_branch = e () => (float[2] r) { r = Identity(x) }> }""",
    ),
    "truth_values": (
        """g (float[N, 3] x) => (float[N, 3] y) <int64[2] i = {3, 1}, int64[1] one = {1}>
           { s = Shape(x)
             e = Gather(s, one)
             b = Equal(i, e)
             f = Cast <to=1> (b)
             m = ReduceMax <keepdims=0> (f)
             y = Mul(x, m) }""",
        """g (float[N, 3] x) => (float[N, 3] y) <int64[2] i = {3, 1}, int64[1] one = {1},
             int64[1] e = {3}, bool[2] b = {1, 0}, float[2] f = {1.0, 0.0}, float m = {1.0}>
           { s = Shape(x)
             y = Mul(x, m) }""",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str, context: Context) -> None:
    before, after = REWRITES[name]
    assert_rewrites(FoldConstants(), before, after, context=context)


NO_REWRITES = {
    "variable_input": (
        "g (float[N, 2] x) => (float[N, 2] y) <float[2] a = {1.0, 2.0}> { y = Add(x, a) }",
        None,
    ),
    "overridable_initializer": (
        """g (float[N, 2] x, float[2] a) => (float[N, 2] y) <float[2] a = {1.0, 2.0}>
           { c = Neg(a)
             y = Mul(x, c) }""",
        None,
    ),
    "random": (
        """g (float[2] x) => (float[2] y) <float[2] a = {1.0, 2.0}>
           { r = RandomUniformLike(a)
             y = Add(x, r) }""",
        "never folded",
    ),
    "random_without_inputs": (
        """g (float[2] x) => (float[2] y)
           { r = RandomNormal <shape=[2]> ()
             y = Add(x, r) }""",
        None,
    ),
    "bernoulli": (
        """g (float[2] x) => (float[2] y) <float[2] a = {0.5, 0.5}>
           { r = Bernoulli(a)
             y = Add(x, r) }""",
        "never folded",
    ),
    "dropout_in_training": (
        """g (float[2] x) => (float[2] y)
           <float[2] a = {0.5, 0.5}, float r = {0.5}, bool t = {1}>
           { d, m = Dropout(a, r, t)
             y = Add(x, d) }""",
        "training mode",
    ),
    "dequantize": (
        """g (float[2] x) => (float[2] y) <int8[2] q = {1, 2}, float s = {0.5}, int8 z = {0}>
           { w = DequantizeLinear(q, s, z)
             y = Mul(x, w) }""",
        "never folded",
    ),
    "constant_as_graph_output": (
        """g (float[2] x) => (float[2] y, float[1] c)
           { c = Constant <value = float[1] {1.0}> ()
             y = Mul(x, c) }""",
        "graph output",
    ),
    "identity_as_graph_output": (
        """g (float[2] x) => (float[1] y, float[2] z) <float[1] c = {1.0}>
           { y = Identity(c)
             z = Relu(x) }""",
        "graph output",
    ),
    "branch": (
        """g (float[2] x) => (float[2] y) <bool c = {1}, float[2] a = {1.0, 2.0}>
           { p = If (c) <then_branch = t () => (float[2] q) { q = Identity(a) },
                         else_branch = e () => (float[2] r) { r = Identity(a) }>
             y = Add(x, p) }""",
        "subgraph",
    ),
    "division_by_zero": (
        """g (int64[2] x) => (int64[2] y) <int64[1] a = {1}, int64[1] z = {0}>
           { q = Div(a, z)
             y = Add(x, q) }""",
        "cannot compute",
    ),
    "index_out_of_range": (
        """g (float[N] x) => (float[N] y) <float[2] a = {1.0, 2.0}, int64 i = {5}>
           { q = Gather(a, i)
             y = Add(x, q) }""",
        "cannot compute",
    ),
    "dynamic_shape": (
        """g (float[N, 3] x) => (int64[2] y) <int64[2] a = {1, 1}>
           { s = Shape(x)
             y = Add(s, a) }""",
        None,
    ),
    "sequence": (
        """g (float[2] x) => (float[2] y) <float[2] a = {1.0, 2.0}, int64 i = {0}>
           { s = SequenceConstruct(a, a)
             e = SequenceAt(s, i)
             y = Add(x, e) }""",
        "cannot compute",
    ),
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str, context: Context) -> None:
    text, reason = NO_REWRITES[name]
    assert_unchanged(FoldConstants(), text, context=context, reason=reason)


BOMBS = {
    "constant_of_shape": "<int64[2] s = {1000000, 1000000}> { c = ConstantOfShape(s)",
    "expand": "<float a = {1.0}, int64[2] s = {1048576, 1048576}> { c = Expand(a, s)",
    "tile": "<float[1] a = {1.0}, int64[1] s = {1099511627776}> { c = Tile(a, s)",
    "range": "<float a = {0.0}, float s = {1e12}, float d = {1.0}> { c = Range(a, s, d)",
    "pad": "<float[1] a = {1.0}, int64[2] s = {0, 1099511627776}> { c = Pad(a, s)",
    "outer_product": """
        <int64[1] n = {1000000}, int64[2] row = {1, -1}, int64[2] col = {-1, 1}>
        { v = ConstantOfShape(n)
          r = Reshape(v, row)
          k = Reshape(v, col)
          c = Add(r, k)""",
    "half_a_gigabyte": "<int64[1] s = {134217728}> { c = ConstantOfShape(s)",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_does_not_unfold(name: str, context: Context) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
               g (float[1] x) => (float[N, M] y) {BOMBS[name]}
                  m = ReduceMax(c)
                  y = Add(x, m) }}"""
    proto = onnx.parser.parse_model(text)
    model = ir.from_proto(proto)
    FoldConstants().run(model, context)
    assert len(ir.to_proto(model).SerializeToString()) < 10_000
    reasons = [skip.reason for skip in context.ledger.skips]
    assert any("grow too much" in r or "are allowed" in r for r in reasons), reasons


TWO_TABLES = """g (float[N, 100] x, float[M, 101] w) => (float[N, 100] y, float[M, 101] z)
                <int64[1] n = {100}, int64[1] k = {101}>
                { a = ConstantOfShape(n)
                  b = ConstantOfShape(k)
                  y = Max(x, a)
                  z = Max(w, b) }"""


def test_the_budget_is_for_the_whole_run(context: Context) -> None:
    model = load(TWO_TABLES)
    FoldConstants(max_bytes=450, max_share=0.0).run(model, context)
    assert [node.op_type for node in model.graph] == ["ConstantOfShape", "Max", "Max"]


def test_the_budget_grows_with_the_weights(context: Context) -> None:
    model = load(TWO_TABLES)  # weights of 16 bytes
    FoldConstants(max_bytes=0, max_share=404 / 16).run(model, context)
    assert [node.op_type for node in model.graph] == ["ConstantOfShape", "Max", "Max"]


def test_what_is_fused_away_gives_its_bytes_back(context: Context) -> None:
    weights = "float[32, 1, 1, 1] w = {" + ", ".join(["1.0"] * 32) + "}"
    text = f"""g (float[N, 1, 4, 4] x) => (float[N, 32, 4, 4] y) <{weights},
                 float[32] s = {{{", ".join(["1.0"] * 32)}}}, int64[1] n = {{32}},
                 float one = {{1.0}}, float two = {{2.0}}, float[32, 1, 1, 1] w2 =
                 {{{", ".join(["1.0"] * 32)}}}>
              {{ a = Expand(one, n)
                 c = Conv(x, w)
                 b = BatchNormalization(c, s, s, s, a)
                 d = Expand(two, n)
                 e = Conv <group = 32> (b, w2)
                 y = BatchNormalization(e, s, s, s, d) }}"""
    model = load(text)
    passes = "[fold-constants{max-bytes=130,max-share=0.0},fuse-conv-batchnorm]"
    (together,) = pipeline.parse(passes)
    together.run(model, context)
    assert [node.op_type for node in model.graph] == ["Conv", "Conv"]


def test_what_is_freed_pays_for_what_is_added(context: Context) -> None:
    numbers = ", ".join(["1.0"] * 64)
    text = f"""g (float[N, 4] x) => (float[N, 32] y) <float[16, 4] w = {{{numbers}}}>
              {{ a, b = Split <num_outputs=2> (w)
                c = Concat <axis=0> (a, b, b, a)
                t = Transpose(c)
                y = MatMul(x, t) }}"""
    model = load(text)
    # Concat doubles the weight of 256 bytes; nothing else costs anything.
    FoldConstants(max_bytes=256).run(model, context)
    assert [node.op_type for node in model.graph] == ["MatMul"]
    model = load(text)
    FoldConstants(max_bytes=128).run(model, context)
    assert [node.op_type for node in model.graph] == ["Concat", "Transpose", "MatMul"]


def test_a_shared_weight_is_not_freed(context: Context) -> None:
    numbers = ", ".join(["1.0"] * 64)
    text = f"""g (float[N, 4] x) => (float[N, 16] y) <float[16, 4] w = {{{numbers}}}>
              {{ t = Transpose(w)
                h = MatMul(x, t)
                k = MatMul(h, w)
                y = MatMul(k, t) }}"""
    model = load(text)
    assert not apply(model, FoldConstants(max_bytes=128), context).modified
    assert apply(model, FoldConstants(max_bytes=256), context).modified


def test_old_ir_versions_get_a_constant_node(context: Context) -> None:
    text = """<ir_version: 3, opset_import: ["" : 9]>
              g (float[N, 2] x) => (float[N, 2] y)
              { a = Constant <value = float[2] {1.0, 4.0}> ()
                c = Sqrt(a)
                y = Mul(x, c) }"""
    model, original = load(text), load(text)
    assert apply(model, FoldConstants(), context).modified
    assert [node.op_type for node in model.graph] == ["Constant", "Constant", "Mul"]
    assert not apply(model, FoldConstants(), context).modified
    assert_same_answers(model, original)


def test_opset_differences_are_the_runtimes_business(context: Context) -> None:
    # Softmax flattens to two dimensions before version 13.
    text = """g (float[2, 2] x) => (float[2, 2] y)
              <float[1, 2, 2] a = {1.0, 2.0, 3.0, 5.0}, int64[2] shape = {2, 2}>
              { s = Softmax <axis=1> (a)
                r = Reshape(s, shape)
                y = Mul(x, r) }"""
    for opset in (12, 13):
        model, original = load(text, opset), load(text, opset)
        FoldConstants().run(model, context)
        assert [node.op_type for node in model.graph] == ["Mul"]
        assert_same_answers(model, original)


@pytest.mark.parametrize(
    "dtype", ["BFLOAT16", "FLOAT8E4M3FN", "INT4", "UINT2", "FLOAT16", "UINT64"]
)
def test_types_that_numpy_does_not_have(dtype: str, context: Context) -> None:
    kind = ir.DataType[dtype]
    data = ir.tensor((np.arange(6).reshape(3, 2) % 2).astype(kind.numpy()), kind)
    text = """g (float[N, 3] x) => (float[N, 3] y) <int64 w = {1}>
              { t = Transpose(w)
                u = Cast <to=1> (t)
                y = Add(x, u) }"""
    opset = 25 if dtype == "UINT2" else 23
    header = f'<ir_version: 13, opset_import: ["" : {opset}]>'
    model = ir.from_proto(onnx.parser.parse_model(header + text))
    weight = model.graph.initializers["w"]
    weight.const_value = data
    weight.shape, weight.type = ir.Shape([3, 2]), ir.TensorType(kind)
    model.graph[0].outputs[0].type = ir.TensorType(kind)
    FoldConstants().run(model, context)
    assert model.graph.initializers["t"].dtype == kind
    assert model.graph.initializers["u"].const_value.numpy().tolist() == [[0, 0, 0], [1, 1, 1]]


def test_strings_are_left_alone(context: Context) -> None:
    text = """g (string[N] x) => (string[M] y) <string[2] a = {"b", "a"}, int64[1] i = {1}>
              { c = Gather(a, i)
                y = Concat <axis=0> (x, c) }"""
    assert_unchanged(FoldConstants(), text, context=context, reason="strings")


def test_same_names_in_sibling_branches_stay_apart(context: Context) -> None:
    text = """g (bool c, float[2] x) => (float[2] y) <float[2] a = {1.0, 4.0}>
           { y = If (c) <then_branch = t () => (float[2] p) { q = Sqrt(a)
                                                            p = Add(x, q) },
                         else_branch = e () => (float[2] r) { s = Neg(a)
                                                            r = Add(x, s) }> }"""
    model = load(text)
    (branch,) = model.graph
    inner = branch.attributes["else_branch"].as_graph()
    inner[0].outputs[0].name = "q"
    original = ir.from_proto(ir.to_proto(model))
    assert apply(model, FoldConstants(), context).modified
    for c in (True, False):
        feeds = {"c": np.array(c), "x": np.ones(2, np.float32)}
        assert_same_answers(model, original, feeds=feeds)


def test_a_subgraph_does_not_hide_an_outer_constant(context: Context) -> None:
    text = """g (int64 n, float[2] x) => (float[2] y) <bool t = {1}, float[2] a = {1.0, 4.0}>
              { y = Loop <body = b (int64 i, bool c, float[2] h) => (bool d, float[2] k)
                    { d = Identity(c)
                      q = Sqrt(a)
                      k = Add(h, q) }> (n, t, x) }"""
    model, original = load(text), load(text)
    assert apply(model, FoldConstants(), context).modified
    feeds = {"n": np.array(3), "x": np.ones(2, np.float32)}
    assert_same_answers(model, original, feeds=feeds)


def test_nothing_is_asked_of_onnxruntime_for_shapes() -> None:
    text = """g (float[N, 3] x) => (float[N, 3] y) <int64 i = {1}, int64[1] zero = {0}>
              { s = Shape(x)
                n = Gather(s, i)
                u = Unsqueeze(n, zero)
                c = Concat <axis=0> (zero, u)
                y = Reshape(x, c) }"""
    model, context = load(text), Context()
    FoldConstants().run(model, context)
    assert [node.op_type for node in model.graph] == ["Shape", "Reshape"]
    assert context._runtime is None


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(PipelineError, match="max-bytes is negative"):
        FoldConstants(max_bytes=-1)


@pytest.mark.parametrize("share", [-0.1, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(PipelineError, match="max-share"):
        FoldConstants(max_share=share)


def test_nothing_is_asked_of_onnxruntime_for_what_only_moves() -> None:
    model = load(
        """g (float[N, 2] x) => (float[N, 2] y) <float[1] a = {2.0}, float[2] b = {3.0, 4.0}>
           { n = Constant <value = int64[1] {2}> ()
             e = Expand(a, n)
             i = Identity(b)
             c = Div(e, i)
             r = Sqrt(a)
             d = Mul(c, r)
             y = Add(x, d) }"""
    )

    class NoRuntime(Context):
        @property
        def runtime(self) -> Runtime:
            raise AssertionError

    assert FoldConstants().run(model, NoRuntime()).modified
    assert [node.op_type for node in model.graph] == ["Add"]


def test_an_identity_of_a_weight_is_the_weight(context: Context) -> None:
    model = load(
        """g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z) <float[2] a = {1.0, 2.0}>
           { i = Identity(a)
             y = Add(x, i)
             z = Mul(x, a) }"""
    )
    assert apply(model, FoldConstants(), context).modified
    assert list(model.graph.initializers) == ["a"]


def test_a_large_weight_that_is_moved_stays_in_the_file(tmp_path, context: Context) -> None:
    weight = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
           g (float[N, 128] x) => (float[N, 256] y, float[N, 64] z)
             <int64[2] n = {512, 64}>
           { t = Transpose <perm = [1, 0]> (w)
             y = MatMul(x, t)
             r = Reshape(w, n)
             s = Transpose(t)
             u = MatMul(y, s)
             v = Slice(r, zero, end)
             z = MatMul(u, v) }"""
    )
    for name, array in (("w", weight), ("zero", np.array([0])), ("end", np.array([128]))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "m.onnx")
    model = model_io.load(tmp_path / "m.onnx")
    assert FoldConstants(max_bytes=1 << 20).run(model, context).modified
    held = {n: v.const_value for n, v in model.graph.initializers.items() if v.uses()}
    assert not any(isinstance(held[name], ir.Tensor) for name in ("t", "s"))
    assert list(held) == ["t", "s", "v"]
    model_io.save(model, tmp_path / "out.onnx")
    written = model_io.load(tmp_path / "out.onnx").graph.initializers
    for name, array in (("t", weight.T), ("s", weight), ("v", weight.reshape(512, 64)[:128])):
        np.testing.assert_array_equal(written[name].const_value.numpy(), array)


@pytest.mark.parametrize("rows", [2, 256])
@pytest.mark.parametrize("perm", [[0, 0], [1], [1, 0, 2], [0, 7], [-1, 0]])
def test_an_order_of_axes_that_is_none_is_left_alone(
    perm: list[int], rows: int, context: Context
) -> None:
    model = ir.from_onnx_text(  # load() would refuse it, as onnxruntime does
        f"""<ir_version: 10, opset_import: ["" : 21]>
           g (float[N, M] x) => (float[K, L] y) <float[1] w = {{0.0}}>
           {{ t = Transpose <perm = {perm}> (w)
             y = Add(x, t) }}"""
    )
    weight = model.graph.initializers["w"]
    weight.const_value = ir.Tensor(np.zeros((rows, 128), np.float32), name="w")
    assert not FoldConstants(max_bytes=1 << 20).run(model, context).modified


def test_a_large_weight_that_is_reshaped_is_the_same_place_in_the_file(
    tmp_path, context: Context
) -> None:
    weight = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
           g (float[N, 512] x) => (float[N, 64] y) <int64[2] n = {512, 64}>
           { r = Reshape(w, n)
             y = MatMul(x, r) }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    model = model_io.load(tmp_path / "m.onnx")
    place = model.graph.initializers["w"].const_value.offset
    assert FoldConstants().run(model, context).modified
    tensor = model.graph.initializers["r"].const_value
    assert isinstance(tensor, model_io.MappedTensor)
    assert tensor.offset == place
    np.testing.assert_array_equal(tensor.numpy(), weight.reshape(512, 64))
