"""Measure the trained network on the test images.

Reads the model, the test images, and which of them are almost the same as a training image. Writes the scores, the
predictions, which the later stages read, and three tables: for the confusion matrix, for the accuracy of each class and
for the reliability diagram.
"""

from cifar.system.stage import start_stage

start_stage(__name__)

from functools import partial

import numpy as np
import pandas as pd

from cifar.config.fingerprint import refuse_other_inputs
from cifar.config.params import load_params
from cifar.data.duplicates import load_unique
from cifar.data.splits import load_classes, load_split
from cifar.nn.inference import predict
from cifar.nn.saved import check_fits, load_model
from cifar.results.predictions import PREDICTIONS, Predictions, save_predictions
from cifar.results.scores import accuracy, all_scores, class_accuracy, predicted_classes, reliability
from cifar.system.device import pick_device, prepare
from cifar.system.errors import printable
from cifar.system.files import write_csv, write_json
from cifar.system.launch import launch
from cifar.system.processes import leave_to_first
from cifar.system.stage import run


def main() -> None:
    params = load_params("evaluate")
    launch(params.shards)
    prepare(deterministic=True)
    model = load_model()
    images, labels = load_split("test")
    check_fits(model, load_classes(), images.shape[1])
    is_unique = load_unique(len(labels))
    refuse_other_inputs("evaluate", params.values())
    logits_of = partial(predict, model.network.to(pick_device()), images, model.statistics)
    logits, augmented = logits_of(), None
    if params.test_time_augmentation != "none":  # only reported: the predictions are those of the images as they are
        augmented = logits_of(augmentation=params.test_time_augmentation)
    leave_to_first()
    predicted = predicted_classes(logits)
    save_predictions(Predictions(logits, labels, predicted))
    names = np.array(model.classes)
    write_csv("plots/evaluate/confusion.csv", pd.DataFrame({"actual": names[labels], "predicted": names[predicted]}))
    by_class = pd.DataFrame({"class": names, "accuracy": class_accuracy(logits, labels)})
    write_csv("plots/evaluate/class_accuracy.csv", by_class)
    write_csv("plots/evaluate/reliability.csv", pd.DataFrame(reliability(logits, labels, bins=15)))
    scores = all_scores(logits, labels, augmented=augmented)
    if 0 < np.count_nonzero(is_unique) < len(labels):
        scores["accuracy_without_duplicates"] = accuracy(logits[is_unique], labels[is_unique])
    write_json("metrics/evaluate.json", scores)
    print(result_line(scores, by_class))
    tables = "plots/evaluate/confusion.csv, class_accuracy.csv, reliability.csv"
    print(f"written: metrics/evaluate.json, {PREDICTIONS}, {tables}")


def result_line(scores: dict[str, float], by_class: pd.DataFrame) -> str:
    """The accuracy, the number of mistakes, and the three classes with the lowest accuracy."""
    line = f"test accuracy {scores['accuracy']:.4f}: {scores['wrong']:,} of {scores['images']:,} wrong"
    if "tta_accuracy" in scores:
        line += f"; {scores['tta_accuracy']:.4f} with test-time augmentation"
    weakest = by_class[by_class["accuracy"] < 1].nsmallest(3, "accuracy")
    named = ", ".join(f"{printable(row[1])} {row.accuracy:.3f}" for row in weakest.itertuples())
    return f"{line}; weakest classes: {named}" if named else line


if __name__ == "__main__":
    run(main)
