"""The node tests of the onnx package, as models, in three forms."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.backend.test.loader
import onnxruntime as ort

FORMS = ("as_is", "all_baked", "all_but_first_baked")


@functools.cache
def cases() -> dict[str, tuple[onnx.ModelProto, list[object]]]:
    """Return name -> (model, inputs of its first data set)."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package overflows on purpose
        loaded = onnx.backend.test.loader.load_model_tests(kind="node")
    for case in loaded:
        if case.model is not None and case.data_sets:
            found[case.name] = (case.model, list(case.data_sets[0][0]))
    return found


def variants(name: str) -> Iterator[tuple[str, onnx.ModelProto, dict[str, object]]]:
    """Yield (form, model, feeds) for the forms that a case has.

    Baked inputs become initializers; what is no tensor stays an input.
    """
    model, inputs = cases()[name]
    feeds = {value.name: data for value, data in zip(model.graph.input, inputs, strict=False)}
    tensors = [name for name, data in feeds.items() if isinstance(data, np.ndarray)]
    yield "as_is", model, feeds
    for form, baked in (("all_baked", tensors), ("all_but_first_baked", tensors[1:])):
        if not baked or (form == "all_but_first_baked" and len(tensors) < 2):
            continue
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        rest = [value for value in copy.graph.input if value.name not in baked]
        types = {v.name: v.type.tensor_type.elem_type for v in copy.graph.input}
        del copy.graph.input[:]
        copy.graph.input.extend(rest)
        for value in baked:
            array = feeds[value]
            assert isinstance(array, np.ndarray)
            tensor = onnx.numpy_helper.from_array(array, value)
            if tensor.data_type != types[value]:
                break
            copy.graph.initializer.append(tensor)
        else:
            yield form, copy, {n: d for n, d in feeds.items() if n not in baked}


def run(model: onnx.ModelProto, feeds: dict[str, object]) -> list[object] | None:
    """Return the outputs in onnxruntime without optimization; ``None`` if it does not run."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options)
        wanted = {value.name for value in session.get_inputs()}
        return session.run(None, {n: d for n, d in feeds.items() if n in wanted})
    except Exception:
        return None
