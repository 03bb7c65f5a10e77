"""Batch norm with its ReLU against PyTorch's own two, and what they keep for the backward pass."""

import pytest
import torch
from torch import nn

import cifar.norms
from cifar.norms import NormReLU


@pytest.fixture(params=[2**20, 2**10], ids=["one chunk", "many chunks"], autouse=True)
def chunk(request, monkeypatch):
    monkeypatch.setattr(cifar.norms, "CHUNK_FLOATS", request.param)


def both() -> tuple[NormReLU, nn.Sequential]:
    """The two with the same weights, drawn, so that a mistaken one shows."""
    torch.manual_seed(0)
    ours = NormReLU(16)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    norm = nn.BatchNorm2d(16)
    norm.load_state_dict(ours.state_dict())
    return ours, nn.Sequential(norm, nn.ReLU())


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=["last", "first"])
def test_outputs_gradients_and_statistics_are_pytorchs_bit_for_bit(is_training, memory_format):
    ours, theirs = both()
    images = (3 * torch.randn(33, 16, 8, 8) + 1).to(memory_format=memory_format)
    cotangent = torch.randn(33, 16, 8, 8)
    results = []
    for module in ours.train(is_training), theirs.train(is_training):
        leaf = images.clone().requires_grad_()
        outputs = module(leaf)
        results.append([outputs, *torch.autograd.grad(outputs, [leaf, *module.parameters()], cotangent)])
        results[-1] += list(module.buffers())
    assert len(results[0]) == 7
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_it_keeps_its_input_and_nothing_else_of_that_size():
    ours, theirs = both()
    images = torch.randn(33, 16, 8, 8).requires_grad_()
    kept = {}
    for name, module in ("ours", ours), ("theirs", theirs):
        sizes = kept[name] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            module(images)
    assert [sizes.count(images.numel()) for sizes in kept.values()] == [1, 2]
