"""The measurements compare the same work: the plain loop's network is the pipeline's, by PyTorch's own layers."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.report import params_of, turn
from benchmarks.throughput import RECIPES, use_plain_layers
from cifar.networks import build_network

SEED = 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plain_network_has_the_same_logits_and_gradients_by_pytorchs_own_convolution(recipe, monkeypatch):
    model = params_of(recipe).model.model_dump()
    ours, plain = (build_network(model, SEED) for _ in range(2))
    use_plain_layers(plain)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(SEED))
    logits, gradients = [], []
    for network in (ours, plain):
        if network is plain:
            monkeypatch.setattr("cifar.winograd.WinogradConv.apply", None)  # would fail if it were called
            monkeypatch.setattr("cifar.norms._NormReLU.apply", None)
        found = network(images)
        F.cross_entropy(found, torch.arange(4)).backward()
        logits.append(found.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
    assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[1].norm()


@pytest.mark.parametrize("kind", ["plain", "ours"])
def test_a_turn_of_the_training_benchmark_ends_in_a_speed(kind):
    assert turn("throughput", kind, "demo", "1") > 0
