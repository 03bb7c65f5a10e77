"""Predictions in eval mode, on the images as they are and on several views of each."""

import numpy as np
import pytest
import torch
from specs import CIFAR, CUSTOM_RESNET, STATISTICS

from cifar.data.splits import Statistics
from cifar.nn.inference import normalise, predict, views
from cifar.nn.networks import build_network


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)


@pytest.fixture
def network() -> torch.nn.Module:
    return build_network(CUSTOM_RESNET, CIFAR, seed=0)


def test_normalised_images_have_mean_0_and_deviation_1():
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    statistics = Statistics(tuple(images.mean((0, 1, 2)) / 255), tuple(images.std((0, 1, 2)) / 255))
    inputs = normalise(torch.from_numpy(images), statistics)
    assert inputs.shape == (20, 3, 32, 32) and inputs.is_contiguous(memory_format=torch.channels_last)
    assert inputs.mean((0, 2, 3)).numpy() == pytest.approx(np.zeros(3), abs=1e-5)
    assert inputs.std((0, 2, 3), correction=0).numpy() == pytest.approx(np.ones(3), abs=1e-5)


def test_prediction_uses_eval_mode_and_leaves_the_mode_as_it_was(network, images, monkeypatch):
    monkeypatch.setattr("cifar.nn.inference.PIXELS", 3 * 32 * 32)  # batches of 3, 3 and 2
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logits = predict(network, images, STATISTICS)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        expected = network.eval()(normalise(torch.from_numpy(images), STATISTICS))
    assert logits == pytest.approx(expected.numpy(), abs=1e-5)
    assert logits.dtype == np.float32


def test_views_are_the_image_its_mirror_and_both_a_pixel_aside():
    image = torch.arange(2 * 3 * 32 * 32, dtype=torch.float32).view(2, 3, 32, 32)
    ramp = image.numpy()
    padded = np.pad(ramp, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    up, down = padded[..., :32, :32], padded[..., 2:, 2:]
    expected = {
        "none": [(1, ramp)],
        "flip": [(0.5, ramp), (0.5, ramp[..., ::-1])],
        "flip_shift": [(0.25, ramp), (0.25, ramp[..., ::-1]), (0.125, up), (0.125, up[..., ::-1])]
        + [(0.125, down), (0.125, down[..., ::-1])],
    }
    for augmentation, wanted in expected.items():
        found = views(image, augmentation)
        assert [weight for weight, _ in found] == [weight for weight, _ in wanted]
        assert all(np.array_equal(view.numpy(), other) for (_, view), (_, other) in zip(found, wanted, strict=True))


def test_test_time_augmentation_averages_the_logits_of_its_views(network, images):
    both = (predict(network, images, STATISTICS) + predict(network, images[:, :, ::-1].copy(), STATISTICS)) / 2
    found = predict(network, images, STATISTICS, augmentation="flip")
    assert found == pytest.approx(both, abs=1e-5)
    mirrored = predict(network, images[:, :, ::-1].copy(), STATISTICS, augmentation="flip")
    assert mirrored == pytest.approx(found, abs=1e-5)
