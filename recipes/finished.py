"""The small files of a finished run: copied to docs/data/<recipe>/, and read from there for the page of its recipe."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from cifar.config.params import read_yaml
from cifar.results.revisions import git
from cifar.system.errors import InputError, next_move
from cifar.system.files import filling, read_json, write_csv, write_json
from recipes.dvc_commands import output_of_dvc

DATA = Path("docs/data")
CODE = "cifar", "stages", "dvc.yaml", ".dvc/plots"
# All other columns of the tables hold numbers.
TEXT_COLUMNS = "class", "actual", "predicted", "label_name", "predicted_name", "split"
COPIED = {  # the name on the left in docs/data/<recipe>/, the run's file on the right
    "params.yaml": "params.yaml",
    "stats.json": "metrics/stats.json",
    "lr_find.json": "metrics/lr_find.json",
    "train.json": "metrics/train.json",
    "evaluate.json": "metrics/evaluate.json",
    "model.json": "models/model.json",
    "summary.txt": "models/summary.txt",
    "class_counts.csv": "plots/stats/class_counts.csv",
    "history.csv": "plots/train/history.csv",
    "class_accuracy.csv": "plots/evaluate/class_accuracy.csv",
    "reliability.csv": "plots/evaluate/reliability.csv",
    "mistakes.csv": "data/misclassified.csv",
} | {f"{name}.svg": f"plots/report/{name}.svg" for name in ("learning_rate", "range_test", "confusion")}


class Data(NamedTuple):
    """The content of docs/data/<recipe>/: JSON files and tables by name, the params, and the network's layers."""

    files: dict[str, dict[str, Any]]
    tables: dict[str, pd.DataFrame]
    params: dict[str, Any]
    summary: str

    @property
    def has_validation(self) -> bool:
        return bool(self.params["val_size"])

    @property
    def followed(self) -> str:
        """The images that the curves show next to the training images."""
        return "validation" if self.has_validation else "test"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a run does not record of itself: the changes of its recipe, its machine, and what `dvc repro` printed."""

    changes: Sequence[str] = ()
    machine: str = ""
    log: Path | None = None


def collect(recipe: str, expected: Mapping[str, Any], folder: Path, told: Told) -> None:
    """Copy what the page needs from `folder`, a clone in which `dvc repro` has ended, to docs/data/<recipe>/.

    `expected` are the values of params.yaml that the recipe, with the changes, has in that clone's commit. Raises
    InputError, and changes nothing, when the run is not of these params and that commit.
    """
    if read_yaml(folder / "params.yaml") != expected:
        raise InputError(
            f"{folder}/params.yaml is not {recipe} of its commit; name the recipe that it ran, and each change by -S"
        )
    facts = {"commit": commit_of(folder), "changes": list(told.changes), "machine": told.machine}
    facts |= {"image_size": image_size(folder), **(speed(told.log) if told.log else {})}
    confusion = read_table(folder / "plots/evaluate/confusion.csv")
    classes = read_json(folder / "models/model.json")["classes"]
    with filling(DATA / recipe) as part:
        part.mkdir(parents=True)
        for name, source in COPIED.items():
            shutil.copyfile(folder / source, part / name)
        write_csv(part / "confusion.csv", count_confusion(confusion, classes))
        write_json(part / "run.json", facts)


def refuse_unfinished(folder: Path) -> None:
    """Raise InputError unless `dvc status` says in `folder` that every stage is up to date."""
    if not (folder / "dvc.yaml").is_file():
        raise InputError(f"{folder} has no dvc.yaml; name a clone of this project in which `dvc repro` has ended")
    stale = json.loads(output_of_dvc("status", "--json", folder=folder))
    if stale:
        raise InputError(f"{folder} is no finished run: {', '.join(stale)} not up to date; run `dvc repro` there")


def commit_of(folder: Path) -> str:
    """The commit whose code ran; InputError when code has changed since, or this branch does not have the commit."""
    changed = git("-C", str(folder), "status", "--porcelain", "--", *CODE).splitlines()
    if changed:
        names = ", ".join(line[3:] for line in changed)
        raise InputError(f"{folder} has uncommitted changes: {names}; commit them")
    commit = git("-C", str(folder), "rev-parse", "HEAD").strip()
    if git("merge-base", commit, "HEAD", check=False).strip() != commit:
        raise InputError(f"the commit of {folder}, {commit[:7]}, is not in this branch; merge it first")
    return commit


def image_size(folder: Path) -> list[int]:
    """Height and width of the images."""
    return list(np.load(folder / "data/dataset/test_images.npy", mmap_mode="r").shape[1:3])


def load(folder: Path) -> Data:
    paths = [folder / name for name in (*COPIED, "confusion.csv", "run.json")]
    if lacking := [path.name for path in paths if not path.is_file()]:
        raise InputError(
            f"{folder}/ lacks {', '.join(lacking)}; name the folder of a finished run too, to copy them from"
        )
    with next_move(f"bring {folder}/ back, or name the folder of a finished run too"):
        return Data(
            {path.stem: read_json(path) for path in paths if path.suffix == ".json"},
            {path.stem: read_table(path) for path in paths if path.suffix == ".csv"},
            read_yaml(folder / "params.yaml"),
            read_summary(folder / "summary.txt"),
        )


def read_summary(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file whose classes may have names like `01` or `nan`; raises InputError when it is damaged."""
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys(TEXT_COLUMNS, str))
    except ValueError:
        table = None
    if table is None or not all(
        name in TEXT_COLUMNS or table.empty or is_numeric_dtype(values) for name, values in table.items()
    ):
        raise InputError(f"{path} is damaged; run `make repro` in its clone")
    return table


def count_confusion(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Columns `actual`, `predicted`, `images`: the images of each pair of classes, from a row an image."""
    counts = table.groupby(["actual", "predicted"]).size()
    rows = [(one, other, int(counts.get((one, other), 0))) for one in classes for other in classes]
    return pd.DataFrame(rows, columns=["actual", "predicted", "images"])


def speed(log: Path) -> dict[str, Any]:
    """Minutes of training and images a second of the epochs, from what the stage `train` printed."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot read {log}: {error.strerror}; name a file with what `dvc repro` printed") from None
    seconds = re.findall(r"^training and validation took (\d+) s$", text, re.MULTILINE)
    rates = [int(rate) for rate in re.findall(r"^epoch .* (\d+) img/s ", text, re.MULTILINE)]
    if not seconds or not rates:
        raise InputError(f"{log} has no line `training and validation took … s`; name what `dvc repro` printed")
    return {"minutes": round(int(seconds[-1]) / 60, 2), "images_per_second": [min(rates), max(rates)]}
