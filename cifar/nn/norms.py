"""The networks' norms, and batch norm together with the activation that follows it."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

CHUNK_FLOATS = 2**20  # gone through at a time: larger chunks fall out of the processor's cache


def build_norm(kind: str, width: int) -> nn.Module:
    """`batch` norm; `layer` norm over (C, H, W), with a weight and bias a channel; or `group` norm of 32 groups.

    Layer norm in this form is group norm with one group; 32 is the default of Wu & He, "Group Normalization" (2018).
    """
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm({"layer": 1, "group": 32}[kind], width)


class ActivatedNorm(nn.BatchNorm2d):
    """Batch norm, then an activation, on images (N, C, H, W).

    On a processor the backward pass makes the norm's outputs again, part by part, rather than keep them, at an eighth
    more time for the two: the same bits where the gradient lies in memory as the images do, which in training it does.
    """

    activate: Callable[[Tensor], Tensor]
    pass_back: Callable[..., Tensor]  # the gradient through the activation: of (gradient, inputs, grad_input=)
    remade_in: Sequence[torch.dtype]  # where keeping the norm's input alone saves memory

    def forward(self, images: Tensor) -> Tensor:
        is_remade = images.device.type == "cpu" and images.dtype in self.remade_in
        if not (is_remade and self.training and torch.is_grad_enabled()):
            return self.activate(super().forward(images))
        self.num_batches_tracked.add_(1)
        return _ActivatedNorm.apply(images, self.weight, self.bias, self)


class NormReLU(ActivatedNorm):
    """Batch norm, then ReLU. In bfloat16 the next convolution keeps its inputs, which are all that ReLU needs."""

    activate = staticmethod(partial(F.relu, inplace=True))
    pass_back = staticmethod(partial(torch.ops.aten.threshold_backward.grad_input, threshold=0))
    remade_in = (torch.float32,)


class NormGELU(ActivatedNorm):
    """Batch norm, then GELU."""

    activate = staticmethod(F.gelu)
    pass_back = staticmethod(torch.ops.aten.gelu_backward.grad_input)
    remade_in = torch.float32, torch.bfloat16


class _ActivatedNorm(Function):
    """What `norm` does in training with its weight and bias; its running mean and variance follow the batch's."""

    @staticmethod
    def forward(context, images: Tensor, weight: Tensor, bias: Tensor, norm: ActivatedNorm) -> Tensor:
        settings = norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
        outputs, mean, inverse_std = torch.native_batch_norm(images, weight, bias, *settings)
        context.save_for_backward(images, weight, bias, mean, inverse_std)
        context.norm = norm
        return norm.activate(outputs)

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, bias, mean, inverse_std = context.saved_tensors
        again = weight * inverse_std, bias, mean, torch.ones_like(mean), False, 0.0, 0.0
        passed = torch.empty_like(images)  # what the activation lets through of the gradient
        chunk = max(1, CHUNK_FLOATS // images[0].numel())
        for x, given, left in zip(*(t.split(chunk) for t in (images, gradient, passed)), strict=True):
            outputs, _, _ = torch.native_batch_norm(x, *again)
            context.norm.pass_back(given, outputs, grad_input=left)
        settings = None, None, mean, inverse_std, True, context.norm.eps, context.needs_input_grad[:3]
        gradients = torch.ops.aten.native_batch_norm_backward(passed, images, weight, *settings)
        return *gradients, None
