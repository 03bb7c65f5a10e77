"""The networks' norms, and batch norm fused with the activation that follows it."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

CHUNK_FLOATS = 2**20  # processed at a time: a larger chunk does not fit the processor's cache


def build_norm(kind: str, width: int) -> nn.Module:
    """`batch` norm, `layer` norm over (C, H, W) with one weight and bias a channel, or `group` norm with 32 groups.

    This layer norm is group norm with one group. 32 groups are the default of Wu & He, "Group Normalization" (2018).
    """
    if kind == "batch":
        return nn.BatchNorm2d(width)
    groups = {"layer": 1, "group": 32}[kind]
    return nn.GroupNorm(groups, width)


class ActivatedNorm(nn.BatchNorm2d):
    """Batch norm, then an activation, on images (N, C, H, W).

    On a CPU the backward pass recomputes the norm's outputs chunk by chunk, so that they need not be kept. This takes
    about an eighth more time for norm and activation together. The results have the same bits as PyTorch's if the
    gradient has the memory format of the images, as it has in training.
    """

    activate: Callable[[Tensor], Tensor]
    activate_backward: Callable[..., Tensor]  # the activation's gradient, from (gradient, inputs, grad_input=)
    recompute_in: Sequence[torch.dtype]  # the precisions in which recomputing saves memory

    def forward(self, images: Tensor) -> Tensor:
        is_recomputed = images.device.type == "cpu" and images.dtype in self.recompute_in
        if not (is_recomputed and self.training and torch.is_grad_enabled()):
            return self.activate(super().forward(images))
        self.num_batches_tracked.add_(1)
        return _ActivatedNorm.apply(images, self.weight, self.bias, self)


class NormReLU(ActivatedNorm):
    """Batch norm, then ReLU.

    In bfloat16 nothing is saved by recomputing: the next convolution keeps ReLU's outputs, and these are all that
    ReLU's backward pass needs.
    """

    activate = staticmethod(partial(F.relu, inplace=True))
    activate_backward = staticmethod(partial(torch.ops.aten.threshold_backward.grad_input, threshold=0))
    recompute_in = (torch.float32,)


class NormGELU(ActivatedNorm):
    """Batch norm, then GELU."""

    activate = staticmethod(F.gelu)
    activate_backward = staticmethod(torch.ops.aten.gelu_backward.grad_input)
    recompute_in = torch.float32, torch.bfloat16


class _ActivatedNorm(Function):
    """`norm` in training mode, then its activation; updates the norm's running mean and variance as PyTorch does."""

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
        as_forward = weight * inverse_std, bias, mean, torch.ones_like(mean), False, 0.0, 0.0
        norm_gradient = torch.empty_like(images)  # the gradient of the norm's outputs
        chunk = max(1, CHUNK_FLOATS // images[0].numel())
        for start in range(0, len(images), chunk):
            part = slice(start, start + chunk)
            outputs, _, _ = torch.native_batch_norm(images[part], *as_forward)
            context.norm.activate_backward(gradient[part], outputs, grad_input=norm_gradient[part])
        settings = None, None, mean, inverse_std, True, context.norm.eps, context.needs_input_grad[:3]
        gradients = torch.ops.aten.native_batch_norm_backward(norm_gradient, images, weight, *settings)
        return *gradients, None
