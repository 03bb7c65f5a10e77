"""Heatmaps against the package grad-cam, against maps worked out by hand, and against where the shapes really are."""

import copy

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from specs import CIFAR, CUSTOM_RESNET, GREY, RESNET18, SGD, changed, policy_of, trainer_spec
from torch import Tensor, nn

from benchmarks.pointing import hit_rates
from cifar.config.schema import LAYERS
from cifar.data.batches import feed
from cifar.data.shapes import draw_split
from cifar.nn.inference import normalise, predict
from cifar.nn.networks import build_network
from cifar.results.gradcam import heatmaps
from cifar.training.schedules import one_cycle
from cifar.training.trainer import Trainer, build_trainer, train_epoch

ORACLES = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus}
METHODS = list(ORACLES)
TARGETS = torch.arange(4)


def oracle(network: nn.Module, images: Tensor, layer: str, targets: Tensor, method: str) -> np.ndarray:
    with ORACLES[method](network, [network.get_submodule(layer)]) as cam:
        return cam(images, [ClassifierOutputTarget(int(target)) for target in targets])


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["fresh", "trained"])
def network(request, images) -> nn.Module:
    network = build_network(CUSTOM_RESNET, CIFAR, seed=1)
    if request.param == "trained":  # a few steps, which give the norms their statistics
        optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), TARGETS).backward()
            optimizer.step()
    return network.eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", LAYERS["custom_resnet"])
def test_heatmaps_are_those_of_the_package_grad_cam(network, images, layer, method):
    ours = heatmaps(network, images, layer, TARGETS, method=method)
    theirs = oracle(network, images, layer, TARGETS, method)
    assert ours.dtype == np.float32 and ours.shape == (4, 32, 32)
    assert ours.min() == 0 and ours.max() == 1
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_a_relu_then_overwrites_is_explained_as_it_was(images, method):
    """The oracle reads what the ReLU left in the layer's place; asked of a copy without such a ReLU, it agrees."""
    network = build_network(RESNET18, CIFAR, seed=1).eval()
    untouched = copy.deepcopy(network)
    assert network.prep[2].inplace
    untouched.prep[2].inplace = False
    ours = heatmaps(network, images, "prep.1", TARGETS, method=method)
    assert np.abs(ours - oracle(untouched, images, "prep.1", TARGETS, method)).max() < 1e-4
    assert np.abs(ours - oracle(network, images, "prep.1", TARGETS, method)).max() > 0.01


def test_the_network_is_left_as_it_was(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.zero_grad()
    network.linear.weight.grad = torch.ones_like(network.linear.weight)
    heatmaps(network, images, "layer2", TARGETS, method="gradcam++")
    assert torch.equal(network.linear.weight.grad, torch.ones_like(network.linear.weight))
    network.linear.weight.grad = None
    assert all(weights.grad is None for weights in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training or module._forward_hooks for module in network.modules())


def test_a_heatmap_does_not_depend_on_the_images_beside_it(network, images):
    together = heatmaps(network, images, "layer2", TARGETS, method="gradcam")
    alone = [heatmaps(network, images[i : i + 1], "layer2", TARGETS[i : i + 1], method="gradcam")[0] for i in range(3)]
    assert np.abs(together[:3] - np.stack(alone)).max() < 1e-4


def test_no_images_have_no_heatmaps(network):
    assert heatmaps(network, torch.zeros(0, 3, 32, 32), "layer3", TARGETS[:0], method="gradcam").shape == (0, 32, 32)


class Averaging(nn.Module):
    """Channels, pooled by 2, averaged, weighted: Grad-CAM is then the weighted sum of the channels itself."""

    def __init__(self, weights: list[list[float]]):
        super().__init__()
        self.features = nn.AvgPool2d(2)
        self.linear = nn.Linear(len(weights[0]), len(weights), bias=False)
        self.linear.weight.data = torch.tensor(weights)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images).mean((2, 3)))


def one_pixel(channel: int, row: int, column: int) -> Tensor:
    """An image (1, 2, 4, 8), one of whose channels is 1 in one 2x2 block: pixel (row, column) of the 2x4 features."""
    image = torch.zeros(1, 2, 4, 8)
    image[0, channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1
    return image


def test_grad_cam_by_hand():
    network = Averaging([[3.0, -2.0], [-1.0, 5.0]])
    image = 2 * one_pixel(0, 0, 0) + one_pixel(1, 1, 3)
    # Of a pixel in a corner half a pixel's step away from the border: 1 up to its centre, then 3/4 and 1/4.
    down, across = np.array([1, 0.75, 0.25, 0]), np.array([1, 0.75, 0.25, 0, 0, 0, 0, 0])
    for target, expected in enumerate([np.outer(down, across), np.outer(down[::-1], across[::-1])]):
        maps = heatmaps(network, image, "features", torch.tensor([target]), method="gradcam")
        assert maps[0] == pytest.approx(expected, abs=1e-6)


def test_grad_cam_plus_plus_by_hand():
    """Gradients g, equal at all eight places, weigh a channel 8g · g² / (2g² + S g³), S the sum of its activations."""
    network = Averaging([[800.0, 400.0]])  # g = 100 and 50, before which the constant 1e-6 is nothing
    image = 4 * one_pixel(0, 0, 0) + one_pixel(1, 1, 3)  # S = 4 and 1
    weights = 8 * 100 / (2 + 4 * 100), 8 * 50 / (2 + 1 * 50)
    maps = heatmaps(network, image, "features", torch.tensor([0]), method="gradcam++")
    peaks = 4 * weights[0], weights[1]  # 7.960 and 7.692
    assert maps[0, 0, 0] == 1
    assert maps[0, 3, 7] == pytest.approx(peaks[1] / peaks[0], abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_that_is_nowhere_positive_is_empty(method):
    network = Averaging([[-1.0, -2.0]])
    images = torch.cat([one_pixel(0, 0, 0), torch.zeros(1, 2, 4, 8), torch.ones(1, 2, 4, 8)])
    maps = heatmaps(network, images, "features", torch.tensor([0, 0, 0]), method=method)
    assert np.array_equal(maps, np.zeros((3, 4, 8)))


@pytest.mark.parametrize("method", METHODS)
def test_the_peak_lies_on_what_the_network_looks_for(method):
    """A red and a green square in noise, and a network to which red speaks for one class and green for the other."""
    random = np.random.default_rng(0)
    images = random.uniform(0, 0.3, (200, 2, 32, 32)).astype(np.float32)
    masks = np.zeros((200, 2, 32, 32), bool)
    for image, mask in zip(images, masks, strict=True):
        for channel, left in enumerate(random.permutation([0, 16])):
            x, y = left + random.integers(0, 11), random.integers(0, 27)
            image[channel, y : y + 6, x : x + 6] = 1
            mask[channel, y : y + 6, x : x + 6] = True
    network = Averaging([[1.0, -1.0], [-1.0, 1.0]])
    for target in (0, 1):
        maps = heatmaps(network, torch.from_numpy(images), "features", torch.full((200,), target), method=method)
        hit, chance = hit_rates(maps, masks[:, target])
        assert (hit, chance) == (1.0, 36 / 1024)


@pytest.fixture(scope="module")
def on_shapes() -> tuple[Trainer, np.ndarray, np.ndarray]:
    """A network that has seen 50 batches of shapes, with test images and their masks."""
    train, _ = draw_split(3200, 0, "train")
    test, masks = draw_split(300, 0, "test")
    spec = trainer_spec(optimizer=changed(SGD, weight_decay=0.0), precision="auto")
    trainer = build_trainer(spec, GREY, train.images)
    batches = feed(train, policy_of([], GREY.mean, 32), trainer.device, batch_size=64, seed=0)(0)
    lrs = one_cycle(50, 20, "linear", start=0.01, top=0.1, end=0.01)
    list(train_epoch(trainer, batches, lrs, [0.9] * 50, first_step=0))
    return trainer, test.images, masks


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_peaks_fall_on_the_shape_far_more_often_than_chance(on_shapes, method):
    trainer, images, masks = on_shapes
    predicted = torch.from_numpy(predict(trainer.network, images, GREY).argmax(axis=1))
    inputs = normalise(torch.from_numpy(images), GREY)
    hits, chance = hit_rates(heatmaps(trainer.network.eval(), inputs, "layer3", predicted, method=method), masks)
    print(f"{method}: {hits:.3f} of the peaks lie on the shape, {chance:.3f} by chance")
    assert hits > 2 * chance
