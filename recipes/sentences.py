"""Sentences of a recipe's page that its run's files decide; those about the mistakes are in mistakes.py."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cifar.config.schema import IMAGE_SIZE
from cifar.results import words
from cifar.system.device import differences
from recipes.finished import Data
from recipes.values import flatten

NETWORKS = {"resnet18": "ResNet18", "custom_resnet": "The custom ResNet", "airnet": "AirNet"}
NORMS = {"batch": "batch norm", "layer": "layer norm", "group": "group norm"}


def opening(data: Data, name: str) -> str:
    """The accuracy that this run reached; `name` is `accuracy` or `tta_accuracy`."""
    scores, epochs = data.files["evaluate"], data.params["epochs"]
    return (
        f"{network(data.params)} reaches **{words.percent(scores[name])}** on the {scores['images']:,} test images of "
        f"{dataset(data.params)}{' with test-time augmentation' if name == 'tta_accuracy' else ''} "
        f"after {epochs} epoch{'s' * (epochs > 1)}."
    )


def verdict(scores: Mapping[str, float], stated: Mapping[str, float], name: str) -> str:
    """What the source asks for and states, and how far this run is from it; empty without a source.

    Both accuracies are on the same test images, so an interval for other test images would not tell what is chance.
    """
    reached, sentences = scores[name], []
    if "target" in stated:
        does = "reaches" if reached >= stated["target"] else "does not reach"
        sentences += [f"The source asks for at least {words.percent(stated['target'], 0)}, which this run {does}."]
    if name not in stated:
        return " ".join(sentences)
    mean = f", the mean of {stated['runs']} runs" if "runs" in stated else ""
    sentences += [f"The source {'also ' * bool(sentences)}reports an accuracy of {words.percent(stated[name])}{mean}."]
    points = round(100 * (reached - stated[name]), 2)
    if not points:
        return " ".join([*sentences, "This run has the same accuracy."])
    this = f"This run is {abs(points):.2f} points {'higher' if points > 0 else 'lower'}"
    return " ".join([*sentences, f"{this}; one run cannot show how much of this is chance."])


def training_images(data: Data) -> str:
    """The images of which `train_accuracy` is."""
    if data.params["train_scores"] == "eval":
        return "the training images"
    if data.params["filter"]["name"] == "proxy":
        return "the hardest training images of each batch"
    return "augmented training images" if data.params["augment"] else "the training images"


def rounding(data: Data) -> str:
    """Why the test accuracy of the last epoch may differ from that of `evaluate`; empty where it does not."""
    in_training, after = data.files["train"]["val_accuracy"], data.files["evaluate"]["accuracy"]
    if data.has_validation or in_training == after or data.files["model"]["environment"]["precision"] != "bfloat16":
        return ""
    return f"This test accuracy is computed in bfloat16; in float32 it is {words.percent(after)}."


def progress(history: pd.DataFrame, followed: str) -> str:
    """How much the last quarter of the epochs brought, and which epoch was best if that was not the last."""
    epochs = len(history)
    if epochs < 4:
        return ""
    before, last = history.iloc[math.ceil(epochs * 0.75) - 1], history.iloc[-1]
    gain = round(100 * (last["val_accuracy"] - before["val_accuracy"]), 1)
    moved = f"{'rose' if gain > 0 else 'fell'} by {abs(gain):.1f} points" if gain else "stayed the same"
    start, end = (f"{row['lr']:.3g}" for row in (before, last))
    rate = f"at a learning rate of {end}" if start == end else f"while the learning rate went from {start} to {end}"
    text = f"From epoch {int(before['epoch'])} to {int(last['epoch'])}, {rate}, the {followed} accuracy {moved}."
    best = history.loc[history["val_accuracy"].idxmax()]
    if best["val_accuracy"] > last["val_accuracy"]:
        text += f" It was highest after epoch {int(best['epoch'])}, at {words.percent(best['val_accuracy'])}."
    return text


def recipe_words(path: Path, data: Data, today: Mapping[str, Any]) -> str:
    """Where the values come from, what the run changed, and what has changed in the recipe since."""
    text = f"[{path}](../{path}) holds every value, with its reason or its source."
    if changes := data.files["run"]["changes"]:
        text += f" This run used {words.listed([f'`{change}`' for change in changes])}."
    left_out = {"mirrors", *(change.lstrip("~+").partition("=")[0] for change in changes)}
    then, now = (flatten(_with_size(values)) for values in (data.params, today))
    different = [key for key in then if key in now and now[key] != then[key]]
    if keys := [f"`{key}`" for key in different if not any(f"{key}.".startswith(f"{one}.") for one in left_out)]:
        text += f" Since this run, {words.listed(keys)} changed in this file."
    return text


def _with_size(values: Any) -> Any:
    """The params with the size in place of `image`, by which an augmentation's argument means it."""
    if isinstance(values, Mapping):
        return {key: _with_size(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_with_size(value) for value in values]
    return IMAGE_SIZE if values == "image" else values


def data_words(data: Data) -> str:
    stats, counts, size = data.files["stats"], data.tables["class_counts"], data.files["run"]["image_size"]
    each = []
    for split in "train", "test":
        images = counts.loc[counts["split"] == split, "images"]
        each.append(f"{images.min():,}" if images.min() == images.max() else f"{images.min():,} to {images.max():,}")
    names = list(dict.fromkeys(counts["class"]))
    text = (
        f"{dataset(data.params)} has {stats['images']:,} training images and {stats['test_images']:,} test images of "
        f"{size[1]} × {size[0]} pixels. Its {len(names)} classes are {words.listed(names)}. Each has {each[0]} "
        f"training images and {each[1]} test images."
    )
    if data.has_validation:
        return text + f" {data.params['val_size']:,} of the training images are held out for validation."
    return f"{text} No training image is held out: the curves below follow the test images, which decide nothing."


def environment_words(environment: Mapping[str, Any]) -> str:
    threads = environment["threads"]
    kernels = "" if environment["device"].startswith(("NVIDIA", "AMD")) else f" with {environment['cpu_capability']}"
    return (
        f"{environment['device']}{kernels}, {environment['precision']}, {threads} thread{'s' * (threads > 1)}, "
        f"torch {environment['torch']}"
    )


def differing(part: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """What else an environment has that the last one has not."""
    found = differences(part["environment"], card["environment"])
    return f" ({found.replace(', here ', ', at the end ')})" if found else ""


def network(params: Mapping[str, Any]) -> str:
    model = params["model"]
    norm = f" with {NORMS[model['norm']]}" if model.get("norm") in NORMS else ""
    return f"{NETWORKS.get(model['name'], model['name'])}{norm}"


def network_words(data: Data) -> str:
    text = f"{network(data.params)} has {data.files['train']['parameters']:,} parameters."
    if data.params["model"].get("norm") == "layer":
        text += " The list below shows layer norm as `GroupNorm`, because it is group norm with one group."
    return text


def dataset(params: Mapping[str, Any]) -> str:
    return words.DATASETS.get(params["dataset"], f"`{params['dataset']}`")


def describe(value: Any) -> str:
    """A value of params.yaml for a table: `sgd: momentum 0.9, weight decay 0.0005`; empty for what is off."""
    if isinstance(value, list):
        chances = [f" (p {step['p']})" if step.get("p", 1.0) != 1.0 else "" for step in value]
        return ", ".join(f"{step['name']}{chance}" for step, chance in zip(value, chances, strict=True))
    if not isinstance(value, Mapping):
        return "" if value in (0.0, "none") else str(value)
    if value["name"] == "none":
        return ""
    plain = {key.replace("_", " "): each for key, each in value.items() if key != "name"}
    kept = {
        key: each for key, each in plain.items() if not (each is False or each == "same" or isinstance(each, Mapping))
    }
    told = ", ".join(key if each is True else f"{key} {each}" for key, each in kept.items())
    return f"{value['name']}: {told}" if told else value["name"]
