"""What training says of itself when it has been interrupted."""

import time
from types import SimpleNamespace

import numpy as np
import torch

from cifar.checkpoint import Checkpoints
from cifar.data import Split
from cifar.engine import Batch, build_trainer
from cifar.schedules import Plan
from stages.train import fit

SPECS = {
    "model": {"name": "custom_resnet", "logit_scale": 0.125},
    "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.0},
    "loss": {"name": "cross_entropy", "label_smoothing": 0.0},
}


def test_the_time_of_an_interrupted_training_is_that_of_all_its_epochs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    random = np.random.default_rng(0)
    split = Split(random.integers(0, 256, (8, 32, 32, 3), np.uint8), random.integers(0, 10, 8, np.uint8))
    checkpoints = Checkpoints("a")

    def train(epochs: int, wait: float) -> tuple[float, float]:
        """Up to so many epochs, each with a wait: the seconds that it counted, and those that it took just now."""

        def batches(epoch):
            time.sleep(wait)
            yield Batch(torch.from_numpy(split.images), torch.from_numpy(split.labels).long())

        params = SimpleNamespace(epochs=epochs, train_scores="running", select="last")
        trainer = build_trainer(SPECS, "all", 1.0, 0.0, [0.5] * 3, [0.25] * 3, "fp32", 0, split.images)
        rates = Plan(np.full((epochs, 1), 0.01), np.full((epochs, 1), 0.9))
        started = time.monotonic()
        *_, counted = fit(params, trainer, split, split, batches, lambda accuracies: rates, checkpoints)
        return counted, time.monotonic() - started

    first, took = train(epochs=2, wait=0.4)
    assert 0.8 < first < took
    both, took = train(epochs=3, wait=0.1)  # carries on after the second epoch
    assert first + 0.1 < both < first + took
