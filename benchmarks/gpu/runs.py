"""Complete trainings without DVC: the stages of a recipe, run as programs in a folder of their own."""

import hashlib
import json
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from ruamel.yaml import YAML

from benchmarks.gpu.programs import running
from benchmarks.report import params_path, spread
from cifar.config.params import check_params, read_yaml
from cifar.system.files import read_json, write_json

ROOT = Path(__file__).parents[2]
# All but two: `export` needs onnx and `report` needs DVC, which a GPU machine may lack.
ALL_STAGES = ["download", "stats", "lr_find", "train", "evaluate", "misclassified", "gradcam"]
LIMIT = 3600  # seconds: no stage of any recipe takes so long on a GPU
SECONDS_BETWEEN_LOOKS = 5
EPOCH = re.compile(r"^epoch\s+(\d+)/.*\s(\d+) img/s", re.MULTILINE)  # a line of `stages.train` after each epoch

# The dry run: 20 images to train on, and one small network in place of all: it tries this program, not the networks.
TINY = {"dataset": "shapes", "shapes.train": 30, "shapes.test": 20, "epochs": 1, "batch_size": 10, "gallery_size": 4}
TINY |= {"lr_find.steps": 10, "lr_find.stop_factor": 1000.0, "gradcam.layers": ["layer3"]}
TINY_WIDTHS = [8, 8, 8]

Tell = Callable[[dict[str, Any]], None]  # takes what is known of a step so far


class Lab(NamedTuple):
    """Where and how to run: a folder that may be lost, but in which a training that was cut short carries on."""

    scratch: Path
    is_dry: bool  # tiny data, on a processor


class Run(NamedTuple):
    """One training of a recipe, with changes by dotted key."""

    name: str
    recipe: str
    changes: dict[str, Any]
    stages: list[str]  # those that the run is about: all of them, or those from the range test to the evaluation


def params_for(recipe: str, changes: dict[str, Any], is_dry: bool) -> dict[str, Any]:
    """The recipe's values with `changes`, checked; of a dry run with those that make it small."""
    values = read_yaml(ROOT / params_path(recipe))
    if is_dry:
        changes = changes | TINY | {"val_size": min(values["val_size"], 10)}
        changes |= {"model": read_yaml(ROOT / params_path("fast"))["model"] | {"widths": TINY_WIDTHS}}
        if values["filter"]["name"] == "proxy":
            changes |= {"filter.model.widths": TINY_WIDTHS}
        if values["schedule"]["name"] == "one_cycle":
            changes |= {"schedule.peak_epoch": min(values["schedule"]["peak_epoch"], 0.5)}
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = value
    check_params(values, f"{recipe}, as benchmarks.gpu changes it")
    return values


def complete(run: Run, lab: Lab, tell: Tell) -> Iterator[None]:
    """Train and evaluate; yields while a stage runs, and returns what the run found. `tell` hears of each epoch.

    Raises InputError when a stage fails. Called again after an interruption, it carries on from the last checkpoint.
    """
    folder, values = lab.scratch / slug(run.name), params_for(run.recipe, run.changes, lab.is_dry)
    stages = [stage for stage in run.stages if stage != "lr_find" or run.stages == ALL_STAGES or finds_rates(values)]
    lay_out(folder, values)
    if run.stages != ALL_STAGES:
        lend_data(lab, folder, skips_range_test="lr_find" not in stages)
    seconds, log = {}, folder / "log.txt"
    begun = log.stat().st_size if log.exists() else 0  # bytes that an earlier call has printed
    for stage in stages:
        started = time.monotonic()
        looked = started
        for _ in running([f"stages.{stage}"], folder, log, limit=LIMIT, forked=lab.is_dry):
            if stage == "train" and time.monotonic() > looked + SECONDS_BETWEEN_LOOKS:
                looked = time.monotonic()
                tell(facts(run, values) | {"history": history(folder)})
            yield
        seconds[stage] = round(time.monotonic() - started, 2)
    with open(log, "rb") as file:
        file.seek(begun)
        epochs = EPOCH.findall(file.read().decode(errors="replace"))
    is_whole = bool(epochs) and epochs[0][0] == "1"  # if continued, the seconds of `train` are not those of all epochs
    times = {"stage_seconds": seconds} if is_whole else {}
    return facts(run, values) | figures(folder, values) | times | {"history": history(folder)}


def facts(run: Run, values: dict[str, Any]) -> dict[str, Any]:
    names = "seed", "epochs", "batch_size", "precision", "compile", "deterministic"
    return {"recipe": run.recipe, "changes": run.changes} | {name: values[name] for name in names}


def slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)


def finds_rates(values: dict[str, Any]) -> bool:
    return "find" in (values["lr_min"], values["lr_max"])


def lay_out(folder: Path, values: dict[str, Any]) -> None:
    """Put into `folder` what the stages work from: the code, dvc.yaml, and params.yaml with these values.

    The checkpoints of an interrupted training stay: `stages.train` itself knows whether they fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for made in ("stages", "cifar", "plots", "metrics", "models"):
        shutil.rmtree(folder / made, ignore_errors=True)
    for part in ("stages", "cifar"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(values, file)


def prepare_data(lab: Lab) -> Iterator[None]:
    """The data set and its statistics, made once: they are the same for all recipes. Yields while a stage runs."""
    folder, values = lab.scratch / "data", params_for("default", {}, lab.is_dry)
    ready, inputs = folder / "ready", digest(values)
    if ready.exists() and ready.read_text() == inputs:
        return
    ready.unlink(missing_ok=True)
    lay_out(folder, values)
    for stage in ("download", "stats"):
        yield from running([f"stages.{stage}"], folder, folder / "log.txt", limit=LIMIT, forked=False)
    ready.write_text(inputs)


def digest(values: dict[str, Any]) -> str:
    """A hash of the params and of the code of the stages."""
    found = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in sorted([*ROOT.glob("stages/*.py"), *ROOT.glob("cifar/**/*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()


def lend_data(lab: Lab, folder: Path, skips_range_test: bool) -> None:
    """Give a run the prepared data; if it `skips_range_test`, because its rates are stated, an empty result too."""
    data = folder / "data/dataset"
    data.parent.mkdir(exist_ok=True)
    data.unlink(missing_ok=True)  # of an earlier call
    data.symlink_to(lab.scratch / "data/data/dataset")
    shutil.copy(lab.scratch / "data/data/duplicates.csv", data.parent)
    (folder / "metrics").mkdir(exist_ok=True)
    shutil.copy(lab.scratch / "data/metrics/stats.json", folder / "metrics")
    if skips_range_test:
        write_json(folder / "metrics/lr_find.json", {"steps": 0})


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows of the epochs so far."""
    path = folder / "plots/train/history.csv"
    return pd.read_csv(path).to_dict("records") if path.exists() else []


def figures(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What the stages found. The seconds of training are those of its epochs, with validation, without compiling."""
    trained, evaluated = (read_json(folder / f"metrics/{stage}.json") for stage in ("train", "evaluate"))
    speeds = epoch_speeds((folder / "log.txt").read_text(encoding="utf-8"))
    card = read_json(folder / "models/model.json")
    return {
        "precision": card["environment"]["precision"],
        "accuracy": evaluated["accuracy"],
        "tta_accuracy": evaluated.get("tta_accuracy"),
        "train_images": trained["train_images"],
        "train_seconds": round(sum(trained["train_images"] / speed for speed in speeds), 3),
        "median_epoch_seconds": trained["train_images"] / statistics.median(speeds),
        "images_per_second": spread(speeds),
        "sha256": card["sha256"],
        "metrics": {"train": trained, "evaluate": evaluated},
    }


def epoch_speeds(log: str) -> list[float]:
    """Images a second of each epoch, from what `stages.train` printed: of an epoch that ran twice the last."""
    return list({int(epoch): max(float(speed), 0.5) for epoch, speed in EPOCH.findall(log)}.values())  # 0 is rounded


def files_to_keep(name: str, lab: Lab) -> dict[str, Path]:
    """What of a run goes into the archive, if it is there: all but the weights and what is derived from the rest."""
    folder = lab.scratch / slug(name)
    wanted = {
        "history.csv": "plots/train/history.csv",
        "tests.xml": "tests.xml",
        "train.json": "metrics/train.json",
        "evaluate.json": "metrics/evaluate.json",
        "lr_find.json": "metrics/lr_find.json",
        "model.json": "models/model.json",
        "summary.txt": "models/summary.txt",
        "predictions.npz": "data/predictions.npz",
        "params.yaml": "params.yaml",
        "log.txt": "log.txt",
    }
    return {inside: folder / path for inside, path in wanted.items() if (folder / path).exists()}
