"""The network's predictions for the test images: on disk, and sorted into mistakes and correct ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cifar.results.scores import confidences, predicted_classes
from cifar.system.errors import InputError
from cifar.system.files import missing, read_arrays, replacing, write_csv

PREDICTIONS = Path("data/predictions.npz")
MISTAKES = Path("data/misclassified.csv")


class Predictions(NamedTuple):
    """Logits float32 (N, C), true labels (N,) and predicted classes (N,), both of the dtype of labels."""

    logits: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray

    def confidences(self) -> np.ndarray:
        """The probabilities (N,) of the predicted classes, rounded to six decimals as in the table of mistakes."""
        return confidences(self.logits).round(6)


def save_predictions(predictions: Predictions, path: Path = PREDICTIONS) -> None:
    """Write an .npz file with the arrays `logits`, `labels` and `predictions` (the predicted classes)."""
    logits, labels, predicted = predictions
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, logits=logits, labels=labels, predictions=predicted)


def load_predictions(labels: np.ndarray, classes: int, path: Path = PREDICTIONS) -> Predictions:
    """The predictions for the test images, of so many classes; the labels in the file must equal `labels` (N,).

    Raises InputError if the file is missing, damaged, for other images, or contradicts itself.
    """
    predictions = Predictions(*read_arrays(path, ("logits", "labels", "predictions")))
    types = [(array.dtype.name, array.shape) for array in predictions]
    of_labels = labels.dtype.name, labels.shape
    if types != [("float32", (len(labels), classes)), of_labels, of_labels]:
        listed = ", ".join(f"{dtype} {' x '.join(map(str, shape))}" for dtype, shape in types)
        raise InputError(
            f"{path} holds {listed}, which does not fit the {len(labels)} test images of {classes} classes; "
            "run `dvc repro`"
        )
    if not np.array_equal(predictions.labels, labels):
        raise InputError(f"{path} holds the labels of other test images; run `dvc repro`")
    if not np.isfinite(predictions.logits).all():
        raise InputError(f"{path} holds logits that are not finite; run `dvc repro train`")
    if not np.array_equal(predictions.predicted, predicted_classes(predictions.logits)):
        raise InputError(
            f"{path} holds predictions that do not match its logits; delete it and run `dvc repro evaluate`"
        )
    return predictions


def find_mistakes(predictions: Predictions) -> np.ndarray:
    """Indices (M,) of the wrongly classified images: the most confident first, of equal ones the lowest index."""
    most_confident = np.argsort(-predictions.confidences(), kind="stable")
    is_wrong = predictions.predicted != predictions.labels
    return most_confident[is_wrong[most_confident]]


def find_correct(predictions: Predictions) -> np.ndarray:
    """Indices (N - M,) of the correctly classified images: the most confident first, of equal ones the lowest index."""
    most_confident = np.argsort(-predictions.confidences(), kind="stable")
    is_correct = predictions.predicted == predictions.labels
    return most_confident[is_correct[most_confident]]


def spread_over_classes(predictions: Predictions, indices: np.ndarray) -> np.ndarray:
    """`indices` (M,) sorted so that the true classes take turns: the first index of each class, then the second, …

    Within a class the order stays. Without this, one class can fill a whole gallery.
    """
    by_class = [indices[predictions.labels[indices] == k] for k in range(predictions.logits.shape[1])]
    ranks = np.concatenate([np.arange(len(of_class)) for of_class in by_class])
    return np.concatenate(by_class)[np.argsort(ranks, kind="stable")]


def confusion_counts(predictions: Predictions) -> np.ndarray:
    """How many images of each class (rows) were classified as each class (columns): int (C, C)."""
    counts = np.zeros((predictions.logits.shape[1],) * 2, dtype=int)
    np.add.at(counts, (predictions.labels, predictions.predicted), 1)
    return counts


def confused_pairs(predictions: Predictions, classes: list[str]) -> pd.DataFrame:
    """The pairs of classes that were confused, the most frequent first: columns pair, actual, predicted, images, of.

    `images` of the `of` test images of class `actual` were classified as `predicted`. Pairs that never occur are left
    out; equally frequent pairs are in the order of the classes.
    """
    counts = confusion_counts(predictions)
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[: np.count_nonzero(counts)]
    rows = [
        {
            "pair": f"{classes[actual]} as {classes[predicted]}",
            "actual": classes[actual],
            "predicted": classes[predicted],
            "images": counts[actual, predicted],
            "of": totals[actual],
        }
        for actual, predicted in zip(*np.unravel_index(order, counts.shape), strict=True)
    ]
    return pd.DataFrame(rows, columns=["pair", "actual", "predicted", "images", "of"])


def save_mistakes(
    predictions: Predictions, mistakes: np.ndarray, classes: Sequence[str], path: Path = MISTAKES
) -> None:
    """Write a CSV of the images with the indices `mistakes` (M,).

    The columns are index, label, predicted, confidence, and the names of the two classes: label_name, predicted_name.
    """
    names = np.array(classes)
    columns = {
        "index": mistakes,
        "label": predictions.labels[mistakes],
        "predicted": predictions.predicted[mistakes],
        "confidence": predictions.confidences()[mistakes],
        "label_name": names[predictions.labels[mistakes]],
        "predicted_name": names[predictions.predicted[mistakes]],
    }
    write_csv(path, pd.DataFrame(columns))


def load_mistakes(predictions: Predictions, path: Path = MISTAKES) -> np.ndarray:
    """The indices (M,) in the CSV; raises InputError if it is missing, damaged or not that of `predictions`."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        found = [np.array([int(text) for text in table[name]]) for name in ("index", "label", "predicted")]
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, KeyError):
        raise InputError(f"{path} is damaged; delete it and run `make repro`") from None
    mistakes = find_mistakes(predictions)
    if not all(map(np.array_equal, found, (mistakes, predictions.labels[mistakes], predictions.predicted[mistakes]))):
        raise InputError(f"{path} is cut off, or belongs to other predictions; run `dvc repro misclassified`")
    return mistakes
