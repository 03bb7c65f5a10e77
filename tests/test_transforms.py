"""Each transform of a batch against Albumentations' own on the same draws, and the draws against their description."""

import albumentations
import cv2
import numpy as np
import pytest
import torch
from specs import policy_of

from cifar.data.policy import batched
from cifar.data.transforms import Draws, crop, cut_out, flip, pad

MEAN = [0.491400, 0.482158, 0.446531]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)


def each(transform: albumentations.BasicTransform, images: np.ndarray) -> np.ndarray:
    return np.stack([transform(image=image)["image"] for image in images])


@pytest.mark.parametrize("padding", [0, 4, 31])
@pytest.mark.parametrize(
    ("mode", "fill"),
    [(cv2.BORDER_REFLECT_101, 0), *((cv2.BORDER_CONSTANT, fill) for fill in (0, 127, (125, 123, 114)))],
)
def test_padding_is_albumentations(images, padding, mode, fill):
    theirs = albumentations.Pad(padding=padding, border_mode=mode, fill=fill, p=1.0)
    ours = batched(theirs, 32)
    assert ours is not None
    found = ours(torch.from_numpy(images), draws())
    assert np.array_equal(found.numpy(), each(theirs, images))
    colour = fill if mode == cv2.BORDER_CONSTANT else None
    assert torch.equal(pad(torch.from_numpy(images), padding, colour), found)


def test_cropping_is_albumentations(images):
    random = np.random.default_rng(1)
    tops, lefts = random.integers(0, 9, 30), random.integers(0, 13, 30)
    found = crop(torch.from_numpy(images), tops, lefts, height=24, width=20)
    for image, top, left, window in zip(images, tops, lefts, found.numpy(), strict=True):
        theirs = albumentations.Crop(x_min=left, y_min=top, x_max=left + 20, y_max=top + 24)
        assert np.array_equal(window, theirs(image=image)["image"])


@pytest.mark.parametrize(("axis", "kind"), [(1, albumentations.VerticalFlip), (2, albumentations.HorizontalFlip)])
def test_flips_are_albumentations(images, axis, kind):
    is_flipped = np.arange(30) % 3 == 0
    found = flip(torch.from_numpy(images), is_flipped, axis).numpy()
    assert np.array_equal(found[is_flipped], each(kind(p=1.0), images[is_flipped]))
    assert np.array_equal(found[~is_flipped], images[~is_flipped])


@pytest.mark.parametrize("fill", [0, 200, (125, 123, 114)])
def test_cutout_is_albumentations(images, fill):
    random = np.random.default_rng(1)
    corners, sizes = random.integers(0, 20, (30, 3, 2)), random.integers(0, 13, (30, 3, 2))
    holes = np.concatenate([corners, corners + sizes], axis=-1)  # (30, 3, 4), some of them empty
    theirs = albumentations.CoarseDropout(fill=fill)
    found = cut_out(torch.from_numpy(images), holes, fill).numpy()
    for image, three, ours in zip(images, holes, found, strict=True):
        assert np.array_equal(ours, theirs.apply(image, holes=three, seed=0))


def draws(seed: int = 0) -> Draws:
    return Draws(np.random.default_rng(seed), np.arange(30), epoch=0, seed=0)


@pytest.mark.parametrize(
    "step",
    [
        albumentations.Rotate(limit=5),
        albumentations.PadIfNeeded(40, 40),
        albumentations.Pad(padding=(1, 2)),
        albumentations.Pad(padding=4, p=0.5),
        albumentations.Pad(padding=4, fill=127.6),  # OpenCV rounds what NumPy cuts off
        albumentations.Pad(padding=4, border_mode=cv2.BORDER_WRAP),
        albumentations.RandomCrop(32, 32, pad_if_needed=True),
        albumentations.CoarseDropout(hole_height_range=(0.1, 0.2), hole_width_range=(0.1, 0.2)),
        albumentations.CoarseDropout(fill="random", hole_height_range=(8, 8), hole_width_range=(8, 8)),
    ],
    ids=lambda step: f"{type(step).__name__}",
)
def test_what_it_does_not_cover_is_left_to_albumentations(step):
    assert batched(step, 32) is None


def cut(holes: tuple[int, int], p: float) -> np.ndarray:
    """Where 6,000 images are cut by that many holes, 3 to 5 pixels high and 7 wide: (N, 32, 32)."""
    step = albumentations.CoarseDropout(holes, (3, 5), (7, 7), fill=255, p=p)
    black = torch.zeros(6000, 32, 32, 3, dtype=torch.uint8)
    return batched(step, 32)(black, draws()).numpy()[..., 0] == 255


def test_a_cutout_has_every_size_and_place_that_is_named_and_comes_with_its_probability():
    found = cut((1, 1), p=0.75)
    is_cut = found.any((1, 2))
    assert is_cut.mean() == pytest.approx(0.75, abs=0.03)  # deviation 0.006
    heights, widths = found[is_cut].any(2).sum(1), found[is_cut].any(1).sum(1)
    assert np.array_equal(heights * widths, found[is_cut].sum((1, 2)))  # whole rectangles
    assert (widths == 7).all() and np.bincount(heights)[3:] / is_cut.sum() == pytest.approx(np.full(3, 1 / 3), abs=0.03)
    assert set(found[is_cut].any(1).argmax(1)) == set(range(32 - 7 + 1))
    assert set(found[is_cut].any(2).argmax(1)) == set(range(32 - 3 + 1))


def test_as_many_cutouts_as_drawn():
    areas = cut((1, 2), p=1.0).sum((1, 2))
    assert areas.min() == 21 and areas.max() == 70  # one of 3x7; two of 5x7 apart
    assert (areas > 35).mean() == pytest.approx(0.5, abs=0.1)  # half are two, a few of which overlap much


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_flips_come_with_their_probability(p):
    ramp = torch.arange(32, dtype=torch.uint8)[None, None, :, None].expand(4000, 32, 32, 3)
    for kind, first in (albumentations.HorizontalFlip, 0), (albumentations.VerticalFlip, None):
        found = batched(kind(p=p), 32)(ramp if first == 0 else ramp.transpose(1, 2), draws())
        assert (found[:, 0, 0, 0] == 31).float().mean().item() == pytest.approx(p, abs=0.03)


def test_a_policy_of_both_kinds_keeps_their_order(images):
    # Rotation by 90 degrees before or after a flip: the one is the other turned by 180.
    rotate = ("Rotate", {"limit": [90, 90], "p": 1.0, "interpolation": "INTER_NEAREST"})
    flip_ = ("HorizontalFlip", {"p": 1.0})
    one, other = (run(policy_of(steps, MEAN, 32), images) for steps in ([rotate, flip_], [flip_, rotate]))
    inner = np.s_[:, 4:28, 4:28]
    assert np.array_equal(one[inner], other[:, ::-1, ::-1][inner]) and not np.array_equal(one[inner], other[inner])
    assert not policy_of([rotate, flip_], MEAN, 32).is_batched and policy_of([flip_], MEAN, 32).is_batched


def run(policy, images: np.ndarray) -> np.ndarray:
    found = torch.from_numpy(images)
    for transform in policy.transforms:
        found = transform(found, draws())
    return found.numpy()
