"""Results in words: the line that ends an evaluation, and captions of single predictions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cifar.results.predictions import Predictions
from cifar.results.scores import log_softmax
from cifar.system.process import printable

GREEN, RED, GREY = "#1a7f37", "#b3261e", "#555555"  # dark enough to be read on white
MISTAKE_COLOURS = [GREEN, RED, GREY]  # of a caption's three lines
CORRECT_COLOURS = [GREEN, GREEN, GREY]


def prediction_captions(predictions: Predictions, indices: np.ndarray, classes: Sequence[str]) -> list[str]:
    """A caption for each of the images `indices` (N,): three lines, each with a class and its probability.

    The classes are the true one, the predicted one, and the runner-up: the one with the second largest logit.
    """
    logits = predictions.logits[indices]
    named = {"true": predictions.labels[indices], "predicted": predictions.predicted[indices]}
    named["runner-up"] = runners_up(logits)
    probabilities = np.exp(log_softmax(logits))  # (N, C)
    return [
        "\n".join(f"{name}: {classes[of[i]]} {probabilities[i, of[i]]:.1%}" for name, of in named.items())
        for i in range(len(indices))
    ]


def result_line(scores: dict[str, float], by_class: pd.DataFrame) -> str:
    """The accuracy, the number of mistakes, and the three classes with the lowest accuracy."""
    line = f"test accuracy {scores['accuracy']:.4f}: {scores['wrong']:,} of {scores['images']:,} wrong"
    if "tta_accuracy" in scores:
        line += f"; {scores['tta_accuracy']:.4f} with test-time augmentation"
    weakest = by_class[by_class["accuracy"] < 1].nsmallest(3, "accuracy")
    named = ", ".join(f"{printable(row[1])} {row.accuracy:.3f}" for row in weakest.itertuples())
    return f"{line}; weakest classes: {named}" if named else line


def runners_up(logits: np.ndarray) -> np.ndarray:
    """The classes (N,) with the second largest of the logits (N, C)."""
    return np.argsort(-logits, axis=1, kind="stable")[:, 1]
