"""3x3 convolution by Winograd's minimal filtering F(4x4, 3x3), for CPUs that train in float32.

For each pair of an input and an output channel, a 4x4 tile of output takes 36 multiplications instead of 144 (Lavin &
Gray, "Fast Algorithms for Convolutional Neural Networks", 2016). PyTorch's own CPU convolution takes 144. The backward
pass is the exact adjoint of the forward pass and saves as much. The results differ from the direct convolution's by
about 1e-5 of the largest value.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Lavin & Gray, section 4.1 and appendix: Y = A [(G g G') * (B d B')] A' for tiles d (6, 6), filters g (3, 3).
_B = torch.tensor([
    [4.0, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
])  # fmt: skip
_G = torch.tensor([
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
])  # fmt: skip
_A = torch.tensor([
    [1.0, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
])  # fmt: skip
CHUNK_FLOATS = 2**20  # outputs computed at a time: a larger chunk does not fit the processor's cache


class WinogradConv(Function):
    """The convolution of images (N, H, H, C) with weight (K, C, 3, 3) and bias (K,) or None: (N, H, H, K).

    The images are zero-padded by 1. If H is not a multiple of 4, the last tiles reach beyond the image, and their
    values there are dropped. A `pool` above 1 applies max pooling over squares of `pool` x `pool` pixels, chunk by
    chunk, so that the convolution's whole output is never in memory: (N, H // pool, H // pool, K).

    `keep_tiles` keeps the transformed tiles for the weight's gradient. They are in one tensor, because many small ones
    between short-lived tensors would fragment the memory.
    """

    @staticmethod
    def forward(context, images: Tensor, weight: Tensor, bias: Tensor | None, pool: int, keep_tiles: bool) -> Tensor:
        count, size, _, width_in = images.shape
        width = len(weight)
        filters = _filters(weight)
        chunk = max(1, CHUNK_FLOATS // (size * size * width))
        outputs = images.new_empty(count, size // pool, size // pool, width)
        index_dtype = torch.int16 if size * size <= 2**15 else torch.int32  # it numbers the pixels of an image
        max_indices = outputs.new_empty(outputs.shape if pool > 1 else 0, dtype=index_dtype)
        all_tiles = images.new_empty(count, _tiles(size) * 36 * width_in) if keep_tiles else None
        for part in _parts(count, chunk):
            tiles = _transform(_B, _cut_tiles(images[part]), all_tiles[part] if keep_tiles else None)
            products = torch.bmm(tiles.view(36, -1, width_in), filters)  # (36, n * tiles, K)
            output = outputs[part] if pool == 1 else images.new_empty(len(images[part]), size, size, width)
            _set_blocks(output, _transform(_A, products.view(36, -1)))
            if bias is not None:
                output.add_(bias)
            if pool > 1:
                _max_pool(output, pool, outputs[part], max_indices[part])
        context.save_for_backward(weight, all_tiles, max_indices)
        context.shape, context.pool, context.chunk = images.shape, pool, chunk
        return outputs

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        weight, all_tiles, max_indices = context.saved_tensors
        needs_images, needs_weight, needs_bias = context.needs_input_grad[:3]
        count, size, _, width_in = context.shape
        width = len(weight)
        filters = _filters(weight)
        images_gradient = gradient.new_empty(context.shape) if needs_images else None
        filters_gradient = torch.zeros_like(filters) if needs_weight else None
        gradient = gradient.contiguous()
        for part in _parts(count, context.chunk):
            output_gradient = gradient[part]
            if context.pool > 1:
                output_gradient = _max_unpool(output_gradient, max_indices[part], context.pool, size)
            products = _transform(_A.T, _cut_blocks(output_gradient)).view(36, -1, width)
            if needs_weight:
                filters_gradient.baddbmm_(all_tiles[part].view(36, -1, width_in).transpose(1, 2), products)
            if needs_images:
                tiles = _transform(_B.T, torch.bmm(products, filters.transpose(1, 2)).view(36, -1))
                _add_tiles(tiles, images_gradient[part])
        weight_gradient = None
        if needs_weight:
            corners = _transform(_G.T, filters_gradient.view(36, -1)).view(3, 3, width_in, width)
            weight_gradient = corners.permute(3, 2, 0, 1)
        return images_gradient, weight_gradient, gradient.sum((0, 1, 2)) if needs_bias else None, None, None


def _parts(count: int, chunk: int) -> list[slice]:
    """Slices of at most `chunk` images that cover `count` images."""
    return [slice(start, start + chunk) for start in range(0, count, chunk)]


def _filters(weight: Tensor) -> Tensor:
    """The transformed filters (36, C, K) of weight (K, C, 3, 3)."""
    width, width_in = weight.shape[:2]
    return _transform(_G, weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, width_in, width)


def _max_pool(images: Tensor, pool: int, maxima: Tensor, max_indices: Tensor) -> None:
    """Write the maxima of images (n, H, H, K) and their pixel numbers, 0 to H * H - 1, each (n, h, h, K)."""
    pooled, indices = F.max_pool2d(images.permute(0, 3, 1, 2), pool, return_indices=True)
    maxima.copy_(pooled.permute(0, 2, 3, 1))
    max_indices.copy_(indices.permute(0, 2, 3, 1))


def _max_unpool(gradient: Tensor, max_indices: Tensor, pool: int, size: int) -> Tensor:
    """The adjoint of `_max_pool`: gradient (n, h, h, K) to (n, H, H, K), which is 0 except at the maxima."""
    images = gradient.new_empty(len(gradient), size, size, gradient.shape[3])  # the pooling's input: its shape counts
    gradient, images, indices = (values.permute(0, 3, 1, 2) for values in (gradient, images, max_indices.long()))
    window, stride, padding, dilation, ceil_mode = [pool, pool], [pool, pool], [0, 0], [1, 1], False
    unpooled = torch.ops.aten.max_pool2d_with_indices_backward(
        gradient, images, window, stride, padding, dilation, ceil_mode, indices
    )
    return unpooled.permute(0, 2, 3, 1)


def _transform(matrix: Tensor, tiles: Tensor, out: Tensor | None = None) -> Tensor:
    """M d M' of every tile d, from `matrix` M (a, b) and `tiles` (b * b, n), one tile a column: (a * a, n).

    The result is written into `out` if there is one.
    """
    rows, columns = matrix.shape
    half = (matrix @ tiles.view(columns, -1)).view(rows, columns, -1)
    out = None if out is None else out.view(rows, rows, -1)
    return torch.matmul(matrix, half, out=out).view(rows * rows, -1)


def _beyond(size: int) -> int:
    """How many pixels the 4x4 tiles reach beyond an image of `size` pixels a side."""
    return 4 * math.ceil(size / 4) - size


def _tiles(size: int) -> int:
    """How many 4x4 tiles cover an image of `size` pixels a side."""
    return math.ceil(size / 4) ** 2


def _blocks(images: Tensor) -> Tensor:
    """A view of images (n, H, H, K) as 4x4 tiles, H a multiple of 4: (4, 4, n, H/4, H/4, K)."""
    n, size, _, width = images.shape
    return images.view(n, size // 4, 4, size // 4, 4, width).permute(2, 4, 0, 1, 3, 5)


def _cut_blocks(images: Tensor) -> Tensor:
    """Images (n, H, H, K) cut into 4x4 tiles, with zeros beyond the image: (16, n * tiles * K)."""
    beyond = _beyond(images.shape[1])
    return _blocks(F.pad(images, (0, 0, 0, beyond, 0, beyond)) if beyond else images).reshape(16, -1)


def _set_blocks(images: Tensor, tiles: Tensor) -> None:
    """The inverse of `_cut_blocks`: write tiles (16, n * tiles * K) into images (n, H, H, K)."""
    n, size, _, width = images.shape
    beyond = _beyond(size)
    enlarged = images.new_empty(n, size + beyond, size + beyond, width) if beyond else images
    blocks = _blocks(enlarged)
    blocks.copy_(tiles.view(blocks.shape))
    if beyond:
        images.copy_(enlarged[:, :size, :size])


def _overlapping(padded: Tensor) -> Tensor:
    """A view of padded images (n, H + 2, H + 2, C) as 6x6 tiles, 4 pixels apart: (6, 6, n, H/4, H/4, C)."""
    return padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)


def _cut_tiles(images: Tensor) -> Tensor:
    """Images (n, H, H, C), zero-padded, cut into overlapping 6x6 tiles: (36, n * tiles * C)."""
    end = 1 + _beyond(images.shape[1])
    return _overlapping(F.pad(images, (0, 0, 1, end, 1, end))).reshape(36, -1)


def _add_tiles(tiles: Tensor, images: Tensor) -> None:
    """The adjoint of `_cut_tiles`: write into images (n, H, H, C) the sum of the tiles that cover each pixel."""
    n, size, _, width = images.shape
    padded_size = size + _beyond(size) + 2
    padded = images.new_zeros(n, padded_size, padded_size, width)
    overlapping = _overlapping(padded)
    for i, row in enumerate(tiles.view(overlapping.shape)):
        for j, pixels in enumerate(row):
            overlapping[i, j].add_(pixels)  # pixel (i, j) of every tile: these never overlap
    images.copy_(padded[:, 1 : size + 1, 1 : size + 1])
