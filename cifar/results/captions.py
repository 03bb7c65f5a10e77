"""Captions of single predictions."""

from collections.abc import Sequence

import numpy as np

from cifar.results.predictions import Predictions
from cifar.results.scores import log_softmax, runners_up

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
