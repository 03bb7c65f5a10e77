"""The report of a run: all that its stages have written, on one web page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cifar.data.splits import Split
from cifar.data.statistics import first_of_each_class
from cifar.results import words
from cifar.results.heatmaps import METHODS, Heatmaps, shown_mistakes
from cifar.results.labels import find_label_issues
from cifar.results.predictions import Predictions, confusion_counts
from cifar.results.scores import log_softmax, runners_up
from cifar.results.tiles import TILE, colour_bar, heatmap_sheet, image_sheet
from cifar.results.vega import rename_ids
from cifar.results.written import DUPLICATES, Run
from cifar.system.errors import InputError, printable

HERE = Path(__file__).parent
MATRIX_CLASSES = 100  # classes in the confusion matrix
SAMPLES = 200  # training images on the page, at most ten of a class; half as many if they are large
SAMPLE_CLASSES = 100  # classes with samples
DOUBTFUL = 50  # images whose label is in doubt, at most; fewer large ones
PAIRS = 16  # images before and after augmentation; half as many if they are large
LARGE = 48  # pixels: images that are higher or wider are large


class Pictures(NamedTuple):
    """The images that the page shows: training images, a batch before and after augmentation, test images."""

    train: Split
    originals: Split
    augmented: np.ndarray
    test: Split
    heatmaps: Heatmaps


def render(
    run: Run, params: Mapping[str, Any], predictions: Predictions, pictures: Pictures, *, charts: Mapping[str, str]
) -> str:
    """The page as HTML without links to other files; `charts` are the SVGs of CHARTS, `params` those of params.yaml."""
    names = [printable(str(name)) for name in run.card["classes"]]
    return fill(
        "page.html",
        title=words.title(params),
        words=_sentences(run, params, predictions, pictures),
        figures=_figures(run, params, predictions),
        followed="validation" if params["val_size"] else "test",
        classes=names,
        matrix=_matrix(predictions, names),
        charts={name: Markup(with_own_ids(svg, name)) for name, svg in charts.items()},
        mistakes=_mistakes(predictions, pictures, names, params["gradcam"]),
        labels=_labels(predictions, pictures.test, names),
        log=_log(run.tables["plots/train/history.csv"], has_validation=params["val_size"] > 0),
        data=_data(run, params, pictures, names),
        duplicates=_duplicates(run, pictures),
        run={
            "params": flat(params),
            "environment": flat(run.card["environment"]),
            "summary": run.summary,
        },
    )


def fill(template: str, **values: Any) -> str:
    """The page that a template of this folder makes of `values`, with the style and the script of all pages."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    css, js = (Markup((HERE / f"page.{kind}").read_text(encoding="utf-8")) for kind in ("css", "js"))
    return environment.get_template(template).render(css=css, js=js, **values)


def _sentences(run: Run, params: Mapping[str, Any], predictions: Predictions, pictures: Pictures) -> dict[str, str]:
    metrics = run.metrics
    return {
        "result": words.result(metrics["evaluate"]),
        "calibration": words.calibration(metrics["evaluate"], float(predictions.confidences().mean())),
        "weakest": words.weakest(run.tables["plots/evaluate/class_accuracy.csv"]),
        "confused": words.most_confused(run.tables["plots/misclassified/confused_pairs.csv"]),
        "mistakes": words.mistakes(predictions, len(pictures.heatmaps.indices)),
        "training": words.training(metrics["train"], params),
        "range_test": words.range_test(metrics["lr_find"], metrics["train"]),
        "duplicates": words.duplicates(metrics["duplicates"], metrics["evaluate"]),
        "data": words.data(metrics["stats"], run.tables["plots/stats/class_counts.csv"], pictures.train.images),
    }


def _figures(run: Run, params: Mapping[str, Any], predictions: Predictions) -> list[tuple[str, str, str]]:
    """Name, value and note of the figures at the head of the page."""
    scores, train = run.metrics["evaluate"], run.metrics["train"]
    name, kind = ("Validation", "val") if params["val_size"] else ("Training", "train")
    is_of_hardest = kind == "train" and params["filter"]["name"] == "proxy" and params["train_scores"] == "running"
    measured_on = "hardest images of each batch" if is_of_hardest else f"{train[f'{kind}_images']:,} images"
    return [
        ("Test accuracy", words.percent(scores["accuracy"]), f"{scores['wrong']:,} of {scores['images']:,} wrong"),
        ("Test loss", f"{scores['loss']:.3f}", "cross entropy, in nats"),
        ("Mean confidence", words.percent(float(predictions.confidences().mean()), 1), "on the test images"),
        (
            "Calibration error",
            words.percent(scores["expected_calibration_error"], 1),
            "between confidence and accuracy",
        ),
        (f"{name} accuracy", words.percent(train[f"{kind}_accuracy"]), measured_on),
        ("Parameters", f"{train['parameters']:,}", run.card["network"]["name"]),
    ]


def _matrix(predictions: Predictions, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the confusion matrix, with the strength of each cell's colour in percent.

    It is the share of the row if the cell's images are right, and of the largest other cell if they are wrong. Of very
    many classes it has those with the most mistakes, in the order of the classes.
    """
    counts = confusion_counts(predictions)
    totals = counts.sum(axis=1).tolist()
    wrong = counts - np.diag(np.diag(counts))
    shown = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:MATRIX_CLASSES]
    most_wrong = max(1, int(wrong.max()))
    rows = []
    for number in sorted(shown.tolist()):
        cells = [
            {
                "number": k,
                "images": int(counts[number, k]),
                "is_right": k == number,
                "strength": round(100 * int(counts[number, k]) / max(1, totals[number] if k == number else most_wrong)),
            }
            for k in sorted(shown.tolist())
        ]
        rows.append({"name": names[number], "number": number, "cells": cells})
    return rows


def _mistakes(
    predictions: Predictions, pictures: Pictures, names: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    heatmaps = pictures.heatmaps
    probabilities = np.exp(log_softmax(predictions.logits[heatmaps.indices]))  # (M, C)
    seconds = runners_up(predictions.logits[heatmaps.indices])
    cards = []
    for row, (index, second) in enumerate(zip(heatmaps.indices.tolist(), seconds.tolist(), strict=True)):
        true, predicted = int(predictions.labels[index]), int(predictions.predicted[index])
        card = {
            "index": index,
            "true": names[true],
            "true_number": true,
            "true_probability": words.percent(probabilities[row, true], 1),
            "predicted": names[predicted],
            "predicted_number": predicted,
            "confidence": words.percent(probabilities[row, predicted], 1),
            "runner_up": "" if second == true else names[second],
            "runner_up_probability": words.percent(probabilities[row, second], 1),
        }
        cards.append(card)
    return {
        "cards": cards,
        "images": image_sheet(pictures.test.images[heatmaps.indices]),
        "predicted_maps": heatmap_sheet(heatmaps.predicted),
        "true_maps": heatmap_sheet(heatmaps.true),
        "bar": colour_bar(),
        "method": METHODS[settings["method"]],
        "layer": settings["layers"][-1],
    }


def _labels(predictions: Predictions, test: Split, names: Sequence[str]) -> dict[str, Any]:
    """The images whose label is most in doubt, as stage `misclassified` lists them."""
    issues = find_label_issues(predictions.logits, test.labels)
    first = issues.first(max(1, min(DOUBTFUL, shown_mistakes(test.images.shape[1:3]) // 6)))
    cards = [
        {
            "index": index,
            "label": names[label],
            "suggested": names[suggested],
            "label_probability": words.percent(label_probability, 1),
            "suggested_probability": words.percent(suggested_probability, 1),
        }
        for index, label, suggested, label_probability, suggested_probability in zip(
            *(column.tolist() for column in first), strict=True
        )
    ]
    return {"cards": cards, "all": len(issues.indices), "images": image_sheet(test.images[first.indices])}


def _log(history: pd.DataFrame, *, has_validation: bool) -> dict[str, Any]:
    rows = [
        [f"{value:.4g}" if isinstance(value, float) else value for value in row] for row in history.to_numpy(object)
    ]
    columns = history.columns if has_validation else history.columns.str.replace("val_", "test_")
    return {"columns": [name.replace("_", " ") for name in columns], "rows": rows}


def _data(run: Run, params: Mapping[str, Any], pictures: Pictures, names: Sequence[str]) -> dict[str, Any]:
    stats, train, count = run.metrics["stats"], pictures.train, min(len(names), SAMPLE_CLASSES)
    share = 2 if max(train.images.shape[1:3]) > LARGE else 1
    samples = first_of_each_class(train.labels, count, min(10, SAMPLES // share // count))  # (classes, images)
    rows = [
        {
            "name": names[k],
            "numbers": list(range(k * samples.shape[1], (k + 1) * samples.shape[1])),
            "alternatives": [f"training image {index}, {names[k]}" for index in of_class],
        }
        for k, of_class in enumerate(samples.tolist())
    ]
    labels = pictures.originals.labels[: PAIRS // share].tolist()
    shown = np.stack([pictures.originals.images[: len(labels)], pictures.augmented[: len(labels)]], axis=1)
    pairs = [
        {
            "name": names[label],
            "numbers": [2 * k, 2 * k + 1],
            "alternatives": [f"{names[label]} before augmentation", f"{names[label]} after augmentation"],
        }
        for k, label in enumerate(labels)
    ]
    return {
        "channels": [
            (channel, f"{stats['mean'][channel]:.4f}", f"{stats['std'][channel]:.4f}") for channel in stats["mean"]
        ],
        "samples": image_sheet(train.images[samples.ravel()], tile=2 * TILE // 3),
        "rows": rows,
        "augmented": image_sheet(shown.reshape(-1, *shown.shape[2:])),
        "pairs": pairs,
        "transforms": words.listed([step["name"] for step in params["augment"]]) if params["augment"] else "",
    }


def _duplicates(run: Run, pictures: Pictures) -> dict[str, Any]:
    """The first pairs of a test image and a training image that are nearly the same."""
    images = [pictures.test.images, pictures.train.images]
    table = run.tables[DUPLICATES].head(PAIRS // (2 if max(images[0].shape[1:3]) > LARGE else 1))
    of_test, of_train = table["test_index"].to_numpy(int), table["train_index"].to_numpy(int)
    pairs = zip((of_test, of_train), images, strict=True)
    if not all(((index >= 0) & (index < len(of))).all() for index, of in pairs):
        raise InputError(f"{DUPLICATES} is of other images; run `dvc repro stats`")
    shown = np.stack([images[0][of_test], images[1][of_train]], axis=1)  # (P, 2, H, W, 3)
    pairs = [
        {
            "numbers": [2 * k, 2 * k + 1],
            "alternatives": [f"test image {row.test_index}", f"training image {row.train_index}"],
            "labels": [printable(str(row.test_label)), printable(str(row.train_label))],
        }
        for k, row in enumerate(table.itertuples())
    ]
    return {"pairs": pairs, "images": image_sheet(shown.reshape(-1, *shown.shape[2:]))}


def flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Names and values as text; a value within another has both names: optimizer.momentum."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{before}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            rows += [row for number, each in enumerate(value, 1) for row in flat(each, f"{before}{name}.{number}.")]
        else:
            rows.append((f"{before}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


def with_own_ids(svg: str, name: str) -> str:
    """The SVG with ids that no other chart of the page has."""
    return rename_ids(svg, lambda known: f"{name}-{known}")
