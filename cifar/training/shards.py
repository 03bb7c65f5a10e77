"""A training step over shards of the batch, with the same bits however many processes compute them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from cifar.system.errors import InputError
from cifar.system.processes import own, sum_over_processes

# Images in a shard. With a single image, batch norm's statistics are that image's alone. Where a feature map has only
# one pixel, as in AirNet on images of 16x16, they would be those of one value, which has no variance.
SMALLEST = 2


def cut(count: int, shards: int) -> list[slice]:
    """The positions 0 to `count` - 1 in `shards` consecutive slices; the first `count` % `shards` are longer by one."""
    size, longer = divmod(count, shards)
    starts = [number * size + min(number, longer) for number in range(shards + 1)]
    return [slice(start, end) for start, end in zip(starts, starts[1:], strict=False)]


def check_shards(shards: int, images: int, batch_size: int, *, share: float = 1.0) -> None:
    """Raise InputError if a batch of an epoch, or a shard of one, has fewer than two images to train on.

    `images` is the number of training images, `share` the part of a batch that a filter picks.
    """
    smallest = min(batch_size, images % batch_size or batch_size)
    picked = max(1, round(share * smallest))
    if shards == 1 and picked < SMALLEST:
        raise InputError(
            f"the smallest batch of an epoch has 1 image to train on, and {SMALLEST} are the least allowed; choose "
            "another batch_size or val_size"
        )
    if picked // shards < SMALLEST:
        raise InputError(
            f"shards is {shards}, but the smallest batch has {picked} images to train on and each shard needs "
            f"{SMALLEST}; lower shards, or choose another batch_size or val_size"
        )


def tree_sum(vectors: Iterable[Tensor]) -> Tensor:
    """The sum of 2**n vectors by a binary tree over their order; it keeps at most n + 1 of them, and changes them."""
    waiting: list[tuple[int, Tensor]] = []  # sums of 2**level neighbours, each with its level, which falls
    for vector in vectors:
        level = 0
        while waiting and waiting[-1][0] == level:
            vector = waiting.pop()[1].add_(vector)
            level += 1
        waiting.append((level, vector))
    ((_, total),) = waiting
    return total


def sum_shards(network: nn.Module, parts: list[slice], backward: Callable[[slice], Tensor]) -> Tensor:
    """Set the network's gradients to the sums over all shards, and its running statistics to their mean.

    `backward` adds a shard's gradients to the network's and returns what else to sum, float32 (V,): the result is its
    sum. `parts` are the shards of the batch, a power of two of them. A process computes its own and sends one sum.
    Every shard starts from the running statistics before the step, and counters of batches count one.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    averaged = [buffer for buffer in buffers if buffer.is_floating_point()]

    def vectors() -> Iterable[Tensor]:
        for part in own(parts):
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            values = backward(part)
            yield torch.cat([tensor.flatten() for tensor in (*(p.grad for p in trained), *averaged, values)])
            network.zero_grad(set_to_none=True)

    sizes = [tensor.numel() for tensor in (*trained, *averaged)]
    total = sum_over_processes(tree_sum(vectors()))
    *sums, values = total.split([*sizes, len(total) - sum(sizes)])
    for parameter, gradient in zip(trained, sums[: len(trained)], strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(gradient.view_as(parameter))
    for buffer, statistic in zip(averaged, sums[len(trained) :], strict=True):
        buffer.copy_(statistic.view_as(buffer) / len(parts))
    return values
