"""The results of a run in sentences, for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cifar.results.predictions import Predictions
from cifar.results.scores import accuracy_interval
from cifar.system.errors import printable

DATASETS = {"cifar10": "CIFAR-10"}
NAMED = 3  # classes, or pairs of them
SURE = 0.9  # mistakes with a higher confidence are counted separately


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction as a percentage, with a space that does not break."""
    return f"{100 * fraction:.{digits}f}\u00a0%"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b` or `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def title(params: Mapping[str, Any]) -> str:
    return f"{params['model']['name']} on {DATASETS.get(params['dataset'], params['dataset'])}"


def result(metrics: Mapping[str, float]) -> str:
    right, images = metrics["images"] - metrics["wrong"], metrics["images"]
    low, high = accuracy_interval(right, images)
    text = (
        f"The network classifies {right:,} of {images:,} test images correctly, "
        f"an accuracy of {percent(right / images)}. "
        f"The 95\u00a0% confidence interval, for other images of the same kind, is {percent(low)} to {percent(high)}."
    )
    if "tta_accuracy" in metrics:
        text += f" Averaged over augmented views of each image, the accuracy is {percent(metrics['tta_accuracy'])}."
    return text


def calibration(metrics: Mapping[str, float], confidence: float) -> str:
    """The mean confidence on the test images compared with the accuracy."""
    right, images = metrics["images"] - metrics["wrong"], metrics["images"]
    points = round(100 * (confidence - right / images), 1)
    low, high = accuracy_interval(right, images)
    side, kind = ("above", "over") if points > 0 else ("below", "under")
    gap = f"{abs(points)} points {side} the accuracy" if points else "the same as the accuracy"
    if points:
        is_within = low <= confidence <= high
        gap += (
            ", which is within the accuracy's 95\u00a0% interval" if is_within else f": the network is {kind}confident"
        )
    return (
        f"The mean confidence is {percent(confidence, 1)}, {gap}. "
        f"The expected calibration error is {percent(metrics['expected_calibration_error'], 1)}."
    )


def weakest(by_class: pd.DataFrame) -> str:
    """The classes with the lowest accuracy, if below 100.0 %."""
    rows = by_class[by_class["accuracy"].round(3) < 1].nsmallest(NAMED, "accuracy")
    named = [f"{printable(str(row[1]))} ({percent(row.accuracy, 1)})" for row in rows.itertuples()]
    return f"Lowest accuracy by class: {listed(named)}." if named else ""


def most_confused(pairs: pd.DataFrame) -> str:
    named = [
        f"{printable(str(pair.actual))} predicted as {printable(str(pair.predicted))} ({pair.images} of {pair.of:,})"
        for pair in pairs.head(NAMED).itertuples()
    ]
    return f"Most frequent mistakes: {listed(named)}." if named else ""


def mistakes(predictions: Predictions, shown: int) -> str:
    """How many mistakes there are, how many with a high confidence, and how many are not on the page."""
    wrong = predictions.predicted != predictions.labels
    count = int(wrong.sum())
    if not count:
        return "The network makes no mistake on the test images."
    sure = int((predictions.confidences()[wrong] > SURE).sum())
    with_them = f", {sure:,} of them with a confidence above {percent(SURE, 0)}" if sure else ""
    text = f"The network makes {count:,} mistake{'s' * (count > 1)}{with_them}."
    if shown < count:
        left_out = f"the others ({count - shown:,}) are left out to keep the page small"
        return f"{text} This page shows the {shown:,} most confident; {left_out}."
    return f"{text} This page shows all of them, the most confident first."


def data(stats: Mapping[str, Any], counts: pd.DataFrame, images: np.ndarray) -> str:
    """How many images there are, in each class and in all, and their size."""
    height, width = images.shape[1:3]
    train = counts.loc[counts["split"] == "train", "images"]
    spread = (
        f"{train.min():,} of each class"
        if train.min() == train.max()
        else f"{train.min():,} to {train.max():,} a class"
    )
    return (
        f"{stats['images']:,} training images ({spread}) and {stats['test_images']:,} test images of "
        f"{width} × {height} pixels in {len(train):,} classes."
    )


def duplicates(counts: Mapping[str, int], metrics: Mapping[str, float]) -> str:
    """How many test images are in the training images too, and the accuracy without them; empty if there are none."""
    count, exact = counts["test_duplicates"], counts["exact_duplicates"]
    if not count:
        return ""
    are = "is" if count == 1 else "are"
    text = f"{count:,} test image{'s' * (count > 1)} {are} nearly the same as a training image, {exact:,} exactly."
    if "accuracy_without_duplicates" in metrics:
        text += f" Without them, the accuracy is {percent(metrics['accuracy_without_duplicates'])}."
    return text


def range_test(suggestion: Mapping[str, float], train: Mapping[str, float]) -> str:
    """What the range test suggests, and what the training used."""
    rates = [f"{name} {suggestion[name]:.3g}" for name in ("lr_max", "lr_min") if name in suggestion]
    found = f"it suggests {listed(rates)}" if rates else "it suggests none, because the loss never fell"
    used = [f"{name} {train[name]:.3g}" for name in ("lr_max", "lr_min")]
    return (
        f"The range test raised the learning rate over {suggestion['steps']} steps; {found}. "
        f"Training used {'these rates' if used == rates else listed(used)}."
    )


def training(train: Mapping[str, float], params: Mapping[str, Any]) -> str:
    """What the network was trained on, and the accuracies at the end."""
    held_out = "validation" if params["val_size"] else "test"
    batch = "augmented batch" if params["augment"] else "batch"
    is_filtered = params["filter"]["name"] == "proxy"
    seen = f"hardest {percent(params['filter']['share'], 0)} of each {batch}" if is_filtered else f"{batch}es"
    kept = " whose weights are kept," if train["epoch"] < params["epochs"] else ""
    measured = "" if params["train_scores"] == "eval" else f" (measured on the {seen} during the epoch)"
    return (
        f"{train['train_images']:,} images in batches of {params['batch_size']:,}. After epoch {train['epoch']} of "
        f"{params['epochs']},{kept} the accuracy is {percent(train['train_accuracy'])} on the training "
        f"images{measured} and {percent(train['val_accuracy'])} on {train['val_images']:,} {held_out} images."
    )
