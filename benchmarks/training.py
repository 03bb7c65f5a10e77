"""Training on noise, as the pipeline trains: what several benchmarks time."""

import time
from collections.abc import Callable
from itertools import count, islice

import numpy as np

from benchmarks.report import STATISTICS, synchronise
from cifar.config.schema import IMAGE_SIZE, NoAverage, NoFilter, Params
from cifar.data.batches import feed
from cifar.data.policy import build_policy
from cifar.data.splits import Split
from cifar.training.trainer import Trainer, TrainerSpec, build_trainer, train_epoch

CLASSES = 10


def random_images(count: int) -> Split:
    """Noise: the speed does not depend on what the images show."""
    random = np.random.default_rng(0)
    shape = count, IMAGE_SIZE, IMAGE_SIZE, 3
    return Split(random.integers(0, 256, shape, np.uint8), random.integers(0, CLASSES, count, np.uint8))


def trainer_of(params: Params, images: np.ndarray) -> Trainer:
    """The pipeline's trainer, as stages/train.py builds it, but without an average and a filter."""
    spec = TrainerSpec(
        model=params.model, optimizer=params.optimizer, loss=params.loss,
        average=NoAverage(name="none"), filter=NoFilter(name="none"),
        regularise=params.regularise, bias_lr_factor=params.bias_lr_factor, l1=params.l1,
        steps=1, precision=params.precision, compile=params.compile, shards=params.shards, seed=0,
        classes=CLASSES,
    )  # fmt: skip
    return build_trainer(spec, STATISTICS, images)


def training_of(params: Params, images: int) -> Callable[[int], None]:
    """A function that trains for a number of steps, all of whole batches, on about `images` images."""
    split = random_images(images // params.batch_size * params.batch_size)
    trainer = trainer_of(params, split.images)
    trainer.network.begin_epoch(params.epochs - 1)  # without what is trained in the first epochs only
    policy = build_policy(params.augment, STATISTICS.mean, IMAGE_SIZE)
    batches_of = feed(split, policy, trainer.device, batch_size=params.batch_size, seed=0)
    batches = (batch for epoch in count() for batch in batches_of(epoch))

    def train(steps: int) -> None:
        rates, momenta = [0.001] * steps, [0.9] * steps
        for _ in train_epoch(trainer, islice(batches, steps), rates, momenta, first_step=0):
            pass

    return train


def images_a_second(train: Callable[[int], None], batch_size: int, steps: int) -> float:
    """The speed of `train` over so many steps, of batches of `batch_size` images."""
    synchronise()
    started = time.perf_counter()
    train(steps)
    synchronise()
    return batch_size * steps / (time.perf_counter() - started)
