"""The recipes: what each one sets, and that it runs through every stage."""

import json
import math
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides
from PIL import Image
from pixels import augmented
from projects import TINY

from cifar.config.params import check_params, read_yaml
from cifar.config.schema import TransformSpec
from cifar.data.policy import build_policy
from cifar.training.schedules import plan

ROOT = Path(__file__).parents[1]
SYSTEMS = ["eva4-s11", "eva4-s8", "eva5-s9", "eva6-s8", "resnet18-layernorm"]
RECIPES = sorted([*SYSTEMS, "best", "demo", "fast"])
MEAN = [0.491400, 0.482158, 0.446531]


def recipe_of(name: str) -> dict:
    return read_yaml(ROOT / f"recipes/{name}.yaml")


def test_the_five_systems_the_demo_and_our_own_have_a_recipe_each():
    assert sorted(path.stem for path in ROOT.glob("recipes/*.yaml")) == RECIPES


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_value_that_shapes_a_recipe_says_where_it_comes_from(name):
    lines = (ROOT / f"recipes/{name}.yaml").read_text().splitlines()
    for key in ("epochs", "batch_size", "l1", "lr_max", "lr_min", "  weight_decay", "select", "regularise"):
        (line,) = [line for line in lines if line.startswith(f"{key}:")]
        assert "#" in line, line


# What the sources have, and the repairs: epochs, batch size, learning rate at the start, at the highest, at the end.
RATES = {
    "eva4-s8": (20, 128, 0.004, 0.1, 4e-7),
    "eva4-s11": (24, 512, 0.00433, 0.231, 0.00433),  # both found by the range test
    "resnet18-layernorm": (48, 128, 1e-3, 1e-3, 1e-3),
    "eva6-s8": (20, 128, 0.002, 0.05, 2e-7),
    "eva5-s9": (40, 64, 0.002, 0.002, 0.002 * 0.8**9),
}
FOUND = json.loads((ROOT / "docs/data/eva4-s11/lr_find.json").read_text())


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_recipe_follows_the_learning_rates_of_its_system(name):
    recipe = recipe_of(name)
    epochs, batch_size, start, top, end = RATES[name]
    assert (recipe["epochs"], recipe["batch_size"]) == (epochs, batch_size)
    shape = epochs, math.ceil((50_000 - recipe["val_size"]) / batch_size)
    limits = {key: FOUND[key] if recipe[key] == "find" else recipe[key] for key in ("lr_min", "lr_max")}
    lrs = plan(check_params(recipe, name).schedule, shape, **limits, momentum=0.95).lrs
    assert (lrs[0, 0], lrs.max(), lrs[-1, -1]) == pytest.approx(
        (start, top, end), rel=2e-3 if "find" in recipe.values() else 1e-9
    )


def holes(image: np.ndarray, size: int) -> np.ndarray:
    """The places (N, 2) of whole size x size squares of the mean colour in an image that is black elsewhere."""
    filled = (image == np.round(255 * np.array(MEAN))).all(axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(filled, (size, size))
    return np.argwhere(windows.all(axis=(2, 3)))


@pytest.mark.parametrize(
    ("name", "size", "count", "share"),
    [("eva4-s11", 8, 1, 1), ("resnet18-layernorm", 16, 1, 0.5), ("eva6-s8", 16, 1, 1), ("eva5-s9", 12, 2, 0.5)],
)
def test_cutout_holes_are_whole_of_the_stated_size_number_and_share_and_of_the_mean_on_0_to_255(
    name, size, count, share
):
    recipe = recipe_of(name)
    (cutout,) = [step for step in recipe["augment"] if step["name"] == "CoarseDropout"]
    policy = build_policy([TransformSpec(**cutout)], MEAN, 32)
    found = [len(holes(image, size)) for image in augmented(policy, np.zeros((400, 32, 32, 3), np.uint8))]
    drawn = np.count_nonzero(found) / 400
    assert drawn == pytest.approx(share, abs=0.08)
    assert np.bincount(found)[1:].argmax() + 1 == count  # most often: holes that overlap can hold more such squares
    assert count > 1 or max(found) == 1


@pytest.mark.parametrize(
    ("name", "horizontal", "vertical"), [("eva4-s8", 0.5, 0.5), ("eva6-s8", 0.2, 0.0), ("eva5-s9", 0.5, 0.0)]
)
def test_flips_come_as_often_as_stated(name, horizontal, vertical):
    ramp = np.zeros((1000, 32, 32, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(60, 92), np.arange(60, 92)[:, None]  # red rises to the right, green down
    steps = [TransformSpec(**step) for step in recipe_of(name)["augment"] if step["name"].endswith("Flip")]
    seen = augmented(build_policy(steps, MEAN, 32), ramp).astype(int)
    assert np.mean(seen[:, 0, 0, 0] > seen[:, 0, -1, 0]) == pytest.approx(horizontal, abs=0.05)
    assert np.mean(seen[:, 0, 0, 1] > seen[:, -1, 0, 1]) == pytest.approx(vertical, abs=0.05)


@pytest.mark.parametrize(("name", "degrees"), [("eva4-s8", 15), ("eva5-s9", 8), ("resnet18-layernorm", 5)])
def test_rotation_stays_within_the_stated_angle_and_reaches_it(name, degrees):
    (rotate,) = [s for s in recipe_of(name)["augment"] if s["name"] == "Rotate"]
    policy = build_policy([TransformSpec(**rotate | {"p": 1.0})], MEAN, 32)
    bar = np.zeros((300, 32, 32, 3), np.uint8)
    bar[:, 15:17, 4:28] = 255
    angles = []
    for image in augmented(policy, bar)[..., 0].astype(float):
        image[:, [*range(4), *range(28, 32)]] = 0  # corners
        y, x = np.nonzero(image > 127.5)
        angles.append(np.degrees(np.arctan(np.polyfit(x, y, 1)[0])))
    assert degrees - 1.5 < np.abs(angles).max() < degrees + 1.5
    assert abs(np.mean(angles)) < 0.15 * degrees


def lay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict) -> None:
    """Make `tmp_path` the current folder, with the code and the recipe `name` after `changes`."""
    for file in ("cifar", "stages", "dvc.yaml"):
        (tmp_path / file).symlink_to(ROOT / file)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/plots").symlink_to(ROOT / ".dvc/plots")
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / f"recipes/{name}.yaml", "params.yaml")
    small = {key: value for key, value in TINY.items() if key.startswith(("dataset", "shapes", "lr_find.", "gallery"))}
    small |= {"batch_size": 20, "model.whitening_bias.epochs": 1, "schedule.peak_epoch": 0}
    apply_overrides("params.yaml", [f"{key}={value}" for key, value in (small | changes).items()])


def run_stages(*names: str) -> None:
    for name in names:
        import_module(f"stages.{name}").main()


# AirNet with Muon; and with SGD, on the images that a small network picks
@pytest.mark.parametrize("name", ["fast", "best"])
def test_our_own_recipes_run_through_every_stage(tmp_path, monkeypatch, name):
    # at the recipe's own width it would take a minute
    lay_out(tmp_path, monkeypatch, name, {"epochs": 8, "model.widths": "[16,24,32]"})
    run_stages(*read_yaml("dvc.yaml")["stages"])

    trained = 20 if name == "best" else 40  # images an epoch
    right = pd.read_csv("plots/train/history.csv")["train_accuracy"] * trained
    assert np.allclose(right, right.round()) and any(right.round() % 2)
    figures = json.loads(Path("metrics/evaluate.json").read_text())
    assert figures["images"] == 50 and {"accuracy", "tta_accuracy"} <= set(figures)
    assert json.loads(Path("metrics/train.json").read_text())["val_images"] == 50  # the test images
    assert Path("plots/gradcam/misclassified.png").exists() or figures["wrong"] == 0


def test_own_pictures_of_another_size_and_number_of_classes_go_through_every_stage(tmp_path, monkeypatch):
    changes = {"dataset": "folder", "folder.size": 24, "val_size": 3, "batch_size": 6, "epochs": 1}
    lay_out(tmp_path, monkeypatch, "fast", changes | {"model.widths": "[4,4,4]"})
    random = np.random.default_rng(0)
    for name in ("ant", "bee", "cow"):
        Path("data/images", name).mkdir(parents=True)
        for k in range(12):
            Image.fromarray(random.integers(0, 256, (30, 40, 3), np.uint8)).save(f"data/images/{name}/{k}.png")
    run_stages(*read_yaml("dvc.yaml")["stages"])
    scores = json.loads(Path("metrics/evaluate.json").read_text())
    assert scores["images"] == 6 and "top5_accuracy" not in scores  # 0.2 of 12 are 2 of each class
    assert json.loads(Path("models/model.json").read_text())["classes"] == ["ant", "bee", "cow"]
    assert "24 × 24 pixels in 3 classes" in Path("report/index.html").read_text()


def test_the_weights_that_are_saved_are_those_of_the_best_epoch(tmp_path, monkeypatch):
    lay_out(tmp_path, monkeypatch, "fast", {"epochs": 2, "val_size": 10, "batch_size": 10, "model.widths": "[4,4,4]"})
    run_stages("download", "stats", "lr_find")
    saved = []
    for select, accuracies in (("best", [0.9, 0.1]), ("best", [0.1, 0.9]), ("last", [0.9, 0.1])):
        apply_overrides("params.yaml", [f"select={select}"])
        monkeypatch.setattr("cifar.training.loop.accuracy", lambda *_, values=accuracies: values.pop(0))
        run_stages("train")
        saved.append(Path("models/model.safetensors").read_bytes())
    first, second, last = saved
    assert second == last != first
