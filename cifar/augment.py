"""The augmentation policy: Albumentations transforms named in params.yaml, drawn anew for every batch."""

import difflib
import inspect
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for its newest version while importing
import albumentations
import cv2
from pydantic import ValidationError

from cifar.console import InputError
from cifar.data import Split, epoch_batches

IMAGE_SHAPE = (32, 32, 3)


def build_policy(
    transforms: Sequence[tuple[str, dict[str, Any]]], mean: Sequence[float], seed: int
) -> albumentations.Compose:
    """The policy that applies `transforms`, (name, arguments) each, in order to a uint8 image (32, 32, 3).

    Two kinds of argument have names of their own: `fill: mean` is the `mean` colour (3,) of [0, 1], and BORDER_... or
    INTER_... are OpenCV's constants. Raises InputError for an unknown transform or argument, or one that does not fit;
    the policy is tried on a blank image, as it is and with no transform left out, so what can only fail with an image
    fails here.
    """
    colour = tuple(round(255 * channel) for channel in mean)
    steps = [_build_transform(f"augment[{i}]", *transform, colour) for i, transform in enumerate(transforms)]
    policy = albumentations.Compose(steps, seed=seed)
    _try(policy)
    as_given = [step.p for step in steps]
    for step in steps:
        step.p = 1.0
    _try(policy)
    for step, p in zip(steps, as_given, strict=True):
        step.p = p
    return policy


def _try(policy: albumentations.Compose) -> None:
    image = _apply(policy, np.zeros(IMAGE_SHAPE, np.uint8))
    if image.shape != IMAGE_SHAPE or image.dtype != np.uint8:
        found = f"{image.dtype} {' x '.join(map(str, image.shape))}"
        raise InputError(
            f"augment turns images into {found}, it must end at uint8 32 x 32 x 3; normalising comes later"
        )


def _apply(policy: albumentations.Compose, image: np.ndarray) -> np.ndarray:
    try:
        return policy(image=image)["image"]
    except Exception as error:  # whatever a transform raises, it is the policy that does not work
        raise InputError(f"augment does not work on a 32x32 image: {error or type(error).__name__}") from None


def _build_transform(
    key: str, name: str, arguments: dict[str, Any], colour: tuple[int, int, int]
) -> albumentations.BasicTransform:
    allowed = _transforms()
    if name not in allowed:
        raise InputError(f"{key}.name is {name!r}, which is no image transform of Albumentations{_near(name, allowed)}")
    known = inspect.signature(allowed[name]).parameters
    for argument in arguments:
        if argument not in known:
            raise InputError(f"{key}.{argument} is no argument of {name}, which takes {', '.join(known)}")
    try:
        return allowed[name](**{argument: _constant(value, colour) for argument, value in arguments.items()})
    except Exception as error:  # whatever a transform raises, its arguments are not what it expects
        raise InputError(f"{key}: {name} refuses its arguments: {_reason(error)}") from None


def _transforms() -> dict[str, type[albumentations.BasicTransform]]:
    """Albumentations' own transforms, without those that take code or turn images into tensors."""
    found = {name: value for name, value in vars(albumentations).items() if inspect.isclass(value)}
    return {
        name: kind
        for name, kind in found.items()
        if issubclass(kind, albumentations.BasicTransform)
        and not inspect.isabstract(kind)
        and name not in ("Lambda", "ToTensorV2", "ToTensor3D")
    }


def _constant(value: Any, colour: tuple[int, int, int]) -> Any:
    if isinstance(value, str) and value.startswith(("BORDER_", "INTER_")) and hasattr(cv2, value):
        return getattr(cv2, value)
    if isinstance(value, list):
        return tuple(_constant(item, colour) for item in value)
    return colour if value == "mean" else value


def _reason(error: Exception) -> str:
    """The first complaint of the pydantic error that Albumentations wraps; another error's own words."""
    if not isinstance(error.__cause__, ValidationError):
        return str(error)
    problem = error.__cause__.errors()[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"


def _near(name: str, names: dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f", did you mean {near[0]}?" if near else ""


def augment_batch(policy: albumentations.Compose, images: np.ndarray, key: Sequence[int]) -> np.ndarray:
    """`images` uint8 (N, 32, 32, 3) through `policy`, each with draws of its own from `key` = (seed, epoch, batch).

    Keyed by batch, the result depends neither on the batches before it nor on who computes them.
    """
    policy.set_random_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    augmented = [_apply(policy, image) for image in images]
    if {image.shape for image in augmented} != {IMAGE_SHAPE}:
        raise InputError("augment ends at 32 x 32 x 3 for some images only; see its transforms' p")
    return np.stack(augmented)


def training_batches(
    split: Split, policy: albumentations.Compose, batch_size: int, seed: int, epoch: int
) -> Iterator[Split]:
    """The epoch's batches as the network sees them but for normalising: shuffled and augmented."""
    for number, index in enumerate(epoch_batches(len(split.labels), batch_size, seed, epoch)):
        batch = split.take(index)
        yield Split(augment_batch(policy, batch.images, (seed, epoch, number)), batch.labels)
