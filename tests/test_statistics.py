import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar.data.splits import Split
from cifar.data.statistics import channel_statistics, count_classes, first_of_each_class, refuse_constant
from cifar.system.errors import InputError

CLASSES = [f"class{k}" for k in range(10)]


def values(by_channel: dict[str, float]) -> list[float]:
    return [by_channel[channel] for channel in ("red", "green", "blue")]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 2500), st.integers(0, 255), st.integers(0, 2**32))
def test_statistics_equal_numpy_in_float64(count, low, seed):
    images = np.random.default_rng(seed).integers(low, 256, (count, 2, 3, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(values(mean), (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(values(std), (images / 255).std(axis=(0, 1, 2)), rtol=1e-9, atol=1e-9)


def test_statistics_do_not_overflow_on_white_images():
    mean, std = channel_statistics(np.full((3000, 32, 32, 3), 255, dtype=np.uint8))
    assert (values(mean), values(std)) == ([1, 1, 1], [0, 0, 0])


def test_statistics_by_hand():
    images = np.zeros((1, 1, 2, 3), dtype=np.uint8)
    images[0, 0, 1] = [255, 51, 0]
    mean, std = channel_statistics(images)
    assert values(mean) == pytest.approx([0.5, 0.1, 0])
    assert values(std) == pytest.approx([0.5, 0.1, 0])  # of the population: half the difference


def test_a_channel_that_never_varies_is_refused_by_its_name_and_value():
    refuse_constant({"red": 0.2, "green": 0.4}, {"red": 0.1, "green": 0.3})
    with pytest.raises(InputError, match="^green is 51 in every pixel of the training images, so .*; add pictures"):
        refuse_constant({"red": 0.2, "green": 51 / 255}, {"red": 0.1, "green": 0.0})


def test_every_class_is_counted_also_one_without_images():
    labels = np.array([0, 9, 9], dtype=np.uint8)
    splits = {"train": Split(np.zeros((3, 32, 32, 3), np.uint8), labels), "test": Split(None, labels[:1])}
    table = count_classes(splits, CLASSES)
    assert table["images"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2] + [1] + [0] * 9
    assert table["class"].tolist() == CLASSES * 2
    assert table["split"].tolist() == ["train"] * 10 + ["test"] * 10


def test_samples_are_the_first_of_each_class():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 7))
    samples = first_of_each_class(labels, 10, 5)
    assert samples.tolist() == [[i for i, label in enumerate(labels) if label == k][:5] for k in range(10)]
    assert first_of_each_class(labels, 10, 99).shape == (10, 7)


@pytest.mark.skipif(
    "CIFAR10_DIR" not in os.environ, reason="CIFAR10_DIR, the folder with the real CIFAR-10, is not set"
)
def test_statistics_of_the_real_training_images(tmp_path):
    from cifar.data.archive import find_dataset

    dataset, *_ = find_dataset(tmp_path, os.environ["CIFAR10_DIR"], [])
    mean, std = channel_statistics(dataset.train.images)
    assert values(mean) == pytest.approx([0.491400, 0.482158, 0.446531], abs=1e-6)
    assert values(std) == pytest.approx([0.247032, 0.243485, 0.261588], abs=1e-6)
