"""The processes that share a stage: who does what, and what they exchange. How they start is in `launch`.

All functions here also work with a single process.
"""

from __future__ import annotations

import atexit
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cifar.system.device import differences, environment, pick_device
from cifar.system.errors import InputError, is_out_of_memory
from cifar.system.stage import LOST, Stopped

Item = TypeVar("Item")

JOIN = timedelta(seconds=120)  # from the first process that is ready to the last; they import torch at the same time
PATIENCE = timedelta(days=1)  # for a process that still works; `ending_stuck` ends those that do not
GPU_PATIENCE = timedelta(seconds=22)  # who waits for a GPU keeps its processor busy; the work of GPUs is even


def join() -> None:
    """Join the other processes, which the launcher has started too; on GPUs each process takes one."""
    device = pick_device()
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _lost_processes():
        dist.init_process_group({"cuda": "nccl", "cpu": "gloo"}[device.type], timeout=JOIN)
        dist.set_timeout(GPU_PATIENCE if device.type == "cuda" else PATIENCE)
    atexit.register(dist.destroy_process_group)  # else its threads may abort the process at its end
    # The precision depends on params and instructions only, so any value will do here.
    refuse_differences(environment(device, torch.float32, deterministic=True))


def size() -> int:
    """The number of processes that share this stage."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Is this the process that writes and prints?"""
    return rank() == 0


def leave_to_first() -> None:
    """End this process unless it is the first, which writes the results."""
    if not is_first():
        raise SystemExit(0)


def own(items: Sequence[Item]) -> Sequence[Item]:
    """The part of `items` for this process: consecutive ones, equally many for each process."""
    each = len(items) // size()
    return items[rank() * each : (rank() + 1) * each]


def every_nth(items: Sequence[Item]) -> Sequence[Item]:
    """The part of `items` for this process: every n-th one of n processes."""
    return items[rank() :: size()]


def sum_over_processes(vector: Tensor) -> Tensor:
    """The sum of the processes' vectors (N,), with the same bits in each; `vector` holds it afterwards.

    The processes are the leaves of a binary tree: neighbours exchange their vectors, then pairs of pairs, and so on.
    """
    distance, received = 1, torch.empty_like(vector)
    while distance < size():
        other = rank() ^ distance
        with _lost_processes():
            operations = [
                dist.P2POp(call, what, other) for call, what in ((dist.isend, vector), (dist.irecv, received))
            ]
            for work in dist.batch_isend_irecv(operations):
                # Gloo does not limit these by `set_timeout`; NCCL does, and would make the processor wait here.
                work.wait(*([PATIENCE] if vector.device.type == "cpu" else []))
        vector.add_(received)
        distance *= 2
    return vector


def gather(value: Any) -> list[Any]:
    """The `value` of every process, in their order, in each of them."""
    if size() == 1:
        return [value]
    values = [None] * size()
    with _lost_processes():
        dist.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """The first process's `value`, in each of them."""
    if size() == 1:
        return value
    values = [value]
    with _lost_processes():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def refuse_differences(environment: dict[str, Any]) -> None:
    """Raise InputError if one of the processes that share this stage has another environment: its bits would differ."""
    first, *others = gather(environment)
    for number, other in enumerate(others, start=2):
        if other != first:
            raise InputError(
                f"process {number} differs from the first: {differences(other, first)}; all processes need the same "
                "code, data, packages, OMP_NUM_THREADS and kind of machine"
            )


@contextmanager
def _lost_processes() -> Iterator[None]:
    """Raise Stopped when another process has ended or does not answer; the launcher says what has happened to it."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        time.sleep(1)  # so that the launcher sees first why the other one has ended
        is_late = re.search("timed? ?out", str(error), re.IGNORECASE)
        what = "does not answer" if is_late else "has ended"
        raise Stopped(f"another process of this stage {what}", LOST) from None
