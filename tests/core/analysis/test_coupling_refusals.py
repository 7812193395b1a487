"""What is needed whole, and the reason that is given for it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import groups_of, network, reasons, sizes

from graphopt.analysis.coupling.rules import rules

LAYERS = "float[8, 6] w, float[6, 3] v"
DENSE = "float[N, 8] x => float[N, 3] y"
TOKENS = "float[N, L, 12] x => float[N, L, 5] y"
TOKEN_LAYERS = "float[12, 6] w, float[6, 5] v"
IMAGE = "float[N, 3, 8, 8] x => float[N, 4, P, Q] y"
IMAGE_LAYERS = "float[6, 3, 1, 1] w, float[4, 6, 1, 1] v"

# What lies between two layers -> part of the reason why their common axis is needed whole.
CASES = {
    "graph_output": (
        "h = MatMul(x, w)  y = MatMul(h, v)",
        LAYERS,
        "float[N, 8] x => float[N, 3] y, float[N, 6] h",
        "graph output 'h'",
    ),
    "softmax": (
        "h = MatMul(x, w)  s = Softmax(h)  y = MatMul(s, v)",
        LAYERS,
        DENSE,
        "Softmax 'Softmax_1' normalizes over it",
    ),
    "lrn": (
        "h = Conv(x, w)  s = LRN<size = 3>(h)  y = Conv(s, v)",
        IMAGE_LAYERS,
        IMAGE,
        "compares neighbours",
    ),
    "top_k": (
        """k = Constant<value = int64[1] {6}>()  h = MatMul(x, w)  s, i = TopK(h, k)
           y = MatMul(s, v)""",
        LAYERS,
        DENSE,
        "sorts along it",
    ),
    "arg_max": (
        """h = MatMul(x, w)  a = ArgMax<axis = 1>(h)  c = Cast<to = 1>(a)  m = MatMul(h, v)
           y = Add(m, c)""",
        LAYERS,
        DENSE,
        "returns positions along it",
    ),
    "cumulative_sum": (
        """axis = Constant<value = int64 {1}>()  h = MatMul(x, w)  s = CumSum(h, axis)
           y = MatMul(s, v)""",
        LAYERS,
        DENSE,
        "sums along it",
    ),
    "reduce_prod": (
        """axis = Constant<value = int64[1] {1}>()  h = MatMul(x, w)
           p = ReduceProd(h, axis)  m = MatMul(h, v)  y = Add(m, p)""",
        LAYERS,
        DENSE,
        "multiplies over it",
    ),
    "gather_by_input": (
        """h = MatMul(x, w)  g = Gather<axis = 1>(h, ids)  a = ReduceSum(g, axis)
           m = MatMul(h, v)  y = Add(m, a)""",
        LAYERS + ", int64[1] axis = {1}",
        "float[N, 8] x, int64[2] ids => float[N, 3] y",
        "looks up positions in it",
    ),
    "gather_of_one_channel": (
        """h = MatMul(x, w)  zero = Constant<value = int64 {0}>()
           g = Gather<axis = 1>(h, zero)  u = Unsqueeze(g, one)  m = MatMul(h, v)
           y = Add(m, u)""",
        LAYERS + ", int64[1] one = {1}",
        DENSE,
        "takes fixed positions of it",
    ),
    "every_second_channel": (
        """h = MatMul(x, w)  s = Slice(h, a, b, c, d)  y = MatMul(s, v)""",
        """float[8, 6] w, float[3, 3] v, int64[1] a = {0}, int64[1] b = {6}, int64[1] c = {1},
           int64[1] d = {2}""",
        DENSE,
        "takes every 2th of it",
    ),
    "slice_by_input": (
        """h = MatMul(x, w)  s = Slice(h, a, b, c)  p = ReduceSum(s, c)  m = MatMul(h, v)
           y = Add(m, p)""",
        LAYERS + ", int64[1] a = {0}, int64[1] c = {1}",
        "float[N, 8] x, int64[1] b => float[N, 3] y",
        "takes a part of it that is not fixed",
    ),
    "gather_elements": (
        "h = MatMul(x, w)  g = GatherElements<axis = 1>(h, ids)  y = MatMul(g, v)",
        LAYERS,
        "float[2, 8] x, int64[2, 6] ids => float[2, 3] y",
        "addresses single elements",
    ),
    "max_pool_indices": (
        """h = Conv(x, w)  p, i = MaxPool<kernel_shape = [1, 1]>(h)  c = Cast<to = 1>(i)
           a = Add(p, c)  y = Conv(a, v)""",
        IMAGE_LAYERS,
        IMAGE,
        "returns positions in the whole tensor",
    ),
    "wrapped_padding": (
        """h = MatMul(x, w)  p = Pad<mode = "reflect">(h, pads)  y = MatMul(p, v)""",
        "float[8, 6] w, int64[4] pads = {0, 1, 0, 2}, float[9, 3] v",
        DENSE,
        "pads it",
    ),
    "merged_with_the_batch": (
        "h = MatMul(x, w)  r = Reshape(h, s)  m = MatMul(r, v)  y = Reshape(m, t)",
        "float[8, 6] w, int64[2] s = {-1, 2}, float[2, 3] v, int64[2] t = {-1, 9}",
        "float[N, 8] x => float[N, 9] y",
        "regroups it with an axis of unknown length",
    ),
    "length_of_unknown_product": (
        """h = MatMul(x, w)  n = Size(h)  f = Cast<to = 1>(n)  m = MatMul(h, v)
           y = Div(m, f)""",
        LAYERS,
        DENSE,
        "computes with its length and an unknown one",
    ),
    "positions_of_a_convolution": (
        "h = MatMul(x, w)  y = Conv(h, k)",
        "float[12, 6] w, float[5, 7, 1] k",
        "float[N, 7, 12] x => float[N, 5, 6] y",
        "slides over it",
    ),
    "batch_normalization_in_training": (
        """h = Conv(x, w)  n, a, b = BatchNormalization<training_mode = 1>(h, s, o, m, var)
           y = Conv(n, v)""",
        IMAGE_LAYERS + ", float[6] s, float[6] o, float[6] m, float[6] var",
        IMAGE,
        "it is in training mode",
    ),
    "einsum_with_ellipsis": (
        """h = MatMul(x, w)  y = Einsum<equation = "...d,dj->...j">(h, v)""",
        LAYERS,
        DENSE,
        "an ellipsis in the equation",
    ),
    "loop_state": (
        """h = MatMul(x, w)  z = Loop(three, , h) <
             body = step (int64 i, bool go, float[N, 6] state)
                    => (bool going, float[N, 6] next)
                    { going = Identity(go)  next = Relu(state) }>
           y = MatMul(z, v)""",
        LAYERS + ", int64 three = {3}",
        DENSE,
        "nothing is cut across the border of a subgraph",
    ),
    "branches_of_other_ranks": (
        """h = MatMul(x, w)  z = If(c) <
             then_branch = one () => (float[N, 6] p) { p = Relu(h) },
             else_branch = two () => (float[N, 1, 6] q) { q = Unsqueeze(h, axes) }>
           m = MatMul(h, v)  s = ReduceSum<keepdims = 0>(z)  y = Add(m, s)""",
        LAYERS + ", int64[1] axes = {1}",
        "float[N, 8] x, bool c => float[N, 3] y",
        "returns it from one branch",
    ),
    "one_hot": (
        """h = MatMul(x, w)  i = Cast<to = 7>(h)  o = OneHot(i, depth, values)
           p = ReduceSum<keepdims = 0>(o, axis)  m = MatMul(h, v)  s = MatMul(p, v)
           y = Add(m, s)""",
        LAYERS + ", int64 depth = {4}, float[2] values = {0, 1}, int64[1] axis = {2}",
        DENSE,
        "makes positions from it",
    ),
    "unique_by_position": (
        """h = MatMul(x, w)  m = MatMul(h, v)  u = Unique(h)  s = ReduceSum<keepdims = 0>(u)
           y = Add(m, s)""",
        LAYERS,
        DENSE,
        "it works by position",
    ),
    "states_of_an_lstm_that_are_returned": (
        """t = Transpose<perm = [1, 0, 2]>(x)  a, h, y = LSTM<hidden_size = 5>(t, w, r)""",
        "float[1, 20, 12] w, float[1, 20, 5] r",
        "float[N, L, 12] x => float[1, N, 5] y",
        "graph output 'y'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_needed_whole_and_says_why(name):
    body, weights, signature, reason = CASES[name]
    inputs, outputs = signature.split("=>")
    dimensions = groups_of(network(f"g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}"))

    assert sizes(dimensions) == {}
    found = {g.name: g.reason for g in dimensions.groups}
    produced = found.get("w:1" if "w:1" in found else "w:0", "")
    assert reason in produced or any(reason in other for other in found.values()), found


STATISTICS = {
    "layer_normalization": (
        "h = MatMul(x, w)  n = LayerNormalization(h, s, b)  y = MatMul(n, v)",
        "float[8, 6] w, float[6] s, float[6] b, float[6, 3] v",
        DENSE,
        "LayerNormalization 'LayerNormalization_1' takes statistics over it",
    ),
    "mean": (
        """h = MatMul(x, w)  a = ReduceMean(h, axis)  m = MatMul(h, v)  y = Add(m, a)""",
        LAYERS + ", int64[1] axis = {1}",
        DENSE,
        "ReduceMean 'ReduceMean_1' takes statistics over it",
    ),
    "maximum": (
        """h = MatMul(x, w)  a = ReduceMax(h, axis)  m = MatMul(h, v)  y = Add(m, a)""",
        LAYERS + ", int64[1] axis = {1}",
        DENSE,
        "ReduceMax 'ReduceMax_1' takes statistics over it",
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_what_statistics_are_taken_over_is_marked(name):
    body, weights, signature, reason = STATISTICS[name]
    inputs, outputs = signature.split("=>")
    dimensions = groups_of(network(f"g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}"))

    (group,) = [group for group in dimensions.groups if not group.reason]
    assert group.size == 6
    assert group.statistics == reason


def test_the_width_of_a_group_is_marked_and_the_groups_are_not():
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y)
              <float[6, 3, 1, 1] w, float[6] s, float[6] b, float[4, 6, 1, 1] v>
              { h = Conv(x, w)
                n = GroupNormalization<num_groups = 3>(h, s, b)
                y = Conv(n, v) }"""
    found = {g.name: (g.size, bool(g.statistics)) for g in groups_of(network(text)).groups}
    assert found["w:0"] == (3, False)
    assert found["w:0/2"] == (2, True)


def test_inputs_that_a_rule_does_not_look_at_are_needed_whole():
    # The second input of Reshape is computed from a weight here.
    text = """g (float[N, 12] x) => (float[A, B] y) <float[1, 2] w, int64[1] one = {0}>
              { m = Transpose(w)
                c = Cast<to = 7>(m)
                s = Squeeze(c)
                y = Reshape(x, s) }"""
    assert sizes(groups_of(network(text))) == {}


def test_an_unknown_rank_is_named():
    text = """g (float x, int64[R] s) => (float[N, 3] y) <float[6, 3] v>
              { e = Expand(x, s)
                y = MatMul(e, v) }"""
    dimensions = groups_of(network(text))
    assert any(
        "rank of 'e' is not known" in reason for _, reason in dimensions.coupling.refused
    )
    assert "rank of 'e'" in reasons(dimensions)["v:0"]


def test_a_value_that_is_used_by_an_unknown_operator_is_needed_whole():
    text = """g (float[N, 8] x) => (float[N, 3] y, float[N, 6] z)
              <float[8, 6] w, float[6, 3] v>
              { h = MatMul(x, w)
                z = com.microsoft.NoSuchOperator(h)
                y = MatMul(h, v) }"""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>' + text
    )
    for info in list(proto.graph.value_info):
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        data = np.ones(dims, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(data, info.name))
    del proto.graph.value_info[:]
    dimensions = groups_of(ir.from_proto(proto))
    assert sizes(dimensions) == {}
    assert "NoSuchOperator: there is no rule" in reasons(dimensions)["w:1"]


def test_every_rule_says_what_it_does():
    for name, rule in rules().items():
        assert rule.__doc__, name
