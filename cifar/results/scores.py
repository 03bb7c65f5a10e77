"""Scores of a network's predictions, computed in float64 from logits float32 (N, 10) and labels uint8 (N,)."""

from statistics import NormalDist

import numpy as np

from cifar.system.process import InputError


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms (N, 10) of the class probabilities; raises InputError if a logit is not finite."""
    _check_finite(logits)
    shifted = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def confidences(logits: np.ndarray) -> np.ndarray:
    """The probability (N,) of the predicted class."""
    return np.exp(log_softmax(logits).max(axis=1))


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """The class uint8 (N,) with the largest logit, the first of equal ones; raises InputError if one is not finite."""
    _check_finite(logits)
    return logits.argmax(axis=1).astype(np.uint8)


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
    image_counts = np.bincount(labels, minlength=10).tolist()
    correct_counts = np.bincount(labels[predicted_classes(logits) == labels], minlength=10).tolist()
    return [
        correct / images if images else float("nan")
        for correct, images in zip(correct_counts, image_counts, strict=True)
    ]


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
