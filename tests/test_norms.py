"""Batch norm with its activation against PyTorch's own two, and what they keep for the backward pass."""

import pytest
import torch
from torch import nn

import cifar.nn.norms
from cifar.nn.norms import ActivatedNorm, NormGELU, NormReLU

PRECISIONS = pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
KINDS = pytest.mark.parametrize(("kind", "activation"), [(NormReLU, nn.ReLU), (NormGELU, nn.GELU)])


@pytest.fixture(params=[2**20, 2**10], ids=["one chunk", "many chunks"], autouse=True)
def chunk(request, monkeypatch):
    monkeypatch.setattr(cifar.nn.norms, "CHUNK_FLOATS", request.param)


def both(kind: type[ActivatedNorm], activation: type[nn.Module]) -> tuple[ActivatedNorm, nn.Sequential]:
    """The two with the same weights, drawn, so that a mistaken one shows."""
    torch.manual_seed(0)
    ours = kind(16, eps=1e-3, momentum=0.3)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    norm = nn.BatchNorm2d(16, eps=1e-3, momentum=0.3)
    norm.load_state_dict(ours.state_dict())
    return ours, nn.Sequential(norm, activation())


@KINDS
@PRECISIONS
@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=["last", "first"])
def test_outputs_gradients_and_statistics_are_pytorchs_bit_for_bit(
    kind, activation, precision, is_training, memory_format
):
    ours, theirs = both(kind, activation)
    images = (3 * torch.randn(33, 16, 8, 8) + 1).to(precision, memory_format=memory_format)
    cotangent = torch.randn(33, 16, 8, 8).to(precision)
    if kind is NormGELU:  # whose gradient PyTorch sums in another order if it lies otherwise in memory: see below
        cotangent = cotangent.to(memory_format=memory_format)
    results = []
    for module in ours.train(is_training), theirs.train(is_training):
        leaf = images.clone().requires_grad_()
        outputs = module(leaf)
        results.append([outputs, *torch.autograd.grad(outputs, [leaf, *module.parameters()], cotangent)])
        results[-1] += list(module.buffers())
    assert len(results[0]) == 7
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_a_gelus_gradient_that_lies_otherwise_in_memory_than_the_images_gives_pytorchs_but_for_rounding():
    ours, theirs = both(NormGELU, nn.GELU)
    images = torch.randn(33, 16, 8, 8).to(memory_format=torch.channels_last)
    cotangent = torch.randn(33, 16, 8, 8)
    gradients = []
    for module in ours, theirs:
        leaf = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(module(leaf), [leaf, *module.parameters()], cotangent))
    for found, expected in zip(*gradients, strict=True):
        # a sum of 33 x 8 x 8 terms of about 1, each rounded to 6e-8 of it
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=33 * 8 * 8 * 6e-8)


@KINDS
@PRECISIONS
def test_with_a_frozen_weight_the_bias_and_the_images_have_pytorchs_gradients(kind, activation, precision):
    ours, theirs = both(kind, activation)
    images = torch.randn(33, 16, 8, 8).to(precision, memory_format=torch.channels_last)
    gradients = []
    for module, norm in (ours, ours), (theirs, theirs[0]):
        norm.weight.requires_grad = False
        leaf = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(module(leaf).float().square().sum(), [leaf, norm.bias]))
    for found, expected in zip(*gradients, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("kind", "activation", "precision", "counts"),
    [
        (NormReLU, nn.ReLU, torch.float32, [1, 2]),  # PyTorch's keep the input and ReLU's outputs
        (NormGELU, nn.GELU, torch.float32, [1, 2]),  # and GELU's inputs
        (NormGELU, nn.GELU, torch.bfloat16, [1, 2]),
    ],
)
def test_it_keeps_its_input_and_nothing_else_of_that_size(kind, activation, precision, counts):
    images = torch.randn(33, 16, 8, 8).to(precision).requires_grad_()
    kept = []
    for module in both(kind, activation):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            module(images)
        kept.append(sizes.count(images.numel()))
    assert kept == counts
