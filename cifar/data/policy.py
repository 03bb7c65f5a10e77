"""The augmentation policy: Albumentations transforms named in params.yaml, drawn anew for every batch.

Those that `cifar.data.transforms` covers take the whole batch at once, on any device. The others take one image after
another, on the CPU.
"""

import difflib
import inspect
import os
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for its newest version while importing
import albumentations
import cv2
from pydantic import ValidationError

from cifar.config.schema import IMAGE_SIZE
from cifar.data.transforms import Draws, Transform, crop_anywhere, cut_holes, flip_alternately, flip_some, pad
from cifar.system.process import InputError

IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)

# A process that has used OpenCV's threads cannot fork one that does, as workers would: the child waits for ever.
cv2.setNumThreads(0)


class AlternatingFlip(albumentations.HorizontalFlip):
    """Ours, but named in a policy like an Albumentations transform: see `cifar.data.transforms.flip_alternately`."""

    def __init__(self):
        super().__init__(p=1.0)


class Policy(NamedTuple):
    """Transforms of a batch, in order."""

    transforms: list[Transform]
    is_batched: bool  # is there none that takes one image after another?


def build_policy(transforms: Sequence[tuple[str, dict[str, Any]]], mean: Sequence[float]) -> Policy:
    """The policy that applies `transforms`, (name, arguments) each, in order to a uint8 image (32, 32, 3).

    Two kinds of argument have names of their own: `fill: mean` is the `mean` colour (3,) of [0, 1], and BORDER_... or
    INTER_... are OpenCV's constants. Raises InputError for an unknown transform or argument, or one that does not fit;
    the policy is tried on a blank image, as it is and with no transform left out, so what can only fail with an image
    fails here.
    """
    colour = tuple(round(255 * channel) for channel in mean)
    steps = [_build_transform(f"augment[{i}]", *transform, colour) for i, transform in enumerate(transforms)]
    _try(steps)
    as_given = [step.p for step in steps]
    for step in steps:
        step.p = 1.0
    _try(steps)
    for step, p in zip(steps, as_given, strict=True):
        step.p = p

    found: list[Transform] = []
    for is_batched, group in groupby(steps, key=lambda step: batched(step) is not None):
        consecutive = list(group)
        found += [batched(step) for step in consecutive] if is_batched else [_one_by_one(consecutive)]
    return Policy(found, is_batched=all(batched(step) for step in steps))


def batched(step: albumentations.BasicTransform) -> Transform | None:
    """The same as `step` on a batch, or None where `cifar.data.transforms` does not cover its kind or its arguments."""
    kind = type(step)  # not isinstance: a subclass is another transform
    if kind is AlternatingFlip:
        return flip_alternately
    if kind is albumentations.HorizontalFlip:
        return partial(flip_some, axis=2, p=step.p)
    if kind is albumentations.VerticalFlip:
        return partial(flip_some, axis=1, p=step.p)
    if kind is albumentations.Pad and step.p == 1 and isinstance(step.padding, int) and step.padding < IMAGE_SIZE:
        if step.border_mode == cv2.BORDER_REFLECT_101:
            return lambda images, draws: pad(images, step.padding, fill=None)
        if step.border_mode == cv2.BORDER_CONSTANT and _is_colour(step.fill):
            return lambda images, draws: pad(images, step.padding, step.fill)
    if kind is albumentations.RandomCrop and step.p == 1 and not step.pad_if_needed:
        return partial(crop_anywhere, height=step.height, width=step.width)
    if kind is albumentations.CoarseDropout and _is_colour(step.fill):
        heights, widths = step.hole_height_range, step.hole_width_range
        if min(heights[1], widths[1]) >= 1:  # in pixels: they are shares of the image below that
            whole = {"heights": tuple(map(int, heights)), "widths": tuple(map(int, widths))}
            return partial(cut_holes, counts=step.num_holes_range, **whole, fill=step.fill, p=step.p)
    return None


def _is_colour(fill: Any) -> bool:
    """One or three whole numbers from 0 to 255: Albumentations' transforms differ in how they round others."""
    values = np.array(fill)
    is_number = values.dtype.kind in "iuf" and values.size in (1, 3)
    return is_number and bool(((values == values.round()) & (values >= 0) & (values <= 255)).all())


def _try(steps: Sequence[albumentations.BasicTransform]) -> None:
    image = _apply(albumentations.Compose(steps, seed=0), np.zeros(IMAGE_SHAPE, np.uint8))
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
    """Albumentations' own transforms, without those that take code or turn images into tensors; and our own."""
    found = {name: value for name, value in vars(albumentations).items() if inspect.isclass(value)}
    found |= {"AlternatingFlip": AlternatingFlip}
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


def _one_by_one(steps: Sequence[albumentations.BasicTransform]) -> Transform:
    """`steps` on one image after another, as Albumentations has it."""
    compose = albumentations.Compose(steps, seed=0)

    def apply(images: Tensor, draws: Draws) -> Tensor:
        compose.set_random_seed(int(draws.random.integers(2**32)))
        augmented = [_apply(compose, image) for image in images.cpu().numpy()]
        if len({image.shape for image in augmented}) > 1:
            raise InputError("augment ends at 32 x 32 x 3 for some images only; see its transforms' p")
        return torch.from_numpy(np.stack(augmented)).to(images.device)

    return apply


def augment_batch(policy: Policy, images: Tensor, index: np.ndarray, key: Sequence[int]) -> Tensor:
    """`images` uint8 (N, 32, 32, 3) through `policy`, each with draws of its own from `key` = (seed, epoch, batch).

    `index` (N,) says which images of the training set they are. Keyed by batch, the result depends neither on the
    batches before it nor on who computes them.
    """
    seed, epoch, _ = key
    try:
        for place, transform in enumerate(policy.transforms):
            images = transform(images, Draws(np.random.default_rng([*key, place]), index, epoch, seed))
    except InputError:
        raise
    except ValueError as error:  # of a draw from no places at all: the images are smaller than what is cut from them
        raise InputError(f"augment does not work on {' x '.join(map(str, images.shape[1:]))}: {error}") from None
    if images.shape[1:] != IMAGE_SHAPE:
        raise InputError("augment ends at 32 x 32 x 3 for some images only; see its transforms' p")
    return images.contiguous()
