"""The pipeline itself, on a few images of shapes: run, run again, varied, compared, cloned and broken."""

import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides
from projects import PIPELINE, ROOT, STAGES, Project, outputs, stages_run
from safetensors.numpy import load_file

from cifar.config.params import read_yaml

README = (ROOT / "README.md").read_text()


def outputs_of_all(kind: str) -> list[str]:
    return [name for stage in STAGES for name in outputs(stage, kind)]


def test_one_command_runs_every_stage_in_reading_order(first_run):
    assert stages_run(first_run[1]) == STAGES


def test_git_holds_no_picture_of_the_data_set_and_no_large_file(project):
    tracked = project.git("ls-files").split()
    assert [name for name in tracked if name.endswith((".png", ".npy", ".npz", ".onnx", ".safetensors"))] == [
        "plots/lr_find/curve.png"
    ]
    large = {name for name in tracked if (project.folder / name).stat().st_size > 300_000}
    assert large == {".dvc/page.html"}  # with Vega in it
    assert {*outputs_of_all("metrics"), "dvc.lock", "plots/train/history.csv"} <= set(tracked)
    assert project.git("status", "--porcelain") == ""


def test_the_artifacts_are_as_the_contract_says(project):
    def columns(name: str) -> list[str]:
        return list(pd.read_csv(project.folder / name).columns)

    data = project.folder / "data/dataset"
    for split, count in (("train", 40), ("test", 50)):
        images, labels = np.load(data / f"{split}_images.npy"), np.load(data / f"{split}_labels.npy")
        assert (images.dtype, images.shape, labels.dtype, labels.shape) == (
            "uint8",
            (count, 32, 32, 3),
            "uint8",
            (count,),
        )
    classes = (data / "classes.txt").read_text().split("\n")
    assert len(classes) == 11 and classes[-1] == ""

    assert columns("plots/lr_find/curve.csv") == ["lr", "loss", "smoothed_loss", "suggestion"]
    history = pd.read_csv(project.folder / "plots/train/history.csv")
    assert list(history) == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "lr",
        "l1_penalty",
    ]
    assert list(history["epoch"]) == [1, 2]
    schedule = pd.read_csv(project.folder / "plots/train/schedule.csv")
    assert list(schedule) == ["step", "lr", "momentum"] and len(schedule) == 2 * 2  # 20 images in batches of 10
    assert columns("plots/evaluate/confusion.csv") == ["actual", "predicted"]
    assert columns("plots/evaluate/class_accuracy.csv") == ["class", "accuracy"]
    assert columns("data/misclassified.csv") == [
        "index", "label", "predicted", "confidence", "label_name", "predicted_name",
    ]  # fmt: skip
    weights = load_file(project.folder / "models/model.safetensors")
    assert sum(value.size for name, value in weights.items() if "running" not in name and value.ndim) == 6_574_090
    for name in outputs_of_all("plots"):
        if name.endswith(".png"):
            assert (project.folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_metrics_agree_with_the_predictions_they_are_made_of(project):
    metrics = json.loads((project.folder / "metrics/evaluate.json").read_text())
    with np.load(project.folder / "data/predictions.npz") as file:
        logits, labels, predictions = file["logits"], file["labels"], file["predictions"]
    assert (logits.dtype, logits.shape) == ("float32", (50, 10))
    assert (labels == np.load(project.folder / "data/dataset/test_labels.npy")).all()
    assert (predictions == logits.argmax(axis=1)).all()
    assert (
        metrics["wrong"] == (labels != predictions).sum() == len(pd.read_csv(project.folder / "data/misclassified.csv"))
    )
    assert metrics["accuracy"] == pytest.approx(1 - metrics["wrong"] / 50)


def test_metrics_are_small_and_hold_finite_numbers(project):
    def leaves(values: dict) -> list[tuple[str, object]]:
        return [
            leaf
            for key, value in values.items()
            for leaf in (leaves(value) if isinstance(value, dict) else [(key, value)])
        ]

    for name in outputs_of_all("metrics"):
        text = (project.folder / name).read_text()
        numbers = [value for _, value in leaves(json.loads(text))]
        assert len(text) < 2000 and numbers
        assert all(type(value) in (int, float) and math.isfinite(value) for value in numbers), name


def test_each_stage_reads_the_artifacts_that_it_declares_and_no_others(project):
    lines = set(Path(project.environment["READS_LOG"]).read_text().splitlines())
    for stage in STAGES:
        declared = PIPELINE[stage]
        code = {dep for dep in declared["deps"] if dep.startswith((".dvc/", "cifar/", "stages/"))}
        deps = set(declared["deps"]) - code
        read = {line.split(" ", 1)[1] for line in lines if line.startswith(f"{stage} ")}
        own = (".checkpoints", *outputs(stage))
        read = {path for path in read if not path.startswith(own)}
        artifacts = {path for path in read if path.startswith(("data/", "models/", "metrics/", "plots/"))}
        assert {path for path in artifacts if not any(f"{path}/".startswith(f"{dep}/") for dep in deps)} == set(), stage
        # Rust reads the weights, unseen by the spy. `download` reads pictures with `dataset: folder` only.
        unread = {dep for dep in deps if not any(f"{path}/".startswith(f"{dep}/") for path in artifacts)}
        assert unread - {"models/model.safetensors", "data/images"} == set(), stage
        assert read - artifacts - code <= ({"params.yaml", "dvc.yaml"} if "params" in declared else set()), stage


def test_a_second_run_runs_nothing(project):
    assert stages_run(project.dvc("repro")) == []
    assert project.git("status", "--porcelain") == ""


def test_make_repro_ends_with_the_accuracy_and_the_report_and_advises_no_push_where_there_is_no_remote(project):
    (project.folder / "plots/gradcam/correct.png").unlink()
    ended = project.call("make", "--assume-old=.venv/ready", "repro")
    assert ended.returncode == 0, ended.stderr
    accuracy = json.loads((project.folder / "metrics/evaluate.json").read_text())["accuracy"]
    assert f"{accuracy:.5g}"[:6] in ended.stdout and "dvc push" not in ended.stdout
    assert ended.stdout.endswith("\nReport: report/index.html\nPictures: 9 in plots/\n")
    assert project.git("status", "--porcelain") == ""


@pytest.mark.parametrize("way", ["--temp", pytest.param("--queue", marks=pytest.mark.slow)])
def test_training_again_elsewhere_gives_the_same_bytes(project, way):
    again = ["exp", "run", way, "--force", "--single-item", "--name", "again", "train"]
    printed = project.dvc(*again)
    find = ["for-each-ref", "--format=%(refname)", "refs/exps/*/*/again"]
    if way == "--queue":
        project.dvc("queue", "start")
        deadline = time.monotonic() + 300
        while not project.git(*find):  # to ask DVC takes a second of the processor's time
            assert time.monotonic() < deadline, project.dvc("queue", "status")
            time.sleep(0.2)
        while "Success" not in (status := project.dvc("queue", "status")):
            assert "Failed" not in status and time.monotonic() < deadline, status
        printed = project.dvc("queue", "logs", "again")
    assert stages_run(printed) == ["train"]
    (experiment,) = project.git(*find).split()
    assert project.git("diff", "--stat", "HEAD", experiment) == ""
    project.dvc("exp", "remove", "again")
    assert project.git("status", "--porcelain") == ""


def test_a_killed_training_carries_on_and_ends_in_the_same_bytes(project):
    weights, checkpoints = project.folder / "models/model.safetensors", project.folder / ".checkpoints"
    before = hashlib.md5(weights.read_bytes()).hexdigest()
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", "train"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, cwd=project.folder, env=project.environment, start_new_session=True, **quiet)
    while not list(checkpoints.glob("*/00001-*.pt")):
        assert running.poll() is None, "it ended before its first checkpoint was seen"
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not weights.exists()
    assert re.search("continuing after epoch [12]$", project.dvc("repro", "--force", "--single-item", "train"), re.M)
    assert hashlib.md5(weights.read_bytes()).hexdigest() == before
    assert project.git("status", "--porcelain") == ""
    assert not list(checkpoints.glob("*/*"))


@pytest.fixture(scope="module")
def experiment(project, tmp_path_factory) -> tuple[Project, str]:
    """A clone (with the first one's cache) after `dvc exp run -S lr_max=0.25`, and what that printed."""
    clone = project.clone(tmp_path_factory.mktemp("experiment") / "project")
    (clone.folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {project.folder}/.dvc/cache\n")
    clone.dvc("checkout", "--quiet")
    return clone, clone.dvc("exp", "run", "-S", "lr_max=0.25")


def test_experiments_are_listed_by_what_matters_in_a_line_that_a_screen_holds(experiment):
    ended = experiment[0].call("make", "--assume-old=.venv/ready", "experiments")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    header = next(line for line in lines if "Experiment" in line)
    assert {"accuracy", "wrong", "val_accuracy", "params.yaml:lr_max", "epochs", "model.name"} <= set(header.split())
    assert max(map(len, lines)) <= 160


def test_the_documented_way_back_from_an_experiment_leaves_nothing_of_it_and_apply_brings_it_again(experiment):
    project = experiment[0]
    (name,) = project.dvc("exp", "list", "--name-only").split()
    lines = (ROOT / "docs/experiments.md").read_text().splitlines()
    (back,) = {line for line in lines if line.startswith("$ git checkout HEAD -- params.yaml dvc.lock")}
    project.git("add", "params.yaml", "dvc.lock")  # as an interrupted `dvc exp run` leaves them
    ended = project.call("sh", "-ec", back.lstrip("$ ").partition("#")[0])
    assert ended.returncode == 0, ended.stderr
    assert project.git("status", "--porcelain") == ""
    assert json.loads(project.dvc("status", "--json")) == {}
    project.dvc("exp", "apply", name)
    assert read_yaml(project.folder / "params.yaml")["lr_max"] == 0.25
    assert json.loads(project.dvc("status", "--json")) == {}


def test_another_lr_max_reruns_train_and_what_follows_but_not_lr_find(experiment):
    project, printed = experiment
    assert stages_run(printed) == ["train", "evaluate", "misclassified", "gradcam", "export", "report"]
    assert pd.read_csv(project.folder / "plots/train/schedule.csv")["lr"].max() == 0.25


def test_the_experiment_is_shown_beside_what_it_grew_from(experiment):
    shown = experiment[0].dvc("exp", "show", "--csv")
    table = pd.read_csv(io.StringIO(shown))
    assert {"0.25", "find"} <= set(table["params.yaml:lr_max"].astype(str))


def test_metrics_diff_compares_it_with_the_last_commit(experiment):
    changed = json.loads(experiment[0].dvc("metrics", "diff", "--json"))
    assert changed["metrics/train.json"]["lr_max"]["new"] == 0.25
    assert set(changed) <= {"metrics/train.json", "metrics/evaluate.json", "metrics/export.json"}


def drawn(project: Project, *arguments: str) -> str:
    """The page that `dvc plots` makes."""
    project.dvc("plots", *arguments, "--out", "page")
    return (project.folder / "page/index.html").read_text()


def titles() -> list[str]:
    """Of all charts in dvc.yaml, those of several tables' columns too, which are named by theirs."""
    declared = read_yaml(ROOT / "dvc.yaml")
    plots = [plot for stage in declared["stages"].values() for plot in stage.get("plots", []) if isinstance(plot, dict)]
    tables = [table for plot in plots for name, table in plot.items() if name.endswith(".csv")]
    return [table["title"] for table in tables] + [name for plot in declared["plots"] for name in plot]


CHARTS = titles()


def test_plots_diff_draws_the_curves_of_both(experiment):
    page = drawn(experiment[0], "diff", "HEAD", "workspace")
    assert all(f'"text": "{title}"' in page for title in CHARTS)
    assert '"rev": "HEAD"' in page and '"rev": "workspace"' in page
    assert '"type": "log"' in page and '"suggestion": "lr_max"' in page
    assert "plots_misclassified_gallery" in page.replace("/", "_").replace("\\", "_")


@pytest.fixture(scope="module")
def plain_clone(project, tmp_path_factory) -> Project:
    """A clone without cache or remote: what Git holds and nothing else."""
    return project.clone(tmp_path_factory.mktemp("clone") / "project")


def test_a_plain_clone_shows_metrics_and_charts_without_the_image_sheets(plain_clone):
    metrics = json.loads(plain_clone.dvc("metrics", "show", "--json"))[""]["data"]
    assert set(metrics) == set(outputs_of_all("metrics"))
    page = drawn(plain_clone, "show")
    assert all(f'"text": "{title}"' in page for title in CHARTS)


def test_make_fresh_passes_in_a_plain_clone_until_a_param_or_the_code_changes(plain_clone):
    def stale() -> str:
        ended = plain_clone.call("make", "--assume-old=.venv/ready", "fresh")
        assert (ended.returncode == 0) is (ended.stderr == "")
        return ended.stderr.split(" (make repro")[0]

    assert stale() == ""
    apply_overrides(plain_clone.folder / "params.yaml", ["gallery_size=7"])
    assert stale() == "stale: misclassified gradcam report"
    plain_clone.git("checkout", "--quiet", "params.yaml")
    with (plain_clone.folder / "stages/train.py").open("a") as script:
        script.write("\n")
    assert stale() == "stale: train"
    plain_clone.git("checkout", "--quiet", "stages")
    (plain_clone.folder / "metrics/train.json").unlink()
    assert stale() == "stale: train report"
    plain_clone.git("checkout", "--quiet", "metrics")
    (plain_clone.folder / "dvc.lock").unlink()
    assert stale() == f"stale: {' '.join(STAGES)}"
    plain_clone.git("checkout", "--quiet", "dvc.lock")


def test_a_wrong_param_stops_dvc_repro_before_any_work(plain_clone):
    apply_overrides(plain_clone.folder / "params.yaml", ["epochs=-1"])
    ended = plain_clone.call(sys.executable, "-m", "dvc", "repro", "--single-item", "download")
    plain_clone.git("checkout", "--quiet", "params.yaml")
    assert ended.returncode != 0
    assert "error: params.yaml: epochs is -1, it must be greater than or equal to 1" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
