"""The networks against their descriptions written out with plain functions, and against a published implementation."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from specs import AIRNET, CIFAR, CUSTOM_RESNET, RESNET18, changed
from torch import Tensor
from torch.nn import Conv2d, GroupNorm

from cifar.config.schema import LAYERS, ModelSpec, ResNet18Spec
from cifar.nn.networks import Task, build_network, whitening_filters
from cifar.nn.norms import build_norm


def shuffled_network(spec: ModelSpec) -> torch.nn.Module:
    """A network in eval mode whose every weight and statistic is drawn, so that a mistaken one shows."""
    network = build_network(spec, CIFAR, seed=0).eval()
    generator = torch.Generator().manual_seed(5)
    for name, value in network.state_dict().items():
        if "running_var" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.dim() == 1:
            value.copy_(torch.randn(value.shape, generator=generator) / 4 + ("weight" in name))
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_it_has_6_574_090_parameters():
    network = build_network(CUSTOM_RESNET, CIFAR, seed=0)
    assert sum(weights.numel() for weights in network.parameters()) == 6_574_090
    biases = [
        len(module.bias)
        for module in network.modules()
        if getattr(module, "kernel_size", 0) == (3, 3) and module.bias is not None
    ]
    assert biases == [64, 128, 256, 512]  # of the four plain convolutions


EVA6 = changed(RESNET18, pool=2)


@pytest.mark.parametrize("size", [16, 33, 48, 96])
@pytest.mark.parametrize(("spec", "classes"), [(CUSTOM_RESNET, 2), (RESNET18, 3), (EVA6, 300), (AIRNET, 7)])
def test_images_of_any_size_give_logits_of_any_number_of_classes(spec, classes, size):
    network = build_network(spec, Task(size, classes), seed=0).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, size, size)).shape == (2, classes)


@pytest.mark.parametrize(("spec", "features"), [(CUSTOM_RESNET, 512), (RESNET18, 512), (EVA6, 4 * 512), (AIRNET, 8)])
def test_only_the_classifier_depends_on_the_classes_and_nothing_on_the_size(spec, features):
    shapes = [
        {name: tuple(value.shape) for name, value in build_network(spec, task, seed=0).state_dict().items()}
        for task in (CIFAR, Task(32, 300), Task(80, 10))
    ]
    assert shapes[0] == shapes[2]
    changed = {name: (shape, shapes[1][name]) for name, shape in shapes[0].items() if shape != shapes[1][name]}
    assert changed.pop("linear.weight") == ((10, features), (300, features))
    assert changed in ({}, {"linear.bias": ((10,), (300,))})


@pytest.mark.parametrize("size", [32, 48, 56, 80, 256])
def test_the_last_pooling_covers_the_map_and_leaves_as_many_features_as_at_32_pixels(size):
    pool = build_network(EVA6, Task(size, 10), seed=0).pool
    maps = torch.randn(1, 2, size // 8, size // 8)
    assert torch.allclose(pool(maps), F.adaptive_avg_pool2d(maps, 2), atol=1e-6)
    assert build_network(CUSTOM_RESNET, Task(size, 10), seed=0).pool(maps).flatten().tolist() == (
        maps.amax((2, 3)).flatten().tolist()
    )


@pytest.mark.parametrize("is_training", [False, True])
def test_logits_are_those_of_the_description_written_out(images, is_training):
    network = shuffled_network(CUSTOM_RESNET).train(is_training)
    w = {name: value.clone() for name, value in network.state_dict().items()}

    def norm_relu(x: Tensor, name: str) -> Tensor:
        statistics = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.relu(F.batch_norm(x, *statistics, w[f"{name}.weight"], w[f"{name}.bias"], training=is_training))

    def down(x: Tensor, layer: str) -> Tensor:
        x = F.conv2d(x, w[f"{layer}.0.weight"], w[f"{layer}.0.bias"], padding=1)
        return norm_relu(F.max_pool2d(x, 2), f"{layer}.1")

    def residual(x: Tensor, block: str) -> Tensor:
        y = norm_relu(F.conv2d(x, w[f"{block}.0.weight"], padding=1), f"{block}.1")
        return x + norm_relu(F.conv2d(y, w[f"{block}.2.weight"], padding=1), f"{block}.3")

    x = norm_relu(F.conv2d(images, w["prep.0.weight"], w["prep.0.bias"], padding=1), "prep.1")
    x = residual(down(x, "layer1"), "layer1.2")
    x = down(x, "layer2")
    x = residual(down(x, "layer3"), "layer3.2")
    expected = F.linear(F.max_pool2d(x, 4).flatten(1), w["linear.weight"], w["linear.bias"]) * 0.125

    with torch.no_grad():
        logits = network(images)
    assert logits.shape == (4, 10) and expected.std() > 0.01
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


VARIANTS = {  # and how many parameters the sources state for each; group norm has as many as batch norm
    "eva4-s8": (RESNET18, 11_173_962),
    "resnet18-layernorm": (changed(RESNET18, norm="layer", strides=[1, 1, 2, 2], pool=8), 11_173_962),
    "eva6-s8": (changed(RESNET18, strides=[1, 2, 2, 1]), 11_189_322),
    "group": (changed(RESNET18, norm="group"), 11_173_962),
}


def published_resnet18(spec: ResNet18Spec) -> torch.nn.Module:
    """torchvision's ResNet18 with the stem, strides and pooling of `spec`."""
    norm = {"batch": None, "layer": partial(GroupNorm, 1), "group": partial(GroupNorm, 32)}[spec.norm]
    network = torchvision.models.resnet18(num_classes=10, norm_layer=norm)
    network.conv1, network.maxpool = Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    for number, stride in enumerate(spec.strides[1:], start=2):
        first = network.get_submodule(f"layer{number}")[0]
        first.conv1.stride = first.downsample[0].stride = (stride, stride)
    network.avgpool = torch.nn.AvgPool2d(spec.pool)
    size = 32 // math.prod(spec.strides) // spec.pool
    network.fc = torch.nn.Linear(512 * size**2, 10)
    return network


@pytest.mark.parametrize("name", VARIANTS)
def test_resnet18_is_torchvisions_with_the_stem_of_small_images(name, images):
    spec, count = VARIANTS[name]
    ours, theirs = build_network(spec, CIFAR, seed=0), published_resnet18(spec)
    assert sum(weights.numel() for weights in ours.parameters()) == count
    generator = torch.Generator().manual_seed(5)
    state = {key: value.clone() for key, value in ours.state_dict().items()}
    for value in state.values():
        if value.dim() == 1:  # norms, statistics and the last bias, so that a mistaken one shows
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    ours.load_state_dict(state)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    for is_training in (False, True):
        with torch.no_grad():
            logits, expected = ours.train(is_training)(images), theirs.train(is_training)(images)
        assert expected.std() > 0.01
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_layer_norm_is_over_channels_and_places_together(images):
    # Ba et al., "Layer Normalization" (2016): one mean and deviation an image, then a weight and bias a channel.
    norm = build_norm("layer", 3)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    expected = F.layer_norm(images, images.shape[1:]) * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert torch.allclose(norm(images), expected, atol=1e-5)


RANDOM_BIAS = changed(AIRNET, whitening_bias={"start": "random"})
AIRNETS = {  # counted by hand: 24 filters of 2x2 and their biases, 3x3 filters, two numbers a norm channel, 10 classes
    "airbench94": (changed(RANDOM_BIAS, widths=[64, 256, 256]), 1_972_792),
    "airbench96": (changed(RANDOM_BIAS, widths=[128, 512, 512], depth=3), 12_721_208),
    "airbench96, last form": (changed(RANDOM_BIAS, widths=[128, 384, 512], depth=3), 9_918_776),
}


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("name", AIRNETS)
def test_airnet_is_its_description_written_out(name, is_training, images):
    spec, count = AIRNETS[name]
    network = shuffled_network(spec).train(is_training)
    assert sum(weights.numel() for weights in network.parameters()) == count
    w = {name: value.clone() for name, value in network.state_dict().items()}

    def conv(x: Tensor, layer: str, i: int, pool: int = 1) -> Tensor:
        x = F.max_pool2d(F.conv2d(x, w[f"{layer}.convs.{i}.weight"], padding=1), pool)
        key = f"{layer}.norms.{i}"
        statistics = w[f"{key}.running_mean"], w[f"{key}.running_var"]
        return F.batch_norm(x, *statistics, w[f"{key}.weight"], w[f"{key}.bias"], is_training, eps=1e-12)

    x = F.gelu(F.conv2d(images, w["prep.0.weight"], w["prep.0.bias"]))
    for layer in ("layer1", "layer2", "layer3"):
        first = F.gelu(conv(x, layer, 0, pool=2))
        if spec.depth == 2:
            x = F.gelu(conv(first, layer, 1))
        else:
            x = F.gelu(conv(F.gelu(conv(first, layer, 1)), layer, 2) + first)
    expected = F.linear(F.max_pool2d(x, 3).flatten(1), w["linear.weight"]) * 0.1

    with torch.no_grad():
        logits = network(images)
    assert logits.shape == (4, 10) and expected.std() > 0.01
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_airnets_whitening_and_norm_weights_are_not_trained():
    network = build_network(AIRNETS["airbench94"][0], CIFAR, seed=0)
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    norms = {f"layer{i}.norms.{j}.weight" for i in (1, 2, 3) for j in (0, 1)}
    assert frozen == {"prep.0.weight"} | norms


def test_the_bias_of_the_whitening_starts_at_0_or_at_random():
    zero, bias = (
        build_network(changed(AIRNET, whitening_bias={"start": start}), CIFAR, seed=0).prep[0].bias
        for start in ("zero", "random")
    )
    assert not zero.any()
    assert bias.all() and bias.abs().max() <= 12**-0.5  # PyTorch's bound: one over the root of 2 x 2 x 3 inputs


def test_airnets_convolutions_start_as_the_identity():
    network = build_network(AIRNETS["airbench94"][0], CIFAR, seed=0)
    x = torch.randn(2, 24, 8, 8)
    assert torch.allclose(network.layer1.convs[0](x)[:, :24], F.max_pool2d(x, 2), atol=1e-5)
    x = torch.randn(2, 256, 8, 8)
    assert torch.allclose(network.layer2.convs[1](x), x, atol=1e-5)


def test_whitened_patches_are_uncorrelated_and_of_unit_size():
    random = np.random.default_rng(0)
    smooth = torch.nn.functional.avg_pool2d(torch.from_numpy(random.normal(size=(60, 3, 34, 34))).float(), 3, stride=1)
    smooth[:, 1] += 2 * smooth[:, 0]  # channels that go together
    filters = whitening_filters(smooth)
    assert filters.shape == (24, 3, 2, 2) and torch.equal(filters[12:], -filters[:12])
    outputs = F.conv2d(smooth, filters[:12]).permute(1, 0, 2, 3).reshape(12, -1).double()
    moments = (outputs @ outputs.T / outputs.shape[1]).numpy()
    sizes = np.diag(moments)  # 1 but for the 5e-4 that keeps the noise of the smallest eigenvalues down
    assert (sizes <= 1.001).all() and sizes[-1] == pytest.approx(1, abs=0.01) and (np.diff(sizes) > -1e-3).all()
    assert np.abs(moments - np.diag(sizes)).max() < 0.02


def test_logit_scale_scales_the_logits(images):
    with torch.no_grad():
        once, twice = (shuffled_network(changed(CUSTOM_RESNET, logit_scale=scale))(images) for scale in (0.125, 0.25))
    assert torch.equal(2 * once, twice)


def test_initial_weights_come_from_the_seed_alone():
    torch.manual_seed(99)
    state = torch.get_rng_state()
    first, again, other = (build_network(CUSTOM_RESNET, CIFAR, seed) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), state)
    for (name, ours), same, another in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(ours, same)
        is_drawn = ours.dim() > 1 or name.endswith("0.bias")
        assert torch.equal(ours, another) != is_drawn or name == "linear.bias"


def test_initial_weights_are_pytorchs_default():
    for name, weights in build_network(CUSTOM_RESNET, CIFAR, seed=0).named_parameters():
        if weights.dim() > 1:  # uniform in ±1/√fan_in
            bound = 1 / math.sqrt(weights[0].numel())
            assert weights.abs().max() <= bound, name
            assert weights.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name


def test_layers_are_submodules_from_shallow_to_deep(images):
    network = build_network(CUSTOM_RESNET, CIFAR, seed=0).eval()
    sizes = []
    for layer in LAYERS["custom_resnet"]:
        network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: sizes.append(output.shape))
    with torch.no_grad():
        network(images)
    assert sizes == [(4, 64, 32, 32), (4, 128, 16, 16), (4, 256, 8, 8), (4, 512, 4, 4)]
