"""The augmentation policy: its names, its arguments, its draws."""

import inspect

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar.augment import _transforms, augment_batch, build_policy
from cifar.console import InputError
from cifar.params import check_params, read_yaml

MEAN = [0.491400, 0.482158, 0.446531]
PAD = ("Pad", {"padding": 4, "border_mode": "BORDER_REFLECT_101"})
CROP = ("RandomCrop", {"height": 32, "width": 32})
CUTOUT = ("CoarseDropout", {"num_holes_range": [1, 1], "hole_height_range": [8, 8], "hole_width_range": [8, 8],
                            "fill": "mean", "p": 1.0})  # fmt: skip


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)


def test_same_key_same_images_and_other_keys_others(images):
    policy = build_policy([PAD, CROP, ("HorizontalFlip", {"p": 0.5})], MEAN, seed=0)
    first = augment_batch(policy, images, (0, 3, 7))
    for other in [(1, 3, 7), (0, 4, 7), (0, 3, 8)]:
        assert not np.array_equal(augment_batch(policy, images, other), first)
    assert np.array_equal(augment_batch(policy, images, (0, 3, 7)), first)
    assert np.array_equal(
        augment_batch(build_policy([PAD, CROP, ("HorizontalFlip", {"p": 0.5})], MEAN, 9), images, (0, 3, 7)), first
    )


def test_each_image_has_draws_of_its_own(images):
    policy = build_policy([("HorizontalFlip", {"p": 0.5})], MEAN, seed=0)
    same = np.repeat(images[:1], 200, axis=0)
    flipped = (augment_batch(policy, same, (0, 0, 0)) != same).any((1, 2, 3))
    assert 70 < flipped.sum() < 130  # 100 expected, deviation 7


def test_crop_is_a_window_of_the_reflected_image(images):
    policy = build_policy([PAD, CROP], MEAN, seed=0)
    for image, cropped in zip(images, augment_batch(policy, images, (0, 0, 0)), strict=True):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")  # without repeating the border
        windows = [padded[y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
        assert any(np.array_equal(cropped, window) for window in windows)


def test_crop_reaches_every_place(images):
    policy = build_policy([PAD, CROP], MEAN, seed=0)
    ramp = np.zeros((2000, 32, 32, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(32)[:, None] + 4, np.arange(32) + 4
    middle = augment_batch(policy, ramp, (0, 0, 0))[:, 16, 16].astype(int)
    assert {tuple(place) for place in middle[:, :2]} == {(y, x) for y in range(16, 25) for x in range(16, 25)}


def test_cutout_is_one_whole_hole_of_the_mean_colour(images):
    policy = build_policy([CUTOUT], MEAN, seed=0)
    black = np.zeros_like(images)
    for image in augment_batch(policy, black, (0, 0, 0)):
        hole = image.any(-1)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert (len(rows), len(columns), hole.sum()) == (8, 8, 64)
        assert image[hole].tolist() == [[125, 123, 114]] * 64  # 255 x 0.4914, 0.4822, 0.4465


def test_images_are_not_changed_in_place(images):
    before = images.copy()
    augment_batch(build_policy([CUTOUT], MEAN, seed=0), images, (0, 0, 0))
    assert np.array_equal(images, before)


def test_no_transforms_leave_the_images_as_they_are(images):
    assert np.array_equal(augment_batch(build_policy([], MEAN, seed=0), images, (0, 0, 0)), images)


def test_opencv_constants_go_by_name():
    policy = build_policy(
        [("Rotate", {"limit": [-15, 15], "interpolation": "INTER_NEAREST", "fill": 127})], MEAN, seed=0
    )
    assert policy.transforms[0].interpolation == cv2.INTER_NEAREST


@pytest.mark.parametrize("path", ["params.yaml", "recipes/demo.yaml"])
def test_shipped_policies_are_valid(path):
    params = check_params(read_yaml(path), path)
    build_policy([(step.name, step.arguments) for step in params.augment], MEAN, seed=0)


@pytest.mark.parametrize(("transform", "message"), [
    (("HorizontalFlop", {}), "augment[0].name is 'HorizontalFlop', which is no image transform of Albumentations, did"),
    (("Lambda", {}), "augment[0].name is 'Lambda', which is no image transform"),
    (("Compose", {}), "augment[0].name is 'Compose', which is no image transform"),
    (("os.system", {}), "augment[0].name is 'os.system', which is no image transform"),
    (("HorizontalFlip", {"probability": 0.5}), "augment[0].probability is no argument of HorizontalFlip, which"),
    (("HorizontalFlip", {"p": 1.5}), "augment[0]: HorizontalFlip refuses its arguments: p:"),
    (("CoarseDropout", {"num_holes_range": [3, 1]}), "augment[0]: CoarseDropout refuses its arguments: num_holes"),
    (("RandomCrop", {"height": 40, "width": 40}), "augment does not work on a 32x32 image"),
    (("Resize", {"height": 40, "width": 40}), "augment turns images into uint8 40 x 40 x 3"),
    (("Normalize", {}), "augment turns images into float32 32 x 32 x 3"),
    (("Resize", {"height": 40, "width": 40, "p": 0.0001}), "augment turns images into uint8 40 x 40 x 3"),
    (("RandomCrop", {"height": 40, "width": 40, "p": 0.0001}), "augment does not work on a 32x32 image"),
    (("HistogramMatching", {"reference_images": ["a.png"], "read_fn": "os.system"}), "augment"),
])  # fmt: skip
def test_bad_policies_are_refused_in_one_line(transform, message):
    with pytest.raises(InputError) as caught:
        build_policy([transform], MEAN, seed=0)
    assert message in str(caught.value)


def test_a_transform_that_changes_the_shape_of_some_images_only_is_told(images):
    policy = build_policy([PAD, CROP], MEAN, seed=0)
    policy.transforms[1].p = 0.5  # as a pair of transforms might, each valid with the other
    with pytest.raises(InputError, match="augment ends at 32 x 32 x 3 for some images only"):
        augment_batch(policy, images, (0, 0, 0))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-300, 300) | st.floats() | st.text(max_size=4)
    | st.sampled_from(["mean", "BORDER_REFLECT_101", "INTER_AREA", "BORDER_"]) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@st.composite
def policies(draw) -> list[tuple[str, dict]]:
    """Up to two of Albumentations' transforms, with some of their own arguments, of any value."""
    names = draw(st.lists(st.sampled_from(sorted(_transforms())), min_size=1, max_size=2))
    arguments = [st.sampled_from([*inspect.signature(_transforms()[name]).parameters, "p"]) for name in names]
    return [
        (name, draw(st.dictionaries(keys, values, max_size=3))) for name, keys in zip(names, arguments, strict=True)
    ]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(policies())
@pytest.mark.filterwarnings("ignore")
def test_any_policy_works_or_is_refused_in_words(transforms):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    try:
        augmented = augment_batch(build_policy(transforms, MEAN, seed=0), images, (0, 0, 0))
        assert augmented.shape == images.shape and augmented.dtype == np.uint8
    except InputError as error:
        assert "augment" in str(error) and len(str(error)) > 20
