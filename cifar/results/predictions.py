"""What the network says of the test images: on disk, and in the order in which its mistakes are worth a look."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cifar.results.scores import confidences, predicted_classes
from cifar.system.files import missing, read_arrays, replacing, write_csv
from cifar.system.process import InputError

PREDICTIONS = Path("data/predictions.npz")
MISTAKES = Path("data/misclassified.csv")


class Predictions(NamedTuple):
    """Logits float32 (N, 10), true labels uint8 (N,) and predicted classes uint8 (N,)."""

    logits: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray

    def confidences(self) -> np.ndarray:
        """The probabilities (N,) of the predicted classes, to the six decimals that are written and sorted by."""
        return confidences(self.logits).round(6)


def save_predictions(predictions: Predictions, path: Path = PREDICTIONS) -> None:
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, **predictions._asdict())


def load_predictions(labels: np.ndarray, path: Path = PREDICTIONS) -> Predictions:
    """The predictions for the test images, whose `labels` (N,) the file must hold too.

    Raises InputError when the file is missing, damaged, of other images or contradicts itself.
    """
    found = Predictions(*read_arrays(path, Predictions._fields))
    forms = [(array.dtype.name, array.shape) for array in found]
    if forms != [("float32", (len(labels), 10)), ("uint8", (len(labels),)), ("uint8", (len(labels),))]:
        listed = ", ".join(f"{dtype} {' x '.join(map(str, shape))}" for dtype, shape in forms)
        raise InputError(f"{path} holds {listed}, which does not fit the {len(labels)} test images; run `dvc repro`")
    if not np.array_equal(found.labels, labels):
        raise InputError(f"{path} holds the labels of other test images; run `dvc repro`")
    if not np.isfinite(found.logits).all():
        raise InputError(f"{path} holds logits that are not finite; run `dvc repro train`")
    if not np.array_equal(found.predictions, predicted_classes(found.logits)):
        raise InputError(
            f"{path} holds predictions that its logits do not give; delete it and run `dvc repro evaluate`"
        )
    return found


def find_mistakes(predictions: Predictions) -> np.ndarray:
    """Indices (M,) of the wrongly classified images, most confident first, equals in ascending order."""
    order = np.argsort(-predictions.confidences(), kind="stable")
    return order[(predictions.predictions != predictions.labels)[order]]


def find_correct(predictions: Predictions) -> np.ndarray:
    """Indices (N - M,) of the correctly classified images: each class's most confident, then each one's second, …"""
    order = np.argsort(-predictions.confidences(), kind="stable")
    order = order[(predictions.predictions == predictions.labels)[order]]
    by_class = [order[predictions.labels[order] == k] for k in range(10)]
    places = np.concatenate([np.arange(len(index)) for index in by_class])
    return np.concatenate(by_class)[np.argsort(places, kind="stable")]


def confused_pairs(predictions: Predictions, classes: list[str]) -> pd.DataFrame:
    """Which class was taken for which: the columns pair, actual, predicted, images, of; most often first.

    `images` of the `of` test images of the class `actual` were classified as `predicted`; pairs that never occur are
    left out, and equally frequent ones come in the order of the classes.
    """
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (predictions.labels, predictions.predictions), 1)
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


def save_mistakes(predictions: Predictions, mistakes: np.ndarray, path: Path = MISTAKES) -> None:
    """Write a table of the images whose indices are `mistakes` (M,): index, label, predicted class, confidence."""
    labels, predicted = predictions.labels[mistakes], predictions.predictions[mistakes]
    columns = {"index": mistakes, "label": labels, "predicted": predicted}
    write_csv(path, pd.DataFrame(columns | {"confidence": predictions.confidences()[mistakes]}))


def load_mistakes(predictions: Predictions, path: Path = MISTAKES) -> np.ndarray:
    """The table's indices (M,); raises InputError when it is missing, damaged or of other predictions."""
    try:
        table = pd.read_csv(path, dtype={"index": int, "label": int, "predicted": int})
        index = table["index"].to_numpy()
        if (index < 0).any():
            raise IndexError
        is_label = table["label"].to_numpy() == predictions.labels[index]
        is_predicted = table["predicted"].to_numpy() == predictions.predictions[index]
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, KeyError, IndexError):
        raise InputError(f"{path} is damaged; delete it and run `make repro`") from None
    if not (is_label & is_predicted).all():
        raise InputError(f"{path} is of other predictions; run `dvc repro misclassified`")
    return index
