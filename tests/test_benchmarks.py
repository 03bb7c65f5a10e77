"""The measurements compare the same work, and say truly what several runs come to."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.report import params_of, report, turn
from benchmarks.seeds import with_mean
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
    for ours_alone in ("cifar.winograd.WinogradConv.apply", "cifar.norms._ActivatedNorm.apply"):
        monkeypatch.setattr(ours_alone, None)  # fails if it is called
    use_plain_layers(plain)
    plain_logits, plain_gradients = logits_and_gradients(plain)
    torch.testing.assert_close(logits, plain_logits, rtol=1e-3, atol=1e-4)
    assert (gradients - plain_gradients).norm() < 1e-2 * plain_gradients.norm()


@pytest.mark.parametrize("kind", ["plain", "fp32", "bf16"])
def test_a_turn_of_the_training_benchmark_ends_in_a_speed(kind):
    assert turn("throughput", kind, "demo", "1") > 0


def test_seeds_end_in_their_mean_and_the_deviation_of_a_sample(tmp_path, capsys):
    runs = [{"seed": seed, "accuracy": accuracy} for seed, accuracy in ((0, 0.92), (1, 0.94), (2, 0.96))]
    report(tmp_path / "seeds.py", with_mean(runs))
    last = capsys.readouterr().out.strip().splitlines()[-1]
    # by hand: the squares of -0.02, 0 and 0.02 sum to twice that of 0.02
    assert last.split() == ["all", "0.94", "±", "0.02"]
    written = json.loads((tmp_path / "seeds.json").read_text())["rows"]
    assert written[:3] == runs and written[3]["accuracy"]["n"] == 3


def test_the_figures_of_one_seed_have_no_deviation():
    assert with_mean([{"seed": 4, "accuracy": 0.9}]) == [{"seed": 4, "accuracy": 0.9}]
