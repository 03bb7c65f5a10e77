"""The networks' norms, and batch norm together with the ReLU that follows it."""

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


class NormReLU(nn.BatchNorm2d):
    """Batch norm, then ReLU, on images (N, C, H, W).

    In float32 on a processor the backward pass makes the norm's outputs again to see which were positive, part by
    part, rather than keep them: half the memory, the same bits, and no time to speak of.
    """

    def forward(self, images: Tensor) -> Tensor:
        on_processor = images.device.type == "cpu" and images.dtype == torch.float32
        if not (on_processor and self.training and torch.is_grad_enabled()):
            return F.relu(super().forward(images), inplace=True)
        self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var, self.momentum, self.eps
        return _NormReLU.apply(images, self.weight, self.bias, *statistics)


class _NormReLU(Function):
    """Batch norm in training mode and ReLU; `running_mean` and `running_var` follow the batch's."""

    @staticmethod
    def forward(
        context,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        settings = running_mean, running_var, True, momentum, eps
        outputs, mean, inverse_std = torch.native_batch_norm(images, weight, bias, *settings)
        context.save_for_backward(images, weight, bias, mean, inverse_std)
        context.eps = eps
        return outputs.relu_()

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, bias, mean, inverse_std = context.saved_tensors
        scale = weight * inverse_std
        shift, scale = (values.view(1, -1, 1, 1) for values in (bias - mean * scale, scale))
        passed = torch.empty_like(images)  # what ReLU lets through of the gradient
        chunk = max(1, CHUNK_FLOATS // images[0].numel())
        for x, given, left in zip(*(t.split(chunk) for t in (images, gradient, passed)), strict=True):
            outputs = torch.addcmul(shift, x, scale)
            torch.ops.aten.threshold_backward.grad_input(given, outputs, 0, grad_input=left)
        settings = None, None, mean, inverse_std, True, context.eps, context.needs_input_grad[:3]
        gradients = torch.ops.aten.native_batch_norm_backward(passed, images, weight, *settings)
        return *gradients, None, None, None, None
