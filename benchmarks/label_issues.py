"""How well scores find wrong labels: `python -m benchmarks.label_issues FILE`, after `dvc repro evaluate` on CIFAR-10.

FILE is JSON: `images`, a list of objects with the `index` of a test image, its `label`, and `votes`, of which `given`
counts the people who chose the label. A label counts as wrong where fewer than three of five did. Nobody looked at the
images that are not listed; they count as right, so every precision is a lower bound. Nothing in the pipeline is chosen
by this file.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from benchmarks.report import report
from cifar.data.splits import load_split
from cifar.nn.inference import predict
from cifar.nn.saved import load_model
from cifar.results.predictions import load_predictions
from cifar.results.scores import log_softmax
from cifar.system.device import pick_device, prepare
from cifar.system.errors import InputError, next_move, one_line
from cifar.system.files import read_json
from cifar.system.stage import run

MAJORITY = 3  # of five people


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the labels that people have judged")
    arguments = parser.parse_args()
    images, labels = load_split("test")
    with next_move("give a file as `--help` describes it"):
        is_wrong = judged_wrong(read_json(arguments.file), labels)
    prepare(deterministic=True)
    model = load_model()
    network = model.network.to(pick_device())
    views = predict(network, images, model.statistics, augmentation="flip_shift")
    rows = []
    for by, logits in (("one view", load_predictions(labels, len(model.classes)).logits), ("flip_shift", views)):
        for name, score in scores(logits, labels).items():
            rows.append({"score": name, "logits": by, **quality(score, is_wrong)})
    report(__file__, rows, wrong=int(is_wrong.sum()), images=len(labels))


def judged_wrong(judged: dict, labels: np.ndarray) -> np.ndarray:
    """Is a label judged wrong? bool (N,); raises InputError when the file is of another form or of other labels."""
    is_wrong = np.zeros(len(labels), dtype=bool)
    try:
        rows = [(int(image["index"]), image["label"], image["votes"]["given"] < MAJORITY) for image in judged["images"]]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"the file has no list of judged images: {type(error).__name__} {one_line(error)}") from None
    for index, label, is_judged_wrong in rows:
        if not 0 <= index < len(labels) or labels[index] != label:
            raise InputError(f"image {index} has another label in the file")
        is_wrong[index] = is_judged_wrong
    return is_wrong


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """By name, doubt (N,) in each label, the larger the more doubtful."""
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    rest = probabilities.copy()
    rest[rows, labels] = 0
    best = rest.max(axis=1)
    entropy = -(probabilities * log_probabilities).sum(axis=1) / np.log(probabilities.shape[1])
    # Confident learning's thresholds: how sure the network is, on average, of a class on the images labelled so.
    thresholds = np.array([own[labels == k].mean() for k in range(probabilities.shape[1])])
    margins = logits.astype(np.float64)
    others = margins.copy()
    others[rows, labels] = -np.inf
    return {
        "one minus self-confidence": 1 - own,
        "margin": best - own,
        "confidence in the mistake": np.where(best > own, best, 0),
        "log odds": others.max(axis=1) - margins[rows, labels],
        "entropy over self-confidence": entropy / own,
        "self-confidence over the class's": 1 - own / thresholds[labels],
        "margin over the classes'": (rest / thresholds).max(axis=1) - own / thresholds[labels],
    }


def quality(score: np.ndarray, is_wrong: np.ndarray) -> dict[str, float]:
    """Average precision, and precision among the 25 and the 50 most doubtful."""
    order = np.argsort(-score, kind="stable")
    found = {"average_precision": float(average_precision_score(is_wrong, score))}
    return found | {f"precision_at_{count}": float(is_wrong[order[:count]].mean()) for count in (25, 50)}


if __name__ == "__main__":
    run(main, "the same command may be given again")
