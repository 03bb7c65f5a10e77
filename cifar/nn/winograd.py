"""3x3 convolution by Winograd's minimal filtering F(4x4, 3x3), for processors that train in float32.

A 4x4 tile of output takes 36 multiplications a channel pair instead of 144 (Lavin & Gray, "Fast Algorithms for
Convolutional Neural Networks", 2016); PyTorch's own CPU convolution multiplies all 144. The backward pass is the
exact adjoint of the forward one, so it saves the same. Results differ from the direct convolution's by about 1e-5 of
the largest.
"""

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
CHUNK_FLOATS = 2**20  # of the output, transformed at a time: larger chunks fall out of the processor's cache


class WinogradConv(Function):
    """images (N, H, H, C), weight (K, C, 3, 3), bias (K,) or None, to (N, H, H, K), zero-padded by 1.

    Where H is no multiple of 4 the last tiles reach beyond the image, and what they hold there is left out. A `pool`
    above 1 leaves the maximum of each square of so many pixels a side, (N, H // pool, H // pool, K): what is pooled is
    then never in memory all at once. `keep_tiles` for the weight's gradient, in one piece: pieces in between what is
    soon freed would leave holes in memory that nothing else fits.
    """

    @staticmethod
    def forward(context, images: Tensor, weight: Tensor, bias: Tensor | None, pool: int, keep_tiles: bool) -> Tensor:
        count, size, _, width_in = images.shape
        width = len(weight)
        filters = _filters(weight)
        chunk = max(1, CHUNK_FLOATS // (size * size * width))
        outputs = images.new_empty(count, size // pool, size // pool, width)
        places = outputs.new_empty(
            outputs.shape if pool > 1 else 0, dtype=torch.int16
        )  # for images of up to 181 pixels a side
        kept = images.new_empty(count, _tiles(size) * 36 * width_in) if keep_tiles else None
        for part in _parts(count, chunk):
            tiles = _transform(_B, _cut_tiles(images[part]), kept[part] if keep_tiles else None)
            products = torch.bmm(tiles.view(36, -1, width_in), filters)  # (36, n * tiles, K)
            output = outputs[part] if pool == 1 else images.new_empty(len(images[part]), size, size, width)
            _set_blocks(output, _transform(_A, products.view(36, -1)))
            if bias is not None:
                output.add_(bias)
            if pool > 1:
                _max_pool(output, pool, outputs[part], places[part])
        context.save_for_backward(weight, kept, places)
        context.shape, context.pool, context.chunk = images.shape, pool, chunk
        return outputs

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        weight, kept, places = context.saved_tensors
        needs_images, needs_weight, needs_bias = context.needs_input_grad[:3]
        count, size, _, width_in = context.shape
        width = len(weight)
        filters = _filters(weight)
        images_gradient = gradient.new_empty(context.shape) if needs_images else None
        filters_gradient = torch.zeros_like(filters) if needs_weight else None
        gradient = gradient.contiguous()
        for part in _parts(count, context.chunk):
            given = gradient[part]
            if context.pool > 1:
                given = _max_unpool(given, places[part], context.pool, size)
            products = _transform(_A.T, _cut_blocks(given)).view(36, -1, width)
            if needs_weight:
                filters_gradient.baddbmm_(kept[part].view(36, -1, width_in).transpose(1, 2), products)
            if needs_images:
                tiles = _transform(_B.T, torch.bmm(products, filters.transpose(1, 2)).view(36, -1))
                _add_tiles(tiles, images_gradient[part])
        weight_gradient = None
        if needs_weight:
            corners = _transform(_G.T, filters_gradient.view(36, -1)).view(3, 3, width_in, width)
            weight_gradient = corners.permute(3, 2, 0, 1)
        return images_gradient, weight_gradient, gradient.sum((0, 1, 2)) if needs_bias else None, None, None


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, count, chunk)]


def _filters(weight: Tensor) -> Tensor:
    """weight (K, C, 3, 3) to (36, C, K)."""
    width, width_in = weight.shape[:2]
    return _transform(_G, weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, width_in, width)


def _max_pool(images: Tensor, pool: int, maxima: Tensor, places: Tensor) -> None:
    """Write the maxima of images (n, H, H, K) and which pixels they are, 0 to H * H - 1, each (n, h, h, K)."""
    found, indices = F.max_pool2d(images.permute(0, 3, 1, 2), pool, return_indices=True)
    maxima.copy_(found.permute(0, 2, 3, 1))
    places.copy_(indices.permute(0, 2, 3, 1))


def _max_unpool(gradient: Tensor, places: Tensor, pool: int, size: int) -> Tensor:
    """The adjoint of `_max_pool`: gradient (n, h, h, K) to (n, H, H, K), 0 but at the maxima."""
    images = gradient.new_empty(len(gradient), size, size, gradient.shape[3])  # of which only the shape is read
    given, images, indices = (values.permute(0, 3, 1, 2) for values in (gradient, images, places.long()))
    pooling = (
        [pool, pool],
        [pool, pool],
        [0, 0],
        [1, 1],
        False,
    )  # window, stride, padding, dilation, no rounding up
    unpooled = torch.ops.aten.max_pool2d_with_indices_backward(given, images, *pooling, indices)
    return unpooled.permute(0, 2, 3, 1)


def _transform(matrix: Tensor, tiles: Tensor, into: Tensor | None = None) -> Tensor:
    """M d M' of every tile d: `matrix` (a, b), `tiles` (b * b, n) by place in the tile, to (a * a, n)."""
    after, before = matrix.shape
    rows = (matrix @ tiles.view(before, -1)).view(after, before, -1)
    into = None if into is None else into.view(after, after, -1)
    return torch.matmul(matrix, rows, out=into).view(after * after, -1)


def _beyond(size: int) -> int:
    """How many pixels further the 4x4 tiles reach than the image."""
    return -size % 4


def _tiles(size: int) -> int:
    """How many 4x4 tiles cover an image."""
    return ((size + 3) // 4) ** 2


def _blocks(images: Tensor) -> Tensor:
    """A view of images (n, H, H, K), H a multiple of 4, by place in the 4x4 tile: (4, 4, n, H/4, H/4, K)."""
    n, size, _, width = images.shape
    return images.view(n, size // 4, 4, size // 4, 4, width).permute(2, 4, 0, 1, 3, 5)


def _cut_blocks(images: Tensor) -> Tensor:
    """images (n, H, H, K) to (16, n * tiles * K), 0 beyond the image."""
    beyond = _beyond(images.shape[1])
    return _blocks(F.pad(images, (0, 0, 0, beyond, 0, beyond)) if beyond else images).reshape(16, -1)


def _set_blocks(images: Tensor, values: Tensor) -> None:
    """Write `values` (16, n * tiles * K) into images (n, H, H, K), without those beyond it."""
    n, size, _, width = images.shape
    beyond = _beyond(size)
    whole = images.new_empty(n, size + beyond, size + beyond, width) if beyond else images
    places = _blocks(whole)
    places.copy_(values.view(places.shape))
    if beyond:
        images.copy_(whole[:, :size, :size])


def _overlapping(padded: Tensor) -> Tensor:
    """A view of padded images (n, H + 2, H + 2, C) as 6x6 tiles, 4 apart: (6, 6, n, H/4, H/4, C)."""
    return padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)


def _cut_tiles(images: Tensor) -> Tensor:
    """images (n, H, H, C) to (36, n * tiles * C)."""
    after = 1 + _beyond(images.shape[1])
    return _overlapping(F.pad(images, (0, 0, 1, after, 1, after))).reshape(36, -1)


def _add_tiles(tiles: Tensor, images: Tensor) -> None:
    """The adjoint of `_cut_tiles`: write into images (n, H, H, C) the sum of the tiles that cover each pixel."""
    n, size, _, width = images.shape
    padded_size = size + _beyond(size) + 2
    padded = images.new_zeros(n, padded_size, padded_size, width)
    places = _overlapping(padded)
    for i, row in enumerate(tiles.view(places.shape)):
        for j, values in enumerate(row):
            places[i, j].add_(values)  # one place of every tile: no two of them overlap
    images.copy_(padded[:, 1 : size + 1, 1 : size + 1])
