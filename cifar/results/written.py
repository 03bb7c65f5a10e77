"""The files of a run that its report needs, each checked: metrics, the charts' tables, model card and summary."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field, model_validator

from cifar.config.params import read_section
from cifar.config.schema import Section
from cifar.data import duplicates
from cifar.data.splits import Deviations, Means
from cifar.results.vega import CHARTS
from cifar.system.errors import InputError
from cifar.system.files import missing

DUPLICATES = str(duplicates.DUPLICATES)
COLUMNS = {  # of each table, those that the report needs
    "plots/stats/class_counts.csv": {"class": "str", "split": "str", "images": "int64"},
    "plots/lr_find/curve.csv": dict.fromkeys(["lr", "loss", "smoothed_loss"], "float64") | {"suggestion": "str"},
    "plots/train/history.csv": {"epoch": "int64"}
    | dict.fromkeys(["train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"], "float64"),
    "plots/train/schedule.csv": {"step": "int64", "lr": "float64"},
    "plots/evaluate/confusion.csv": {"actual": "str", "predicted": "str"},
    "plots/evaluate/class_accuracy.csv": {"class": "str", "accuracy": "float64"},
    "plots/evaluate/reliability.csv": {"confidence": "float64", "accuracy": "float64", "images": "int64"},
    "plots/misclassified/confused_pairs.csv": {"pair": "str", "actual": "str", "predicted": "str"}
    | {"images": "int64", "of": "int64"},
    DUPLICATES: {"test_index": "int64", "train_index": "int64", "test_label": "str", "train_label": "str"},
}


Probability = Annotated[float, Field(ge=0, le=1)]


class Written(Section):
    """What the report needs of a JSON file that a stage has written; the other keys stay as they are."""

    model_config = ConfigDict(extra="allow")


class StatsMetrics(Written):
    images: int
    test_images: int
    mean: Means
    std: Deviations


class RangeTestMetrics(Written):
    steps: int
    lr_max: float = 0.0  # where there is no suggestion, there is no such key
    lr_min: float = 0.0


class DuplicatesMetrics(Written):
    test_duplicates: Annotated[int, Field(ge=0)]
    exact_duplicates: Annotated[int, Field(ge=0)]


class TrainMetrics(Written):
    epoch: int
    train_images: int
    train_accuracy: Probability
    val_images: int
    val_accuracy: Probability
    lr_max: float
    lr_min: float
    parameters: int


class EvaluateMetrics(Written):
    images: Annotated[int, Field(ge=1)]
    wrong: Annotated[int, Field(ge=0)]
    accuracy: Probability
    loss: float
    expected_calibration_error: Probability
    accuracy_without_duplicates: Probability = 0.0  # no such key without duplicates
    tta_accuracy: Probability = 0.0  # no such key without test-time augmentation

    @model_validator(mode="after")
    def _has_so_many_images(self) -> "EvaluateMetrics":
        if self.wrong > self.images:
            raise ValueError("more images are wrong than there are")
        return self


class CardNetwork(Written):
    name: str


class ReportCard(Written):
    classes: list[str]
    network: CardNetwork
    environment: dict[str, str | int | float | bool | None | list[str] | dict[str, str]]


METRICS = {
    "stats": StatsMetrics,
    "duplicates": DuplicatesMetrics,
    "lr_find": RangeTestMetrics,
    "train": TrainMetrics,
    "evaluate": EvaluateMetrics,
}


class Run(NamedTuple):
    """What a run has written: metrics by stage, the charts' tables by file, and the model's card and summary."""

    metrics: dict[str, dict[str, Any]]
    tables: dict[str, pd.DataFrame]
    card: dict[str, Any]
    summary: str


def load_run(folder: Path = Path()) -> Run:
    """Raises InputError if a file is missing or damaged."""
    metrics = {stage: read_written(folder / f"metrics/{stage}.json", section) for stage, section in METRICS.items()}
    tables = {path: read_table(folder / path) for path in (*(chart.table for chart in CHARTS.values()), DUPLICATES)}
    card, summary = read_written(folder / "models/model.json", ReportCard), folder / "models/summary.txt"
    try:
        return Run(metrics, tables, card, summary.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(summary) from None
    except UnicodeDecodeError:
        raise InputError(f"{summary} is damaged; delete it and run `make repro`") from None


def read_written(path: Path, section: type[Written]) -> dict[str, Any]:
    """The values of a JSON file; raises InputError if it is missing or `section` does not allow a value."""
    return read_section(path, section).model_dump(exclude_unset=True)


def read_table(path: Path) -> pd.DataFrame:
    """The CSV with the columns of COLUMNS, and maybe more; a class may be named NA, and have no accuracy."""
    (columns,) = (columns for table, columns in COLUMNS.items() if path.match(table))
    numbers = [name for name, kind in columns.items() if kind != "str"]
    try:
        with np.errstate(invalid="ignore"):  # of whole numbers that are too large, after which pandas refuses them
            table = pd.read_csv(path, dtype=columns, keep_default_na=False, na_values=dict.fromkeys(numbers, [""]))
        is_whole = columns.keys() <= set(table) and not np.isinf(table[numbers]).to_numpy().any()
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise InputError(f"{path} is damaged; delete it and run `make repro`")
    return table
