"""The scores against scikit-learn, torch, the definitions written out, and numbers worked out by hand."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, recall_score, top_k_accuracy_score

from cifar.results.scores import (
    accuracy,
    accuracy_interval,
    all_scores,
    balanced_accuracy,
    class_accuracy,
    confidences,
    cross_entropy,
    expected_calibration_error,
    log_softmax,
    macro_f1,
    predicted_classes,
    top_k_accuracy,
)
from cifar.system.errors import InputError


def draw(count: int, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, 10) that are right about half the time, and labels (N,)."""
    random = np.random.default_rng(count)
    labels = random.integers(0, 10, count, np.uint8)
    logits = random.normal(size=(count, 10))
    logits[np.arange(count), labels] += 1.5
    return (spread * logits).astype(np.float32), labels


def logits_of(probabilities: list[list[float]]) -> np.ndarray:
    """Logits whose softmax is `probabilities`, with the rest of ten classes at nothing."""
    logits = np.full((len(probabilities), 10), -1e4)
    for row, values in zip(logits, probabilities, strict=True):
        row[: len(values)] = np.log(values)
    return logits


def test_cross_entropy_is_that_of_torch():
    logits, labels = draw(1000)
    expected = F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels).long())
    assert cross_entropy(logits, labels) == pytest.approx(expected.item(), rel=1e-12)


def test_cross_entropy_by_hand():
    logits = logits_of([[0.5, 0.25, 0.25], [0.125, 0.875]])
    labels = np.array([1, 0], np.uint8)
    assert cross_entropy(logits, labels) == pytest.approx((np.log(4) + np.log(8)) / 2)


def test_probabilities_of_huge_logits_neither_overflow_nor_vanish():
    logits = np.array([[3e38, -3e38] + 8 * [0], [1e4, 1e4 - 1] + 8 * [-1e4]], np.float32)
    assert np.isfinite(log_softmax(logits)).all()
    assert confidences(logits) == pytest.approx([1, 1 / (1 + np.exp(-1))])


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [  # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_accuracys_interval_is_wilsons_as_published(right, images, low, high):
    assert accuracy_interval(right, images) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("right", "images"), [(0, 1), (50, 50), (9387, 10_000), (994, 1000)])
def test_the_accuracys_interval_is_that_of_scipy(right, images):
    expected = binomtest(right, images).proportion_ci(0.95, "wilson")
    assert accuracy_interval(right, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_accuracies_are_those_of_scikit_learn():
    logits, labels = draw(1000)
    predictions = predicted_classes(logits)
    assert accuracy(logits, labels) == accuracy_score(labels, predictions)
    assert class_accuracy(logits, labels) == pytest.approx(recall_score(labels, predictions, average=None))
    for k in (2, 5):
        assert top_k_accuracy(logits, labels, k) == top_k_accuracy_score(labels, logits, k=k)


def test_scores_of_classes_of_different_sizes_are_those_of_scikit_learn():
    logits, labels = draw(1000)
    labels[labels == 3] = 4  # class 3 has no images, but is predicted
    logits[:, 7] = -100  # class 7 is never predicted
    predictions = predicted_classes(logits)
    assert macro_f1(logits, labels) == pytest.approx(f1_score(labels, predictions, average="macro"))
    of_present = recall_score(labels, predictions, average=None, labels=np.unique(labels))
    assert balanced_accuracy(logits, labels) == pytest.approx(of_present.mean())
    found = all_scores(logits, labels, augmented=None)
    assert found["balanced_accuracy"] == pytest.approx(of_present.mean(), abs=1e-6)
    assert found["accuracy"] != found["balanced_accuracy"] and "tta_accuracy" not in found


@pytest.mark.parametrize("classes", [2, 5, 6, 300])
def test_top_5_is_there_from_six_classes_on_and_balanced_scores_where_sizes_differ(classes):
    logits = np.eye(classes, dtype=np.float32)
    labels = np.arange(classes).astype("uint16" if classes > 256 else "uint8")
    assert predicted_classes(logits).dtype == labels.dtype and predicted_classes(logits).tolist() == labels.tolist()
    found = all_scores(logits, labels, augmented=logits)
    assert ("top5_accuracy" in found) == (classes >= 6)
    assert "balanced_accuracy" not in found and "macro_f1" not in found
    assert found["accuracy"] == found["tta_accuracy"] == 1.0 and len(class_accuracy(logits, labels)) == classes


def test_a_count_is_divided_in_double_precision():
    logits = np.eye(10, dtype=np.float32)[np.zeros(100, int)]
    labels = np.repeat(np.array([0, 1], np.uint8), (44, 56))
    assert json.dumps(accuracy(logits, labels)) == "0.44"


def test_of_equal_logits_the_first_class_counts_in_top_k_as_in_accuracy():
    logits = np.zeros((10, 10), np.float32)
    labels = np.arange(10, dtype=np.uint8)
    assert [top_k_accuracy(logits, labels, k) for k in (1, 5, 10)] == [0.1, 0.5, 1.0]
    random = np.random.default_rng(0)
    logits = random.integers(0, 3, (500, 10)).astype(np.float32)
    labels = random.integers(0, 10, 500, np.uint8)
    assert top_k_accuracy(logits, labels, 1) == accuracy(logits, labels)


def test_a_class_without_images_has_no_accuracy():
    logits = np.eye(10, dtype=np.float32)[[0, 1, 2, 0]]
    by_class = class_accuracy(logits, np.array([0, 1, 1, 1], np.uint8))
    assert by_class[:2] == [1.0, 1 / 3]
    assert np.isnan(by_class[2:]).all()


def test_calibration_error_is_that_of_guo_et_al_written_out():
    logits, labels = draw(2000, spread=1.0)
    probabilities = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    expected = 0.0
    for m in range(1, 16):  # equations 2, 3 and 5, with the bins ((m - 1) / M, m / M]
        inside = [i for i in range(2000) if (m - 1) / 15 < probabilities[i].max() <= m / 15]
        if inside:
            acc = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            conf = np.mean([probabilities[i].max() for i in inside])
            expected += len(inside) / 2000 * abs(acc - conf)
    assert expected > 0.01
    assert expected_calibration_error(logits, labels, bins=15) == pytest.approx(expected, rel=1e-9)


def test_calibration_error_by_hand():
    logits = logits_of([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])  # in the bins 14, 12 and 11 of 15
    labels = np.array([0, 1, 1], np.uint8)  # right, wrong, right
    assert expected_calibration_error(logits, labels, bins=15) == pytest.approx((0.1 + 0.8 + 0.3) / 3)
    # 0.8 and 0.9 share the bin (0.75, 1]: right 1 of 2, confidence 0.85 on average
    assert expected_calibration_error(logits, labels, bins=4) == pytest.approx((2 * abs(0.5 - 0.85) + 0.3) / 3)


def test_a_bin_holds_its_right_edge():
    logits = logits_of([[0.5, 0.5], [1.0]])
    assert confidences(logits)[0] == 0.5
    labels = np.array([0, 1], np.uint8)  # right, wrong: excesses of 0.5 and -1, in bins of their own
    assert expected_calibration_error(logits, labels, bins=2) == 0.75


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_have_no_score(value):
    logits, labels = draw(20)
    logits[7, 3] = value
    for score in (
        lambda: cross_entropy(logits, labels),
        lambda: accuracy(logits, labels),
        lambda: top_k_accuracy(logits, labels, 5),
        lambda: class_accuracy(logits, labels),
        lambda: expected_calibration_error(logits, labels, 15),
    ):
        with pytest.raises(InputError, match="1 of 20 images have logits that are not finite"):
            score()
