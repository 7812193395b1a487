"""Random graphs full of shape arithmetic, with the values of all their nodes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import onnxruntime as ort


class Builder:
    """Builds a random graph node by node, and runs each node for several sizes as it goes.

    A node that onnxruntime refuses for the first sizes is left out; sizes for which a later
    node fails are given up.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.sizes = [{"N": 4, "M": 6}, {"N": 3, "M": 1}, {"N": 1, "M": 5}, {"N": 0, "M": 2}]
        self.runs: list[dict[str, np.ndarray]] = [
            {"x": self.rng.standard_normal((size["N"], size["M"], 12)).astype(np.float32)}
            for size in self.sizes
        ]
        self.weights: dict[str, np.ndarray] = {}
        self.data, self.vectors, self.truths = ["x"], [], []
        for _ in range(4):
            self.weight(self.rng.integers(-1, 5, self.rng.integers(1, 4)))
        self.add("Shape", [self.pick(self.data)])

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array, np.int64)
        for run in self.runs:
            run[name] = self.weights[name]
        self.vectors.append(name)
        return name

    def pick(self, names: list[str]) -> str:
        return str(self.rng.choice(names))

    def axis(self, name: str) -> int:
        rank = self.runs[0][name].ndim
        return int(self.rng.integers(-rank, rank)) if rank else 0

    def grow(self) -> None:
        """Try one more node."""
        rng, vector, data = self.rng, self.pick(self.vectors), self.pick(self.data)
        other = self.pick(self.vectors)
        short = self.weight(rng.integers(-2, 3, 1))
        one = [self.weight(rng.integers(0, 3, 1)) for _ in range(2)]
        both = sorted(rng.integers(-2, 3, 2))
        choices: list[tuple[str, list[str], dict[str, object]]] = [
            ("Shape", [data], {}),
            ("Shape", [data], {"start": int(both[0]), "end": int(both[1])}),
            ("Size", [data], {}),
            *(
                (op, [vector, other], {})
                for op in ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max")
            ),
            *((op, [vector, other], {}) for op in ("Equal", "Less", "GreaterOrEqual")),
            ("Gather", [vector, short], {"axis": 0}),
            (
                "Slice",
                [vector, *one, self.weight(np.zeros(1)), self.weight(rng.choice([1, -1], 1))],
                {},
            ),
            ("Concat", [vector, other], {"axis": 0}),
            ("Concat", [vector, short, other], {"axis": 0}),
            ("Reshape", [vector, self.weight(np.full(1, -1))], {}),
            ("Unsqueeze", [vector, self.weight(np.zeros(1))], {}),
            ("Squeeze", [vector], {}),
            ("Cast", [vector], {"to": 6}),
            ("Cast", [vector], {"to": 9}),
            ("ReduceProd", [vector], {"keepdims": int(rng.integers(2))}),
            ("ReduceMax", [vector], {}),
            ("Neg", [vector], {}),
            ("Abs", [vector], {}),
            ("ConstantOfShape", [other], {"value": oh.make_tensor("v", 7, [1], [3])}),
            ("Reshape", [data, vector], {}),
            ("Expand", [data, vector], {}),
            ("Tile", [data, vector], {}),
            ("Flatten", [data], {"axis": self.axis(data)}),
            ("Slice", [data, short, *one], {}),
            ("Slice", [data, *one, self.weight(rng.integers(0, 3, 1))], {}),
            ("Gather", [data, vector], {"axis": self.axis(data)}),
            ("Concat", [data, data], {"axis": self.axis(data)}),
            ("Concat", [data, self.pick(self.data)], {"axis": self.axis(data)}),
            ("Add", [data, self.pick(self.data)], {}),
            ("MatMul", [data, self.pick(self.data)], {}),
            ("ReduceSum", [data, short], {"keepdims": int(rng.integers(2))}),
            ("ArgMax", [data], {"axis": self.axis(data)}),
            (
                "Split",
                [data],
                {"axis": self.axis(data), "num_outputs": int(rng.integers(1, 4))},
            ),
            ("Pad", [data, vector], {}),
            (
                "MaxPool",
                [data],
                {
                    "kernel_shape": [2],
                    "strides": [int(rng.integers(1, 4))],
                    "pads": [int(p) for p in rng.integers(0, 2, 2)],
                },
            ),
            ("Transpose", [data], {}),
            (
                "Transpose",
                [data],
                {"perm": [int(i) for i in rng.permutation(self.runs[0][data].ndim)]},
            ),
            ("TopK", [data, short], {}),
            ("NonZero", [data], {}),
            ("Unsqueeze", [data, short], {}),
            ("CumSum", [data, self.weight(np.zeros(1))], {}),
        ]
        if self.truths:
            truth = self.pick(self.truths)
            choices.append((str(rng.choice(["Or", "And", "Xor"])), [truth, truth], {}))
            choices.append(("Equal", [vector, vector], {}))
            choices.append(("Where", [self.pick(self.truths), vector, other], {}))
            choices.append(("Not", [self.pick(self.truths)], {}))
            choices.append(("And", [self.pick(self.truths), self.pick(self.truths)], {}))
        self.add(*choices[rng.integers(len(choices))])

    def grow_pair(self) -> None:
        """Try two nodes in a row that a rule may take for one."""
        rng, data = self.rng, self.pick(self.data)
        rank = self.runs[0][data].ndim
        kind = int(rng.integers(5))
        for _ in range(2):
            if kind == 0:
                bounds = [self.weight([int(n)]) for n in rng.integers(-5, 6, 2)]
                step = rng.choice([1, 1, 1, 2, -1], 1)
                # Backwards to the largest number is nothing by the standard and in onnx's
                # shapes, and "no end" in onnxruntime's kernel, which then overruns buffers.
                if rng.random() < 0.4 and step[0] > 0:
                    bounds[1] = self.weight([2**63 - 1])
                step = self.weight(step)
                self.add("Slice", [data, *bounds, self.weight([self.axis(data)]), step], {})
            elif kind == 1:
                widths = self.weight(rng.integers(0, 3, 2 * rank))
                mode = str(rng.choice(["constant", "edge"]))
                self.add("Pad", [data, widths], {"mode": mode})
            elif kind == 2:
                self.add("Concat", [data, data], {"axis": self.axis(data)})
            elif kind == 3:
                ones = [1] * (rank - 1) if rank else []
                target = self.weight([int(rng.integers(1, 3)), *ones, 1])
                self.add("Expand", [data, target], {})
                self.add("Add", [self.data[-1], data], {})
            else:
                axis = self.axis(data)
                self.add("Split", [data], {"axis": axis, "num_outputs": 2})
                self.add("Concat", self.data[-2:], {"axis": axis})
            data = self.data[-1]

    def add(
        self, op: str, inputs: list[str], attributes: dict[str, object] | None = None
    ) -> None:
        count = {"Split": (attributes or {}).get("num_outputs", 1), "TopK": 2}.get(op, 1)
        outputs = [f"v{len(self.nodes)}_{index}" for index in range(int(str(count)))]
        node = oh.make_node(op, inputs, outputs, **(attributes or {}))
        results = [_run_node(node, run) for run in self.runs]
        if results[0] is None or any(r.size > 5000 for r in results[0]):
            return
        kept = [index for index, result in enumerate(results) if result is not None]
        self.runs = [self.runs[index] for index in kept]
        self.sizes = [self.sizes[index] for index in kept]
        self.nodes.append(node)
        for run, index in zip(self.runs, kept, strict=True):
            run.update(zip(outputs, results[index] or [], strict=True))
        for name in outputs:
            array = self.runs[0][name]
            if array.dtype == np.bool_:
                self.truths.append(name)
            elif array.dtype == np.float32:
                self.data.append(name)
            elif array.dtype == np.int64 and array.ndim < 2 and array.size < 8:
                self.vectors.append(name)

    def model(self) -> ir.Model:
        x = oh.make_tensor_value_info("x", 1, ["N", "M", 12])
        weights = [onnx.numpy_helper.from_array(a, n) for n, a in self.weights.items()]
        last = oh.make_tensor_value_info(self.nodes[-1].output[0], 1, None)
        graph = oh.make_graph(self.nodes, "g", [x], [last], weights)
        opsets = [oh.make_opsetid("", 18)]
        return ir.from_proto(oh.make_model(graph, opset_imports=opsets, ir_version=10))


def _run_node(node: onnx.NodeProto, run: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    names = list(dict.fromkeys(node.input))
    if any(name not in run for name in names):
        return None
    # onnxruntime 1.31 does not reduce what is empty: [0, 2, 12] keeps its last axis.
    if node.op_type in ("ReduceSum", "ArgMax") and run[names[0]].size == 0:
        return None
    # A window that does not fit is no valid model; onnxruntime pads it silently.
    if node.op_type == "MaxPool" and run[names[0]].shape[-1:] < (2,):
        return None
    kinds = {name: oh.np_dtype_to_tensor_dtype(run[name].dtype) for name in names}
    inputs = [oh.make_tensor_value_info(n, k, run[n].shape) for n, k in kinds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = oh.make_graph([node], "g", inputs, outputs)
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options)
        return session.run(None, {name: run[name] for name in names})
    except Exception:
        return None
