"""3x3 convolutions with padding 1, by the fastest way for the processor and precision at hand."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from cifar.winograd import WinogradConv

SMALL_MAP = 16  # places


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with padding 1.

    A `pool` above 1 leaves the maximum of each square of so many pixels a side, as nn.MaxPool2d after it would.
    """

    def __init__(self, width_in: int, width: int, bias: bool, stride: int = 1, pool: int = 1):
        super().__init__(width_in, width, kernel_size=3, stride=stride, padding=1, bias=bias)
        self.pool = pool

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        is_plain_on_processor = images.device.type == "cpu" and self.stride == (1, 1)  # a GPU's cuDNN knows all this
        precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
        # With 3 channels the transforms cost more than they save.
        if is_plain_on_processor and precision == torch.float32 and height == width and self.in_channels >= 32:
            images = images.permute(0, 2, 3, 1).contiguous()
            keep_tiles = torch.is_grad_enabled() and self.weight.requires_grad
            outputs = WinogradConv.apply(images, self.weight, self.bias, self.pool, keep_tiles)
            return outputs.permute(0, 3, 1, 2)
        is_bare = self.bias is None and self.pool == 1
        if is_plain_on_processor and precision == torch.bfloat16 and height * width <= SMALL_MAP and is_bare:
            return SmallMapConv.apply(images.to(precision), self.weight.to(precision))
        outputs = super().forward(images)
        return F.max_pool2d(outputs, self.pool) if self.pool > 1 else outputs


def unfused(network: nn.Module) -> nn.Module:
    """A copy of `network` in which pooling is a layer of its own, as a person would draw it."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, Conv3x3) and layer.pool > 1:
                setattr(module, name, nn.Sequential(layer, nn.MaxPool2d(layer.pool)))
                layer.pool = 1
    return network


class SmallMapConv(Function):
    """Images (N, C, H, W), weight (K, C, 3, 3) to (N, K, H, W), zero-padded by 1, all channels last in memory.

    The weight's gradient is one matrix product over the 3x3 patches (im2col): on small maps oneDNN's own takes up to
    twice as long in bfloat16.
    """

    @staticmethod
    def forward(context, images: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(images, weight)
        return F.conv2d(images, weight, padding=1)

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weight = context.saved_tensors
        needs_images, needs_weight = context.needs_input_grad
        images_gradient = weight_gradient = None
        if needs_images:
            images_gradient = torch.nn.grad.conv2d_input(images.shape, weight, gradient, padding=1)
        if needs_weight:
            by_place = gradient.permute(0, 2, 3, 1).flatten(0, 2)  # (N * H * W, K)
            products = (by_place.T @ _patches(images)).view(len(weight), 3, 3, -1)
            weight_gradient = products.permute(0, 3, 1, 2)
        return images_gradient, weight_gradient


def _patches(images: Tensor) -> Tensor:
    """The 3x3 patch around each place of images (N, C, H, W): (N * H * W, 3 * 3 * C)."""
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (N, H, W, C, 3, 3)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
