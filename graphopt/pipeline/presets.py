"""The pipelines that have a name."""

from __future__ import annotations

__all__ = ["PRESETS", "SEARCHES"]

_EXACT = (
    "fold-constants,fold-shapes,inline-if,eliminate-identity,eliminate-noop,"
    "eliminate-neutral,eliminate-decided,eliminate-not,eliminate-inverse-pairs,"
    "eliminate-sequences,eliminate-unused-outputs,fuse-clips,fuse-slices,fuse-pads,"
    "fuse-concats,fuse-expands,fuse-reshapes,fuse-transposes"
)
_FUSE = (
    "fuse-matmul-add,fuse-conv-batchnorm,fuse-conv-pad,fuse-activations,"
    "fuse-gelu,fuse-layer-normalization,fuse-rms-normalization,fuse-softmax,fuse-scale,"
    "fuse-scale-before"
)
_CLEAN = "eliminate-common-subexpressions,eliminate-dead-code,deduplicate-initializers"
SIMPLIFY = f"inline-functions,infer-shapes,[{_EXACT},{_CLEAN}],infer-shapes"
DEFAULT = (
    f"inline-functions,infer-shapes,[{_EXACT},{_FUSE},{_CLEAN}],"
    "add-before-layer-norm,infer-shapes"
)
ONNXRUNTIME = (
    "upgrade-opset{to=23},default,"
    "[fuse-rotary-embedding,fuse-attention{emit=onnxruntime},fuse-reshapes,fuse-transposes,"
    "eliminate-noop,eliminate-common-subexpressions,eliminate-dead-code,"
    "deduplicate-initializers],infer-shapes"
)
FEWEST = (
    "upgrade-opset{to=23},default,"
    "[fuse-rotary-embedding,fuse-attention{emit=onnxruntime,projections=true},fuse-reshapes,"
    "fuse-transposes,eliminate-noop,eliminate-common-subexpressions,eliminate-dead-code,"
    "deduplicate-initializers],"
    "[fuse-bias-gelu,fuse-skip-layer-normalization,merge-matmuls,eliminate-dead-code,"
    "deduplicate-initializers],infer-shapes"
)
PRESETS: dict[str, str] = {
    "simplify": SIMPLIFY,
    "default": DEFAULT,
    "onnxruntime": ONNXRUNTIME,
    "onnxruntime-fewest": FEWEST,
    "int8-dynamic": "default,quantize-dynamic",
    "int8-static": "upgrade-opset{to=13},default,quantize-static",
    "half": "default,quantize-dynamic{scope=half}",
    "auto": "upgrade-opset{to=13},default,quantize-auto",
    "prune": "default,prune-channels",
}
"""Name -> pipeline. A preset may be used anywhere in a pipeline."""

SEARCHES: dict[str, str] = {
    "int8-dynamic": "default,quantize-auto{schemes=dynamic}",
    "int8-static": "upgrade-opset{to=13},default,quantize-auto{schemes=static}",
    "half": "default,quantize-auto{schemes=dynamic}",
}
"""What these presets mean where there is a target: the operators that stay in float are not
given but found."""
