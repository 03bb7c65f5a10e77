"""The recipes: what each one sets, what the command does with them, and that it loses nothing."""

import io
import json
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides
from PIL import Image
from pixels import augmented
from projects import TINY, create

from cifar.config.params import check_params, read_yaml
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
    policy = build_policy([("CoarseDropout", {k: v for k, v in cutout.items() if k != "name"})], MEAN, 32)
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
    steps = [(s["name"], {"p": s["p"]}) for s in recipe_of(name)["augment"] if s["name"].endswith("Flip")]
    seen = augmented(build_policy(steps, MEAN, 32), ramp).astype(int)
    assert np.mean(seen[:, 0, 0, 0] > seen[:, 0, -1, 0]) == pytest.approx(horizontal, abs=0.05)
    assert np.mean(seen[:, 0, 0, 1] > seen[:, -1, 0, 1]) == pytest.approx(vertical, abs=0.05)


@pytest.mark.parametrize(("name", "degrees"), [("eva4-s8", 15), ("eva5-s9", 8), ("resnet18-layernorm", 5)])
def test_rotation_stays_within_the_stated_angle_and_reaches_it(name, degrees):
    (rotate,) = [s for s in recipe_of(name)["augment"] if s["name"] == "Rotate"]
    policy = build_policy([("Rotate", {k: v for k, v in rotate.items() if k != "name"} | {"p": 1.0})], MEAN, 32)
    bar = np.zeros((300, 32, 32, 3), np.uint8)
    bar[:, 15:17, 4:28] = 255
    angles = []
    for image in augmented(policy, bar)[..., 0].astype(float):
        image[:, [*range(4), *range(28, 32)]] = 0  # corners
        y, x = np.nonzero(image > 127.5)
        angles.append(np.degrees(np.arctan(np.polyfit(x, y, 1)[0])))
    assert degrees - 1.5 < np.abs(angles).max() < degrees + 1.5
    assert abs(np.mean(angles)) < 0.15 * degrees


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A repository with params.yaml and the recipes, committed; the current folder."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(ROOT / "cifar", tmp_path / "cifar", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "start"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


Recipes = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def recipes(project, monkeypatch, capfd) -> Recipes:
    """`python -m recipes` with the words given, inside this process, which has imported what it needs."""

    def call(*words: str) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", ["recipes", *words])
        monkeypatch.delitem(sys.modules, "recipes.__main__", raising=False)  # runpy warns of a module that is there
        status = 0
        try:
            runpy.run_module("recipes", run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        return subprocess.CompletedProcess(words, status, *capfd.readouterr())

    return call


def test_list_names_every_recipe_with_a_line(project):
    listed = subprocess.run([sys.executable, "-m", "recipes", "list"], capture_output=True, text=True)
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines] == RECIPES
    assert "89.22 %" in [line for line in lines if line.startswith("eva4-s8 ")][0]


def test_diff_shows_values_that_only_yaml_has(recipes):
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text().replace("epochs: 24", "epochs: 2026-11-22"))
    assert 'epochs: "2026-11-22" -> 20' in recipes("diff", "eva4-s8").stdout.splitlines()


def test_diff_names_what_would_change_and_changes_nothing(recipes):
    first, *printed = recipes("diff", "eva4-s8").stdout.splitlines()
    assert first == "changes to params.yaml:"
    assert "epochs: 24 -> 20" in printed and "l1: 0.0 -> 1e-05" in printed
    assert "model.logit_scale: 0.125 -> absent" in printed and "model.strides: absent -> [1, 2, 2, 2]" in printed
    assert not any(line.startswith(("seed", "precision")) for line in printed)
    assert Path("params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_apply_writes_the_recipe_with_its_comments_and_prints_the_differences(recipes):
    expected = recipes("diff", "eva6-s8").stdout
    applied = recipes("apply", "eva6-s8")
    assert (applied.returncode, applied.stdout) == (0, expected)
    assert Path("params.yaml").read_bytes() == (ROOT / "recipes/eva6-s8.yaml").read_bytes()
    assert recipes("diff", "eva6-s8").stdout == "params.yaml has the values of the recipe already\n"
    assert recipes("apply", "demo").returncode == 0  # the recipe applied before is not lost


def test_an_uncommitted_change_is_named_and_kept_unless_forced(recipes):
    edited = (
        (ROOT / "params.yaml").read_text().replace("epochs: 24", "epochs: 25").replace("lr_max: 0.4", "lr_max: 0.5")
    )
    Path("params.yaml").write_text(edited)
    for command in ["apply", "demo"], ["run", "demo"], ["queue", "demo", "eva4-s8"]:
        refused = recipes(*command)
        assert refused.returncode == 1
        assert refused.stderr == (
            "error: params.yaml has uncommitted changes: epochs, lr_max; commit them, or use --force\n"
        )
        assert Path("params.yaml").read_text() == edited
    assert recipes("apply", "demo", "--force").returncode == 0
    assert Path("params.yaml").read_bytes() == (ROOT / "recipes/demo.yaml").read_bytes()


def test_an_interrupted_run_is_begun_again_by_the_same_command_but_no_other(recipes):
    recipe = (ROOT / "recipes/eva4-s8.yaml").read_text()
    left = recipe.replace("epochs: 20 ", "epochs: 10 ").replace("l1: 1.0e-05 ", "l1: 0.0 ")
    assert len({recipe, left, recipe.replace("epochs: 20 ", "epochs: 10 ")}) == 3
    Path("params.yaml").write_text(left)  # as `dvc exp run -S` leaves it
    for changes in [], ["epochs=10"], ["epochs=10", "l1=0.1"], ["epochs=10", "l1=0.0", "seed=1"], ["epoch=10"]:
        refused = recipes("run", "eva4-s8", *[word for change in changes for word in ("-S", change)])
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
        assert refused.stderr.startswith(
            "error: -S epoch=10: " if changes == ["epoch=10"] else "error: params.yaml has"
        )
        assert Path("params.yaml").read_text() == left
    again = recipes("run", "eva4-s8", "-S", "epochs=10", "-S", "l1=0.0")
    assert "epochs: 10 -> 20\nl1: 0.0 -> 1e-05\n" in again.stdout  # and then no DVC repository
    assert Path("params.yaml").read_text() == recipe


def test_a_stage_that_is_stopped_advises_the_command_that_started_the_recipe(recipes, monkeypatch):
    real, seen = subprocess.Popen, {}

    def start(command: list[str], **options) -> subprocess.Popen:
        if "exp" not in command:
            return real(command, **options)
        seen.update(options["env"])
        return real([sys.executable, "-c", "raise SystemExit(130)"])

    monkeypatch.setattr(subprocess, "Popen", start)
    assert recipes("run", "fast", "-S", "seed=3").returncode == 130
    assert seen["CIFAR_AGAIN"] == "python -m recipes run fast -S seed=3"
    assert seen["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("damaged", [b"epochs: [24", b"epochs: 24 # \xff"])
def test_a_damaged_params_yaml_is_named_and_kept_unless_forced(recipes, damaged):
    Path("params.yaml").write_bytes(damaged)
    for command in ["apply", "demo"], ["run", "demo"], ["queue", "demo"]:
        refused = recipes(*command)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
        assert refused.stderr.startswith("error: params.yaml is not valid YAML")
        assert refused.stderr.endswith("; fix it, or use --force to replace it\n")
        assert Path("params.yaml").read_bytes() == damaged
    recipes("queue", "demo", "--force")  # ends in DVC's error: it is no repository of DVC's
    assert Path("params.yaml").read_bytes() == damaged
    assert recipes("apply", "demo", "--force").returncode == 0
    assert Path("params.yaml").read_bytes() == (ROOT / "recipes/demo.yaml").read_bytes()


def test_outside_version_control_nothing_is_replaced_unless_forced(recipes):
    shutil.rmtree(".git")
    refused = recipes("apply", "demo")
    assert (refused.returncode, refused.stderr) == (
        1,
        "error: params.yaml is not committed; commit it, or use --force to replace it\n",
    )


def test_a_repository_of_another_user_is_gits_own_words_and_no_advice_to_force(recipes, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # Git's own means to test `safe.directory`
    edited = (ROOT / "params.yaml").read_text().replace("epochs: 24", "epochs: 25")
    Path("params.yaml").write_text(edited)
    for command in ["apply", "demo"], ["run", "demo"], ["queue", "demo"]:
        refused = recipes(*command)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
        assert refused.stderr.startswith("error: git cannot tell whether params.yaml is committed: fatal: detected dub")
        assert "safe.directory" in refused.stderr and "--force" not in refused.stderr
        assert Path("params.yaml").read_text() == edited


def test_an_unknown_recipe_is_one_line_that_names_the_known_ones(recipes):
    refused = recipes("apply", "eva4s8")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: there is no recipe 'eva4s8'; choose from best, demo, eva4-s11, ")


def test_comments_in_an_applied_recipe_are_a_change_too(recipes):
    noted = (ROOT / "recipes/eva4-s8.yaml").read_text() + "# my notes\n"
    Path("params.yaml").write_text(noted)
    assert recipes("run", "eva4-s8").stderr.startswith("error: params.yaml has uncommitted changes: ")
    assert Path("params.yaml").read_text() == noted


def test_a_queue_needs_a_params_yaml_to_bring_back(recipes):
    Path("params.yaml").unlink()
    refused = recipes("queue", "demo")
    assert refused.stderr == (
        "error: params.yaml is missing; `git checkout -- params.yaml` brings the committed one back\n"
    )


@pytest.mark.slow
def test_a_stopped_experiment_leaves_the_branch_and_uncommitted_changes_as_they_were(tmp_path):
    """DVC detaches HEAD while an experiment runs, and puts it back when its stage has ended."""
    project = create(tmp_path)
    (project.folder / "README.md").write_text("my own")
    command = [sys.executable, "-m", "recipes", "run", "demo", "-S", "lr_find.steps=10", "-S", "epochs=100"]
    with open(tmp_path / "said", "w") as said:
        running = subprocess.Popen(
            command, cwd=project.folder, env=project.environment, stdout=said, stderr=said, start_new_session=True
        )
    while "images, " not in (tmp_path / "said").read_text():
        assert running.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)  # to this process alone, and not, as a terminal does, to DVC and the stage too
    assert running.wait() == 130
    deadline = time.monotonic() + 60  # if this takes DVC more than ten seconds, it goes on alone
    while project.call("git", "symbolic-ref", "HEAD").stdout.strip() != "refs/heads/main":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert project.git("stash", "list") == ""
    assert (project.folder / "README.md").read_text() == "my own"
    assert (
        "stopped; run `python -m recipes run demo -S lr_find.steps=10 -S epochs=100`" in (tmp_path / "said").read_text()
    )


@pytest.mark.slow
def test_a_recipe_runs_as_an_experiment_and_others_wait_in_line(tmp_path):
    project = create(tmp_path)
    small = {"dataset": "shapes", "shapes.train": 20, "shapes.test": 10, "val_size": 10, "gallery_size": 2}
    small |= {"batch_size": 5, "lr_find.steps": 10, "seed": 3}
    sets = [word for key, value in small.items() for word in ("-S", f"{key}={value}")]
    before = (project.folder / "params.yaml").read_bytes()

    queued = project.call(sys.executable, "-m", "recipes", "queue", "eva5-s9", "eva4-s8", "-S", "seed=3")
    assert queued.returncode == 0, queued.stdout + queued.stderr
    assert (project.folder / "params.yaml").read_bytes() == before
    assert project.git("status", "--porcelain") == ""
    waiting = project.dvc("queue", "status")
    assert "eva5-s9-seed-3" in waiting and "eva4-s8-seed-3" in waiting

    # ResNet18 with layer norm, Adam, a plateau's schedule, the best epoch, and training measured in eval mode
    more = ["-S", "epochs=2", "-S", "select=best", "-S", "train_scores=eval", "-S", "l1=1e-5"]
    command = [sys.executable, "-m", "recipes", "run", "resnet18-layernorm", "--name", "layers", *sets, *more]
    ran = project.call(*command)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "epochs: 2 -> 48" in ran.stdout
    table = pd.read_csv(io.StringIO(project.dvc("exp", "show", "--csv")))
    (row,) = [row for _, row in table.iterrows() if row["Experiment"] == "layers"]
    assert (row["model.norm"], row["optimizer.name"]) == ("layer", "adam")
    history = pd.read_csv(project.folder / "plots/train/history.csv")
    metrics = json.loads((project.folder / "metrics/train.json").read_text())
    assert metrics["epoch"] == history["val_accuracy"].idxmax() + 1
    assert metrics["parameters"] == 11_173_962 and metrics["l1_penalty"] > 0


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
