"""The training images in batches: shuffled and augmented, not yet normalised."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cifar.data.policy import Policy, augment_batch
from cifar.data.splits import Batch, Split, epoch_batches
from cifar.system.device import cores
from cifar.system.errors import InputError
from cifar.system.stage import SIGNALS

BLOCK = 5000  # images copied to a device at a time


def feed(
    split: Split, policy: Policy, device: torch.device, *, batch_size: int, seed: int
) -> Callable[[int], Iterator[Batch]]:
    """A function from an epoch's number, counted from 0, to its batches.

    On a GPU all images are on the device and are augmented there. Transforms that take one image after another would
    keep it waiting, so worker processes make those batches in advance. On a CPU they would only compete with training;
    there the images stay where they are, so that they need not fit the memory. Raises InputError if there are fewer
    than `batch_size`.
    """
    count = len(split.labels)
    if batch_size > count:
        raise InputError(f"batch_size is {batch_size}, it must be at most the {count} images left to train on")
    workers = 0 if device.type == "cpu" or policy.is_batched else cores() - 1
    if device.type == "cpu" or workers:
        source = Source(partial(_take, split), count)
    else:
        images = torch.empty(split.images.shape, dtype=torch.uint8, device=device)  # not twice, as with torch.cat
        for part in _parts(count):
            images[part] = torch.from_numpy(split.images[part]).to(device)
        source = source_of(Batch(images, torch.from_numpy(split.labels.astype(np.int64)).to(device)))
    return partial(training_batches, source, policy, batch_size=batch_size, seed=seed, workers=workers)


class Source(NamedTuple):
    """The training images: how many there are, and a function from the indices (N,) of some to these as a batch."""

    take: Callable[[np.ndarray], Batch]
    count: int


def source_of(whole: Batch) -> Source:
    """All images as one batch, from which others are taken on its device."""
    return Source(partial(_select, whole), len(whole.labels))


def _take(split: Split, index: np.ndarray) -> Batch:
    return Batch(torch.from_numpy(split.images[index]), torch.from_numpy(split.labels[index].astype(np.int64)))


def _select(whole: Batch, index: np.ndarray) -> Batch:
    rows = torch.from_numpy(index).to(whole.labels.device, non_blocking=True)
    return Batch(*(values.index_select(0, rows) for values in whole))


def _parts(count: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]


class EpochBatches(Dataset):
    """An epoch's batches by number: shuffled by (seed, epoch), augmented by (seed, epoch, batch)."""

    def __init__(self, source: Source, policy: Policy, epoch: int, *, batch_size: int, seed: int):
        self.source, self.policy, self.seed, self.epoch = source, policy, seed, epoch
        self.indices = epoch_batches(source.count, batch_size, seed, epoch)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Batch | InputError:
        """The batch, or the error in the policy: an exception raised in a worker would arrive with its traceback."""
        index = self.indices[number]
        images, labels = self.source.take(index)
        try:
            return Batch(augment_batch(self.policy, images, index, (self.seed, self.epoch, number)), labels)
        except InputError as error:
            return error


def training_batches(
    source: Source, policy: Policy, epoch: int, *, batch_size: int, seed: int, workers: int
) -> Iterator[Batch]:
    """The epoch's batches in order, made by `workers` processes, or by this one if there are none: the same batches.

    Raises InputError for a policy that does not work on the images.
    """
    batches = EpochBatches(source, policy, epoch, batch_size=batch_size, seed=seed)
    fork = "fork" if workers else None  # a policy cannot be pickled; the workers do not touch the GPU
    loader = DataLoader(
        batches, batch_size=None, num_workers=workers, multiprocessing_context=fork, worker_init_fn=_end_with_parent
    )
    with _signals_held_back():
        iterator = iter(loader)  # starts the workers
    for batch in iterator:
        if isinstance(batch, InputError):
            raise batch
        yield batch


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block ends; a process that is forked in it keeps them held back."""
    received = []  # the mask below is this thread's: a signal may still arrive by way of another thread
    handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in received:
            signal.raise_signal(number)


def _end_with_parent(worker: int) -> None:
    """End this worker, whose signals are held back, when its parent sends SIGTERM, and on no other signal.

    A terminal sends Ctrl-C to all processes; the parent answers it, then ends its workers and waits for them.
    """

    def wait() -> None:
        while signal.sigwaitinfo(SIGNALS).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
