"""Measure the trained network on the test images.

Reads the model and the test images; writes the figures, the tables behind the confusion matrix and the accuracy of each
class, and the predictions, on which the later stages build.
"""

from functools import partial

import numpy as np
import pandas as pd

from cifar.config.params import load_params
from cifar.data.splits import load_classes, load_split
from cifar.nn.inference import predict
from cifar.nn.saved import load_model
from cifar.results.predictions import Predictions, save_predictions
from cifar.results.scores import (
    accuracy,
    accuracy_interval,
    class_accuracy,
    cross_entropy,
    expected_calibration_error,
    predicted_classes,
    top_k_accuracy,
)
from cifar.system.device import pick_device, prepare
from cifar.system.files import write_csv, write_json
from cifar.system.process import InputError, run


def main() -> None:
    params = load_params("evaluate")
    prepare(deterministic=True)
    model = load_model()
    images, labels = load_split("test")
    if model.classes != load_classes():
        raise InputError(
            f"the model tells {', '.join(model.classes)} apart, not the test images' classes; run `dvc repro`"
        )

    logits_of = partial(predict, model.network.to(pick_device()), images, model.mean, model.std)
    logits = logits_of()
    predictions = predicted_classes(logits)

    save_predictions(Predictions(logits, labels, predictions))
    names = np.array(model.classes)
    write_csv("plots/evaluate/confusion.csv", pd.DataFrame({"actual": names[labels], "predicted": names[predictions]}))
    by_class = pd.DataFrame({"class": names, "accuracy": class_accuracy(logits, labels)})
    write_csv("plots/evaluate/class_accuracy.csv", by_class)
    low, high = accuracy_interval(int(np.count_nonzero(predictions == labels)), len(labels))
    figures = {
        "accuracy": accuracy(logits, labels),
        "accuracy_low": round(low, 6),
        "accuracy_high": round(high, 6),
        "top5_accuracy": top_k_accuracy(logits, labels, k=5),
        "loss": round(cross_entropy(logits, labels), 6),
        "expected_calibration_error": round(expected_calibration_error(logits, labels, bins=15), 6),
        "wrong": int(np.count_nonzero(predictions != labels)),
        "images": len(labels),
    }
    if params.test_time_augmentation != "none":  # reported beside, and used for nothing else
        views = logits_of(augmentation=params.test_time_augmentation)
        figures["tta_accuracy"] = accuracy(views, labels)
    write_json("metrics/evaluate.json", figures)


if __name__ == "__main__":
    run(main)
