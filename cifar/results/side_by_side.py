"""Several runs on one web page: their metrics, settings and curves, and the images that only one of them gets right."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from cifar.config.params import read_yaml
from cifar.data.splits import Split, load_classes, load_split
from cifar.results import words
from cifar.results.comparison import Difference, Discordant, accuracy_difference, mcnemar, paired_difference
from cifar.results.heatmaps import shown_mistakes
from cifar.results.predictions import Predictions, find_mistakes, load_predictions
from cifar.results.report import fill, flat, with_own_ids
from cifar.results.revisions import copy_files, stages_up_to
from cifar.results.scores import log_softmax
from cifar.results.tiles import image_sheet
from cifar.results.vega import CHARTS, COLOURS, draw
from cifar.results.written import METRICS, ReportCard, read_table, read_written
from cifar.system.errors import InputError, next_move, printable
from cifar.system.files import write_text

WORKSPACE = "workspace"  # DVC's word for the files as they are
MOST = len(COLOURS)  # runs on a page: each has a colour of its own
NEEDED = [
    "params.yaml",
    "metrics/evaluate.json",
    "metrics/train.json",
    "data/predictions.npz",
    *(f"data/dataset/{name}" for name in ("test_images.npy", "test_labels.npy", "test.sha256", "classes.txt")),
]
CARD = "models/model.json"
CURVES = "accuracy", "loss", "range_test", "learning_rate"
OF_CLASSES = "class_accuracy", "reliability"
FILES = [*NEEDED, CARD, *(CHARTS[name].table for name in (*CURVES, *OF_CLASSES))]
NAMES = {
    "accuracy": "Test accuracy",
    "tta_accuracy": "Test accuracy, averaged over views",
    "accuracy_without_duplicates": "Test accuracy without duplicates",
    "top5_accuracy": "Top-5 accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "loss": "Test loss",
    "confidence": "Mean confidence",
    "expected_calibration_error": "Calibration error",
    "train_accuracy": "Training accuracy",
    "train_loss": "Training loss",
    "val_accuracy": "Validation accuracy",
    "val_loss": "Validation loss",
}
NO_METRICS = {"wrong", "images", "accuracy_low", "accuracy_high"}  # derived from the accuracy


class Side(NamedTuple):
    """One of the runs: its name, metrics of `evaluate` and `train`, settings, tables by chart, and test results."""

    name: str
    metrics: dict[str, float]
    params: dict[str, Any]
    environment: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    test: Split
    classes: list[str]
    predictions: Predictions


class Pair(NamedTuple):
    """A run against the first one, on the same test images; `discordant` counts what only one of them gets right."""

    other: int
    discordant: Discordant
    accuracy: Difference
    loss: Difference
    confidence: Difference


def write_page(names: Sequence[str], out: Path) -> None:
    """Write the page of these experiments, revisions or the workspace, and say so; one alone is set by the workspace.

    Raises InputError when a run is unknown, given twice, or has no results that can be read.
    """
    if [*names] == [WORKSPACE]:
        raise InputError("the workspace alone cannot be compared; name another run too")
    names = [*names, WORKSPACE] if len(names) == 1 else names
    if len({*names}) < len(names):
        raise InputError(f"{max(names, key=names.count)} is given twice; give the names of different runs")
    if len(names) > MOST:
        raise InputError(f"{len(names)} runs are too many for one page; give at most {MOST}")
    with TemporaryDirectory() as folder:
        sides = [_load(name, Path(folder, str(number))) for number, name in enumerate(names)]
        page = compare_page(sides)
    write_text(out, page)
    print(f"written: {out} ({len(page.encode()) / 1e6:.1f} MB)")


def _load(name: str, folder: Path) -> Side:
    """A run from the workspace, or from the files of a revision, which are copied to `folder`."""
    if name == WORKSPACE:
        refuse_mixed()
        return load_side(name)
    copy_files(name, FILES, folder)
    try:
        with next_move("give a run of this pipeline, or look for damage with `make mend` in a checkout of it"):
            return load_side(name, folder)
    except InputError as error:
        raise InputError(f"{name}: {str(error).replace(f'{folder}/', '')}") from None


def refuse_mixed() -> None:
    """Raise InputError unless the workspace's params and files are all of the run that dvc.lock records, if any.

    A params.yaml for the next run, or a `dvc repro` that was stopped before `evaluate`, would put two runs on the page
    as one.
    """
    lock = Path("dvc.lock")
    if not lock.exists():
        return
    try:
        stages = stages_up_to("evaluate", read_yaml(lock).get("stages") or {})
        outs = {out["path"]: out.get("md5") for stage in stages for out in stage.get("outs", ())}
    except (AttributeError, KeyError, TypeError):
        outs = {}
    if not {"metrics/train.json", "metrics/evaluate.json", "data/predictions.npz"} <= outs.keys():
        raise InputError(f"{lock} has no record of a whole run; run `make repro`")
    for stage in stages:
        for dep in stage.get("deps", ()):
            if outs.get(dep["path"], dep.get("md5")) != dep.get("md5"):
                raise InputError(f"`{stage['cmd']}` has not run since {dep['path']} changed; run `dvc repro`")
    today = read_yaml(Path("params.yaml"))
    changed = {}
    for stage in stages:
        ran_with = stage.get("params", {}).get("params.yaml", {})
        before, now = dict(flat(ran_with)), dict(flat({key: today[key] for key in ran_with if key in today}))
        changed |= {key: None for key in before | now if before.get(key) != now.get(key)}
    if changed:
        raise InputError(f"params.yaml has changed since the run: {', '.join(changed)}; run `dvc repro`, or undo this")
    for path in map(Path, FILES):
        if path.is_file() and outs.get(str(path)) not in (None, hashlib.md5(path.read_bytes()).hexdigest()):
            raise InputError(
                f"{path} is not of the run in dvc.lock; run `dvc repro`, or `git checkout HEAD -- metrics plots` and "
                "`dvc checkout`"
            )


def load_side(name: str, folder: Path = Path()) -> Side:
    """A run from the files in `folder`.

    Raises InputError if one of NEEDED is missing or damaged, or if predictions and metrics are of different runs.
    """
    test, classes = load_split("test", folder / "data/dataset"), load_classes(folder / "data/dataset")
    metrics = {stage: read_written(folder / f"metrics/{stage}.json", METRICS[stage]) for stage in ("evaluate", "train")}
    predictions = load_predictions(test.labels, len(classes), folder / "data/predictions.npz")
    if np.count_nonzero(predictions.predicted != predictions.labels) != metrics["evaluate"]["wrong"]:
        raise InputError("data/predictions.npz and metrics/evaluate.json are of different runs; run `dvc checkout`")
    tables = {key: folder / CHARTS[key].table for key in (*CURVES, *OF_CLASSES)}
    return Side(
        name,
        metrics["evaluate"] | metrics["train"],
        read_yaml(folder / "params.yaml"),
        read_written(folder / CARD, ReportCard)["environment"] if (folder / CARD).is_file() else {},
        {key: read_table(path) for key, path in tables.items() if path.is_file()},
        test,
        classes,
        predictions,
    )


def have_same_images(a: Side, b: Side) -> bool:
    return a.classes == b.classes and all(map(np.array_equal, a.test, b.test))


def contrast(sides: Sequence[Side], other: int) -> Pair:
    """The run number `other` against the first, image by image."""
    a, b = sides[0].predictions, sides[other].predictions
    right_a, right_b = a.predicted == a.labels, b.predicted == b.labels
    rows = np.arange(len(a.labels))
    losses = [-log_softmax(each.logits)[rows, each.labels] for each in (a, b)]
    return Pair(
        other,
        mcnemar(right_a, right_b),
        accuracy_difference(right_a, right_b),
        paired_difference(*losses),
        paired_difference(a.confidences(), b.confidences()),
    )


def compare_page(sides: Sequence[Side]) -> str:
    """The page as HTML without links to other files; each run is compared with the first."""
    names = short_names([side.name for side in sides])
    pairs = [contrast(sides, k) for k in range(1, len(sides)) if have_same_images(sides[0], sides[k])]
    curves = {name: svg for name in CURVES if (svg := _overlay(sides, names, name))}
    same_classes = all(side.classes == sides[0].classes for side in sides)
    of_classes = {name: svg for name in OF_CLASSES if same_classes and (svg := _overlay(sides, names, name))}
    return fill(
        "side_by_side.html",
        title=f"{words.listed(names)} compared",
        names=names,
        colours=COLOURS,
        verdicts=[verdict(names, pair, len(sides[0].test.labels)) for pair in pairs],
        others=[names[k] for k in range(1, len(sides)) if k not in {pair.other for pair in pairs}],
        metrics=_metrics(sides, {pair.other: pair for pair in pairs}),
        settings=differences([side.params for side in sides]),
        environment=differences([side.environment for side in sides]),
        charts=curves | of_classes,
        curves=[(name, CHARTS[name].title) for name in curves],
        of_classes=[(name, CHARTS[name].title) for name in of_classes],
        classes=[printable(name) for name in sides[0].classes],
        images=_images(sides, names, pairs),
    )


def short_names(names: Sequence[str]) -> list[str]:
    """The names as lines, in full where their short forms would not tell them apart."""
    short = [printable(name) for name in names]
    return short if len({*short}) == len(short) else [printable(name, max(map(len, names))) for name in names]


def verdict(names: Sequence[str], pair: Pair, images: int) -> str:
    """In a sentence: which network is better on these images, and by how much.

    "Better" needs both the interval without 0 and McNemar's p below 5 %: on few images they may disagree.
    """
    a, b = names[0], names[pair.other]
    low, high = pair.accuracy.low, pair.accuracy.high
    only_a, only_b, p = pair.discordant
    counts = (
        f"Of {images:,} test images, only {a} is right on {only_a:,}, only {b} on {only_b:,} (McNemar's p {p:.2g})."
    )
    if p < 0.05 and (low > 0 or high < 0):
        better, worse = (b, a) if low > 0 else (a, b)
        least, most = sorted((abs(low), abs(high)))
        points = f"{100 * abs(pair.accuracy.mean):.2f} points ({100 * least:.2f} to {100 * most:.2f})"
        return f"The network of {better} is better than that of {worse} by {points}. {counts}"
    points = f"{_difference(low, is_share=True)} to {_difference(high, is_share=True)} points"
    return f"No difference in accuracy can be seen between {a} and {b} ({points}). {counts}"


def _overlay(sides: Sequence[Side], names: Sequence[str], chart: str) -> Markup | None:
    """The chart with a colour for each run, those left out that have no such table."""
    tables = {name: side.tables[chart] for name, side in zip(names, sides, strict=True) if chart in side.tables}
    return Markup(with_own_ids(draw(CHARTS[chart], tables, names), chart)) if tables else None


def _metrics(sides: Sequence[Side], pairs: Mapping[int, Pair]) -> list[dict[str, Any]]:
    """A row for each metric; each cell has the value and its difference from the first run's, with the interval.

    Metrics without a name of their own, such as counts, are left out where all runs have the same.
    """
    of_all = [side.metrics | {"confidence": float(side.predictions.confidences().mean())} for side in sides]
    for side, metrics in zip(sides, of_all, strict=True):
        if not side.params.get("val_size"):  # then they are of the test images
            metrics |= dict.fromkeys(["val_accuracy", "val_loss", "val_images"])
        metrics |= {key: None for key, value in metrics.items() if not isinstance(value, int | float)}
    others = {key: key for metrics in of_all for key in metrics if key not in NO_METRICS}
    rows = []
    for key, label in (NAMES | {key: name for key, name in others.items() if key not in NAMES}).items():
        values = [metrics.get(key) for metrics in of_all]
        found = {k: getattr(pair, key) for k, pair in pairs.items() if key in Pair._fields}
        if any(value != values[0] for value in values) or (key in NAMES and values[0] is not None):
            rows.append({"label": label, "cells": _cells(key, values, found)})
    return rows


def _cells(key: str, values: Sequence[float | None], found: Mapping[int, Difference]) -> list[dict[str, str]]:
    is_share = "accuracy" in key or key.endswith(("confidence", "calibration_error", "f1"))
    cells = [{"value": _value(key, value, is_share), "difference": "", "interval": ""} for value in values]
    for k in range(1, len(values)):
        if None in (values[0], values[k]):
            continue
        if values[k] != values[0] or k in found:
            cells[k]["difference"] = _difference(found[k].mean if k in found else values[k] - values[0], is_share)
        if k in found and found[k].low is not None:
            cells[k]["interval"] = " to ".join(_difference(end, is_share) for end in found[k][1:])
    return cells


def _value(key: str, value: float | None, is_share: bool) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if is_share:
        return words.percent(value)
    return f"{value:.4f}" if "loss" in key else f"{value:.4g}"


def _difference(value: float, is_share: bool) -> str:
    text = f"{100 * value:+.2f}" if is_share else f"{value:+,}" if isinstance(value, int) else f"{value:+.4f}"
    return text.replace("-", "−")


def differences(values: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Name and values of what is not the same in all of these mappings; – for what one does not have."""
    flats = [dict(flat(each)) for each in values]
    keys = {key: None for each in flats for key in each}
    rows = [(key, [each.get(key, "–") for each in flats]) for key in keys]
    return [(key, row) for key, row in rows if len(set(row)) > 1]


def _images(sides: Sequence[Side], names: Sequence[str], pairs: Sequence[Pair]) -> dict[str, Any]:
    """The images that only one of two runs gets right, those first whose mistake is the most confident."""
    cards, size = [], sides[0].test.images.shape[1:3]
    groups = list(_groups(sides, pairs))
    left = shown_mistakes(size)
    for number, (right, wrong, indices) in enumerate(sorted(groups, key=lambda group: len(group[2]))):
        first = indices[: max(1, left // (len(groups) - number))]  # what small groups do not need is for the large ones
        left -= len(first)
        sure = sides[wrong].predictions.confidences()[first]
        cards += zip([right] * len(first), [wrong] * len(first), first.tolist(), sure.tolist(), strict=True)
    cards.sort(key=lambda card: -card[3])
    probabilities = [np.exp(log_softmax(side.predictions.logits)) for side in sides]
    classes = [printable(name) for name in sides[0].classes]

    def said(number: int, index: int) -> dict[str, str]:
        predicted = int(sides[number].predictions.predicted[index])
        return {
            "name": names[number],
            "class": classes[predicted],
            "confidence": words.percent(probabilities[number][index, predicted], 1),
        }

    return {
        "cards": [
            {
                "index": index,
                "true": int(sides[0].predictions.labels[index]),
                "who": f"{right}-{wrong}",
                "right": said(right, index),
                "wrong": said(wrong, index),
            }
            for right, wrong, index, _ in cards
        ],
        "sheet": image_sheet(sides[0].test.images[[card[2] for card in cards]]),
        "groups": [
            {"who": f"{right}-{wrong}", "right": names[right], "wrong": names[wrong], "count": len(indices)}
            for right, wrong, indices in groups
        ],
        "all": sum(len(indices) for *_, indices in groups),
    }


def _groups(sides: Sequence[Side], pairs: Sequence[Pair]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Who is right, who is wrong, and the indices of these images, the most confident mistake first."""
    for pair in pairs:
        for right, wrong in ((0, pair.other), (pair.other, 0)):
            mistakes, good = find_mistakes(sides[wrong].predictions), sides[right].predictions
            yield right, wrong, mistakes[(good.predicted == good.labels)[mistakes]]
