"""The measurements compare the same work."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from dvc.utils.hydra import apply_overrides
from specs import CIFAR
from torch import Tensor, nn

from benchmarks import airbench94, throughput
from benchmarks.airbench94 import STEPS, airbench94_network, groups, windows
from benchmarks.pipeline import fresh_project
from benchmarks.report import params_of, turn
from benchmarks.throughput import RECIPES, use_plain_layers
from cifar.nn.networks import build_network
from cifar.system.errors import InputError

ROOT = Path(__file__).parents[1]
SEED = 0


def logits_and_gradients(network: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(SEED))
    logits = network(images)
    F.cross_entropy(logits, torch.arange(4)).backward()
    gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.requires_grad]
    return logits.detach(), torch.cat(gradients)


@pytest.mark.parametrize("recipe", [*RECIPES, "fast"])
def test_the_plain_network_has_the_same_logits_and_gradients_by_pytorchs_own_layers(recipe, monkeypatch):
    model = params_of(recipe).model
    ours, plain = (build_network(model, CIFAR, SEED) for _ in range(2))
    logits, gradients = logits_and_gradients(ours)
    for ours_alone in ("cifar.nn.winograd.WinogradConv.apply", "cifar.nn.norms._ActivatedNorm.apply"):
        monkeypatch.setattr(ours_alone, None)  # fails if it is called
    use_plain_layers(plain)
    plain_logits, plain_gradients = logits_and_gradients(plain)
    torch.testing.assert_close(logits, plain_logits, rtol=1e-3, atol=1e-4)
    assert (gradients - plain_gradients).norm() < 1e-2 * plain_gradients.norm()


def test_a_python_in_a_folder_with_a_space_times_the_stages_too(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/my tools/python")
    with fresh_project("recipes/demo.yaml", ["seed=1"]) as project:
        stages = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"]
        words = shlex.split(stages["train"]["cmd"])
        assert yaml.safe_load((project.folder / "params.yaml").read_text())["seed"] == 1
    assert words == ["/my tools/python", str(ROOT / "benchmarks/timed.py"), str(project.log), "stages.train"]


def test_a_change_that_dvc_refuses_is_refused():
    with pytest.raises(InputError, match="^-S epoch=3: "), fresh_project("recipes/demo.yaml", ["epoch=3"]):
        pass


@pytest.fixture
def few_images(tmp_path, monkeypatch) -> None:
    """Recipes of small batches, and a narrow `fast`, in the current folder: a turn reads them there."""
    for recipe, changes in (("demo", []), ("fast", ["model.widths=[16,24,32]"])):
        path = tmp_path / f"recipes/{recipe}.yaml"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / f"recipes/{recipe}.yaml", path)
        apply_overrides(path, ["batch_size=4", *changes])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(airbench94, "BATCH", 4)


@pytest.mark.parametrize(
    ("benchmark", "words"),
    [
        (throughput, ["plain", "demo", "1"]),
        (throughput, ["bf16", "demo", "1"]),
        (airbench94, ["airbench94", "1"]),
        (airbench94, ["fast", "1"]),
    ],
)
def test_a_turn_of_a_benchmark_ends_in_a_speed(few_images, monkeypatch, capsys, benchmark, words):
    monkeypatch.setattr(sys, "argv", [benchmark.__name__, "--turn", *words])
    benchmark.main()
    assert float(capsys.readouterr().out.split()[-1]) > 0


def test_a_turn_takes_place_in_a_process_of_its_own(few_images):
    assert turn("throughput", "fp32", "demo", "1") > 0


def test_airbench94_moves_as_its_source_does():
    network = airbench94_network()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_972_792  # its paper's
    biases, others = groups(network)
    trained = [sum(parameter.numel() for parameter in group["params"]) for group in (biases, others)]
    # by hand: two norms of 64, 256 and 256; 3x3 filters 24-64-64-256-256-256-256; a linear layer 256-10
    assert trained == [2 * (64 + 256 + 256), 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2560]
    # by hand: 11.5 / (1024 (1 + 1 / 0.15)); 64 times that; and 0.0153 / (1 + 1 / 0.15) of a weight decays a step
    assert [group["lr"] for group in (biases, others)] == pytest.approx([0.0937500, 0.00146484], rel=1e-4)
    decays = [group["lr"] * group["weight_decay"] for group in (biases, others)]
    assert decays == pytest.approx([0.00199565] * 2, rel=1e-4)
    assert STEPS == 476  # 9.9 epochs of 48 batches, the last one begun


def test_airbench94_cuts_its_windows_at_all_places_of_each_image():
    places = torch.arange(36 * 36.0).view(1, 1, 36, 36)
    torch.manual_seed(SEED)
    corners = windows(places.repeat(5000, 3, 1, 1))
    assert (corners - corners[:, :, :1, :1] == places[..., :32, :32]).all()
    rows, columns = corners[:, 0, 0, 0] // 36, corners[:, 0, 0, 0] % 36
    counts = torch.bincount((5 * rows + columns).long(), minlength=25)
    assert len(counts) == 25 and (counts > 140).all() and (counts < 260).all()  # 200, give or take four deviations


def test_the_benchmark_of_the_stages_runs_the_first_two():
    with fresh_project("recipes/demo.yaml", ["shapes.train=100", "shapes.test=20", "val_size=10"]) as project:
        assert project.repro("stats") > 0
        assert [run["stage"] for run in project.stages()] == ["download", "stats"]
