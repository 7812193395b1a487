"""A network with everything that a report shows."""

NETWORK = """g (float[N, 3, 8, 8] x) => (float[N, 10] y)
    <float[16, 3, 3, 3] w1, float[16] b1, float[16] scale, float[16] shift, float[16] mean,
     float[16] var, float[16, 16, 3, 3] w2, float[16, 10] w3, float[10] b3,
     int64[2] axes = {2, 3}>
    { c1 = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
      n1 = BatchNormalization(c1, scale, shift, mean, var)
      r1 = Relu(n1)
      i1 = Identity(r1)
      c2 = Conv<pads = [1, 1, 1, 1]>(i1, w2)
      r2 = Relu(c2)
      p = ReduceMean<keepdims = 0>(r2, axes)
      y = Gemm(p, w3, b3) }"""
