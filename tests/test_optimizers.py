"""Muon against the singular value decomposition, and how the groups of parameters stand to each other."""

import numpy as np
import pytest
import torch
from torch import nn

from cifar.optimizers import Muon, build_optimizers, orthogonalise

MUON = {"name": "muon", "momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "filter_momentum": 0.6,
        "filter_lr_factor": 0.25}  # fmt: skip


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (20, 20)])
def test_orthogonalised_is_near_the_polar_factor(shape):
    # The quintic of three steps, worked on each singular value in turn, by NumPy; the vectors stay as they are.
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, v = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    values /= np.linalg.norm(values)
    is_seen = values > 1 / 40
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert orthogonalise(matrix).numpy() == pytest.approx((u * values) @ v, abs=1e-4)
    assert values[is_seen].min() > 0.5 and values.max() < 1.3


def test_a_step_of_muon_written_out():
    filters = nn.Parameter(torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    optimizer = Muon([filters], lr_factor=1.0, filter_momentum=0.6)
    optimizer.param_groups[0]["lr"] = 0.1
    average, expected = np.zeros((6, 36)), filters.detach().numpy().reshape(6, 36).astype(float)
    for seed in (1, 2, 3):
        gradient = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
        filters.grad = gradient.to(memory_format=torch.channels_last)
        optimizer.step()
        average = 0.6 * average + gradient.numpy().reshape(6, 36)
        direction = torch.from_numpy(gradient.numpy().reshape(6, 36) + 0.6 * average)
        expected *= np.sqrt(6) / np.linalg.norm(expected)  # rows of length 1, in the mean square
        expected -= 0.1 * orthogonalise(direction).numpy()
    assert filters.detach().numpy().reshape(6, 36) == pytest.approx(expected, abs=1e-5)


def test_muon_moves_the_filters_and_sgd_the_rest():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10))
    network[1].weight.requires_grad = False
    sgd, muon = build_optimizers(network, MUON, "all", bias_lr_factor=64.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    moved = [[names[id(p)] for p in group["params"]] for group in (*sgd.param_groups, *muon.param_groups)]
    assert moved == [["3.weight"], ["0.bias", "1.bias", "3.bias"], ["0.weight"]]
    groups = [*sgd.param_groups, *muon.param_groups]
    assert [group["lr_factor"] for group in groups] == [1.0, 64.0, 0.25]
    decays = [group["weight_decay"] * group["lr_factor"] for group in sgd.param_groups]
    assert decays == [0.1, 0.1]  # the same share of each in a step


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_biases_have_a_rate_of_their_own(name):
    spec = {"sgd": {"momentum": 0.9, "nesterov": True}}.get(name, {"beta1": 0.9, "beta2": 0.99})
    (optimizer,) = build_optimizers(nn.Linear(3, 2), {"name": name, "weight_decay": 0.1} | spec, "weights", 8.0)
    assert [(group["lr_factor"], group["weight_decay"]) for group in optimizer.param_groups] == [(1.0, 0.1), (8.0, 0.0)]
