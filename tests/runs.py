"""A run drawn at random, its files and its page, for tests of the report."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cifar.config.params import read_yaml
from cifar.data.splits import Split
from cifar.results.heatmaps import Heatmaps, shown_mistakes
from cifar.results.predictions import Predictions, confused_pairs, find_mistakes
from cifar.results.report import Pictures, render
from cifar.results.scores import class_accuracy, expected_calibration_error, reliability
from cifar.results.vega import CHARTS, draw
from cifar.results.written import Run
from cifar.system.files import write_csv, write_json, write_text

ROOT = Path(__file__).parents[1]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HOSTILE = [
    "<img src=x onerror=\"console.error('harm')\">",
    "</script><script>console.error('harm')</script>",
    '" onmouseover="console.error(1)',
    "</style><b>bold</b>",
    "{{ 7 * 7 }}",
    "a & b",
    "very_long_" * 12,
    "NA",
    "‮right to left",
    "</svg><circle r=9>",
]


def make(classes: list[str] = CLASSES, *, tests: int = 200, accuracy: float = 0.7) -> tuple:
    """The arguments of `render`: a run with these classes, drawn at random, of which a share is right."""
    random, count = np.random.default_rng(0), len(classes)
    labels = (np.arange(tests) % count).astype(np.uint8 if count <= 256 else np.uint16)
    logits = random.normal(size=(tests, count)).astype(np.float32)
    is_right = random.random(tests) < accuracy
    logits[is_right, labels[is_right]] += 6
    predictions = Predictions(logits, labels, logits.argmax(axis=1).astype(labels.dtype))
    images = random.integers(0, 256, (tests, 32, 32, 3), dtype=np.uint8)
    mistakes = find_mistakes(predictions)[: shown_mistakes((32, 32))]
    y, x = np.mgrid[:32, :32]
    one = 8 * np.minimum(x, 31 - y)
    maps = np.array([np.roll(one, index % 32, axis=1) for index in mistakes], np.uint8).reshape(-1, 32, 32)
    train = Split(images[: 20 * count], labels[: 20 * count])
    pictures = Pictures(
        train, train.take(np.arange(20)), images[:20], Split(images, labels), Heatmaps(mistakes, maps, 255 - maps)
    )

    names, wrong = np.array(classes), int((predictions.predicted != labels).sum())
    scores = {"accuracy": 1 - wrong / tests, "loss": 0.9, "wrong": wrong, "images": tests}
    scores["expected_calibration_error"] = expected_calibration_error(logits, labels, bins=15)
    epochs = np.arange(1, 4)
    history = {"epoch": epochs, "train_loss": 2 / epochs, "train_accuracy": 1 - 0.5 / epochs, "val_loss": 2.1 / epochs}
    history |= {"val_accuracy": 1 - 0.6 / epochs, "lr": 0.1 / epochs}
    splits = [{"class": name, "split": split, "images": 20} for split in ("train", "test") for name in classes]
    curve = {"lr": np.logspace(-4, 0, 20), "loss": np.linspace(2, 1, 20), "smoothed_loss": np.linspace(2, 1, 20)}
    tables = {
        "plots/stats/class_counts.csv": pd.DataFrame(splits),
        "plots/lr_find/curve.csv": pd.DataFrame(curve | {"suggestion": [""] * 19 + ["lr_max"]}),
        "plots/train/history.csv": pd.DataFrame(history),
        "plots/train/schedule.csv": pd.DataFrame({"step": np.arange(9), "lr": np.linspace(0.1, 0, 9)}),
        "plots/evaluate/confusion.csv": pd.DataFrame(
            {"actual": names[labels], "predicted": names[predictions.predicted]}
        ),
        "plots/evaluate/class_accuracy.csv": pd.DataFrame({"class": names, "accuracy": class_accuracy(logits, labels)}),
        "plots/evaluate/reliability.csv": pd.DataFrame(reliability(logits, labels, bins=15)),
        "plots/misclassified/confused_pairs.csv": confused_pairs(predictions, classes).head(10),
    }
    twins = {"test_index": [3, 5], "train_index": [7, 0], "bits": [0, 9], "exact": [1, 0]}
    twins |= {"test_label": [classes[3 % count], classes[5 % count]], "train_label": [classes[0], classes[0]]}
    tables["data/duplicates.csv"] = pd.DataFrame(twins)
    channels = {"red": 0.4914, "green": 0.4822, "blue": 0.4465}
    train_scores = {"epoch": 3, "train_accuracy": 0.83, "val_accuracy": 0.8, "train_images": 20 * count}
    metrics = {
        "stats": {"images": 20 * count, "test_images": tests, "mean": channels, "std": channels},
        "duplicates": {"duplicate_pairs": 2, "test_duplicates": 2, "exact_duplicates": 1},
        "lr_find": {"lr_max": 0.385, "steps": 20},
        "train": train_scores | {"val_images": 50, "lr_max": 0.4, "lr_min": 0.01, "parameters": 6_574_090},
        "evaluate": scores,
    }
    card = {"classes": classes, "network": {"name": "custom_resnet"}, "environment": {"torch": "2.14.1", "threads": 2}}
    return (
        Run(metrics, tables, card, "Layer  Param #\nlinear 10"),
        read_yaml(ROOT / "params.yaml"),
        predictions,
        pictures,
    )


def page_of(run: Run, *arguments) -> str:
    charts = {name: draw(chart, {"workspace": run.tables[chart.table]}) for name, chart in CHARTS.items()}
    return render(run, *arguments, charts=charts)


def write_run(run: Run, folder: Path) -> None:
    """The files that `load_run` reads."""
    for stage, values in run.metrics.items():
        write_json(folder / f"metrics/{stage}.json", values)
    for path, table in run.tables.items():
        write_csv(folder / path, table)
    write_json(folder / "models/model.json", run.card)
    write_text(folder / "models/summary.txt", run.summary)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
