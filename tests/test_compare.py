"""`python -m recipes compare`: which runs count, what is run, that it carries on, and what it says."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from projects import Project

from cifar.system.errors import InputError
from recipes import clones, compare
from recipes.__main__ import parse
from recipes.compare import PREDICTIONS, Contender, Plan, Run, as_text, conclude, is_of, stages_up_to
from recipes.finished import refuse_unfinished

LOCK = {
    "download": {"deps": [{"path": "cifar/a.py", "md5": "1"}], "outs": [{"path": "data/dataset", "md5": "9"}]},
    "train": {
        "deps": [{"path": "cifar/b.py", "md5": "2"}, {"path": "data/dataset/x.npy", "md5": "9"}],
        "params": {"params.yaml": {"epochs": 2, "loss": {"name": "nll"}}},
        "outs": [{"path": "models/model.safetensors", "md5": "8"}],
    },
    "evaluate": {
        "deps": [{"path": "models/model.safetensors", "md5": "8"}],
        "outs": [{"path": "data/predictions.npz", "md5": "7"}],
    },
    "gradcam": {
        "deps": [{"path": "cifar/c.py", "md5": "3"}, {"path": "data/predictions.npz", "md5": "7"}],
        "params": {"params.yaml": {"gallery_size": 6}},
    },
}
VALUES = {"epochs": 2, "loss": {"name": "nll"}, "gallery_size": 25, "new": 1}


def plan(values: dict) -> Plan:
    return Plan(Contender("fast", "c0ffee", ""), 0, (), values)


def test_a_run_counts_by_the_params_and_code_of_all_that_evaluate_builds_on(monkeypatch):
    code = {"cifar/a.py": "1", "cifar/b.py": "2", "cifar/c.py": "other"}
    monkeypatch.setattr(compare, "md5_of", lambda path, commit: code[path])
    assert len(stages_up_to("evaluate", LOCK)) == 3
    assert is_of(LOCK, plan(VALUES))  # the heatmaps' code and params make no accuracy
    assert not is_of(LOCK, plan(VALUES | {"epochs": 3}))
    assert not is_of(LOCK, plan(VALUES | {"loss": {"name": "nll", "label_smoothing": 0.1}}))
    assert not is_of(LOCK, plan({"epochs": 2}))
    assert not is_of({}, plan(VALUES))
    for cut in None, {"deps": None}, {"deps": [{"path": "a"}]}, {**LOCK["evaluate"], "outs": [{"path": PREDICTIONS}]}:
        assert not is_of(LOCK | {"evaluate": cut}, plan(VALUES))  # cut off there
    code["cifar/a.py"] = "other"
    assert not is_of(LOCK, plan(VALUES))


def test_names_of_experiments_have_only_letters_that_git_allows():
    contender = Contender("v1.0~2", "c0ffee", "")
    assert Plan(contender, 3, ("lr_max=0.25",), {}).name == "v1.0-2-lr_max-0.25-seed-3"


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """Puts runs with these predictions into a cache, and returns them: run(name, seed, accuracy, predictions)."""
    locks, commits = {}, {}
    monkeypatch.setattr(clones, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(compare, "lock_at", lambda commit: locks[commit])
    monkeypatch.setattr(compare, "find_commit", lambda name: commits[name])

    def run(name: str, seed: int, accuracy: float, predictions: list[int] | None) -> Run:
        md5 = hashlib.md5(f"{name} {seed}".encode()).hexdigest()
        if predictions:
            (tmp_path / f"files/md5/{md5[:2]}").mkdir(parents=True, exist_ok=True)
            with open(tmp_path / f"files/md5/{md5[:2]}/{md5[2:]}", "wb") as file:
                np.savez(file, labels=np.arange(6), predictions=np.array(predictions))
        locks[md5] = {"evaluate": {"outs": [{"path": "data/predictions.npz", "md5": md5}]}}
        commits[f"{name}-seed-{seed}"] = md5
        return Run(f"{name}-seed-{seed}", md5, seed, {"accuracy": accuracy, "wrong": 3})

    return run


def test_the_comparison_as_text_and_json_by_hand(cached, capsys):
    old = [cached("old", seed, value, [0, 1, 2, 9, 9, 9]) for seed, value in enumerate([0.92, 0.94, 0.96])]
    new = [cached("new", seed, value, [9, 1, 2, 3, 4, 9]) for seed, value in enumerate([0.93, 0.95, 0.97])]
    found = conclude([old, new], ["old", "new"], "accuracy", 0.02)
    # deviations of 0.02: Cohen's 17 seeds for a difference of one deviation; the interval is 1 point give or take
    # 2.7764 (of t with 4 degrees of freedom) times 2 sqrt(2 / 3) points
    assert as_text(found).splitlines() == [
        "          accuracy  deviation   n",
        "old         0.9400     0.0200   3",
        "new         0.9500     0.0200   3",
        "",
        "new minus old: +1.00 points (-3.53 to +5.53)",
        "no difference can be seen; to see 2 points you would need about 17 seeds each",
        # images 0 of only old, 3 and 4 of only new: two or more heads or tails of three is any: 2 (1 + 3) / 8
        *[f"  seed {seed}: images that only old gets right: 1; only new: 2 (McNemar's p 1)" for seed in range(3)],
        "",
        "see the curves and the images of seed 0 on one page: python -m cifar report old-seed-0 new-seed-0",
    ]
    again = json.loads(json.dumps(found, allow_nan=False))
    (pair,) = again["comparisons"]
    assert (pair["a"], pair["b"], pair["seeds_needed"]) == ("old", "new", 17)
    assert pair["images"][2] == {"seed": 2, "only_a": 1, "only_b": 2, "p": 1.0}
    assert [run["accuracy"] for run in again["contenders"][1]["runs"]] == [0.93, 0.95, 0.97]
    assert capsys.readouterr().err == ""


def test_a_run_is_named_by_its_commit_where_its_name_means_another(cached, monkeypatch):
    one, other = cached("fast", 0, 0.9, None), cached("fast", 1, 0.8, None)
    assert compare.name_of(one) == "fast-seed-0"
    assert compare.name_of(other._replace(name="fast-seed-0")) == other.commit

    def unknown(name: str) -> str:
        raise InputError("no such thing")

    monkeypatch.setattr(compare, "find_commit", unknown)
    assert compare.name_of(one) == one.commit


@pytest.fixture
def trees(monkeypatch) -> dict[str, str]:
    """What Git says of data/images in each commit."""
    trees = {}
    monkeypatch.setattr(compare, "git", lambda *words: trees[words[2]])
    compare.pictures_at.cache_clear()
    return trees


def test_runs_on_other_pictures_do_not_count(trees):
    readme = "100644 blob {} data/images/README.md\n"
    trees["old"] = readme.format("a") + "100644 blob 1 data/images/cat.dvc\n"
    trees["new"], trees["c0ffee"] = (readme.format(k) + "100644 blob 2 data/images/cat.dvc\n" for k in "bc")
    wanted = plan(VALUES | {"dataset": "folder"})
    assert [compare.has_same_pictures(commit, wanted) for commit in ("old", "new")] == [False, True]
    assert compare.has_same_pictures("old", plan(VALUES | {"dataset": "cifar10"}))


def contender(name: str, **changes: object) -> Contender:
    values = {"dataset": "folder", "folder": {"size": 32, "test_share": 0.2}, "shapes": {"test": 100}, "seed": 5}
    return Contender(name, f"commit of {name}", json.dumps(values | changes))  # YAML, too


DIFFERENT = [
    ({"dataset": "cifar10"}, {"dataset": "shapes"}, "have different test images: dataset is cifar10 and shapes; use"),
    (
        {"dataset": "shapes"},
        {"dataset": "shapes", "shapes": {"test": 50}},
        "have different test images: shapes.test is",
    ),
    ({}, {}, "have different pictures in data/images/; use the same in both"),
    ({"dataset": ["x"]}, {}, "have different test images: dataset is ['x'] and folder"),  # which its own code refuses
]


@pytest.mark.parametrize(("one", "other", "told"), DIFFERENT, ids=[told for *_, told in DIFFERENT])
def test_contenders_with_other_test_images_are_refused_before_anything_runs(monkeypatch, trees, one, other, told):
    contenders = {"one": contender("one", **one), "other": contender("other", **other)}
    trees |= {"commit of one": "blob 1 data/images/cat.dvc", "commit of other": "blob 2 data/images/cat.dvc"}
    monkeypatch.setattr(compare, "find_contender", contenders.get)
    monkeypatch.setattr(compare, "find_run", lambda wanted: pytest.fail(f"looked for {wanted.name}"))
    with pytest.raises(InputError, match=f"^one-seed-0 and other-seed-0 {re.escape(told)}"):
        compare.compare(["one", "other"], [0, 1], [], "accuracy")


@pytest.fixture
def finished(monkeypatch, trees, tmp_path):
    """Contenders that have run all seeds.

    finished(name, hash of the test images, of their labels, bytes of the images, hash of the training images).
    """
    contenders, locks = {}, {}
    monkeypatch.setattr(compare, "find_contender", contenders.get)
    monkeypatch.setattr(
        compare, "find_run", lambda w: Run(w.name, f"{w.contender.name} {w.seed}", w.seed, {"accuracy": 1})
    )
    monkeypatch.setattr(compare, "lock_at", locks.get)
    monkeypatch.setattr(clones, "CLONES", tmp_path)

    def add(name: str, images: str = "1", labels: str = "1", size: int = 3072, train: str = "1") -> None:
        contenders[name] = contender(name)
        trees[contenders[name].commit] = ""
        for seed in 0, 1:
            deps = [{"path": "data/dataset/test_images.npy", "md5": images, "size": size}]
            deps += [{"path": "data/dataset/test_labels.npy", "md5": labels, "size": 138}]
            trained = [{"path": "data/dataset/train_images.npy", "md5": train, "size": size}]
            trained += [{"path": "data/dataset/train_labels.npy", "md5": "1", "size": 138}]
            locks[f"{name} {seed}"] = {"evaluate": {"deps": deps}, "train": {"deps": trained}}

    return add


def test_runs_on_other_test_images_are_not_compared(finished):
    finished("red")
    finished("blue", images="2")
    finished("large", images="3", size=12_288)  # another folder.size
    finished("other", images="3", labels="2", size=12_288)
    finished("more", train="2")  # pictures of which Git knows nothing
    with pytest.raises(InputError, match="^red-seed-0 and more-seed-0 were trained on different images; choose other"):
        compare.compare(["red", "more"], [0, 1], [], "accuracy")
    for names in ["red", "blue"], ["red", "large", "other"]:
        told = f"red-seed-0 and {names[-1]}-seed-0 were evaluated on different test images; choose other runs"
        with pytest.raises(InputError, match=f"^{told}$"):
            compare.compare(names, [0, 1], [], "accuracy")
    runs = compare.compare(["red", "large"], [0, 1], [], "accuracy")
    assert [[run.name for run in each] for each in runs] == [
        [f"{n}-seed-{k}" for k in (0, 1)] for n in ("red", "large")
    ]


def test_a_comparison_that_ends_deletes_its_clones_but_none_that_others_need(finished):
    """They run something there, or a training was stopped there; a finished training leaves no *.pt."""
    names = {"ended": "lock", "stopped": "00003-abc.pt", "used": "lock"}
    places = {}
    for name, file in names.items():
        finished(name)
        places[name] = Plan(contender(name), 0, (), {}).clone
        (places[name] / ".checkpoints/train-1").mkdir(parents=True)
        (places[name] / ".checkpoints/train-1" / file).touch()
        places[name].with_suffix(".lock").touch()
    with clones.held(places["used"]):
        compare.compare([*names], [0], [], "accuracy")
    assert [name for name, clone in places.items() if clone.exists()] == ["stopped", "used"]


def test_what_a_kill_leaves_of_a_clone_is_neither_used_nor_mistaken_for_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("committed")
    git = ["git", "-c", "user.name=a", "-c", "user.email=b"]
    for words in ["init", "--quiet"], ["add", "params.yaml"], ["commit", "--quiet", "--message=start"]:
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    Path("params.yaml").write_text("edited")
    monkeypatch.setattr(clones, "output_of_dvc", lambda *words, **options: "")
    monkeypatch.setattr(clones, "cache_folder", lambda: tmp_path)
    for left in ".dvc/tmp", ".git/objects":  # of .git: nothing, or some of it
        clone = Path(".dvc/tmp/compare/abc")
        shutil.rmtree(clone, ignore_errors=True)
        (clone / left).mkdir(parents=True)
        (clone / ".dvc/tmp").mkdir(parents=True, exist_ok=True)
        (clone / clones.READY).touch()
        clones.prepare(clone, commit)
        assert Path("params.yaml").read_text() == "edited"
        assert subprocess.run(["git", "symbolic-ref", "--quiet", "HEAD"], capture_output=True).returncode == 0
        assert (clone / "params.yaml").read_text() == "committed"

    for lock in "index.lock", "HEAD.lock":  # of a git that was killed
        (clone / ".git" / lock).touch()
    (clone / "params.yaml").write_text("half")
    clones.prepare(clone, commit)
    assert (clone / "params.yaml").read_text() == "committed"

    clone.with_suffix(".lock").touch()

    def stopped(*words, **options) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clones.shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        clones.delete_unless_needed(clone)
    assert clone.exists() and not (clone / clones.READY).exists()


def test_a_dvc_that_fails_is_its_last_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core\n")
    (tmp_path / "dvc.yaml").touch()
    for command, call in ("cache", clones.cache_folder.__wrapped__), ("status", lambda: refuse_unfinished(tmp_path)):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value).startswith(f"`dvc {command}` failed in {tmp_path}: ")
        assert "Invalid line ('[core')" in str(caught.value) and "\n" not in str(caught.value)


def test_predictions_that_are_not_in_the_cache_are_one_line(cached, capsys):
    old, new = cached("old", 4, 0.9, [0] * 6), cached("new", 4, 0.8, None)
    (pair,) = conclude([[old], [new]], ["old", "new"], "accuracy", 0.001)["comparisons"]
    assert pair["images"] == [] and pair["low"] is None and pair["verdict"].startswith("one seed cannot tell")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("seed 4: images are not compared: data/predictions.npz of new-seed-4 is not in DVC's cache")


def test_predictions_for_other_images_are_not_compared(cached, tmp_path, capsys):
    old, new = cached("old", 4, 0.9, [0] * 6), cached("new", 4, 0.8, [1] * 6)
    with open(tmp_path / f"files/md5/{new.commit[:2]}/{new.commit[2:]}", "wb") as file:
        np.savez(file, labels=np.arange(6)[::-1], predictions=np.arange(6))
    (pair,) = conclude([[old], [new]], ["old", "new"], "accuracy", 0.001)["comparisons"]
    assert pair["images"] == []
    line = "seed 4: images are not compared: old-seed-4 and new-seed-4 were evaluated on different test images\n"
    assert capsys.readouterr().err == line


def test_predictions_that_are_damaged_in_the_cache_are_one_line(cached, tmp_path, capsys):
    old, new = cached("old", 4, 0.9, [0] * 6), cached("new", 4, 0.8, [1] * 6)
    path = tmp_path / f"files/md5/{new.commit[:2]}/{new.commit[2:]}"
    for damaged in path.read_bytes()[:-30], b"<html>":
        path.write_bytes(damaged)
        (pair,) = conclude([[old], [new]], ["old", "new"], "accuracy", 0.001)["comparisons"]
        assert pair["images"] == []
        line = f"seed 4: images are not compared: {path} is damaged; delete it, and then `dvc repro` in a checkout of "
        assert capsys.readouterr().err == f"{line}new-seed-4 makes it again\n"


@pytest.mark.parametrize("metric", ["loss", "wrong", "expected_calibration_error", "accuracies"])
def test_a_metric_of_which_less_is_better_is_refused(metric, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["compare", "old", "new", "--metric", metric])
    assert caught.value.code == 2
    assert f"argument --metric: invalid choice: '{metric}'" in capsys.readouterr().err


def test_an_unknown_metric_is_named_with_the_known_ones(cached):
    run = cached("old", 0, 0.9, None)
    with pytest.raises(InputError, match="old-seed-0 has no tta_accuracy; its metrics are accuracy, wrong"):
        conclude([[run], [run]], ["old", "new"], "tta_accuracy", 0.001)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "recipes", "compare", *words]


@pytest.mark.slow
def test_a_killed_comparison_carries_on_and_runs_nothing_that_is_cached(first_run, tmp_path):
    first, _ = first_run
    project: Project = first.clone(tmp_path / "project")
    project.dvc("config", "--local", "cache.dir", str(first.folder / ".dvc/cache"))
    for wrong, line in (
        (["HEAD"], "compare needs two different names or more"),
        (["HEAD", "HEAD"], "compare needs two different names or more"),
        (["HEAD", "nothing"], "'nothing' is no recipe (best, demo, "),
        (["HEAD", "fast", "-S", "epoch=3"], "-S epoch=3 seed=0: "),
        (["HEAD", "fast", "-S", "epochs=range(1,3)"], "-S epochs=range(1,3) seed=0: "),
        (["HEAD", "fast", "-S", "epochs=${epoch}"], "-S epochs=${epoch} seed=0: Interpolation key 'epoch' not found"),
        (["fast", "HEAD", "--metric", "tta_accuracy"], "HEAD has no tta_accuracy: its test_time_augmentation is none"),
    ):
        refused = project.call(*command(*wrong, "--seeds", "0"))
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
        assert refused.stderr.startswith(f"error: {line}")

    # HEAD holds its results; HEAD~1 has the same code and params without any, so its stages come from the run cache.
    words = command("HEAD", "HEAD~1", "--seeds", "0", "--json")
    with subprocess.Popen(words, cwd=project.folder, env=project.environment, stderr=subprocess.PIPE, text=True) as one:
        assert one.stderr.readline() == "running HEAD-1-seed-0\n"
        time.sleep(1)
        os.kill(one.pid, signal.SIGKILL)
    ended = project.call(*words)
    assert ended.returncode == 0, ended.stderr
    # The run cache leaves out stages with plain outputs that are not cached: the report's charts, which take seconds.
    assert "Stage 'train' is cached - skipping run" in ended.stderr
    assert re.findall(r"> python -m stages\.(\w+)", ended.stderr) == ["report"]
    found = json.loads(ended.stdout)
    metrics = json.loads((project.folder / "metrics/evaluate.json").read_text())
    assert [contender["mean"] for contender in found["contenders"]] == [metrics["accuracy"]] * 2
    assert found["comparisons"][0]["images"] == [{"seed": 0, "only_a": 0, "only_b": 0, "p": 1.0}]

    # The workspace is as it was, and the experiment is there for the next time.
    assert project.git("status", "--porcelain") == ""
    assert project.git("for-each-ref", "--format=%(refname)", "refs/exps").strip().endswith("/HEAD-1-seed-0")
    assert [path.suffix for path in Path(project.folder, ".dvc/tmp/compare").iterdir()] == [".lock"]
    again = project.call(*words)
    assert (again.returncode, again.stderr) == (0, "") and json.loads(again.stdout) == found

    changed = project.folder / "cifar/results/scores.py"
    changed.write_text(changed.read_text() + "\n")
    refused = project.call(*command("HEAD", "demo"))
    assert refused.stderr == "error: cifar/results/scores.py has uncommitted changes; commit them first\n"
