"""3x3 convolutions with padding 1, by the fastest way for the processor and precision at hand."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from cifar.nn.winograd import WinogradConv
from cifar.system.device import has_amx

CHUNK = 2**22  # numbers: the patches that are made at a time


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with padding 1.

    A `pool` above 1 leaves the maximum of each square of so many pixels a side, as nn.MaxPool2d after it would.
    """

    def __init__(self, width_in: int, width: int, *, bias: bool, stride: int = 1, pool: int = 1):
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
        if is_plain_on_processor and precision == torch.bfloat16 and height * width <= small_map(has_amx()):
            outputs = SmallMapConv.apply(images.to(precision), self.weight, self.bias)
        else:
            outputs = super().forward(images)
        if self.pool == 1:
            return outputs
        return MaxPool.apply(outputs, self.pool) if outputs.device.type == "cpu" else F.max_pool2d(outputs, self.pool)


class MaxPool(Function):
    """F.max_pool2d of images (N, C, H, W) on a processor, which PyTorch's own keeps for its backward pass, unread."""

    @staticmethod
    def forward(context, images: Tensor, size: int) -> Tensor:
        context.size, context.shape = size, images.shape
        outputs, places = torch.ops.aten.max_pool2d_with_indices(images, [size, size])
        context.save_for_backward(places)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = context.saved_tensors
        passed = torch.empty(context.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        window = [context.size] * 2, [context.size] * 2, [0, 0], [1, 1], False
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(gradient, passed, *window, places, grad_input=passed)
        return passed, None


def unfused(network: nn.Module) -> nn.Module:
    """A copy of `network` in which pooling is a layer of its own, as a person would draw it."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, Conv3x3) and layer.pool > 1:
                setattr(module, name, nn.Sequential(layer, nn.MaxPool2d(layer.pool)))
                layer.pool = 1
    return network


def small_map(amx: bool) -> int:
    """The places of the largest map that SmallMapConv is for, on a processor with AMX or without."""
    return 64 if amx else 16


class SmallMapConv(Function):
    """Images (N, C, H, W) in bfloat16, weight (K, C, 3, 3), bias (K,) or None to (N, K, H, W), zero-padded by 1.

    The weight's gradient is a sum of matrix products over the 3x3 patches (im2col) of some images at a time: on small
    maps oneDNN's own takes 1.5 to 9 times as long with AMX, up to twice as long without. Weight and bias are in
    float32, and so are the sums that become their gradients. All that has channels lies channels last in memory.
    """

    @staticmethod
    def forward(context, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight, bias = weight.to(images.dtype), None if bias is None else bias.to(images.dtype)
        context.save_for_backward(images, weight)
        if _is_by_product(images, weight):
            return _product(images, weight, bias)
        return F.conv2d(images, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        images, weight = context.saved_tensors
        needs_images, needs_weight, needs_bias = context.needs_input_grad
        images_gradient = weight_gradient = bias_gradient = None
        if needs_images and _is_by_product(images, weight):
            images_gradient = _product(gradient, weight.flip(2, 3).transpose(0, 1), None)
        elif needs_images:
            images_gradient = torch.nn.grad.conv2d_input(images.shape, weight, gradient, padding=1)
        if needs_weight:
            weight_gradient = _weight_gradient(images, gradient)
        if needs_bias:
            bias_gradient = gradient.sum((0, 2, 3), dtype=torch.float32)
        return images_gradient, weight_gradient, bias_gradient


def _is_by_product(images: Tensor, weight: Tensor) -> bool:
    """Whether one product of all patches is faster than oneDNN's convolution.

    That reads the weights again for each image or two, which takes its time where they fit no cache of a core's and an
    image has few places to use them on. Seen with AMX: for 512 to 512 channels on maps of 3x3 and 4x4.
    """
    return has_amx() and images[0, 0].numel() <= 16 and weight.numel() >= 2**21


def _product(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of images (N, C, H, W) with weight (K, C, 3, 3) as one matrix product: (N, K, H, W)."""
    outputs = F.linear(_patches(images), weight.permute(0, 2, 3, 1).flatten(1), bias)  # (N * H * W, K)
    return outputs.view(len(images), *images.shape[2:], -1).permute(0, 3, 1, 2)


def _weight_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    """The gradient (K, C, 3, 3) in float32, of images (N, C, H, W) and the outputs' gradient (N, K, H, W)."""
    (channels, height, width), filters = images.shape[1:], gradient.shape[1]
    total = torch.zeros(filters, 9 * channels)
    chunk = max(1, CHUNK // (9 * channels * height * width))
    for some, given in zip(images.split(chunk), gradient.split(chunk), strict=True):
        by_place = given.permute(0, 2, 3, 1).flatten(0, 2)  # (n * H * W, K)
        total += by_place.T @ _patches(some)
    return total.view(filters, 3, 3, channels).permute(0, 3, 1, 2)


def _patches(images: Tensor) -> Tensor:
    """The 3x3 patch around each place of images (N, C, H, W): (N * H * W, 3 * 3 * C)."""
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (N, H, W, C, 3, 3)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
