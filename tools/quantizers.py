"""The ways of quantizing that ``bench_quantize`` compares: graphopt's and onnxruntime's own.

Each is a script that runs in a process of its own, with the arguments source, target, samples
(``.npz``) and pipeline.
"""

from __future__ import annotations

__all__ = ["GRAPHOPT", "TOOLS"]

GRAPHOPT = """
import sys
from graphopt import model_io, pipeline
from graphopt.manager import PassManager
from graphopt.passbase import Context
from graphopt.samples import Samples
source, target, data, text = sys.argv[1:5]
model = model_io.load(source)
context = Context(samples=Samples.from_path(data, model_io.input_specs(model)))
with context.closing():
    model, _ = PassManager(pipeline.parse(text)).run(model, context)
    model_io.save(model, target)
"""
_PEER = """
import sys
import numpy, onnx
from onnxruntime.quantization import *
source, target, data, _ = sys.argv[1:5]
class Reader(CalibrationDataReader):
    def __init__(self):
        arrays = dict(numpy.load(data))
        size = min(map(len, arrays.values()))
        self.feeds = iter([{k: v[i:i+1] for k, v in arrays.items()} for i in range(size)])
    def get_next(self):
        return next(self.feeds, None)
"""
_FAST = "['Conv', 'MatMul', 'Gemm', 'Add', 'MaxPool', 'GlobalAveragePool', 'AveragePool']"
TOOLS: dict[str, tuple[str, str]] = {
    "ort-dynamic": (_PEER + "quantize_dynamic(source, target)", ""),
    "ort-dynamic-best": (
        _PEER + "quantize_dynamic(source, target, op_types_to_quantize=['MatMul', 'Gemm'], "
        "per_channel=True, extra_options={'MatMulConstBOnly': True})",
        "",
    ),
    "ort-static": (_PEER + "quantize_static(source, target, Reader())", ""),
    "ort-static-best": (
        _PEER + f"quantize_static(source, target, Reader(), op_types_to_quantize={_FAST}, "
        "per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)",
        "",
    ),
    "dynamic": (GRAPHOPT, "quantize-dynamic"),
    "static": (GRAPHOPT, "quantize-static"),
    "qoperator": (GRAPHOPT, "quantize-static{form=qoperator}"),
    "half": (GRAPHOPT, "quantize-dynamic{scope=half}"),
    "static-half": (GRAPHOPT, "quantize-static{scope=half}"),
    "smooth-dynamic": (GRAPHOPT, "smooth-quant,gptq,quantize-dynamic"),
    "smooth-static": (GRAPHOPT, "smooth-quant,gptq,quantize-static"),
    "auto": (GRAPHOPT, "quantize-auto{target=0.99}"),
    "weights-8": (GRAPHOPT, "quantize-weights"),
    "weights-4": (GRAPHOPT, "upgrade-opset{to=21},quantize-weights{bits=4}"),
}
"""Name -> (script, pipeline); a script gets source, target, samples and pipeline."""
