"""A trained model on disk: its weights, and all that is needed to use them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from cifar.config.params import read_section
from cifar.config.schema import CLASS_COUNTS, IMAGE_SIZE, SIZES, Mean, ModelSpec, Result, Std
from cifar.data.splits import Statistics
from cifar.nn.networks import Task, build_network
from cifar.system.errors import InputError, is_out_of_memory, printable
from cifar.system.files import missing, replacing, write_json

FOLDER = Path("models")


class Model(NamedTuple):
    """A network, the statistics by which its inputs are normalised, the names of its classes, and its images' side."""

    network: nn.Module
    statistics: Statistics
    classes: list[str]
    image_size: int = IMAGE_SIZE  # pixels; model.json leaves it out if it is this


def save_model(
    model: Model,
    spec: ModelSpec,
    environment: dict[str, Any],
    *,
    trained_on: Sequence[dict[str, Any]] = (),
    folder: Path = FOLDER,
) -> None:
    """Write model.safetensors (weights) and model.json (all else, so that nobody needs params.yaml to use the model).

    `spec` is the network's. `environment` decides the bits of the weights next to params, code and data: see
    `cifar.system.device`. `trained_on` says which epochs ran in which environment, as in
    `cifar.training.checkpoint.Checkpoints`. It is written if an epoch ran in another environment.
    """
    weights = save({name: value.contiguous() for name, value in model.network.state_dict().items()})
    with replacing(folder / "model.safetensors") as part:
        part.write_bytes(weights)
    card = {"network": spec.model_dump(), **model.statistics._asdict(), "classes": model.classes}
    card |= {"image_size": model.image_size} if model.image_size != IMAGE_SIZE else {}
    card |= {"sha256": hashlib.sha256(weights).hexdigest(), "environment": environment}
    if any(part["environment"] != environment for part in trained_on):
        card["trained_on"] = list(trained_on)
    write_json(folder / "model.json", card)


class Card(Result):
    """What is needed of models/model.json to use a model."""

    network: ModelSpec
    mean: Annotated[list[Mean], Field(min_length=3, max_length=3)]
    std: Annotated[list[Std], Field(min_length=3, max_length=3)]
    classes: Annotated[list[str], Field(min_length=CLASS_COUNTS[0], max_length=CLASS_COUNTS[-1])]
    image_size: Annotated[int, Field(ge=SIZES[0], le=SIZES[-1])] = IMAGE_SIZE
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @model_validator(mode="after")
    def _classes_differ(self) -> Card:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        return self


def check_fits(model: Model, classes: Sequence[str], size: int) -> None:
    """Raise InputError unless the model was trained on these classes and on images of `size` x `size` pixels."""
    if model.image_size != size:
        raise InputError(
            f"the model is for images of {model.image_size}x{model.image_size} pixels, those of the data set have "
            f"{size}x{size}; run `dvc repro train`"
        )
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

    Raises InputError when a file is missing or damaged, or when the weights do not fit model.json or are not finite.
    """
    card, path = read_section(folder / "model.json", Card), folder / "model.safetensors"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise missing(path) from None
    try:
        if hashlib.sha256(content).hexdigest() != card.sha256:
            raise SafetensorError
        weights = load(content)
    except (SafetensorError, KeyError):  # KeyError: a type of numbers that PyTorch lacks
        raise InputError(
            f"{path} is damaged or from another training than model.json; delete it and run `make repro`"
        ) from None
    network = build_network(card.network, Task(card.image_size, len(card.classes)), seed=0)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path} does not fit {folder}/model.json; delete both and run `dvc repro train`") from None
    if not all(torch.isfinite(value).all() for value in network.state_dict().values()):
        raise InputError(f"{path} holds weights that are not finite; delete it and run `dvc repro train`")
    return Model(network.eval(), Statistics(tuple(card.mean), tuple(card.std)), card.classes, card.image_size)
