"""The measurements compare the same work: the plain loop's network is the pipeline's, by PyTorch's own layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.report import params_of, turn
from benchmarks.throughput import RECIPES, use_plain_layers
from cifar.networks import build_network

SEED = 0


def logits_and_gradients(network: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(SEED))
    logits = network(images)
    F.cross_entropy(logits, torch.arange(4)).backward()
    return logits.detach(), torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plain_network_has_the_same_logits_and_gradients_by_pytorchs_own_layers(recipe, monkeypatch):
    model = params_of(recipe).model.model_dump()
    ours, plain = (build_network(model, SEED) for _ in range(2))
    logits, gradients = logits_and_gradients(ours)
    for ours_alone in ("cifar.winograd.WinogradConv.apply", "cifar.norms._NormReLU.apply"):
        monkeypatch.setattr(ours_alone, None)  # fails if it is called
    use_plain_layers(plain)
    plain_logits, plain_gradients = logits_and_gradients(plain)
    torch.testing.assert_close(logits, plain_logits, rtol=1e-3, atol=1e-4)
    assert (gradients - plain_gradients).norm() < 1e-2 * plain_gradients.norm()


@pytest.mark.parametrize("kind", ["plain", "fp32", "bf16"])
def test_a_turn_of_the_training_benchmark_ends_in_a_speed(kind):
    assert turn("throughput", kind, "demo", "1") > 0
