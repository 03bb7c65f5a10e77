"""Measure the trained network on the test images.

Reads the model and the test images. Writes the scores, the predictions, which the later stages read, and three tables:
for the confusion matrix, for the accuracy of each class and for the reliability diagram.
"""

from cifar.system.process import start_stage

start_stage(__name__)

from functools import partial

import numpy as np
import pandas as pd

from cifar.config.params import load_params
from cifar.data.splits import load_classes, load_split
from cifar.nn.inference import predict
from cifar.nn.saved import check_classes, load_model
from cifar.results.captions import result_line
from cifar.results.predictions import PREDICTIONS, Predictions, save_predictions
from cifar.results.scores import (
    accuracy,
    accuracy_interval,
    class_accuracy,
    cross_entropy,
    expected_calibration_error,
    predicted_classes,
    reliability,
    top_k_accuracy,
)
from cifar.system.device import pick_device, prepare
from cifar.system.files import write_csv, write_json
from cifar.system.process import run
from cifar.system.processes import launch, leave_to_first


def main() -> None:
    params = load_params("evaluate")
    launch(params.shards)
    prepare(deterministic=True)
    model = load_model()
    images, labels = load_split("test")
    check_classes(model, load_classes())
    logits_of = partial(predict, model.network.to(pick_device()), images, model.statistics)
    logits = logits_of()
    if params.test_time_augmentation != "none":  # only reported: the predictions are those of the images as they are
        augmented_logits = logits_of(augmentation=params.test_time_augmentation)
    leave_to_first()
    predicted = predicted_classes(logits)
    save_predictions(Predictions(logits, labels, predicted))
    names = np.array(model.classes)
    write_csv("plots/evaluate/confusion.csv", pd.DataFrame({"actual": names[labels], "predicted": names[predicted]}))
    by_class = pd.DataFrame({"class": names, "accuracy": class_accuracy(logits, labels)})
    write_csv("plots/evaluate/class_accuracy.csv", by_class)
    write_csv("plots/evaluate/reliability.csv", pd.DataFrame(reliability(logits, labels, bins=15)))
    low, high = accuracy_interval(int(np.count_nonzero(predicted == labels)), len(labels))
    scores = {
        "accuracy": accuracy(logits, labels),
        "accuracy_low": round(low, 6),
        "accuracy_high": round(high, 6),
        "top5_accuracy": top_k_accuracy(logits, labels, k=5),
        "loss": round(cross_entropy(logits, labels), 6),
        "expected_calibration_error": round(expected_calibration_error(logits, labels, bins=15), 6),
        "wrong": int(np.count_nonzero(predicted != labels)),
        "images": len(labels),
    }
    if params.test_time_augmentation != "none":
        scores["tta_accuracy"] = accuracy(augmented_logits, labels)
    write_json("metrics/evaluate.json", scores)
    print(result_line(scores, by_class))
    tables = "plots/evaluate/confusion.csv, class_accuracy.csv, reliability.csv"
    print(f"written: metrics/evaluate.json, {PREDICTIONS}, {tables}")


if __name__ == "__main__":
    run(main)
