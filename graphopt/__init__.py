"""ONNX graph-level optimizer: rewrites a model, proves the result, measures it."""
