"""SGD, Adam and Muon against their steps by hand, and how the groups of parameters stand to each other."""

import numpy as np
import pytest
import torch
from specs import ADAM, AIRNET, CIFAR, MUON, SGD, changed
from torch import nn

from cifar.nn.networks import build_network
from cifar.training.optimizers import Muon, build_optimizers, orthogonalise


def toy() -> nn.Module:
    """A network with a matrix (3, 2), a bias (3,) and a norm's weight and bias (3,), all of known values."""
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.full_like(parameter, 0.5)
    return network


def moved(network: nn.Module, optimizer: torch.optim.Optimizer, lr: float) -> list[float]:
    """How far a step at `lr` moves the matrix and each of the three vectors, all of whose elements move alike."""
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[-1]["lr"] = lr
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer.step()
    steps = [new.detach() - old for old, new in zip(before, network.parameters(), strict=True)]
    assert all(torch.allclose(step, step.flatten()[0]) for step in steps)
    return [step.flatten()[0].item() for step in steps]


@pytest.mark.parametrize(
    ("spec", "with_decay", "without"),
    [  # by hand, for a weight of 2, a gradient of 0.5 and decay of 0.1: the first step of Adam is the gradient's sign
        (changed(SGD, nesterov=False, weight_decay=0.1), 0.5 + 0.2, 0.5),
        (changed(SGD, weight_decay=0.1), 1.9 * (0.5 + 0.2), 1.9 * 0.5),
        (ADAM, 1.0, 1.0),
        (changed(ADAM, name="adamw"), 1.0 + 0.2, 1.0),
    ],
)
def test_weight_decay_pulls_on_all_parameters_or_on_weights_alone(spec, with_decay, without):
    for regularise, vectors in ("all", with_decay), ("weights", without):
        network = toy()
        steps = moved(network, build_optimizers(network, spec, regularise=regularise, bias_lr_factor=1.0)[0], lr=0.01)
        assert steps == pytest.approx([-0.01 * with_decay, *[-0.01 * vectors] * 3], rel=1e-4)


def test_the_second_step_of_adam_is_that_of_the_paper():
    # Kingma & Ba (2015), algorithm 1, with the gradient 0.5, then -1, and L2 of 0.1 on the weight as it is then.
    network, weight, m, v = toy(), 2.0, 0.0, 0.0
    optimizer = build_optimizers(network, ADAM, regularise="all", bias_lr_factor=1.0)[0]
    for t, raw in enumerate([0.5, -1.0], start=1):
        for parameter in network.parameters():
            nn.init.constant_(parameter.grad, raw)
        moved(network, optimizer, lr=0.01)
        gradient = raw + 0.1 * weight
        m, v = 0.8 * m + 0.2 * gradient, 0.99 * v + 0.01 * gradient**2
        weight -= 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-8)
    assert network[0].weight.detach().numpy() == pytest.approx(np.full((3, 2), weight), rel=1e-6)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (20, 20)])
def test_orthogonalised_is_near_the_polar_factor(shape):
    # The quintic of three steps, worked on each singular value in turn, by NumPy; the vectors stay as they are.
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, v = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    values /= np.linalg.norm(values)
    is_seen = values > 0.013
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert orthogonalise(matrix).numpy() == pytest.approx((u * values) @ v, abs=1e-4)
    assert values[is_seen].min() > 0.5 and values.max() < 1.21


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
    sgd, muon = build_optimizers(network, MUON, regularise="all", bias_lr_factor=64.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    moved = [[names[id(p)] for p in group["params"]] for group in (*sgd.param_groups, *muon.param_groups)]
    assert moved == [["3.weight"], ["0.bias", "1.bias", "3.bias"], ["0.weight"]]
    groups = [*sgd.param_groups, *muon.param_groups]
    assert [group["lr_factor"] for group in groups] == [1.0, 64.0, 0.25]
    decays = [group["weight_decay"] * group["lr_factor"] for group in sgd.param_groups]
    assert decays == [0.1, 0.1]  # the same share of each in a step


def test_the_bias_of_airnets_whitening_has_a_rate_of_its_own_while_it_is_trained():
    for epochs, factor, expected in (3, 2.0, [2.0]), (3, 64.0, [64.0]), (0, 2.0, []):
        network = build_network(changed(AIRNET, whitening_bias={"epochs": epochs, "lr_factor": factor}), CIFAR, seed=0)
        rates = {"bias_lr_factor": 64.0, "lr_factors": network.lr_factors()}
        sgd, _ = build_optimizers(network, MUON, regularise="all", **rates)
        factors = {id(parameter): group["lr_factor"] for group in sgd.param_groups for parameter in group["params"]}
        named = {name: factors.pop(id(p)) for name, p in network.named_parameters() if id(p) in factors}
        assert [factor for name, factor in named.items() if name == "prep.0.bias"] == expected
        assert {factor for name, factor in named.items() if "norms" in name} == {64.0}
        assert named["linear.weight"] == 1.0 and len(named) == 7 + len(expected) and not factors
        assert all(group["weight_decay"] * group["lr_factor"] == 0.1 for group in sgd.param_groups)


@pytest.mark.parametrize("spec", [changed(SGD, weight_decay=0.1), ADAM, changed(ADAM, name="adamw")])
def test_biases_have_a_rate_of_their_own(spec):
    (optimizer,) = build_optimizers(nn.Linear(3, 2), spec, regularise="weights", bias_lr_factor=8.0)
    assert [(group["lr_factor"], group["weight_decay"]) for group in optimizer.param_groups] == [(1.0, 0.1), (8.0, 0.0)]
