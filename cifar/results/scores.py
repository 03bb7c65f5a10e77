"""Scores of a network's predictions, computed in float64 from logits float32 (N, C) and labels (N,)."""

from statistics import NormalDist

import numpy as np

from cifar.data.splits import label_dtype
from cifar.system.errors import InputError


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms (N, C) of the class probabilities; raises InputError if a logit is not finite."""
    _check_finite(logits)
    shifted = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def confidences(logits: np.ndarray) -> np.ndarray:
    """The probability (N,) of the predicted class."""
    return np.exp(log_softmax(logits).max(axis=1))


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """The class (N,) with the largest logit, the first of equal ones; raises InputError if one is not finite.

    The dtype is that of labels.
    """
    _check_finite(logits)
    return logits.argmax(axis=1).astype(label_dtype(logits.shape[1]))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log probability of the true class, in nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(predicted_classes(logits) == labels))


def accuracy_interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of the accuracy of a network that is `right` on so many of `images` test images.

    Wilson's score interval ("Probable Inference", 1927). It speaks of this network on other test images, not of other
    seeds.
    """
    z2 = NormalDist().inv_cdf(0.975) ** 2
    middle = (right + z2 / 2) / (images + z2)
    half = (z2 * (right * (images - right) / images + z2 / 4)) ** 0.5 / (images + z2)
    return middle - half, middle + half


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The fraction of images whose true class is among the `k` largest logits; of equal logits the first wins."""
    _check_finite(logits)
    top = np.argsort(-logits, axis=1, kind="stable")[:, :k]  # (N, k)
    return float(np.mean((top == labels[:, None]).any(axis=1)))


def class_accuracy(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """The accuracy on the images of each class; NaN for a class without images."""
    classes = logits.shape[1]
    image_counts = np.bincount(labels, minlength=classes).tolist()
    correct_counts = np.bincount(labels[predicted_classes(logits) == labels], minlength=classes).tolist()
    return [
        correct / images if images else float("nan")
        for correct, images in zip(correct_counts, image_counts, strict=True)
    ]


def balanced_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean accuracy of the classes that have images: each class counts the same, however many it has."""
    return float(np.nanmean(class_accuracy(logits, labels)))


def macro_f1(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean F1 score of the classes: twice the correct images of a class over all labelled or predicted as it.

    A class that occurs neither as a label nor as a prediction does not count.
    """
    classes, predicted = logits.shape[1], predicted_classes(logits)
    correct = np.bincount(labels[predicted == labels], minlength=classes)
    either = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float(np.mean(2 * correct[either > 0] / either[either > 0]))


def all_scores(logits: np.ndarray, labels: np.ndarray, *, augmented: np.ndarray | None) -> dict[str, float]:
    """The scores in metrics/evaluate.json; `augmented` are the logits with test-time augmentation.

    Top-5 accuracy is there from six classes on. Balanced accuracy and macro F1 are there if the classes differ in size.
    """
    wrong = int(np.count_nonzero(predicted_classes(logits) != labels))
    low, high = accuracy_interval(len(labels) - wrong, len(labels))
    scores = {"accuracy": accuracy(logits, labels), "accuracy_low": round(low, 6), "accuracy_high": round(high, 6)}
    if logits.shape[1] > 5:
        scores["top5_accuracy"] = top_k_accuracy(logits, labels, k=5)
    if len(set(np.bincount(labels, minlength=logits.shape[1]).tolist())) > 1:
        scores["balanced_accuracy"] = round(balanced_accuracy(logits, labels), 6)
        scores["macro_f1"] = round(macro_f1(logits, labels), 6)
    scores |= {
        "loss": round(cross_entropy(logits, labels), 6),
        "expected_calibration_error": round(expected_calibration_error(logits, labels, bins=15), 6),
        "wrong": wrong,
        "images": len(labels),
    }
    return scores | ({} if augmented is None else {"tta_accuracy": accuracy(augmented, labels)})


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """The mean over all images of |accuracy - mean confidence| of the bin that the image's confidence falls into.

    The bins divide (0, 1] equally; each is open on the left and closed on the right. Guo et al., "On Calibration of
    Modern Neural Networks", 2017, use 15 bins.
    """
    probabilities = confidences(logits)
    bin_of = _bin_of(probabilities, bins)
    excess = (predicted_classes(logits) == labels) - probabilities
    return float(np.abs(np.bincount(bin_of, weights=excess)).sum() / len(labels))


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int) -> dict[str, np.ndarray]:
    """The columns of a reliability diagram, over the bins of `expected_calibration_error` that hold images.

    They are `bin` (its number, from 1), `confidence` (the mean of its images, in [0, 1]), `accuracy` and `images`.
    """
    probabilities = confidences(logits)
    bin_of = _bin_of(probabilities, bins)
    images = np.bincount(bin_of, minlength=bins)
    filled = np.flatnonzero(images)
    confidence = np.bincount(bin_of, weights=probabilities, minlength=bins)[filled] / images[filled]
    right = np.bincount(bin_of, weights=predicted_classes(logits) == labels, minlength=bins)[filled]
    columns = {"bin": filled + 1, "confidence": confidence.round(6), "accuracy": right / images[filled]}
    return columns | {"images": images[filled]}


def _bin_of(probabilities: np.ndarray, bins: int) -> np.ndarray:
    return np.digitize(probabilities, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def _check_finite(logits: np.ndarray) -> None:
    not_finite = np.count_nonzero(~np.isfinite(logits).all(axis=1))
    if not_finite:
        raise InputError(
            f"{not_finite} of {len(logits)} images have logits that are not finite; train again with a lower lr_max"
        )


def runners_up(logits: np.ndarray) -> np.ndarray:
    """The classes (N,) with the second largest of the logits (N, C)."""
    return np.argsort(-logits, axis=1, kind="stable")[:, 1]
