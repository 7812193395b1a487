"""The networks are the ones that were named, and depend on their seed alone."""

import pytest
import torch
from graphopt.models.errors import TrainingError
from graphopt.models.networks import NETWORKS, Net, ResidualBlock, StudentNet, create
from torch import nn


def layers(network: nn.Module) -> list[str]:
    return [str(module) for module in network.modules() if not list(module.children())]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_net_is_the_named_chain() -> None:
    assert layers(Net()) == [
        "Conv2d(1, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
        "Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
        "Linear(in_features=2304, out_features=128, bias=True)",
        "Linear(in_features=128, out_features=10, bias=True)",
        "Identity()",
    ]


def test_net_is_linear_and_with_activation_it_is_not() -> None:
    a, b = torch.randn(2, 4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros_like(a)
    for activation, linear in ((False, True), (True, False)):
        torch.manual_seed(0)
        net = Net(activation=activation)
        with torch.no_grad():
            same = torch.allclose(net(a) + net(b), net(a + b) + net(zero), atol=1e-5)
        assert same is linear


def test_student_is_net_at_half_width() -> None:
    # Conv 1->16 and 16->32, linear 1152->64 and 64->10, with biases.
    assert parameters(StudentNet()) == 16 * 10 + 32 * (16 * 9 + 1) + 64 * 1153 + 10 * 65
    assert parameters(Net()) == 32 * 10 + 64 * (32 * 9 + 1) + 128 * 2305 + 10 * 129


def test_docstring_states_the_numbers_of_parameters() -> None:
    stated = f"{parameters(StudentNet()):,} parameters instead of {parameters(Net()):,}"
    assert stated in str(StudentNet.__doc__)


def test_residual_block_adds_its_input() -> None:
    block = ResidualBlock(3).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(block(x), x, rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_of_any_batch(name: str, batch: int) -> None:
    network = create(name, seed=0).eval()
    assert network(torch.zeros(batch, 1, 6, 6)).shape == (batch, 10)


def test_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    first = create("student", seed=5).state_dict()
    state = torch.get_rng_state()
    second = create("student", seed=5).state_dict()
    other = create("student", seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])
    assert torch.equal(state, torch.get_rng_state()), "the global generator was touched"


def test_unknown_network_is_named_with_the_nearest() -> None:
    with pytest.raises(TrainingError, match=r"no network 'studnet'.*'student'"):
        create("studnet", seed=0)
