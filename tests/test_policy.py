"""The augmentation policy: its names, its arguments, its draws."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pixels import augmented
from specs import policy_of

from cifar.config.params import check_params, read_yaml
from cifar.data.policy import augment_batch, build_policy, known_transforms
from cifar.system.errors import InputError

ROOT = Path(__file__).parents[1]
MEAN = [0.491400, 0.482158, 0.446531]
PAD = ("Pad", {"padding": 4, "border_mode": "BORDER_REFLECT_101"})
SOME_PADDED = ("Pad", {"padding": 4, "p": 0.5})
CROP = ("RandomCrop", {"height": 32, "width": 32})
CUTOUT = ("CoarseDropout", {"num_holes_range": [1, 1], "hole_height_range": [8, 8], "hole_width_range": [8, 8],
                            "fill": "mean", "p": 1.0})  # fmt: skip


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)


def test_same_key_same_images_and_other_keys_others(images):
    policy = policy_of([PAD, CROP, ("HorizontalFlip", {"p": 0.5})], MEAN, 32)
    first = augmented(policy, images, (0, 3, 7))
    for other in [(1, 3, 7), (0, 4, 7), (0, 3, 8)]:
        assert not np.array_equal(augmented(policy, images, other), first)
    assert np.array_equal(augmented(policy, images, (0, 3, 7)), first)
    assert np.array_equal(
        augmented(policy_of([PAD, CROP, ("HorizontalFlip", {"p": 0.5})], MEAN, 32), images, (0, 3, 7)), first
    )


def test_each_image_has_draws_of_its_own(images):
    policy = policy_of([("HorizontalFlip", {"p": 0.5})], MEAN, 32)
    same = np.repeat(images[:1], 200, axis=0)
    flipped = (augmented(policy, same) != same).any((1, 2, 3))
    assert 70 < flipped.sum() < 130  # 100 expected, deviation 7


def test_crop_is_a_window_of_the_reflected_image(images):
    policy = policy_of([PAD, CROP], MEAN, 32)
    for image, cropped in zip(images, augmented(policy, images), strict=True):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")  # without repeating the border
        windows = [padded[y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
        assert any(np.array_equal(cropped, window) for window in windows)


def test_crop_reaches_every_place():
    policy = policy_of([PAD, CROP], MEAN, 32)
    ramp = np.zeros((2000, 32, 32, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(32)[:, None] + 4, np.arange(32) + 4
    middle = augmented(policy, ramp)[:, 16, 16].astype(int)
    assert {tuple(place) for place in middle[:, :2]} == {(y, x) for y in range(16, 25) for x in range(16, 25)}


def test_cutout_is_one_whole_hole_of_the_mean_colour(images):
    policy = policy_of([CUTOUT], MEAN, 32)
    black = np.zeros_like(images)
    for image in augmented(policy, black):
        hole = image.any(-1)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert (len(rows), len(columns), hole.sum()) == (8, 8, 64)
        assert image[hole].tolist() == [[125, 123, 114]] * 64  # 255 x 0.4914, 0.4822, 0.4465


def test_images_are_not_changed_in_place(images):
    before = images.copy()
    augmented(policy_of([CUTOUT], MEAN, 32), images)
    assert np.array_equal(images, before)


def test_no_transforms_leave_the_images_as_they_are(images):
    assert np.array_equal(augmented(policy_of([], MEAN, 32), images), images)


@pytest.mark.parametrize(("interpolation", "border", "values"), [
    ("INTER_NEAREST", "BORDER_CONSTANT", {0, 127, 255}),  # nothing in between; the corners, which come from outside
    ("INTER_NEAREST", "BORDER_REFLECT_101", {0, 255}),
])  # fmt: skip
def test_opencv_constants_go_by_name(interpolation, border, values):
    checks = np.zeros((1, 32, 32, 3), np.uint8)
    checks[:, ::2, ::2] = 255
    rotate = {"limit": [45, 45], "p": 1.0, "border_mode": border, "fill": 127, "interpolation": interpolation}
    turned = augmented(policy_of([("Rotate", rotate)], MEAN, 32), checks)
    assert set(np.unique(turned).tolist()) == values
    assert (turned[:, 0, 0] == 127).all() == (127 in values)


@pytest.mark.parametrize("size", [16, 48])
def test_the_images_size_goes_by_name(size):
    images = np.random.default_rng(0).integers(0, 256, (6, size, size, 3), np.uint8)
    policies = [
        policy_of([PAD, ("RandomCrop", {"height": of_image, "width": of_image})], MEAN, size)
        for of_image in (size, "image")
    ]
    found, expected = (augmented(policy, images) for policy in policies)
    assert found.shape == images.shape and np.array_equal(found, expected)
    assert not np.array_equal(found, images)


def test_a_word_that_an_argument_itself_knows_stays_that_word(images):
    quarter = ("Resize", {"height": 8, "width": 8, "area_for_downscale": "image"})  # by the area: means of 4x4 pixels
    enlarged = ("Resize", {"height": "image", "width": "image", "interpolation": "INTER_NEAREST"})
    found = augmented(policy_of([quarter, enlarged], MEAN, 32), images)
    assert np.abs(found[:, ::4, ::4] - images.reshape(40, 8, 4, 8, 4, 3).mean(axis=(2, 4))).max() <= 0.5


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted(ROOT.glob("recipes/*.yaml"))], ids=lambda path: path.stem
)
def test_shipped_policies_are_valid(path):
    params = check_params(read_yaml(path), path)
    build_policy(params.augment, MEAN, 32)


@pytest.mark.parametrize(("transform", "message"), [
    (("HorizontalFlop", {}), "augment[0].name is 'HorizontalFlop', which is not an image transform of"),
    (("Lambda", {}), "augment[0].name is 'Lambda', which is not an image transform"),
    (("Compose", {}), "augment[0].name is 'Compose', which is not an image transform"),
    (("os.system", {}), "augment[0].name is 'os.system', which is not an image transform"),
    (("HorizontalFlip", {"probability": 0.5}), "augment[0].probability is not an argument of HorizontalFlip, which"),
    (("AlternatingFlip", {"p": 0.5}), "augment[0].p is not an argument of AlternatingFlip, which takes none"),
    (("HorizontalFlip", {"p": 1.5}), "augment[0]: HorizontalFlip refuses its arguments: p:"),
    (("CoarseDropout", {"num_holes_range": [3, 1]}), "augment[0]: CoarseDropout refuses its arguments: num_holes"),
    (("RandomCrop", {"height": 40, "width": 40}), "augment does not work on a 32x32 image"),
    (("Resize", {"height": 40, "width": 40}), "augment turns images into uint8 40 x 40 x 3"),
    (("Normalize", {}), "augment turns images into float32 32 x 32 x 3"),
    (("RandomCrop", {"height": "images", "width": 32}), "augment[0]: RandomCrop refuses its arguments: height:"),
    (("Resize", {"height": 40, "width": 40, "p": 0.0001}), "augment turns images into uint8 40 x 40 x 3"),
    (("RandomCrop", {"height": 40, "width": 40, "p": 0.0001}), "augment does not work on a 32x32 image"),
    (("HistogramMatching", {"reference_images": ["a.png"], "read_fn": "os.system"}), "augment"),
])  # fmt: skip
def test_bad_policies_are_refused_in_one_line(transform, message):
    with pytest.raises(InputError) as caught:
        policy_of([transform], MEAN, 32)
    assert message in str(caught.value)


def test_an_error_without_words_is_told_by_its_kind(monkeypatch):
    def fail(*_, **__) -> None:
        raise AssertionError

    monkeypatch.setattr("albumentations.Transpose.apply", fail)
    with pytest.raises(InputError, match="^augment does not work on a 32x32 image: AssertionError$"):
        policy_of([("Transpose", {})], MEAN, 32)


@pytest.mark.parametrize("transforms", [
    [SOME_PADDED, ("RandomCrop", {"height": 32, "width": 32, "p": 0.5})],
    [SOME_PADDED, ("RandomCrop", {"height": 40, "width": 40}), ("Resize", {"height": 32, "width": 32})],
])  # fmt: skip
def test_transforms_that_change_the_shape_of_some_images_only_are_told(images, transforms):
    with pytest.raises(InputError, match="augment (ends at 32 x 32 x 3 for some images only|does not work on)"):
        for epoch in range(20):
            augmented(policy_of(transforms, MEAN, 32), images, (0, epoch, 0))


HOLES = "CoarseDropout", {"hole_height_range": [8, 8], "hole_width_range": [8, 8], "fill": 0, "p": 1}
BORDER = "Pad", {"padding": 4, "border_mode": "BORDER_CONSTANT", "fill": 0}


@pytest.mark.parametrize("transforms", [
    [("ToFloat", {}), BORDER, ("RandomCrop", {"height": 32, "width": 32}), ("FromFloat", {})],
    [("ToFloat", {}), HOLES, ("FromFloat", {})],
    [("ToFloat", {}), ("FromFloat", {"p": 0.5})],
])  # fmt: skip
def test_float_images_do_not_reach_what_takes_whole_batches_of_bytes(images, transforms):
    with pytest.raises(InputError, match="^augment (has float32 images after .*Float,|turns images into float32)"):
        for epoch in range(20):
            augmented(policy_of(transforms, MEAN, 32), images, (0, epoch, 0))
    within = [("ToFloat", {}), ("Rotate", {"limit": [0, 0]}), ("FromFloat", {})]  # one by one, and back
    assert (augmented(policy_of(within, MEAN, 32), images) == images).all()


def test_alternating_flips_show_both_sides_in_turn():
    # Jordan (2024), section 3.6: a random half at first, and from then on the other side in each epoch.
    policy = policy_of([("AlternatingFlip", {})], MEAN, 32)
    many = np.random.default_rng(1).integers(0, 256, (2000, 32, 32, 3), np.uint8)
    epochs = [augmented(policy, many, (0, epoch, 0)) for epoch in range(4)]
    assert np.array_equal(epochs[0], epochs[2]) and np.array_equal(epochs[1], epochs[3])
    assert np.array_equal(epochs[0], epochs[1][:, :, ::-1])
    flipped = (epochs[0] != many).any((1, 2, 3))
    assert 900 < flipped.sum() < 1100  # 1000 expected, deviation 22
    other = augmented(policy, many, (1, 0, 0))
    assert 900 < (epochs[0] != other).any((1, 2, 3)).sum() < 1100  # another seed, other halves


def test_alternating_flips_go_by_image_not_by_place_in_the_batch(images):
    policy, index = policy_of([("AlternatingFlip", {})], MEAN, 32), np.array([7, 3, 30])
    found = augment_batch(policy, torch.from_numpy(images[index]), index, (0, 1, 5))
    assert np.array_equal(found.numpy(), augmented(policy, images, (0, 1, 0))[index])


FRESH = """
import os, sys
import cv2
from cifar.config.schema import TransformSpec
from cifar.data.policy import build_policy
assert "NO_ALBUMENTATIONS_UPDATE" not in os.environ and "albumentations" not in sys.modules
assert cv2.getNumThreads() == 2
build_policy([TransformSpec(name="Rotate")], [0.5] * 3, 32)
assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1" and cv2.getNumThreads() == 1
"""


def test_importing_does_nothing_and_building_a_policy_neither_asks_the_network_nor_starts_threads():
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    environment["OPENCV_FOR_THREADS_NUM"] = "2"  # as on a machine of two processors
    subprocess.run([sys.executable, "-c", FRESH], cwd=ROOT, env=environment, check=True)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-300, 300) | st.floats() | st.text(max_size=4)
    | st.sampled_from(["mean", "BORDER_REFLECT_101", "INTER_AREA", "BORDER_"]) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@st.composite
def policies(draw) -> list[tuple[str, dict]]:
    """Up to two of Albumentations' transforms, with some of their own arguments, of any value."""
    names = draw(st.lists(st.sampled_from(sorted(known_transforms())), min_size=1, max_size=2))
    arguments = [st.sampled_from([*inspect.signature(known_transforms()[name]).parameters, "p"]) for name in names]
    return [
        (name, draw(st.dictionaries(keys, values, max_size=3))) for name, keys in zip(names, arguments, strict=True)
    ]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(policies())
@pytest.mark.filterwarnings("ignore")
def test_any_policy_works_or_is_refused_in_words(transforms):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    try:
        found = augmented(policy_of(transforms, MEAN, 32), images)
        assert found.shape == images.shape and found.dtype == np.uint8
    except InputError as error:
        assert "augment" in str(error) and len(str(error)) > 20
