"""The augmentation policy: Albumentations transforms named in params.yaml, drawn anew for every batch.

`cifar.data.transforms` covers the most used ones and takes the whole batch at once, on any device. All other transforms
take one image after another, on the CPU.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from cifar.config.schema import TransformSpec
from cifar.data.transforms import Draws, Transform, alternating_flip, cut_random_holes, pad, random_crop, random_flip
from cifar.system.errors import InputError, is_out_of_memory, one_line

if TYPE_CHECKING:
    from albumentations import BasicTransform, Compose

NOT_IN_A_POLICY = "Lambda", "ToTensorV2", "ToTensor3D"  # they take code, or turn images into tensors


class AlternatingFlip:
    """Our own transform, which a policy names like one of Albumentations: `cifar.data.transforms.alternating_flip`."""


class Policy(NamedTuple):
    """Transforms of a batch, in order."""

    transforms: list[Transform]
    is_batched: bool  # does every transform take the whole batch at once?
    size: int  # pixels: the side of the images, before and after the transforms


def import_albumentations() -> ModuleType:
    """Albumentations, without its question to the network for a newer version, and OpenCV without threads of its own.

    A process that has used OpenCV's threads must not fork: a child that uses them, as a worker would, waits for ever.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read while it is imported
    import albumentations

    cv2.setNumThreads(0)
    return albumentations


def build_policy(augment: Sequence[TransformSpec], mean: Sequence[float], size: int) -> Policy:
    """The policy that applies the transforms of `augment` in order to a uint8 image (size, size, 3).

    Some values of arguments have names: `mean` is the `mean` colour (3,) of [0, 1], `image` is the image's `size`, and
    BORDER_... and INTER_... are OpenCV's constants. A word that the argument itself knows, as `area_for_downscale` of
    RandomResizedCrop knows `image`, stays that word. Raises InputError for an unknown transform or argument, or one
    that does not fit. The policy is tried on a blank image twice, as it is and with every transform applied, to find
    here what would fail only later, with some image.
    """
    names = {"mean": tuple(round(255 * channel) for channel in mean), "image": size}
    transforms = [(step.name, step.arguments) for step in augment]
    steps = [_build_transform(f"augment[{i}]", *transform, names) for i, transform in enumerate(transforms)]
    _try(steps, size)
    _try([_build_transform(f"augment[{i}]", *_always(*step), names) for i, step in enumerate(transforms)], size)

    batch_transforms: list[Transform] = []
    for is_batched, group in groupby(steps, key=lambda step: batched(step, size) is not None):
        consecutive = list(group)
        batch_transforms += [batched(step, size) for step in consecutive] if is_batched else [_one_by_one(consecutive)]
    return Policy(batch_transforms, is_batched=all(batched(step, size) for step in steps), size=size)


def batched(step: BasicTransform | AlternatingFlip, size: int) -> Transform | None:
    """The same as `step` on a batch of images of `size` pixels a side.

    None where `cifar.data.transforms` does not cover the step or its arguments.
    """
    match type(step).__name__:  # not isinstance: a subclass is another transform
        case "AlternatingFlip":
            return alternating_flip
        case "HorizontalFlip":
            return partial(random_flip, axis=2, p=step.p)
        case "VerticalFlip":
            return partial(random_flip, axis=1, p=step.p)
        case "Pad" if step.p == 1 and isinstance(step.padding, int) and step.padding < size:
            if step.border_mode == cv2.BORDER_REFLECT_101:
                return lambda images, draws: pad(images, step.padding, fill=None)
            if step.border_mode == cv2.BORDER_CONSTANT and _is_colour(step.fill):
                return lambda images, draws: pad(images, step.padding, step.fill)
        case "RandomCrop" if step.p == 1 and not step.pad_if_needed:
            return partial(random_crop, height=step.height, width=step.width)
        case "CoarseDropout" if _is_colour(step.fill):
            heights, widths = step.hole_height_range, step.hole_width_range
            if min(heights[1], widths[1]) >= 1:  # in pixels; below 1 they are shares of the image
                pixels = {"heights": tuple(map(int, heights)), "widths": tuple(map(int, widths))}
                return partial(cut_random_holes, counts=step.num_holes_range, **pixels, fill=step.fill, p=step.p)
    return None


def augment_batch(policy: Policy, images: Tensor, index: np.ndarray, key: Sequence[int]) -> Tensor:
    """`images` uint8 (N, S, S, 3) through `policy`, each with draws of its own from `key` = (seed, epoch, batch).

    `index` (N,) says which images of the training set they are. The key includes the batch, so the result depends
    neither on earlier batches nor on the process that computes it. Raises InputError where the policy does not work.
    """
    seed, epoch, _ = key
    # NumPy fills up a short seed with zeros: [seed, epoch, 0, 0] is [seed, epoch], by which `epoch_batches` orders the
    # images. So the first transform of batch 0 shares its random numbers with that order. A change of this would change
    # the result of every training.
    try:
        for number, transform in enumerate(policy.transforms):
            images = transform(images, Draws(np.random.default_rng([*key, number]), index, epoch, seed))
    except InputError:
        raise
    except ValueError as error:  # a random number from an empty range: what is cut is larger than the images
        raise InputError(f"augment does not work on {' x '.join(map(str, images.shape[1:]))}: {error}") from None
    if images.shape[1:] != (policy.size, policy.size, 3):
        raise _shape_varies(policy.size)
    return images.contiguous()


def _one_by_one(steps: Sequence[BasicTransform]) -> Transform:
    """`steps` by Albumentations, on one image after another."""
    compose = import_albumentations().Compose(steps, seed=0)

    def apply(images: Tensor, draws: Draws) -> Tensor:
        compose.set_random_seed(int(draws.random.integers(2**32)))
        augmented = [_apply(compose, image) for image in images.cpu().numpy()]
        if len({image.shape for image in augmented}) > 1:
            raise _shape_varies(images.shape[1])
        if kinds := {str(image.dtype) for image in augmented} - {"uint8"}:
            after = f"after {type(steps[-1]).__name__}"
            raise InputError(f"augment has {kinds.pop()} images {after}, where all must be uint8; put FromFloat there")
        return torch.from_numpy(np.stack(augmented)).to(images.device)

    return apply


def _shape_varies(size: int) -> InputError:
    return InputError(f"augment ends at {size} x {size} x 3 for some images only; see its transforms' p")


def _try(steps: Sequence[BasicTransform | AlternatingFlip], size: int) -> None:
    """Raise InputError unless Albumentations' part of `steps` keeps the shape and type of a blank image."""
    foreign = [step for step in steps if not isinstance(step, AlternatingFlip)]
    image = _apply(import_albumentations().Compose(foreign, seed=0), np.zeros((size, size, 3), np.uint8))
    if image.shape != (size, size, 3) or image.dtype != np.uint8:
        result = f"{image.dtype} {' x '.join(map(str, image.shape))}"
        hint = "normalising comes later" if image.dtype != np.uint8 else "`image` as an argument is the images' size"
        raise InputError(f"augment turns images into {result}, it must end at uint8 {size} x {size} x 3; {hint}")


def _apply(compose: Compose, image: np.ndarray) -> np.ndarray:
    try:
        return compose(image=image)["image"]
    except Exception as error:  # whatever a transform raises, it is the policy that does not work
        if is_out_of_memory(error):
            raise
        size = "x".join(map(str, image.shape[:2]))
        reason = one_line(error) or type(error).__name__
        raise InputError(f"augment does not work on a {size} image: {reason}") from None


def _always(name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The same transform, applied with probability 1."""
    return name, arguments | ({} if name == AlternatingFlip.__name__ else {"p": 1.0})


def _build_transform(
    key: str, name: str, arguments: dict[str, Any], names: dict[str, Any]
) -> BasicTransform | AlternatingFlip:
    transforms = known_transforms()
    if name not in transforms:
        near = difflib.get_close_matches(name, transforms, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise InputError(f"{key}.name is {name!r}, which is not an image transform of Albumentations{hint}")
    parameters = inspect.signature(transforms[name]).parameters
    values = {}
    for argument, value in arguments.items():
        if argument not in parameters:
            known = ", ".join(parameters) or "none"
            raise InputError(f"{key}.{argument} is not an argument of {name}, which takes {known}")
        own = str(parameters[argument].annotation)  # such as Literal[None, 'image', 'image_mask']
        values[argument] = _constant(value, {word: names[word] for word in names if repr(word) not in own})
    try:
        return transforms[name](**values)
    except Exception as error:  # whatever a transform raises, its arguments are not what it expects
        if is_out_of_memory(error):
            raise
        raise InputError(f"{key}: {name} refuses its arguments: {_reason(error)}") from None


def known_transforms() -> dict[str, Callable[..., BasicTransform | AlternatingFlip]]:
    """The classes that a policy may name: Albumentations' image transforms, and our own."""
    albumentations = import_albumentations()
    return {
        name: kind
        for name, kind in vars(albumentations).items()
        if inspect.isclass(kind)
        and issubclass(kind, albumentations.BasicTransform)
        and not inspect.isabstract(kind)
        and name not in NOT_IN_A_POLICY
    } | {AlternatingFlip.__name__: AlternatingFlip}


def _constant(value: Any, names: dict[str, Any]) -> Any:
    """The `value` of an argument with names replaced: by OpenCV's constant, or by what `names` says."""
    if isinstance(value, str) and value.startswith(("BORDER_", "INTER_")) and hasattr(cv2, value):
        return getattr(cv2, value)
    if isinstance(value, list):
        return tuple(_constant(item, names) for item in value)
    return names.get(value, value) if isinstance(value, str) else value


def _is_colour(fill: Any) -> bool:
    """One or three whole numbers from 0 to 255: Albumentations' transforms round other numbers in different ways."""
    values = np.array(fill)
    is_number = values.dtype.kind in "iuf" and values.size in (1, 3)
    return is_number and bool(((values == values.round()) & (values >= 0) & (values <= 255)).all())


def _reason(error: Exception) -> str:
    """The first complaint of the pydantic error that Albumentations wraps; another error's own words."""
    if not isinstance(error.__cause__, ValidationError):
        return one_line(error) or type(error).__name__
    problem = error.__cause__.errors()[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
