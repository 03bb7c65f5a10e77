"""A trained model on disk: its weights, and all that is needed to use them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from cifar.data.splits import are_statistics
from cifar.nn.networks import build_network
from cifar.system.files import missing, read_json, replacing, write_json
from cifar.system.process import InputError, printable

FOLDER = Path("models")


class Model(NamedTuple):
    """A network with what is needed to use it: each channel's mean and deviation in [0, 1], and the class names."""

    network: nn.Module
    mean: list[float]
    std: list[float]
    classes: list[str]


def save_model(
    model: Model,
    spec: dict[str, Any],
    environment: dict[str, Any],
    trained_on: Sequence[dict[str, Any]] = (),
    folder: Path = FOLDER,
) -> None:
    """Write model.safetensors (weights) and model.json (all else, so that params.yaml is not needed to rebuild it).

    `environment` is what else decides the bits of the weights: see `cifar.system.device`. If not all epochs ran in it,
    model.json has `trained_on` too: see `cifar.training.checkpoint.Checkpoints`.
    """
    weights = save({name: value.contiguous() for name, value in model.network.state_dict().items()})
    with replacing(folder / "model.safetensors") as part:
        part.write_bytes(weights)
    card = {"network": spec, "mean": model.mean, "std": model.std, "classes": model.classes}
    digest = hashlib.sha256(weights).hexdigest()
    ran = {"trained_on": list(trained_on)} if len(trained_on) > 1 else {}
    write_json(folder / "model.json", card | {"sha256": digest, "environment": environment} | ran)


def check_classes(model: Model, classes: Sequence[str]) -> None:
    """Raise InputError unless the model was trained on these classes."""
    if len(model.classes) != len(classes):
        raise InputError(
            f"the model has {len(model.classes)} classes, the data set has {len(classes)}; run `dvc repro train`"
        )
    for number, (of_model, of_data) in enumerate(zip(model.classes, classes, strict=True)):
        if of_model != of_data:
            raise InputError(
                f"class {number} of the model is {printable(of_model)}, class {number} of the data set is "
                f"{printable(of_data)}; run `dvc repro train`"
            )


def load_model(folder: Path = FOLDER) -> Model:
    """The trained network in eval mode, on the CPU.

    Raises InputError when a file is missing or damaged, or the weights are another network's or not finite.
    """
    card, path = read_json(folder / "model.json"), folder / "model.safetensors"
    try:
        content = path.read_bytes()
        weights = load(content)
    except FileNotFoundError:
        raise missing(path) from None
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run `dvc repro train`") from None
    if hashlib.sha256(content).hexdigest() != card.get("sha256"):
        raise InputError(
            f"{path} is damaged or of another training: {folder}/model.json has another SHA-256; run `dvc repro train`"
        )
    try:
        network = build_network(card["network"], seed=0)
        network.load_state_dict(weights)
        mean, std = ([float(value) for value in card[name]] for name in ("mean", "std"))
        model = Model(network.eval(), mean, std, [str(name) for name in card["classes"]])
        is_usable = are_statistics(mean, std) and len(model.classes) == 10
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError):
        is_usable = False
    if not is_usable:
        raise InputError(f"{path} does not fit {folder}/model.json; delete both and run `dvc repro train`") from None
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise InputError(f"{path} holds weights that are not finite; delete it and run `dvc repro train`")
    return model
