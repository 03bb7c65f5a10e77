"""The convolutions against PyTorch's own, forwards and backwards."""

import pydoc

import pytest
import torch
import torch.nn.functional as F

import cifar.nn.winograd
from cifar.nn.convolutions import Conv3x3, MaxPool, SmallMapConv


@pytest.fixture(params=[2**20, 2**12], ids=["one chunk", "many chunks"], autouse=True)
def chunk(request, monkeypatch):
    monkeypatch.setattr(cifar.nn.winograd, "CHUNK_FLOATS", request.param)


def run(convolution, images, cotangent):
    """Output and the gradients with respect to images, weight and bias."""
    images = images.clone().requires_grad_()
    outputs = convolution(images)
    sources = [images, *convolution.parameters()]
    return outputs, *torch.autograd.grad(outputs, sources, cotangent)


@pytest.mark.parametrize(
    ("size", "bias"), [(32, True), (16, False), (4, True), (31, False), (15, False), (7, True), (3, False)]
)
def test_equals_direct_convolution(size, bias):
    torch.manual_seed(0)
    ours = Conv3x3(32, 48, bias=bias)
    direct = torch.nn.Conv2d(32, 48, 3, padding=1, bias=bias)
    direct.load_state_dict(ours.state_dict())
    images, cotangent = torch.randn(5, 32, size, size), torch.randn(5, 48, size, size)
    for found, expected in zip(run(ours, images, cotangent), run(direct, images, cotangent), strict=True):
        assert (found - expected).abs().max() < 3e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [32, 31, 7])
def test_equals_direct_convolution_and_pooling(size):
    torch.manual_seed(0)
    ours = Conv3x3(32, 48, bias=True, pool=2)
    convolution = torch.nn.Conv2d(32, 48, 3, padding=1)
    convolution.load_state_dict(ours.state_dict())
    direct = torch.nn.Sequential(convolution, torch.nn.MaxPool2d(2))
    images, cotangent = torch.randn(5, 32, size, size), torch.randn(5, 48, size // 2, size // 2)
    for found, expected in zip(run(ours, images, cotangent), run(direct, images, cotangent), strict=True):
        assert (found - expected).abs().max() < 3e-5 * expected.abs().max()


def test_equals_pooling_of_maps_with_more_pixels_than_16_bits_number():
    torch.manual_seed(0)
    ours = Conv3x3(32, 8, bias=True, pool=2)
    images, cotangent = torch.randn(1, 32, 196, 196), torch.randn(1, 8, 98, 98)
    pooled = run(ours, images, cotangent)
    direct = torch.nn.Conv2d(32, 8, 3, padding=1)
    direct.load_state_dict(ours.state_dict())
    expected = run(torch.nn.Sequential(direct, torch.nn.MaxPool2d(2)), images, cotangent)
    for found, wanted in zip(pooled, expected, strict=True):
        assert (found - wanted).abs().max() < 3e-5 * wanted.abs().max()


def test_does_not_touch_its_input():
    images = torch.randn(2, 32, 8, 8)
    before = images.clone()
    Conv3x3(32, 32, bias=True)(images).sum().backward()
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 32, 8, 4)], ids=["narrow", "oblong"])
def test_falls_back_on_shapes_that_it_does_not_cover(shape):
    convolution = Conv3x3(shape[1], 8, bias=True)
    images = torch.randn(shape)
    expected = F.conv2d(images, convolution.weight, convolution.bias, padding=1)
    assert torch.equal(convolution(images), expected)
    convolution.pool = 2
    assert torch.equal(convolution(images), F.max_pool2d(expected, 2))


@pytest.mark.parametrize(
    ("size", "width_in", "width", "bias", "amx"),
    [
        (4, 48, 40, False, False),
        (1, 48, 40, True, False),
        (8, 48, 40, True, True),
        (7, 40, 48, False, True),
        (4, 512, 512, False, True),  # by one product in all three directions
        (3, 512, 512, True, True),
    ],
)
def test_on_small_maps_in_bfloat16_equals_direct_convolution_in_double_precision(
    size, width_in, width, bias, amx, monkeypatch
):
    monkeypatch.setattr("cifar.nn.convolutions.has_amx", lambda: amx)
    monkeypatch.setattr("cifar.nn.convolutions.CHUNK_NUMBERS", 2 * 9 * width_in * size * size)  # two images at a time
    calls = count_calls(
        monkeypatch, "cifar.nn.convolutions._weight_gradient", "cifar.nn.convolutions._convolve_by_product"
    )
    torch.manual_seed(0)
    ours = Conv3x3(width_in, width, bias=bias)
    direct = torch.nn.Conv2d(width_in, width, 3, padding=1, bias=bias).double()
    for weights in ours.parameters():
        weights.data = weights.data.bfloat16().float()  # so that both see the same numbers
    direct.load_state_dict(ours.state_dict())
    images, cotangent = (torch.randn(5, channels, size, size).bfloat16() for channels in (width_in, width))
    with torch.autocast("cpu", torch.bfloat16):
        found = run(ours, images, cotangent)
    assert calls == {"_weight_gradient": 1, "_convolve_by_product": 2 * (width == 512)}
    assert [values.dtype for values in found] == [torch.bfloat16, torch.bfloat16, *[torch.float32] * (1 + bias)]
    for values, expected in zip(found, run(direct, images.double(), cotangent.double()), strict=True):
        assert (values - expected).abs().max() < 2**-8 * expected.abs().max()  # half a unit in bfloat16's last place


def count_calls(monkeypatch, *names: str) -> dict[str, int]:
    """How often each of these functions of a module is called from now on, by the last part of its name."""
    calls = {name.rpartition(".")[2]: 0 for name in names}
    for name in names:
        original = pydoc.locate(name)

        def counted(*arguments, original=original):
            calls[original.__name__] += 1
            return original(*arguments)

        monkeypatch.setattr(name, counted)
    return calls


def test_on_small_maps_in_bfloat16_pools_what_the_convolution_gives(monkeypatch):
    monkeypatch.setattr("cifar.nn.convolutions.has_amx", lambda: True)
    convolution, images = Conv3x3(48, 40, bias=True), torch.randn(2, 48, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.max_pool2d(convolution(images), 2)
        convolution.pool = 2
        assert torch.equal(convolution(images), expected)


@pytest.mark.parametrize(("size", "amx"), [(5, False), (9, True)])
def test_leaves_larger_maps_in_bfloat16_to_pytorch(size, amx, monkeypatch):
    monkeypatch.setattr("cifar.nn.convolutions.has_amx", lambda: amx)
    monkeypatch.setattr(SmallMapConv, "apply", None)  # fails if it is called
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv3x3(32, 8, bias=True)(torch.randn(1, 32, size, size)).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [8, 7])
def test_pooling_equals_pytorchs_and_keeps_the_places_alone(size):
    torch.manual_seed(0)
    images = torch.randn(3, 16, size, size).bfloat16().round(decimals=1).to(memory_format=torch.channels_last)  # ties
    images.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        found = MaxPool.apply(images, 2)
    expected = F.max_pool2d(images, 2)
    cotangent = torch.randn_like(expected)
    gradients = (torch.autograd.grad(outputs, images, cotangent)[0] for outputs in (found, expected))
    assert torch.equal(found, expected) and torch.equal(*gradients)
    assert [(tensor.dtype, tensor.shape) for tensor in kept] == [(torch.int64, expected.shape)]
