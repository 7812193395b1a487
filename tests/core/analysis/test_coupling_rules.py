"""Every operator's rule: which groups it leaves free, and that a cut equals a mask.

A case is a graph, the groups that must be free with their sizes, and nothing else may be. For
each, random indices of all groups are removed; the smaller model must be valid and give what
the original gives with the weights of these indices set to zero.
"""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from graphs import text_of
from networks import assert_masked_equals_cut, cut, groups_of, network, sizes


@dataclasses.dataclass
class Case:
    """A graph and its free groups."""

    body: str
    free: dict[str, int]
    weights: str = ""
    signature: str = "float[N, 8] x => float[N, 3] y"
    opset: int = 21
    domains: tuple[str, ...] = ()
    tolerance: float = 1e-5

    def make(self):
        inputs, outputs = self.signature.split("=>")
        weights = f"<{self.weights}>" if self.weights else ""
        text = f"g ({inputs}) => ({outputs}) {weights} {{ {self.body} }}"
        return network(text, self.opset, domains=self.domains)


IMAGE = "float[N, 3, 8, 8] x => float[N, 4, P, Q] y"
TOKENS = "float[N, L, 12] x => float[N, L, 5] y"

# Layer in, what is tested, layer out.
CASES = {
    # dense
    "conv": Case(
        "h = Conv<pads = [1, 1, 1, 1]>(x, w, b)  y = Conv<strides = [2, 2]>(h, v)",
        {"w:0": 6},
        "float[6, 3, 3, 3] w, float[6] b, float[4, 6, 3, 3] v",
        IMAGE,
    ),
    "conv_depthwise": Case(
        "h = Conv(x, w)  d = Conv<group = 6>(h, k, b)  y = Conv(d, v)",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, float[6, 1, 3, 3] k, float[6] b, float[4, 6, 1, 1] v",
        IMAGE,
    ),
    "conv_depthwise_with_multiplier": Case(
        "h = Conv(x, w)  d = Conv<group = 6>(h, k)  y = Conv(d, v)",
        {"w:0": 6, "k:0": 3},
        "float[6, 3, 1, 1] w, float[18, 1, 3, 3] k, float[4, 18, 1, 1] v",
        IMAGE,
    ),
    "conv_grouped": Case(
        "h = Conv(x, w)  d = Conv<group = 4>(h, k)  y = Conv(d, v)",
        {"w:0": 4, "w:0/2": 2, "k:0": 3},
        "float[8, 3, 1, 1] w, float[12, 2, 3, 3] k, float[4, 12, 1, 1] v",
        IMAGE,
    ),
    "conv_1d": Case(
        "h = Conv(x, w)  y = Conv(h, v)",
        {"w:0": 6},
        "float[6, 8, 3] w, float[3, 6, 1] v",
        "float[N, 8, 9] x => float[N, 3, 7] y",
    ),
    "conv_transpose": Case(
        "h = Conv(x, w)  d = ConvTranspose<strides = [2, 2]>(h, k, b)  y = Conv(d, v)",
        {"w:0": 6, "k:1": 5},
        "float[6, 3, 1, 1] w, float[6, 5, 2, 2] k, float[5] b, float[4, 5, 1, 1] v",
        IMAGE,
    ),
    "conv_transpose_grouped": Case(
        "h = Conv(x, w)  d = ConvTranspose<group = 2>(h, k)  y = Conv(d, v)",
        {"w:0": 2, "w:0/2": 3, "k:1": 5},
        "float[6, 3, 1, 1] w, float[6, 5, 2, 2] k, float[4, 10, 1, 1] v",
        IMAGE,
    ),
    "gemm": Case(
        "h = Gemm(x, w, b)  t = Gemm<transB = 1>(h, u, c)  y = Gemm<alpha = 0.5>(t, v)",
        {"w:1": 6, "u:0": 7},
        "float[8, 6] w, float[6] b, float[7, 6] u, float[1, 7] c, float[7, 3] v",
    ),
    "gemm_transposed_input": Case(
        "h = Gemm<transA = 1, transB = 1>(w, x)  y = Gemm<transA = 1>(h, v)",
        {"w:1": 6},
        "float[8, 6] w, float[6, 3] v",
    ),
    "matmul_stack": Case(
        "h = MatMul(x, w)  t = MatMul(h, u)  y = MatMul(t, v)",
        {"w:2": 6, "u:2": 7},
        "float[2, 8, 6] w, float[2, 6, 7] u, float[2, 7, 3] v",
        "float[2, N, 8] x => float[2, N, 3] y",
    ),
    "matmul_weight_on_the_left": Case(
        "h = MatMul(w, x)  y = MatMul(v, h)",
        {"w:0": 6},
        "float[6, 8] w, float[3, 6] v",
        "float[8, N] x => float[3, N] y",
    ),
    "einsum": Case(
        """h = Einsum<equation = "nk,kd->nd">(x, w)
           y = Einsum<equation = "nd, dj -> nj">(h, v)""",
        {"w:1": 6},
        "float[8, 6] w, float[6, 3] v",
    ),
    "einsum_without_result": Case(
        'h = MatMul(x, w)  y = Einsum<equation = "nd,dj">(h, v)',
        {"w:1": 6},
        "float[8, 6] w, float[6, 3] v",
    ),
    # elementwise
    "elementwise": Case(
        """h = MatMul(x, w)  a = Add(h, b)  r = Relu(a)  m = Mul(s, r)  e = Erf(m)
           c = Clip(e)  p = PRelu(c, q)  y = MatMul(p, v)""",
        {"w:1": 6},
        "float[8, 6] w, float[6] b, float[1, 6] s, float[6] q, float[6, 3] v",
    ),
    "add_of_two_branches": Case(
        "h = MatMul(x, w)  k = MatMul(x, u)  a = Add(h, k)  s = Sigmoid(a)  y = MatMul(s, v)",
        {"w:1": 6},
        "float[8, 6] w, float[8, 6] u, float[6, 3] v",
    ),
    "gate": Case(
        "h = MatMul(x, w)  k = MatMul(x, u)  s = Sigmoid(h)  a = Mul(s, k)  y = MatMul(a, v)",
        {"w:1": 6},
        "float[8, 6] w, float[8, 6] u, float[6, 3] v",
    ),
    "where": Case(
        """h = MatMul(x, w)  zero = Constant<value = float {0.0}>()  c = Greater(h, zero)
           a = Where(c, h, b)  y = MatMul(a, v)""",
        {"w:1": 6},
        "float[8, 6] w, float[6] b, float[6, 3] v",
    ),
    "sum_of_many": Case(
        "h = MatMul(x, w)  s = Sum(h, b, c)  m = Max(s, b)  y = MatMul(m, v)",
        {"w:1": 6},
        "float[8, 6] w, float[6] b, float[1, 6] c, float[6, 3] v",
    ),
    "dropout": Case(
        "h = MatMul(x, w)  d, mask = Dropout(h)  y = MatMul(d, v)",
        {"w:1": 6},
        "float[8, 6] w, float[6, 3] v",
    ),
    "cast": Case(
        "h = MatMul(x, w)  c = Cast<to = 11>(h)  d = CastLike(c, x)  y = MatMul(d, v)",
        {"w:1": 6},
        "float[8, 6] w, float[6, 3] v",
    ),
    "quantize_dequantize": Case(
        """h = MatMul(x, w)  q = QuantizeLinear(h, s, z)  d = DequantizeLinear(q, s, z)
           y = MatMul(d, v)""",
        {"w:1": 6},
        "float[8, 6] w, float s = {0.05}, int8 z = {0}, float[6, 3] v",
        opset=19,
    ),
    "dequantized_weight": Case(
        """w = DequantizeLinear<axis = 1>(wq, s)  h = MatMul(x, w)  y = MatMul(h, v)""",
        {"wq:1": 4},
        "int8[8, 4] wq, float[4] s = {0.1, 0.2, 0.05, 0.15}, float[4, 3] v",
        opset=19,
    ),
    # normalization
    "batch_normalization": Case(
        "h = Conv(x, w)  n = BatchNormalization(h, s, b, m, var)  y = Conv(n, v)",
        {"w:0": 6},
        """float[6, 3, 1, 1] w, float[6] s, float[6] b, float[6] m, float[6] var,
           float[4, 6, 1, 1] v""",
        IMAGE,
    ),
    "instance_normalization": Case(
        "h = Conv(x, w)  n = InstanceNormalization(h, s, b)  y = Conv(n, v)",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, float[6] s, float[6] b, float[4, 6, 1, 1] v",
        IMAGE,
    ),
    "group_normalization_loses_whole_groups": Case(
        "h = Conv(x, w)  n = GroupNormalization<num_groups = 3>(h, s, b)  y = Conv(n, v)",
        {"w:0": 3},
        "float[6, 3, 1, 1] w, float[6] s, float[6] b, float[4, 6, 1, 1] v",
        IMAGE,
    ),
    "group_normalization_written_out": Case(
        """h = Conv(x, w)  g = Reshape(h, s)  n = InstanceNormalization(g, one, zero)
           back = Shape(h)  r = Reshape(n, back)  m = Mul(r, c)  y = Conv(m, v)""",
        {"w:0": 3},
        """float[6, 3, 1, 1] w, int64[3] s = {0, 3, -1}, float[3] one, float[3] zero,
           float[6, 1, 1] c, float[4, 6, 1, 1] v""",
        IMAGE,
    ),
    "layer_normalization_over_another_axis": Case(
        """h = MatMul(x, w)  t = Transpose<perm = [0, 2, 1]>(h)
           n = LayerNormalization<axis = -1>(t, s)  u = Transpose<perm = [0, 2, 1]>(n)
           y = MatMul(u, v)""",
        {"w:1": 6},
        "float[12, 6] w, float[7] s, float[6, 5] v",
        "float[N, 7, 12] x => float[N, 7, 5] y",
    ),
    "softmax_over_another_axis": Case(
        "h = MatMul(x, w)  n = Softmax<axis = 1>(h)  y = MatMul(n, v)",
        {"w:1": 6},
        "float[12, 6] w, float[6, 5] v",
        TOKENS,
    ),
    # pooling and reductions
    "pools": Case(
        """h = Conv(x, w)  a = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(h)
           b = AveragePool<kernel_shape = [2, 2]>(a)  c = GlobalAveragePool(b)
           y = Conv(c, v)""",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, float[4, 6, 1, 1] v",
        IMAGE,
    ),
    "resize_by_scales": Case(
        """h = Conv(x, w)  a = Resize<mode = "nearest">(h, , scales)  y = Conv(a, v)""",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, float[4] scales = {1, 1, 2, 2}, float[4, 6, 1, 1] v",
        IMAGE,
    ),
    "resize_by_sizes": Case(
        """h = Conv(x, w)  a = Resize<mode = "linear">(h, , , sizes)  y = Conv(a, v)""",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, int64[4] sizes = {2, 6, 5, 7}, float[4, 6, 1, 1] v",
        "float[2, 3, 8, 8] x => float[2, 4, 5, 7] y",
    ),
    "reduce_another_axis": Case(
        "h = MatMul(x, w)  a = ReduceMean<keepdims = 0>(h, axes)  y = MatMul(a, v)",
        {"w:1": 6},
        "float[12, 6] w, int64[1] axes = {1}, float[6, 5] v",
        "float[N, L, 12] x => float[N, 5] y",
    ),
    "sum_over_the_cut_axis": Case(
        "h = MatMul(x, w)  r = Sigmoid(h)  y = ReduceSum(r, axes)",
        {"w:1": 6},
        "float[8, 6] w, int64[1] axes = {-1}",
        "float[N, 8] x => float[N, 1] y",
    ),
    "arg_max_of_another_axis": Case(
        "h = MatMul(x, w)  a = ArgMax<axis = 1>(h)  c = Cast<to = 1>(a)  y = MatMul(c, v)",
        {"w:1": 6},
        "float[12, 6] w, float[6, 5] v",
        "float[N, L, 12] x => float[N, 1, 5] y",
    ),
    # layout
    "transpose": Case(
        """h = Conv(x, w)  t = Transpose<perm = [0, 2, 3, 1]>(h)  y = MatMul(t, v)""",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, float[6, 4] v",
        "float[N, 3, 8, 8] x => float[N, 8, 8, 4] y",
    ),
    "flatten": Case(
        "h = Conv(x, w)  f = Flatten(h)  y = MatMul(f, v)",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, float[24, 4] v",
        "float[N, 3, 2, 2] x => float[N, 4] y",
    ),
    "reshape_with_constant": Case(
        "h = Conv(x, w)  f = Reshape(h, s)  y = MatMul(f, v)",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, int64[2] s = {-1, 24}, float[24, 4] v",
        "float[N, 3, 2, 2] x => float[N, 4] y",
    ),
    "reshape_with_zero": Case(
        """h = Conv(x, w)  f = Reshape(h, s)  t = Transpose<perm = [0, 2, 1]>(f)
           y = MatMul(t, v)""",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, int64[3] s = {0, 0, -1}, float[6, 4] v",
        "float[N, 3, 2, 2] x => float[N, 4, 4] y",
    ),
    "reshape_computed_from_parts": Case(
        """h = Conv(x, w)  shape = Shape(h)
           i0 = Constant<value = int64[1] {0}>()  i1 = Constant<value = int64[1] {1}>()
           n = Gather<axis = 0>(shape, i0)  c = Gather<axis = 0>(shape, i1)
           four = Constant<value = int64[1] {4}>()  flat = Mul(c, four)
           s = Concat<axis = 0>(n, flat)  f = Reshape(h, s)  y = MatMul(f, v)""",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, float[24, 4] v",
        "float[N, 3, 2, 2] x => float[N, 4] y",
    ),
    "reshape_with_a_constant_among_computed_lengths": Case(
        """h = Conv(x, w)  shape = Shape(x)  i0 = Constant<value = int64[1] {0}>()
           n = Gather<axis = 0>(shape, i0)  flat = Constant<value = int64[1] {24}>()
           s = Concat<axis = 0>(n, flat)  f = Reshape(h, s)  y = MatMul(f, v)""",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, float[24, 4] v",
        "float[N, 3, 2, 2] x => float[N, 4] y",
    ),
    "squeeze_and_unsqueeze": Case(
        """h = MatMul(x, w)  u = Unsqueeze(h, axes)  s = Squeeze(u, axes)  y = MatMul(s, v)""",
        {"w:1": 6},
        "float[8, 6] w, int64[1] axes = {1}, float[6, 3] v",
    ),
    "depth_to_space": Case(
        "h = Conv(x, w)  d = DepthToSpace<blocksize = 2>(h)  y = Conv(d, v)",
        {"w:0": 3},
        "float[12, 3, 1, 1] w, float[4, 3, 1, 1] v",
        IMAGE,
    ),
    "depth_to_space_crd": Case(
        'h = Conv(x, w)  d = DepthToSpace<blocksize = 2, mode = "CRD">(h)  y = Conv(d, v)',
        {"w:0": 3},
        "float[12, 3, 1, 1] w, float[4, 3, 1, 1] v",
        IMAGE,
    ),
    "space_to_depth": Case(
        "h = Conv(x, w)  d = SpaceToDepth<blocksize = 2>(h)  y = Conv(d, v)",
        {"w:0": 3},
        "float[3, 3, 1, 1] w, float[4, 12, 1, 1] v",
        IMAGE,
    ),
    "channel_shuffle": Case(
        """h = Conv(x, w)  r = Reshape(h, s1)  t = Transpose<perm = [0, 2, 1, 3, 4]>(r)
           f = Reshape(t, s2)  y = Conv(f, v)""",
        {"w:0": 2, "w:0/2": 4},
        """float[8, 3, 1, 1] w, int64[5] s1 = {0, 2, 4, 8, 8}, int64[4] s2 = {0, 8, 8, 8},
           float[4, 8, 1, 1] v""",
        IMAGE,
    ),
    "expand": Case(
        """h = MatMul(x, w)  u = Unsqueeze(h, axes)  e = Expand(u, s)  y = MatMul(e, v)""",
        {"w:1": 6},
        "float[8, 6] w, int64[1] axes = {1}, int64[3] s = {1, 4, 6}, float[6, 3] v",
        "float[N, 8] x => float[N, 4, 3] y",
    ),
    "tile": Case(
        "h = MatMul(x, w)  t = Tile(h, times)  y = MatMul(t, v)",
        {"w:1": 6},
        "float[8, 6] w, int64[2] times = {1, 2}, float[12, 3] v",
    ),
    # selection
    "concat": Case(
        "h = MatMul(x, w)  k = MatMul(x, u)  c = Concat<axis = 1>(h, k, x)  y = MatMul(c, v)",
        {"w:1": 6, "u:1": 5},
        "float[8, 6] w, float[8, 5] u, float[19, 3] v",
    ),
    "concat_of_another_axis": Case(
        """h = MatMul(x, w)  k = MatMul(x, u)  c = Concat<axis = 1>(h, k)
           y = MatMul(c, v)""",
        {"w:1": 6},
        "float[12, 6] w, float[12, 6] u, float[6, 5] v",
        "float[N, L, 12] x => float[N, M, 5] y",
    ),
    "split": Case(
        """h = MatMul(x, w)  a, b = Split<axis = 1>(h, parts)  s = Sigmoid(b)  k = MatMul(a, u)
           m = MatMul(s, v)  y = Add(k, m)""",
        {"w:1": 4, "w:1/2": 6},
        "float[8, 10] w, int64[2] parts = {4, 6}, float[4, 3] u, float[6, 3] v",
    ),
    "split_equally": Case(
        """h = MatMul(x, w)  a, b = Split<axis = 1, num_outputs = 2>(h)  k = MatMul(a, u)
           m = MatMul(b, v)  y = Add(k, m)""",
        {"w:1": 5, "w:1/2": 5},
        "float[8, 10] w, float[5, 3] u, float[5, 3] v",
    ),
    "split_by_attribute": Case(
        """h = MatMul(x, w)  a, b = Split<axis = 1, split = [4, 6]>(h)  k = MatMul(a, u)
           m = MatMul(b, v)  y = Add(k, m)""",
        {"w:1": 4, "w:1/2": 6},
        "float[8, 10] w, float[4, 3] u, float[6, 3] v",
        opset=11,
    ),
    "split_off_one_channel": Case(
        """h = MatMul(x, w)  a, b = Split<axis = 1>(h, parts)  m = Mul(a, b)
           y = MatMul(m, v)""",
        {"w:1": 5},
        "float[8, 6] w, int64[2] parts = {5, 1}, float[5, 3] v",
    ),
    "split_gate": Case(
        """h = MatMul(x, w)  a, b = Split<axis = -1, num_outputs = 2>(h)  s = Sigmoid(b)
           m = Mul(a, s)  y = MatMul(m, v)""",
        {"w:1": 5},
        "float[8, 10] w, float[5, 3] v",
    ),
    "slice": Case(
        """h = MatMul(x, w)  a = Slice(h, zero, four, one)  b = Slice(h, four, end, one)
           s = Sigmoid(b)  k = MatMul(a, u)  m = MatMul(s, v)  y = Add(k, m)""",
        {"w:1": 4, "w:1/2": 6},
        """float[8, 10] w, int64[1] zero = {0}, int64[1] four = {4}, int64[1] one = {1},
           int64[1] end = {9223372036854775807}, float[4, 3] u, float[6, 3] v""",
    ),
    "slice_from_the_end": Case(
        """h = MatMul(x, w)  a = Slice(h, start, end, one)  y = MatMul(a, v)""",
        {"w:1": 5, "w:1/2": 5},
        """float[8, 10] w, int64[1] start = {-7}, int64[1] end = {-2}, int64[1] one = {1},
           float[5, 3] v""",
    ),
    "slice_by_attributes": Case(
        """h = MatMul(x, w)  a = Slice<axes = [1], starts = [4], ends = [10]>(h)
           y = MatMul(a, v)""",
        {"w:1": 4, "w:1/2": 6},
        "float[8, 10] w, float[6, 3] v",
        opset=9,
    ),
    "gather_of_channels": Case(
        "h = MatMul(x, w)  g = Gather<axis = 1>(h, index)  y = MatMul(g, v)",
        {"w:1": 3, "w:1/2": 3},
        "float[8, 6] w, int64[3] index = {5, 0, -3}, float[3, 3] v",
    ),
    "gather_repeats_a_channel": Case(
        "h = MatMul(x, w)  g = Gather<axis = 1>(h, index)  y = MatMul(g, v)",
        {"w:1": 2, "w:1/2": 2, "w:1/3": 2},
        "float[8, 6] w, int64[6] index = {5, 0, 5, 0, 1, 2}, float[6, 3] v",
    ),
    "gather_of_a_position": Case(
        "h = MatMul(x, w)  g = Gather<axis = 1>(h, zero)  y = MatMul(g, v)",
        {"w:1": 6},
        "float[12, 6] w, int64 zero = {0}, float[6, 5] v",
        "float[N, L, 12] x => float[N, 5] y",
    ),
    "embedding": Case(
        "h = Gather(table, ids)  r = Relu(h)  y = MatMul(r, v)",
        {"table:1": 6},
        "float[9, 6] table, float[6, 3] v",
        "int64[N, L] ids => float[N, L, 3] y",
    ),
    "gather_nd": Case(
        "h = MatMul(x, w)  g = GatherND(h, ids)  y = MatMul(g, v)",
        {"w:1": 6},
        "float[12, 6] w, float[6, 5] v",
        "float[3, 4, 12] x, int64[7, 2] ids => float[7, 5] y",
    ),
    "pad_of_channels": Case(
        "h = MatMul(x, w)  p = Pad(h, pads)  y = MatMul(p, v)",
        {"w:1": 6},
        "float[8, 6] w, int64[4] pads = {0, 1, 0, 2}, float[9, 3] v",
    ),
    "pad_of_positions": Case(
        "h = Conv(x, w)  p = Pad(h, pads)  y = Conv(p, v)",
        {"w:0": 6},
        """float[6, 3, 1, 1] w, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1},
           float[4, 6, 3, 3] v""",
        IMAGE,
    ),
    "sequence": Case(
        """h = MatMul(x, w)  s = SplitToSequence<axis = 1>(h, parts)
           a = SequenceAt(s, zero)  b = SequenceAt(s, one)  t = Sigmoid(b)  k = MatMul(a, u)
           m = MatMul(t, v)  y = Add(k, m)""",
        {"w:1": 5, "w:1/2": 5},
        """float[8, 10] w, int64 parts = {5}, int64 zero = {0}, int64 one = {1},
           float[5, 3] u, float[5, 3] v""",
    ),
    "sequence_put_together": Case(
        """h = MatMul(x, w)  k = MatMul(x, u)  s = SequenceConstruct(h, k)
           c = ConcatFromSequence<axis = 1>(s)  y = MatMul(c, v)""",
        {"w:1": 6, "u:1": 5},
        "float[8, 6] w, float[8, 5] u, float[11, 3] v",
    ),
    # recurrent
    "lstm": Case(
        """t = Transpose<perm = [1, 0, 2]>(x)  p = MatMul(t, i)
           a, h, c = LSTM<hidden_size = 5>(p, w, r, b)
           s = Squeeze(a, one)  m = MatMul(s, v)  y = Transpose<perm = [1, 0, 2]>(m)""",
        {"i:1": 6, "w:1": 5},
        """float[12, 6] i, float[1, 20, 6] w, float[1, 20, 5] r, float[1, 40] b,
           int64[1] one = {1}, float[5, 5] v""",
        TOKENS,
    ),
    "lstm_bidirectional": Case(
        """t = Transpose<perm = [1, 0, 2]>(x)
           a, h, c = LSTM<hidden_size = 4, direction = "bidirectional">(t, w, r)
           p = Transpose<perm = [2, 0, 1, 3]>(a)  f = Reshape(p, s)  y = MatMul(f, v)""",
        {"w:1": 4},
        """float[2, 16, 12] w, float[2, 16, 4] r, int64[3] s = {0, 0, 8}, float[8, 5] v""",
        TOKENS,
    ),
    "lstm_with_initial_state_and_peepholes": Case(
        """t = Transpose<perm = [1, 0, 2]>(x)  shape = Shape<start = 1, end = 2>(t)
           one = Constant<value = int64[1] {1}>()  size = Constant<value = int64[1] {5}>()
           s = Concat<axis = 0>(one, shape, size)  zero = ConstantOfShape(s)
           a, h, c = LSTM<hidden_size = 5>(t, w, r, b, , zero, zero, p)
           q = Squeeze(h, none)  y = MatMul(q, v)""",
        {"w:1": 5},
        """float[1, 20, 12] w, float[1, 20, 5] r, float[1, 40] b, float[1, 15] p,
           int64[1] none = {0}, float[5, 5] v""",
        "float[N, L, 12] x => float[N, 5] y",
    ),
    "gru": Case(
        """t = Transpose<perm = [1, 0, 2]>(x)
           a, h = GRU<hidden_size = 5, linear_before_reset = 1>(t, w, r, b)
           q = Squeeze(h, none)  y = MatMul(q, v)""",
        {"w:1": 5},
        """float[1, 15, 12] w, float[1, 15, 5] r, float[1, 30] b, int64[1] none = {0},
           float[5, 5] v""",
        "float[N, L, 12] x => float[N, 5] y",
    ),
    "rnn": Case(
        """t = Transpose<perm = [1, 0, 2]>(x)  a, h = RNN<hidden_size = 5>(t, w, r, b)
           q = Squeeze(h, none)  y = MatMul(q, v)""",
        {"w:1": 5},
        """float[1, 5, 12] w, float[1, 5, 5] r, float[1, 10] b, int64[1] none = {0},
           float[5, 5] v""",
        "float[N, L, 12] x => float[N, 5] y",
    ),
    "stacked_lstm": Case(
        """t = Transpose<perm = [1, 0, 2]>(x)  a, h, c = LSTM<hidden_size = 5>(t, w, r)
           s = Squeeze(a, one)  a2, h2, c2 = LSTM<hidden_size = 4>(s, w2, r2)
           q = Squeeze(h2, none)  y = MatMul(q, v)""",
        {"w:1": 5, "w2:1": 4},
        """float[1, 20, 12] w, float[1, 20, 5] r, float[1, 16, 5] w2, float[1, 16, 4] r2,
           int64[1] one = {1}, int64[1] none = {0}, float[4, 5] v""",
        "float[N, L, 12] x => float[N, 5] y",
    ),
    # control flow
    "if_uses_a_value_from_outside": Case(
        """h = MatMul(x, w)  y = If(c) <
             then_branch = one () => (float[N, 3] p) { p = MatMul(h, v) },
             else_branch = two () => (float[N, 3] q) { r = Relu(h)  q = MatMul(r, v) }>""",
        {"w:1": 6},
        "float[8, 6] w, float[6, 3] v",
        "float[N, 8] x, bool c => float[N, 3] y",
    ),
    "if_returns_a_cut_axis": Case(
        """z = If(c) <
             then_branch = one () => (float[N, D] p) { p = MatMul(x, w) },
             else_branch = two () => (float[N, D] q) { q = MatMul(x, u) }>
           y = MatMul(z, v)""",
        {"w:1": 6},
        "float[8, 6] w, float[8, 6] u, float[6, 3] v",
        "float[N, 8] x, bool c => float[N, 3] y",
    ),
    "loop_body_uses_a_value_from_outside": Case(
        """h = MatMul(x, w)  y = Loop(three, , start) <
             body = step (int64 i, bool go, float[N, 3] state)
                    => (bool going, float[N, 3] next)
                    { going = Identity(go)  m = MatMul(h, v)  next = Add(state, m) }>""",
        {"w:1": 6},
        "float[8, 6] w, float[6, 3] v, int64 three = {3}",
        "float[N, 8] x, float[N, 3] start => float[N, 3] y",
    ),
    # quantized
    "qlinear_conv": Case(
        """q = QuantizeLinear(x, s, z)  h = QLinearConv(q, s, z, w, ws, wz, s, z, b)
           k = QLinearConv(h, s, z, v, s, wz1, s, z)  y = DequantizeLinear(k, s, z)""",
        {"w:0": 4},
        """int8[4, 3, 1, 1] w, float s = {0.1}, uint8 z = {128}, int32[4] b,
           float[4] ws = {0.02, 0.01, 0.03, 0.02}, int8[4] wz = {0, 0, 0, 0},
           int8 wz1 = {0}, int8[4, 4, 1, 1] v""",
        IMAGE,
        opset=13,
    ),
    "matmul_integer": Case(
        """q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, w, z)  f = Cast<to = 1>(i)
           m = Mul(f, ws)  t = Mul(m, s)  y = MatMul(t, v)""",
        {"w:1": 6},
        "int8[8, 6] w, float[6] ws, float[6, 3] v",
    ),
    "conv_integer": Case(
        """q, s, z = DynamicQuantizeLinear(x)  i = ConvInteger(q, w, z)  f = Cast<to = 1>(i)
           m = Mul(f, s)  y = Conv(m, v)""",
        {"w:0": 6},
        "int8[6, 3, 1, 1] w, float[4, 6, 1, 1] v",
        IMAGE,
    ),
    "qlinear_matmul": Case(
        """q = QuantizeLinear(x, s, z)  h = QLinearMatMul(q, s, z, w, s, wz, s, z)
           d = DequantizeLinear(h, s, z)  y = MatMul(d, v)""",
        {"w:1": 6},
        "int8[8, 6] w, float s = {0.1}, uint8 z = {128}, int8 wz = {0}, float[6, 3] v",
        opset=13,
    ),
}

MICROSOFT = {
    "fused_conv": Case(
        """h = com.microsoft.FusedConv<activation = "Relu">(x, w, b)  y = Conv(h, v)""",
        {"w:0": 6},
        "float[6, 3, 1, 1] w, float[6] b, float[4, 6, 1, 1] v",
        IMAGE,
    ),
    "fused_gemm": Case(
        """h = com.microsoft.FusedGemm<activation = "Relu", transB = 1>(x, w, b)
           y = MatMul(h, v)""",
        {"w:0": 6},
        "float[6, 8] w, float[6] b, float[6, 3] v",
    ),
    "fused_matmul": Case(
        """h = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(x, w)  y = MatMul(h, v)""",
        {"w:0": 6},
        "float[6, 8] w, float[6, 3] v",
    ),
    "gelu": Case(
        """h = MatMul(x, w)  g = com.microsoft.BiasGelu(h, b)  f = com.microsoft.FastGelu(g, c)
           q = com.microsoft.QuickGelu(f)  e = com.microsoft.Gelu(q)  y = MatMul(e, v)""",
        {"w:1": 6},
        "float[8, 6] w, float[6] b, float[6] c, float[6, 3] v",
    ),
    "skip_layer_normalization_in_between": Case(
        """h = MatMul(x, w)  r = Relu(h)  m = MatMul(r, u)
           n = com.microsoft.SkipLayerNormalization(m, x, s, b)  y = MatMul(n, v)""",
        {"w:1": 6},
        "float[12, 6] w, float[6, 12] u, float[12] s, float[12] b, float[12, 5] v",
        TOKENS,
    ),
    "attention": Case(
        """a = com.microsoft.Attention<num_heads = 3>(x, w, b)  y = MatMul(a, v)""",
        {"w:1": 3, "w:1/2": 4, "w:1/3": 4},
        "float[12, 36] w, float[36] b, float[12, 5] v",
        TOKENS,
    ),
    "attention_with_wider_values": Case(
        """p = MatMul(x, i)
           a = com.microsoft.Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 12]>(p, w, b)
           y = MatMul(a, v)""",
        {"i:1": 6, "w:1": 2, "w:1/2": 4, "w:1/3": 6},
        "float[12, 6] i, float[6, 28] w, float[28] b, float[12, 5] v",
        TOKENS,
    ),
    "multi_head_attention": Case(
        """q = MatMul(x, wq)  k = MatMul(x, wk)  u = MatMul(x, wv)
           a = com.microsoft.MultiHeadAttention<num_heads = 3>(q, k, u, b)
           y = MatMul(a, v)""",
        {"wq:1": 3, "wq:1/2": 4, "wv:1": 4},
        """float[12, 12] wq, float[12, 12] wk, float[12, 12] wv, float[36] b,
           float[12, 5] v""",
        TOKENS,
    ),
    "matmul_n_bits": Case(
        """h = MatMul(x, i)
           m = com.microsoft.MatMulNBits<K = 64, N = 6, bits = 4, block_size = 16>(h, w, s)
           y = MatMul(m, v)""",
        {"i:1": 4, "w:0": 6},
        "float[12, 64] i, uint8[6, 4, 8] w, float[24] s, float[6, 5] v",
        TOKENS,
        tolerance=1e-4,
    ),
    "rotary_embedding": Case(
        """q = MatMul(x, wq)
           r = com.microsoft.RotaryEmbedding<num_heads = 3>(q, position, cos, sin)
           y = MatMul(r, v)""",
        {"wq:1": 3},
        "float[12, 12] wq, float[9, 2] cos, float[9, 2] sin, float[12, 5] v",
        "float[N, 4, 12] x, int64[N, 4] position => float[N, 4, 5] y",
    ),
}

WRITTEN_OUT = {
    "attention": Case(
        """q = MatMul(x, wq)  k = MatMul(x, wk)  u = MatMul(x, wv)
           q4 = Reshape(q, s)  k4 = Reshape(k, s)  u4 = Reshape(u, s)
           qh = Transpose<perm = [0, 2, 1, 3]>(q4)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)
           uh = Transpose<perm = [0, 2, 1, 3]>(u4)
           scores = MatMul(qh, kh)  p = Softmax(scores)  o = MatMul(p, uh)
           ot = Transpose<perm = [0, 2, 1, 3]>(o)  f = Reshape(ot, t)  y = MatMul(f, v)""",
        {"wq:1": 3, "wq:1/2": 4, "wv:1": 4},
        """float[12, 12] wq, float[12, 12] wk, float[12, 12] wv, int64[4] s = {0, 0, 3, 4},
           int64[3] t = {0, 0, 12}, float[12, 5] v""",
        TOKENS,
    ),
    "attention_with_fused_projection_and_computed_scale": Case(
        """qkv = MatMul(x, w)  q, k, u = Split<axis = 2, num_outputs = 3>(qkv)
           q4 = Reshape(q, s)  k4 = Reshape(k, s)  u4 = Reshape(u, s)
           qh = Transpose<perm = [0, 2, 1, 3]>(q4)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)
           uh = Transpose<perm = [0, 2, 1, 3]>(u4)
           width = Shape<start = 3>(qh)  wide = Cast<to = 1>(width)  root = Sqrt(wide)
           scores = MatMul(qh, kh)  scaled = Div(scores, root)  p = Softmax(scaled)
           o = MatMul(p, uh)
           ot = Transpose<perm = [0, 2, 1, 3]>(o)  f = Reshape(ot, t)  y = MatMul(f, v)""",
        {"w:1": 3, "w:1/2": 4, "w:1/3": 4},
        """float[12, 36] w, int64[4] s = {0, 0, 3, 4}, int64[3] t = {0, 0, 12},
           float[12, 5] v""",
        TOKENS,
    ),
    "attention_with_three_in_one_axis": Case(
        """qkv = MatMul(x, w)  five = Reshape(qkv, s)
           t5 = Transpose<perm = [2, 0, 3, 1, 4]>(five)
           i0 = Constant<value = int64 {0}>()  i1 = Constant<value = int64 {1}>()
           i2 = Constant<value = int64 {2}>()
           q = Gather<axis = 0>(t5, i0)  k = Gather<axis = 0>(t5, i1)
           u = Gather<axis = 0>(t5, i2)
           kt = Transpose<perm = [0, 1, 3, 2]>(k)  scores = MatMul(q, kt)  p = Softmax(scores)
           o = MatMul(p, u)
           ot = Transpose<perm = [0, 2, 1, 3]>(o)  f = Reshape(ot, t)  y = MatMul(f, v)""",
        {"w:1": 3, "w:1/2": 4},
        """float[12, 36] w, int64[5] s = {0, 0, 3, 3, 4}, int64[3] t = {0, 0, 12},
           float[12, 5] v""",
        TOKENS,
    ),
    "attention_with_shared_keys_and_values": Case(
        """q = MatMul(x, wq)  k = MatMul(x, wk)  u = MatMul(x, wv)
           q4 = Reshape(q, sq)  k4 = Reshape(k, sk)  u4 = Reshape(u, sk)
           qh = Transpose<perm = [0, 2, 1, 3]>(q4)  kh = Transpose<perm = [0, 2, 1, 3]>(k4)
           uh = Transpose<perm = [0, 2, 1, 3]>(u4)
           k5 = Unsqueeze(kh, two)  u5 = Unsqueeze(uh, two)
           shape = Shape(kh)  i0 = Constant<value = int64[1] {0}>()
           i2 = Constant<value = int64[1] {2}>()
           n = Gather<axis = 0>(shape, i0)  len = Gather<axis = 0>(shape, i2)
           h2 = Constant<value = int64[1] {2}>()  rep = Constant<value = int64[1] {3}>()
           d4 = Constant<value = int64[1] {4}>()  h6 = Constant<value = int64[1] {6}>()
           es = Concat<axis = 0>(n, h2, rep, len, d4)  ke = Expand(k5, es)  ue = Expand(u5, es)
           rs = Concat<axis = 0>(n, h6, len, d4)  kr = Reshape(ke, rs)  ur = Reshape(ue, rs)
           kt = Transpose<perm = [0, 1, 3, 2]>(kr)  scores = MatMul(qh, kt)
           p = Softmax(scores)  o = MatMul(p, ur)
           ot = Transpose<perm = [0, 2, 1, 3]>(o)  f = Reshape(ot, t)  y = MatMul(f, v)""",
        {"wq:1": 2, "wq:1/2": 3, "wq:1/3": 4, "wv:1": 4},
        """float[12, 24] wq, float[12, 8] wk, float[12, 8] wv, int64[4] sq = {0, 0, 6, 4},
           int64[4] sk = {0, 0, 2, 4}, int64[1] two = {2}, int64[3] t = {0, 0, 24},
           float[24, 5] v""",
        TOKENS,
    ),
    "rotation_of_halves_couples_pairs": Case(
        """q = MatMul(x, w)  q4 = Reshape(q, s)  a = Slice(q4, zero, two, three)
           b = Slice(q4, two, end, three)  nb = Neg(b)  r = Concat<axis = 3>(nb, a)
           m = Mul(q4, cos)  n = Mul(r, sin)  o = Add(m, n)  f = Reshape(o, t)
           y = MatMul(f, v)""",
        {"w:1": 3, "w:1/2": 2},
        """float[12, 12] w, int64[4] s = {0, 0, 3, 4}, int64[1] zero = {0}, int64[1] two = {2},
           int64[1] three = {3}, int64[1] end = {9223372036854775807}, float[4] cos,
           float[4] sin, int64[3] t = {0, 0, 12}, float[12, 5] v""",
        TOKENS,
    ),
    "shuffle_unit_with_concat_and_split": Case(
        """h = Conv(x, w)  a, b = Split<axis = 1, num_outputs = 2>(h)  c = Conv(b, k)
           j = Concat<axis = 1>(a, c)  r = Reshape(j, s1)
           t = Transpose<perm = [0, 2, 1, 3, 4]>(r)  f = Reshape(t, s2)
           d, e = Split<axis = 1, num_outputs = 2>(f)  g = Conv(e, l)
           m = Concat<axis = 1>(d, g)  y = Conv(m, v)""",
        {"w:0": 4, "w:0/2": 2, "w:0/3": 2, "l:0": 4},
        """float[8, 3, 1, 1] w, float[4, 4, 1, 1] k, int64[5] s1 = {0, 2, 4, 8, 8},
           int64[4] s2 = {0, 8, 8, 8}, float[4, 4, 1, 1] l, float[4, 8, 1, 1] v""",
        IMAGE,
    ),
    "dense_block": Case(
        """a = Conv(x, w)  b = Conv(a, w1)  c = Concat<axis = 1>(a, b)  d = Relu(c)
           e = Conv(d, w2)  f = Concat<axis = 1>(c, e)
           n = BatchNormalization(f, s, o, m, var)  y = Conv(n, v)""",
        {"w:0": 6, "w1:0": 4, "w2:0": 5},
        """float[6, 3, 1, 1] w, float[4, 6, 1, 1] w1, float[5, 10, 1, 1] w2, float[15] s,
           float[15] o, float[15] m, float[15] var, float[4, 15, 1, 1] v""",
        IMAGE,
    ),
    "tied_embedding_and_head": Case(
        """h = Gather(table, ids)  m = MatMul(h, w)  r = Relu(m)  u = MatMul(r, v)
           o = Add(u, h)  tt = Transpose<perm = [1, 0]>(table)  y = MatMul(o, tt)""",
        {"table:1": 6, "w:1": 7},
        "float[9, 6] table, float[6, 7] w, float[7, 6] v",
        "int64[N, L] ids => float[N, L, 9] y",
    ),
}

for _case in MICROSOFT.values():
    _case.domains = ("com.microsoft",)
ALL = {
    **CASES,
    **{f"microsoft_{name}": case for name, case in MICROSOFT.items()},
    **{f"written_out_{name}": case for name, case in WRITTEN_OUT.items()},
}


@pytest.mark.parametrize("name", ALL)
def test_exactly_these_groups_are_free(name):
    assert sizes(groups_of(ALL[name].make())) == ALL[name].free


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_cut_equals_masked(name, seed):
    case = ALL[name]
    rng = np.random.default_rng(seed)
    removed = {}
    for group, size in case.free.items():
        count = int(rng.integers(0 if len(case.free) > 1 else 1, size))
        if count:
            removed[group] = sorted(rng.choice(size, count, replace=False).tolist())
    assert_masked_equals_cut(case.make, removed, case.tolerance, seed=seed)


@pytest.mark.parametrize("name", ALL)
def test_each_group_alone(name):
    case = ALL[name]
    for group, size in case.free.items():
        assert_masked_equals_cut(case.make, {group: [size - 1]}, case.tolerance)


@pytest.mark.parametrize("name", ALL)
def test_keeping_everything_changes_nothing(name):
    model = ALL[name].make()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert ir.to_proto(cut(model, {})).SerializeToString(deterministic=True) == before
    assert text_of(model) == text_of(ALL[name].make())
