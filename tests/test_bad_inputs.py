"""Damaged, foreign and missing inputs of every stage: one clear line, status 1, and no file touched.

Wrong params have a table of their own in test_params.py, wrong downloads in test_mirrors.py.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from damage import Evil
from dvc.utils.hydra import apply_overrides
from projects import contents
from safetensors.numpy import load_file, save_file
from specs import AIRNET, CIFAR

from cifar.data.splits import load_classes, load_statistics
from cifar.nn.networks import build_network
from cifar.nn.saved import Model, save_model
from cifar.system.files import write_checksums, write_json, write_text
from cifar.system.stage import run

ROOT = Path(__file__).parents[1]
TINY = ["dataset=shapes", "shapes.train=60", "shapes.test=50", "val_size=20", "batch_size=20", "lr_max=find"]
ARCHIVE = "cifar-10-python.tar.gz"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A project in which every stage has run; of lr_find there is a guess, of train an untrained network."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("cifar", "stages"):  # which decide the name of the checkpoints
        (folder / name).symlink_to(ROOT / name)
    apply_overrides(folder / "params.yaml", TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in ("download", "stats"):
            import_module(f"stages.{stage}").main()
        write_json("metrics/lr_find.json", {"lr_max": 0.1, "lr_min": 0.01, "steps": 30})
        save_model(Model(build_network(AIRNET, CIFAR, seed=0), load_statistics(), load_classes()), AIRNET, {})
        for stage in ("evaluate", "misclassified", "gradcam"):
            import_module(f"stages.{stage}").main()
        write_json("metrics/train.json", TRAINED)
        write_text("models/summary.txt", "10 layers")
        for path, table in TABLES.items():
            write_text(path, table)
    return folder


@pytest.fixture
def project(whole, tmp_path, monkeypatch) -> Path:
    """A copy of it, hard links as DVC's cache may give, and the current folder."""
    folder = Path(shutil.copytree(whole, tmp_path / "project", copy_function=os.link, symlinks=True))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CIFAR10_DIR", raising=False)
    return folder


TRAINED = {"epoch": 1, "train_images": 40, "train_accuracy": 0.5, "val_images": 20, "val_accuracy": 0.5}
TRAINED |= {"lr_max": 0.1, "lr_min": 0.01, "parameters": 10, "l1_penalty": 0.0}
CURVE, HISTORY = "plots/lr_find/curve.csv", "plots/train/history.csv"
TABLES = {
    CURVE: "lr,loss,smoothed_loss,suggestion\n0.1,2.0,2.0,lr_max\n",
    HISTORY: "epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr\n1,2.0,0.5,2.0,0.5,0.1\n",
    "plots/train/schedule.csv": "step,lr,momentum\n0,0.1,0.9\n",
}
Damage = Callable[[Path], None]  # what happens to the input at a path, which may be a link to another copy


def gone(path: Path) -> None:
    path.unlink()


def content(new: bytes) -> Damage:
    def write(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(new)

    return write


def cut(path: Path) -> None:
    content(path.read_bytes()[:-7])(path)


def flipped(path: Path) -> None:
    """One bit, behind any header."""
    old = bytearray(path.read_bytes())
    old[len(old) * 3 // 4] ^= 1
    content(bytes(old))(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def array(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Another array, with checksums that fit it."""

    def write(path: Path) -> None:
        new = change(np.load(path))
        path.unlink()
        np.save(path, new)
        split = path.name.partition("_")[0]
        write_checksums(path.with_name(f"{split}.sha256"), [f"{split}_images.npy", f"{split}_labels.npy"])

    return write


def no_images(path: Path) -> None:
    for array_path in path, path.with_name("train_labels.npy"):
        array(lambda x: x[:0])(array_path)


def entries(change: Callable[[dict], dict]) -> Damage:
    """Other values in a JSON file, which need not be valid."""

    def write(path: Path) -> None:
        content(json.dumps(change(json.loads(path.read_text()))).encode())(path)

    return write


def weights(change: Callable[[dict], dict]) -> Damage:
    """Other weights, with a checksum that fits them."""

    def write(path: Path) -> None:
        new = change(load_file(path))
        path.unlink()
        save_file(new, path)
        card = json.loads(path.with_name("model.json").read_text())
        card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        content(json.dumps(card).encode())(path.with_name("model.json"))

    return write


def logits(change: Callable[[dict], dict]) -> Damage:
    """Other arrays among the predictions."""

    def write(path: Path) -> None:
        with np.load(path) as file:
            new = change(dict(file))
        path.unlink()
        np.savez(path, **new)

    return write


def put(key: str, value: object) -> Callable[[dict], dict]:
    return lambda values: values | {key: value}


IMAGES, LABELS, SUMS = (f"data/dataset/train{end}" for end in ("_images.npy", "_labels.npy", ".sha256"))
SPEC = AIRNET.model_dump()
CHANNELS = ("red", "green", "blue")
MISTAKES = "data/misclassified.csv"
CARD, WEIGHTS, PREDICTIONS = "models/model.json", "models/model.safetensors", "data/predictions.npz"
NINE = "holds float32 9 x 10, uint8 9, uint8 9, which does not fit the 50 test images of 10 classes; run `dvc repro`"
LORRY = "class 9 of the model is lorry, class 9 of the data set is triangle; run `dvc repro train`"
WRONG = [
    # stage, input, what happens to it, what is said
    ("stats", IMAGES, gone, f"{IMAGES} is missing; run `dvc repro`, which runs the stage that writes it first"),
    ("stats", IMAGES, cut, "is not a whole .npy array; delete it"),
    ("stats", IMAGES, flipped, f"or {SUMS} is damaged: the SHA-256 differs"),
    ("stats", IMAGES, content(b"<html>"), "is not a whole .npy array; delete it"),
    ("stats", IMAGES, content(pickle.dumps(Evil())), "is not a whole .npy array; delete it"),
    ("stats", IMAGES, folder, f"{IMAGES}: Is a directory"),
    ("stats", IMAGES, array(lambda x: x.astype(np.float32)), "holds float32 60 x 32 x 32 x 3, expected"),
    ("stats", IMAGES, array(lambda x: x.transpose(0, 3, 1, 2)), "60 x 3 x 32 x 32, expected uint8 N x N x N x 3"),
    ("stats", IMAGES, array(lambda x: x[..., :1]), "holds uint8 60 x 32 x 32 x 1, expected"),
    ("stats", IMAGES, array(lambda x: x[:, :28]), "holds images of 28 x 32 pixels, expected squares of 16 to 256"),
    ("stats", IMAGES, array(lambda x: x[:, :8, :8]), "holds images of 8 x 8 pixels, expected squares of 16 to 256"),
    ("stats", IMAGES, no_images, f"{IMAGES} holds no image; delete data/dataset and run `make repro`"),
    ("stats", IMAGES, array(lambda x: x[:50]), "holds uint8 60, expected uint8 50"),
    ("stats", LABELS, flipped, f"or {SUMS} is damaged: the SHA-256 differs"),
    ("stats", LABELS, array(lambda x: x + 7), "holds label 16, expected 0 to 9"),
    ("stats", LABELS, array(lambda x: x.astype(np.int64)), "holds int64 60, expected uint8 60"),
    ("stats", LABELS, array(lambda x: x[:-1]), "holds uint8 59, expected uint8 60"),
    ("stats", SUMS, gone, f"{SUMS} is missing"),
    ("stats", SUMS, content(b"\xff"), f"or {SUMS} is damaged: the SHA-256 differs"),
    ("stats", "data/dataset/classes.txt", gone, "classes.txt is missing"),
    ("stats", "data/dataset/classes.txt", cut, "train_labels.npy holds label 9, expected 0 to 8"),
    ("stats", "data/dataset/classes.txt", content(b"one\n" * 10), "holds 10 names, 1 different"),
    ("stats", "data/dataset/classes.txt", content(b"\xff"), "holds 0 names, 0 different"),
    ("stats", "data/dataset/classes.txt", content(b"cat\n\x1b[31m\n"), "holds a class named '\\x1b[31m'"),
    ("lr_find", "metrics/stats.json", gone, "metrics/stats.json is missing"),
    ("lr_find", "metrics/stats.json", cut, "metrics/stats.json is not valid JSON"),
    ("lr_find", "metrics/stats.json", content(b"[]"), "metrics/stats.json holds list, expected an object"),
    ("lr_find", "metrics/stats.json", content(b"{}"), "stats.json is damaged, mean: field required; delete it"),
    ("lr_find", "metrics/stats.json", entries(put("std", {"red": 0, "green": 1, "blue": 1})), "std.red: input should"),
    ("lr_find", "metrics/stats.json", entries(put("std", dict.fromkeys(CHANNELS, 1e-300))), "std.red: input should"),
    ("lr_find", "metrics/stats.json", entries(put("mean", dict.fromkeys(CHANNELS, True))), "mean.red: input should"),
    ("lr_find", "metrics/stats.json", entries(put("mean", dict.fromkeys(CHANNELS, "0.5"))), "mean.red: input should"),
    ("lr_find", "metrics/stats.json", entries(put("mean", dict.fromkeys(CHANNELS, 125))), "mean.red: input should"),
    ("lr_find", "metrics/stats.json", entries(put("std", dict.fromkeys(CHANNELS, 10**400))), "std.red: input should"),
    ("lr_find", "metrics/stats.json", entries(put("std", [0.2, 0.2, 0.2])), "stats.json is damaged, std: input should"),
    ("lr_find", "metrics/stats.json", entries(put("mean", {"red": float("nan")})), "is not valid JSON"),
    ("train", "data/dataset/classes.txt", gone, "classes.txt is missing"),
    ("train", "metrics/lr_find.json", gone, "metrics/lr_find.json is missing"),
    ("train", "metrics/lr_find.json", content(b'{"steps": 3}'), "the range test suggests no learning rate"),
    ("train", "metrics/lr_find.json", entries(put("lr_max", "0.1")), "damaged, lr_max: input should be a valid number"),
    ("train", "metrics/lr_find.json", entries(put("lr_max", True)), "lr_max: input should be a valid number"),
    ("train", "metrics/lr_find.json", entries(put("lr_max", 10**400)), "lr_max: input should be a valid number"),
    ("train", "metrics/lr_find.json", entries(put("lr_max", 1e300)), "lr_max: input should be less than"),
    ("train", "metrics/lr_find.json", entries(put("lr_max", -1)), "lr_max: input should be greater than 0"),
    ("train", "metrics/lr_find.json", entries(put("lr_max", 0.001)), "must be at most lr_max (0.001)"),
    ("train", ".checkpoints", content(b""), ".checkpoints"),
    ("evaluate", WEIGHTS, gone, f"{WEIGHTS} is missing"),
    ("evaluate", WEIGHTS, cut, f"{WEIGHTS} is damaged"),
    ("evaluate", WEIGHTS, flipped, f"{WEIGHTS} is damaged or from another training"),
    ("evaluate", WEIGHTS, content(b""), f"{WEIGHTS} is damaged"),
    ("evaluate", WEIGHTS, content(pickle.dumps(Evil())), f"{WEIGHTS} is damaged"),
    ("evaluate", WEIGHTS, lambda path: torch.save({}, (path.unlink(), path)[1]), f"{WEIGHTS} is damaged"),
    ("evaluate", WEIGHTS, weights(lambda w: {"weight": w["linear.weight"]}), f"{WEIGHTS} does not fit {CARD}"),
    ("evaluate", WEIGHTS, weights(lambda w: w | {"linear.weight": w["linear.weight"][:, :-1]}), "does not fit"),
    ("evaluate", WEIGHTS, weights(lambda w: w | {"linear.weight": w["linear.weight"] * np.nan}), "are not finite"),
    ("evaluate", CARD, gone, f"{CARD} is missing"),
    ("evaluate", CARD, cut, f"{CARD} is not valid JSON"),
    ("evaluate", CARD, entries(put("network", {"name": "vgg"})), f"{CARD} is damaged, network: input tag 'vgg'"),
    ("evaluate", CARD, entries(put("network", {"name": "custom_resnet"})), "logit_scale: field required; delete it"),
    ("evaluate", CARD, entries(put("network", None)), f"{CARD} is damaged, network: input should"),
    ("evaluate", CARD, entries(put("network", SPEC | {"logit_scale": "0.125"})), "logit_scale: input should"),
    ("evaluate", CARD, entries(put("network", SPEC | {"logit_scale": [1]})), "logit_scale: input should"),
    ("evaluate", CARD, entries(put("network", SPEC | {"width": 8})), "width: extra inputs are not permitted"),
    ("evaluate", CARD, entries(put("mean", [])), f"{CARD} is damaged, mean: list should have at least 3"),
    ("evaluate", CARD, entries(put("mean", [0.5])), f"{CARD} is damaged, mean: list should have at least 3"),
    ("evaluate", CARD, entries(put("mean", [0.5, 0.5])), f"{CARD} is damaged, mean: list should have at least 3"),
    ("evaluate", CARD, entries(put("mean", [0.5] * 4)), f"{CARD} is damaged, mean: list should have at most 3"),
    ("evaluate", CARD, entries(put("mean", "0.5")), f"{CARD} is damaged, mean: input should be a valid list"),
    ("evaluate", CARD, entries(put("std", [0, 0, 0])), f"{CARD} is damaged, std.0: input should be greater"),
    ("evaluate", CARD, entries(put("std", [1e-300] * 3)), f"{CARD} is damaged, std.0: input should be greater"),
    ("evaluate", CARD, entries(put("std", [10**400] * 3)), f"{CARD} is damaged, std.0: input should be a valid"),
    ("evaluate", CARD, entries(put("sha256", 5)), f"{CARD} is damaged, sha256: input should be a valid string"),
    ("evaluate", CARD, entries(put("classes", ["cat"] * 10)), "two classes have the same name"),
    ("evaluate", CARD, entries(put("classes", [1] * 10)), f"{CARD} is damaged, classes.0: input should be a valid"),
    ("evaluate", CARD, entries(put("classes", ["cat"])), "classes: list should have at least 2"),
    ("evaluate", CARD, entries(put("classes", list("abcdefghij"))), "class 0 of the model is a, class 0 of"),
    ("evaluate", "data/dataset/test_images.npy", gone, "data/dataset/test_images.npy is missing"),
    ("evaluate", "data/dataset/test_images.npy", flipped, "or data/dataset/test.sha256 is damaged"),
    ("evaluate", "data/duplicates.csv", gone, "data/duplicates.csv is missing"),
    ("evaluate", "data/duplicates.csv", content(b"test_index\ncat\n"), "data/duplicates.csv is damaged"),
    ("misclassified", "data/dataset/classes.txt", gone, "data/dataset/classes.txt is missing"),
    ("misclassified", PREDICTIONS, gone, f"{PREDICTIONS} is missing"),
    ("misclassified", PREDICTIONS, cut, f"{PREDICTIONS} is damaged"),
    ("misclassified", PREDICTIONS, flipped, f"{PREDICTIONS} is damaged"),
    ("misclassified", PREDICTIONS, content(pickle.dumps(Evil())), f"{PREDICTIONS} is damaged"),
    ("misclassified", PREDICTIONS, logits(lambda p: p | {"logits": p["logits"] * np.nan}), "are not finite"),
    ("misclassified", PREDICTIONS, logits(lambda p: p | {"labels": 9 - p["labels"]}), "labels of other test images"),
    ("misclassified", PREDICTIONS, logits(lambda p: {name: x[:9] for name, x in p.items()}), NINE),
    ("misclassified", PREDICTIONS, logits(lambda p: p | {"logits": -p["logits"]}), "that do not match its logits"),
    ("gradcam", MISTAKES, gone, f"{MISTAKES} is missing"),
    ("gradcam", MISTAKES, content(b""), f"{MISTAKES} is damaged"),
    ("gradcam", MISTAKES, content(b"index,label\n1,0\n"), f"{MISTAKES} is damaged"),
    ("gradcam", MISTAKES, content(b"index,label,predicted\n1.5,0,1\n"), f"{MISTAKES} is damaged"),
    ("gradcam", MISTAKES, content(b"index,label,predicted\n50,0,1\n"), "belongs to other predictions"),
    ("gradcam", MISTAKES, content(b"index,label,predicted\n-1,0,1\n"), "belongs to other predictions"),
    ("gradcam", MISTAKES, content(b"index,label,predicted\n0,0,cat\n"), f"{MISTAKES} is damaged"),
    ("gradcam", MISTAKES, content(b"index,label,predicted\n3,0,0\n"), "belongs to other predictions"),
    ("export", CARD, entries(put("classes", list("abcdefghij"))), "class 0 of the model is a, class 0 of"),
    ("export", WEIGHTS, flipped, f"{WEIGHTS} is damaged or from another training"),
    ("gradcam", WEIGHTS, flipped, f"{WEIGHTS} is damaged or from another training"),
    ("gradcam", CARD, gone, f"{CARD} is missing"),
    ("gradcam", CARD, entries(lambda card: card | {"classes": [*card["classes"][:9], "lorry"]}), LORRY),
    ("gradcam", PREDICTIONS, gone, f"{PREDICTIONS} is missing"),
    ("report", CARD, entries(lambda card: {"classes": card["classes"]}), f"{CARD} is damaged, network: field required"),
    ("report", CARD, entries(put("classes", list("abcdefghij"))), f"{CARD} names other classes than the data set"),
    ("report", "models/summary.txt", gone, "models/summary.txt is missing"),
    ("report", "models/summary.txt", content(b"\xff"), "models/summary.txt is damaged"),
    ("report", "metrics/train.json", entries(lambda _: {}), "metrics/train.json is damaged, epoch: field required"),
    ("report", "metrics/train.json", entries(put("val_accuracy", "0.5")), "val_accuracy: input should be a valid"),
    ("report", "metrics/evaluate.json", entries(put("wrong", 51)), "more images are wrong than there are"),
    ("report", "metrics/evaluate.json", entries(put("images", 0)), "images: input should be greater"),
    ("report", "metrics/stats.json", entries(put("std", {"red": 0.2})), "std.green: field required"),
    ("report", "metrics/lr_find.json", entries(put("lr_max", None)), "lr_max: input should be a valid number"),
    ("report", HISTORY, gone, f"{HISTORY} is missing"),
    ("report", HISTORY, content(b""), f"{HISTORY} is damaged"),
    ("report", HISTORY, content(b"\xff"), f"{HISTORY} is damaged"),
    ("report", HISTORY, content(b"epoch,loss\n1,2.0\n"), f"{HISTORY} is damaged"),
    ("report", CURVE, content(TABLES[CURVE].replace("0.1", "low").encode()), f"{CURVE} is damaged"),
    ("report", CURVE, content(TABLES[CURVE].replace("0.1", "inf").encode()), f"{CURVE} is damaged"),
    ("report", "plots/misclassified/confused_pairs.csv", content(b"pair,images\na,9"), "confused_pairs.csv is damaged"),
    ("report", "data/heatmaps.npz", cut, "data/heatmaps.npz is damaged"),
    ("report", "data/heatmaps.npz", gone, "data/heatmaps.npz is missing"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "warned"), [(np.linspace(2.3, 1, 10), True), ([2.3, 1, *[3] * 8], False)], ids=["falls", "rises"]
)
def test_the_range_test_warns_in_terminal_and_chart_where_the_loss_still_falls(
    project, monkeypatch, capsys, losses, warned
):
    from stages import lr_find

    def sweep(trainer, batches, lrs, **_) -> pd.DataFrame:
        return pd.DataFrame({"lr": lrs, "loss": losses, "smoothed_loss": losses})

    apply_overrides("params.yaml", ["lr_find.steps=10"])
    monkeypatch.setattr(lr_find, "sweep", sweep)
    monkeypatch.setattr(lr_find, "draw_range_test", lambda *drawn: drawings.append(drawn))
    drawings = []
    lr_find.main()
    warnings = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: lr_max ") for line in warnings] == [True] * warned
    assert warnings == [f"warning: {drawn[3]}" for drawn in drawings if drawn[3]]


def end(stage: str, capsys) -> str:
    """The one line with which `stage` ends, at status 1."""
    with pytest.raises(SystemExit) as stop:
        run(import_module(f"stages.{stage}").main)
    line = capsys.readouterr().err
    assert stop.value.code == 1
    assert line.startswith("error: ") and line.count("\n") == 1 and len(line) < 500
    return line


@pytest.mark.parametrize(("stage", "path", "damage", "told"), WRONG)
def test_a_wrong_input_ends_in_one_line_and_no_file_is_touched(whole, project, capsys, stage, path, damage, told):
    before_whole = contents(whole)
    damage(project / path)
    before = contents(project)
    assert told in end(stage, capsys)
    assert contents(project) == before
    assert contents(whole) == before_whole, "the cache's copy was written into"
    assert not Path("executed").exists()


def test_an_onnx_file_that_does_not_agree_with_the_network_is_not_written(project, monkeypatch, capsys):
    stage = import_module("stages.export")
    monkeypatch.setattr(stage, "to_onnx", lambda model: b"another network")
    monkeypatch.setattr(stage, "run_onnx", lambda content, images: np.zeros((len(images), 10), np.float32))
    before = contents(project)
    assert "the ONNX file's logits differ from the network's by up to" in end("export", capsys)
    assert contents(project) == before


BATCH = "cifar-10-batches-py/data_batch_1"
WRONG_SOURCES = [
    # CIFAR10_DIR, what is put there, what is said
    ("nowhere", {}, "CIFAR10_DIR=nowhere (does not exist)"),
    ("data", {}, "CIFAR10_DIR=data (has neither cifar-10-batches-py/ nor cifar-10-python.tar.gz)"),
    (
        "dvc.yaml",
        {},
        "dvc.yaml (is a file; use the folder that contains cifar-10-batches-py/ or cifar-10-python.tar.gz)",
    ),
    ("~/raw", {}, f"CIFAR10_DIR=~/raw (does not exist; ~ is not expanded here, write {Path.home()}/raw)"),
    ("$HOME/raw", {}, "CIFAR10_DIR=$HOME/raw (does not exist)"),
    ("caf\udce9", {}, "CIFAR10_DIR=caf\\udce9 (does not exist)"),  # Latin-1, as an environment gives it to Python
    ("caf\udce9", {"cifar-10-batches-py/test_batch": b""}, "CIFAR10_DIR=caf\\udce9 (cifar-10-batches-py: data_batch_1"),
    ("x" * 300, {}, "File name too long"),
    ("here", {"data_batch_1": b""}, "(contains the batch files themselves; use its parent folder, "),
    ("", {}, "tried data/raw (does not exist)"),
    ("\n", {}, "CIFAR10_DIR=\\n (does not exist)"),
    ("\x1b[31m", {}, "CIFAR10_DIR=\\x1b[31m (does not exist)"),
    ("batches", {"cifar-10-batches-py/test_batch": b""}, "(cifar-10-batches-py: data_batch_1 is missing)"),
    ("batches", {BATCH: b"\x80"}, "data_batch_1 has 1 bytes with md5 "),
    ("batches", {f"{BATCH}/file": b""}, "(cifar-10-batches-py: data_batch_1 is missing)"),
    ("archive", {ARCHIVE: b"<html>"}, f"{ARCHIVE} has 6 bytes with md5 "),
    ("archive", {ARCHIVE: b""}, f"{ARCHIVE} has 0 bytes with md5 "),
    ("archive", {f"{ARCHIVE}/file": b""}, f"{ARCHIVE} is missing"),
]


@pytest.mark.parametrize(("name", "files", "told"), WRONG_SOURCES)
def test_a_wrong_cifar10_dir_is_told_with_the_ways_out(project, monkeypatch, capsys, name, files, told):
    os.unlink("params.yaml")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    apply_overrides("params.yaml", ["mirrors=[]"])
    for path, new in files.items():
        content(new)(project / name / path)
    monkeypatch.setenv("CIFAR10_DIR", name)
    before = contents(project)
    line = end("download", capsys)
    assert told in line and "or run `make demo`" in line
    assert contents(project) == before
