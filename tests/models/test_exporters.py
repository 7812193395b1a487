"""What is exported is what PyTorch computes, for any batch; a difference does not pass."""

import pathlib

import onnx
import pytest
import torch
from graphopt.models import exporters
from graphopt.models.errors import ExportError
from graphopt.models.exporters import EXPORTERS, Flat, Interface
from graphopt.models.networks import NETWORKS, create
from torch import nn

INTERFACE = Interface(
    ("images",), ("logits",), {"images": {0: "batch"}, "logits": {0: "batch"}}
)


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 1, 6, 6, generator=torch.Generator().manual_seed(batch))


def shape_of(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_by_both_exporters(
    name: str, exporter: str, tmp_path: pathlib.Path
) -> None:
    network = create(name, seed=1)
    path = tmp_path / "new" / "model.onnx"
    exporters.export(network, [images(2)], INTERFACE, path, exporter)
    assert list(path.parent.iterdir()) == [path], "weights or a draft beside the model"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(i.name, shape_of(i)) for i in model.graph.input] == [
        ("images", ["batch", 1, 6, 6])
    ]
    assert [(o.name, shape_of(o)[1]) for o in model.graph.output] == [("logits", 10)]
    worst = exporters.check(network, path, INTERFACE, [[images(1)], [images(7)]])
    assert worst < 1e-6, "the docstring of TOLERANCE says so"


def test_mode_of_the_network_is_restored(tmp_path: pathlib.Path) -> None:
    network = create("teacher", seed=0).train()
    path = tmp_path / "model.onnx"
    exporters.export(network, [images(2)], INTERFACE, path)
    exporters.check(network, path, INTERFACE, [[images(3)]])
    assert network.training


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_without_optimizing_the_graph_is_raw(exporter: str, tmp_path: pathlib.Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.t()

    nodes = {}
    for optimize in (True, False):
        path = tmp_path / f"{optimize}.onnx"
        exporters.export(Scaled(), [images(2)], INTERFACE, path, exporter, optimize)
        nodes[optimize] = [node.op_type for node in onnx.load(path).graph.node]
    assert "Transpose" in nodes[False]
    assert nodes[True] == ["MatMul"]


class Structured(nn.Module):
    """Keyword arguments in, a mapping-like result out, as networks of transformers have it."""

    def forward(
        self, mask: torch.Tensor, ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return ids * mask, ids + mask, ids - mask


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_flat_names_inputs_and_keeps_the_first_results(
    exporter: str, tmp_path: pathlib.Path
) -> None:
    axes = {0: "batch", 1: "sequence"}
    names = ("in0", "in1", "out0", "out1")
    interface = Interface(names[:2], names[2:], dict.fromkeys(names, axes))
    flat = Flat(Structured(), ("ids", "mask"), results=2)
    path = tmp_path / "model.onnx"
    example = [torch.ones(2, 3), torch.zeros(2, 3)]
    exporters.export(flat, example, interface, path, exporter)
    batch = [torch.rand(4, 5), torch.rand(4, 5)]
    exporters.check(flat, path, interface, [batch])
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == ["in0", "in1"]
    assert [o.name for o in model.graph.output] == ["out0", "out1"]


@pytest.mark.parametrize("change", [1e-2, float("nan")])
def test_a_changed_weight_does_not_pass(change: float, tmp_path: pathlib.Path) -> None:
    network = create("student", seed=0)
    path = tmp_path / "model.onnx"
    exporters.export(network, [images(2)], INTERFACE, path)
    with torch.no_grad():
        network.fc2.bias[4] += change
    with pytest.raises(ExportError, match=r"'logits' differs from PyTorch.*at a batch of 3"):
        exporters.check(network, path, INTERFACE, [[images(3)]])


def test_a_batch_that_was_taken_for_a_constant_does_not_pass(tmp_path: pathlib.Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(dim=(1, 2, 3)) + x.shape[0]

    # Tracing remembers the size of the example.
    interface = Interface(("images",), ("sums",), {"images": {0: "batch"}})
    path = tmp_path / "model.onnx"

    class Traced(Fixed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(dim=(1, 2, 3)) + (int(x.shape[0]) if self.traced else x.shape[0])

        traced = True

    exporters.export(Traced(), [images(2)], interface, path, "torchscript")
    with pytest.raises(ExportError, match="differs"):
        exporters.check(Fixed(), path, interface, [[images(2)], [images(5)]])


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_cannot_be_exported_leaves_the_old_file(
    exporter: str, tmp_path: pathlib.Path
) -> None:
    class Impossible(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).real

    path = tmp_path / "model.onnx"
    path.write_bytes(b"what was here before")
    interface = Interface(("x",), ("y",), {"x": {0: "batch"}})
    with pytest.raises(ExportError, match=f"Impossible cannot be exported with '{exporter}'"):
        exporters.export(Impossible(), [images(2)], interface, path, exporter)
    assert path.read_bytes() == b"what was here before"
    assert list(tmp_path.iterdir()) == [path]
