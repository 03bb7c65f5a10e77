"""Which labels may be wrong, judged by a network that has not trained on their images."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cifar.results.scores import log_softmax
from cifar.system.errors import printable
from cifar.system.files import write_csv

LABEL_ISSUES = Path("data/label_issues.csv")


class LabelIssues(NamedTuple):
    """Images (M,) whose label is in doubt, the most doubtful first: what they are labelled and what they may be.

    `indices` are the images', `labels` and `suggested` are classes. The two probabilities are the network's for
    these classes, float64 in [0, 1], rounded to six decimals.
    """

    indices: np.ndarray
    labels: np.ndarray
    suggested: np.ndarray
    label_probabilities: np.ndarray
    suggested_probabilities: np.ndarray

    def first(self, count: int) -> "LabelIssues":
        return LabelIssues(*(column[:count] for column in self))


def self_confidences(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The network's probability (N,) of each image's own label, from logits (N, C): a low one puts the label in doubt.

    Northcutt, Jiang and Chuang, "Confident Learning" (2021), call it self-confidence. It holds only for images that the
    network has not trained on.
    """
    return np.exp(log_softmax(logits)[np.arange(len(labels)), labels])


def find_label_issues(logits: np.ndarray, labels: np.ndarray) -> LabelIssues:
    """The images for which the network prefers another class to the label, by self-confidence, the lowest first.

    Equally doubtful images are in the order of their indices.
    """
    suggested = logits.argmax(axis=1).astype(labels.dtype)
    own, best = (self_confidences(logits, names).round(6) for names in (labels, suggested))
    logarithms = log_softmax(logits)[np.arange(len(labels)), labels]  # of a sure network, probabilities round to 0
    order = np.lexsort((logarithms.round(4), own))
    indices = order[(suggested != labels)[order]]
    return LabelIssues(indices, labels[indices], suggested[indices], own[indices], best[indices])


def save_label_issues(issues: LabelIssues, classes: list[str], path: Path = LABEL_ISSUES) -> None:
    """Write a CSV: columns index, label, suggested (names of classes), label_probability, suggested_probability."""
    names = np.array(classes)
    columns = {
        "index": issues.indices,
        "label": names[issues.labels],
        "suggested": names[issues.suggested],
        "label_probability": issues.label_probabilities,
        "suggested_probability": issues.suggested_probabilities,
    }
    write_csv(path, pd.DataFrame(columns))


def describe(issues: LabelIssues, classes: list[str]) -> list[str]:
    """A caption for each image: what the label says, and how sure the network is of what."""
    names = [printable(name) for name in classes]
    return [
        f"the label says {names[label]},\nthe network is\n{probability:.0%} sure of {names[suggested]}"
        for label, suggested, probability in zip(
            issues.labels, issues.suggested, issues.suggested_probabilities, strict=True
        )
    ]
