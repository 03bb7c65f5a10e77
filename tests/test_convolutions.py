"""The convolutions against PyTorch's own, forwards and backwards."""

import pytest
import torch
import torch.nn.functional as F

import cifar.winograd
from cifar.convolutions import Conv3x3, SmallMapConv


@pytest.fixture(params=[2**20, 2**12], ids=["one chunk", "many chunks"], autouse=True)
def chunk(request, monkeypatch):
    monkeypatch.setattr(cifar.winograd, "CHUNK_FLOATS", request.param)


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
    ours = Conv3x3(32, 48, bias)
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


@pytest.mark.parametrize("size", [4, 3, 1])
def test_on_small_maps_in_bfloat16_equals_direct_convolution_in_double_precision(size, monkeypatch):
    torch.manual_seed(0)
    ours = Conv3x3(48, 40, bias=False)
    direct = torch.nn.Conv2d(48, 40, 3, padding=1, bias=False).double()
    for weights in ours.parameters():
        weights.data = weights.data.bfloat16().float()  # so that both see the same numbers
    direct.load_state_dict(ours.state_dict())
    images, cotangent = (torch.randn(6, width, size, size).bfloat16() for width in (48, 40))
    calls = []
    monkeypatch.setattr("torch.nn.grad.conv2d_input", calls_of(calls, torch.nn.grad.conv2d_input))
    with torch.autocast("cpu", torch.bfloat16):
        found = run(ours, images, cotangent)
    assert calls and [values.dtype for values in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for values, expected in zip(found, run(direct, images.double(), cotangent.double()), strict=True):
        assert (values - expected).abs().max() < 2**-8 * expected.abs().max()  # half a unit in bfloat16's last place


def calls_of(calls: list, function):
    """The function, with its calls counted."""

    def counted(*args, **options):
        calls.append(args)
        return function(*args, **options)

    return counted


@pytest.mark.parametrize(("size", "bias", "pool"), [(8, False, 1), (4, True, 1), (4, False, 2)])
def test_leaves_other_bfloat16_to_pytorch(size, bias, pool, monkeypatch):
    monkeypatch.setattr(SmallMapConv, "apply", None)  # fails if it is called
    convolution = Conv3x3(32, 8, bias=bias, pool=pool)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(torch.randn(1, 32, size, size)).dtype == torch.bfloat16
