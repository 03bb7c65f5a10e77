"""3x3 convolutions with padding 1, computed in the fastest way for the processor and the precision."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from cifar.nn.winograd import WinogradConv
from cifar.system.device import has_amx

CHUNK_NUMBERS = 2**22  # numbers in the patches that are in memory at a time


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with padding 1, then max pooling over squares of `pool` x `pool` pixels.

    A `pool` of 1 is no pooling. The result is that of nn.Conv2d and nn.MaxPool2d.
    """

    def __init__(self, width_in: int, width: int, *, bias: bool, stride: int = 1, pool: int = 1):
        super().__init__(width_in, width, kernel_size=3, stride=stride, padding=1, bias=bias)
        self.pool = pool

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        can_be_faster = images.device.type == "cpu" and self.stride == (1, 1)  # on a GPU, cuDNN picks the fastest way
        precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
        # With few input channels (the images have 3) Winograd's transforms cost more than they save.
        if can_be_faster and precision == torch.float32 and height == width and self.in_channels >= 32:
            images = images.permute(0, 2, 3, 1).contiguous()
            keep_tiles = torch.is_grad_enabled() and self.weight.requires_grad
            outputs = WinogradConv.apply(images, self.weight, self.bias, self.pool, keep_tiles)
            return outputs.permute(0, 3, 1, 2)
        if can_be_faster and precision == torch.bfloat16 and height * width <= largest_small_map(has_amx()):
            outputs = SmallMapConv.apply(images.to(precision), self.weight, self.bias)
        else:
            outputs = super().forward(images)
        if self.pool == 1:
            return outputs
        return MaxPool.apply(outputs, self.pool) if outputs.device.type == "cpu" else F.max_pool2d(outputs, self.pool)


class MaxPool(Function):
    """F.max_pool2d of images (N, C, H, W) on a CPU, without keeping the images.

    PyTorch's own pooling keeps its input for the backward pass, although only the shape is needed.
    """

    @staticmethod
    def forward(context, images: Tensor, size: int) -> Tensor:
        context.size, context.shape = size, images.shape
        outputs, indices = torch.ops.aten.max_pool2d_with_indices(images, [size, size])
        context.save_for_backward(indices)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        (indices,) = context.saved_tensors
        images_gradient = torch.empty(context.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        window, stride, padding, dilation, ceil_mode = [context.size] * 2, [context.size] * 2, [0, 0], [1, 1], False
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
            gradient,
            images_gradient,  # the pooling's input, whose shape alone is read
            window,
            stride,
            padding,
            dilation,
            ceil_mode,
            indices,
            grad_input=images_gradient,
        )
        return images_gradient, None


def largest_small_map(amx: bool) -> int:
    """Up to how many pixels of a map SmallMapConv is faster than oneDNN, on a CPU with or without AMX."""
    return 64 if amx else 16


class SmallMapConv(Function):
    """The convolution of images (N, C, H, W) with weight (K, C, 3, 3) and bias (K,) or None, zero-padded by 1.

    Images and outputs (N, K, H, W) are in bfloat16, weight and bias in float32; all of them are channels last in
    memory. The bias's gradient is summed in float32. The weight's is computed from the 3x3 patches (im2col) of a chunk
    of images at a time: each chunk's matrix product is rounded to bfloat16, and the products are added in float32. On
    small maps oneDNN takes 1.5 to 9 times as long for it with AMX, and up to twice as long without.
    """

    @staticmethod
    def forward(context, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight, bias = weight.to(images.dtype), None if bias is None else bias.to(images.dtype)
        context.save_for_backward(images, weight)
        if _is_one_product_faster(images, weight):
            return _convolve_by_product(images, weight, bias)
        return F.conv2d(images, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        images, weight = context.saved_tensors
        needs_images, needs_weight, needs_bias = context.needs_input_grad
        images_gradient = weight_gradient = bias_gradient = None
        if needs_images and _is_one_product_faster(images, weight):
            images_gradient = _convolve_by_product(gradient, weight.flip(2, 3).transpose(0, 1), None)
        elif needs_images:
            images_gradient = torch.nn.grad.conv2d_input(images.shape, weight, gradient, padding=1)
        if needs_weight:
            weight_gradient = _weight_gradient(images, gradient)
        if needs_bias:
            bias_gradient = gradient.sum((0, 2, 3), dtype=torch.float32)
        return images_gradient, weight_gradient, bias_gradient


def _is_one_product_faster(images: Tensor, weight: Tensor) -> bool:
    """Is one matrix product over all patches faster than oneDNN's convolution?

    oneDNN reads the weights again for every one or two images. This is slow if the weights do not fit a core's cache
    and each image has few pixels. Measured with AMX: from 512 to 512 channels, on maps of 3x3 and 4x4.
    """
    return has_amx() and images[0, 0].numel() <= 16 and weight.numel() >= 2**21


def _convolve_by_product(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of images (N, C, H, W) with weight (K, C, 3, 3) as one matrix product: (N, K, H, W)."""
    outputs = F.linear(_patches(images), weight.permute(0, 2, 3, 1).flatten(1), bias)  # (N * H * W, K)
    return outputs.view(len(images), *images.shape[2:], -1).permute(0, 3, 1, 2)


def _weight_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    """The weight's gradient (K, C, 3, 3) float32, from images (N, C, H, W) and the outputs' `gradient` (N, K, H, W)."""
    (channels, height, width), filters = images.shape[1:], gradient.shape[1]
    total = torch.zeros(filters, 9 * channels)
    chunk = max(1, CHUNK_NUMBERS // (9 * channels * height * width))
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        outputs_gradient = gradient[part].permute(0, 2, 3, 1).flatten(0, 2)  # (n * H * W, K)
        total += outputs_gradient.T @ _patches(images[part])
    return total.view(filters, 3, 3, channels).permute(0, 3, 1, 2)


def _patches(images: Tensor) -> Tensor:
    """The 3x3 patch around each pixel of images (N, C, H, W), as rows: (N * H * W, 3 * 3 * C)."""
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (N, H, W, C, 3, 3)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
