"""The training batches: every image once an epoch, and the same ones whoever makes them."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from specs import policy_of

from cifar.data.batches import feed, source_of, training_batches
from cifar.data.splits import Batch, Split
from cifar.system.errors import InputError

MEAN = [0.491400, 0.482158, 0.446531]
CPU = torch.device("cpu")


def test_epoch_shows_every_image_once_in_an_order_of_its_own():
    images = np.zeros((50, 32, 32, 3), np.uint8)
    images[:] = np.arange(50, dtype=np.uint8)[:, None, None, None]
    split = Split(images, (np.arange(50) % 10).astype(np.uint8))
    batches_of = feed(split, policy_of([], MEAN, 32), torch.device("cpu"), batch_size=16, seed=3)
    orders = []
    for epoch in (0, 1):
        batches = list(batches_of(epoch))
        assert [len(part.labels) for part in batches] == [16, 16, 16, 2]
        orders.append(np.concatenate([part.images[:, 0, 0, 0] for part in batches]))
        assert np.array_equal(np.concatenate([part.labels for part in batches]), orders[-1] % 10)
        assert sorted(orders[-1]) == list(range(50))
    assert not np.array_equal(*orders)


@pytest.mark.parametrize("transforms", [
    [("AlternatingFlip", {}), ("Pad", {"padding": 4}), ("RandomCrop", {"height": 32, "width": 32})],
    [("Rotate", {"limit": [-15, 15]}), ("HorizontalFlip", {"p": 0.5})],
], ids=["whole batches", "image by image"])  # fmt: skip
def test_the_batches_do_not_depend_on_how_many_processes_make_them(transforms):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (70, 32, 32, 3), np.uint8), random.integers(0, 10, 70, np.uint8)
    split, policy = Split(images, labels), policy_of(transforms, MEAN, 32)
    expected = list(feed(split, policy, CPU, batch_size=16, seed=3)(2))
    whole = Batch(torch.from_numpy(images), torch.from_numpy(labels).long())
    for workers in (1, 2):
        found = list(training_batches(source_of(whole), policy, epoch=2, batch_size=16, seed=3, workers=workers))
        assert len(found) == len(expected) == 5
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_policy_that_fails_on_an_image_is_one_line_whoever_applies_it(workers):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    reflected = {"padding": 12, "border_mode": "BORDER_REFLECT_101"}
    policy = policy_of([("RandomCrop", {"height": 8, "width": 8}), ("Pad", reflected)], MEAN, 32)
    with pytest.raises(InputError) as caught:
        list(
            training_batches(
                source_of(Batch(images, torch.zeros(4).long())), policy, epoch=0, batch_size=2, seed=0, workers=workers
            )
        )
    assert str(caught.value) == "augment does not work on 8 x 8 x 3: it is too small to reflect 12 pixels"


TRAINER = """
import os, time, torch
from cifar.config.schema import TransformSpec
from cifar.data.policy import build_policy
from cifar.data.batches import source_of, training_batches
from cifar.system.stage import run
from cifar.data.splits import Batch

def main():
    images, labels = torch.zeros(400, 32, 32, 3, dtype=torch.uint8), torch.zeros(400).long()
    policy = build_policy([TransformSpec(name="Rotate")], [0.5] * 3, 32)
    batches = training_batches(source_of(Batch(images, labels)), policy, epoch=0, batch_size=2, seed=0, workers=2)
    {main}

run(main)
"""
BEGINS = "os.register_at_fork(after_in_child=lambda: (print('begins', flush=True), time.sleep(1)))"


@contextmanager
def trainer(*main):
    """A process, in a group of its own, that runs the lines of `main` with `batches` from two workers."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER.format(main="\n    ".join(main))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        cwd=Path(__file__).parents[1], env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("moment", ["begins", "works"])
@pytest.mark.parametrize("number, word", [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped")])
def test_workers_leave_the_answer_to_ctrl_c_to_the_process_that_trains(number, word, moment):
    begins = [BEGINS] if moment == "begins" else []
    with trainer(*begins, "for _ in batches: print('works', flush=True); time.sleep(0.3)") as process:
        assert process.stdout.readline() == f"{moment}\n"
        os.killpg(process.pid, number)  # as a terminal does, workers and all
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, f"{word}; run `dvc repro` to continue\n")


def test_a_bug_ends_the_workers_too():
    with trainer("for _ in batches: raise RuntimeError('a bug')") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and errors.endswith("\nRuntimeError: a bug\n")


def test_on_a_processor_no_other_process_helps():
    split = Split(np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, np.uint8))
    for transforms in ([], [("Rotate", {})]):
        assert feed(split, policy_of(transforms, MEAN, 32), CPU, batch_size=2, seed=0).keywords["workers"] == 0


def test_there_must_be_as_many_images_as_a_batch_has():
    split = Split(np.zeros((20, 32, 32, 3), np.uint8), np.zeros(20, np.uint8))
    with pytest.raises(InputError, match="batch_size is 21, it must be at most the 20 images left to train on"):
        feed(split, policy_of([], MEAN, 32), CPU, batch_size=21, seed=0)
