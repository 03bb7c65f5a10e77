"""Which images of a batch are trained on, and how the small network that picks them learns."""

import numpy as np
import pytest
import torch
from torch import nn

from cifar.console import InputError
from cifar.engine import Batch, build_loss, build_trainer
from cifar.filtering import Filter, build_filter

AIRNET = {"name": "airnet", "widths": [8, 8, 8], "depth": 2, "norm_momentum": 0.1, "logit_scale": 0.1}
SGD = {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
SPECS = {
    "model": {"name": "custom_resnet", "logit_scale": 0.125},
    "optimizer": SGD,
    "loss": {"name": "cross_entropy", "label_smoothing": 0.2},
    "filter": {"name": "proxy", "share": 0.5, "every": 4, "model": AIRNET | {"whitening_bias_epochs": 1}},
}
RANDOM = np.random.default_rng(0)
ARGUMENTS = "all", 1.0, 0.0, [0.5] * 3, [0.25] * 3, "fp32", 0, RANDOM.integers(0, 256, (20, 32, 32, 3), np.uint8)


def random_batch(size: int) -> Batch:
    images, labels = RANDOM.integers(0, 256, (size, 32, 32, 3), np.uint8), RANDOM.integers(0, 10, size)
    return Batch(torch.from_numpy(images), torch.from_numpy(labels))


class FirstPixel(nn.Module):
    """Logits 0 but for the first class, whose logit is the image's first number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.pad(images[:, 0, 0, :1], (0, 9))


def filter_by_first_pixel(share: float) -> Filter:
    proxy = build_trainer(SPECS, *ARGUMENTS)._replace(network=FirstPixel())
    return Filter(proxy, build_loss(SPECS["loss"], "none"), share, every=4)


def test_the_images_with_the_largest_losses_are_picked_in_the_batchs_order():
    images = np.zeros((6, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = [10, 250, 130, 60, 0, 200]  # the higher, the surer of class 0
    labels = np.array([0, 1, 1, 0, 1, 0])
    logits = np.zeros((6, 10))
    logits[:, 0] = (images[:, 0, 0, 0] / 255 - 0.5) / 0.25
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = np.eye(10)[labels] * 0.8 + 0.02  # label smoothing 0.2
    losses = -(wanted * log_probabilities).sum(1)
    for share, count in (0.5, 3), (0.7, 4), (0.01, 1):
        picked = filter_by_first_pixel(share).hardest(Batch(torch.from_numpy(images), torch.from_numpy(labels)))
        index = np.sort(np.argsort(-losses)[:count])
        assert np.array_equal(picked.images, images[index]) and np.array_equal(picked.labels, labels[index])


def test_of_equally_hard_images_the_first_are_picked():
    batch = random_batch(64)
    batch.images[:, 0, 0] = 100
    picked = filter_by_first_pixel(0.25).hardest(batch._replace(labels=torch.ones(64, dtype=torch.int64)))
    assert torch.equal(picked.images, batch.images[:16])


def test_the_proxy_learns_from_its_picks_of_every_fourth_step():
    image_filter = build_filter(SPECS, *ARGUMENTS)
    again = build_filter(SPECS, *ARGUMENTS).proxy
    lrs, momenta = np.linspace(0.01, 0.06, 6), np.linspace(0.9, 0.8, 6)
    for epoch, learnt in (0, (0, 4)), (1, (2,)):  # steps 0 and 4 of the first six, 8 of the next
        picks = list(image_filter.narrow(epoch, [random_batch(20) for _ in lrs], lrs, momenta))
        assert [len(batch.labels) for batch in picks] == [10] * 6
        again.begin_epoch(epoch)
        for number in learnt:
            again.step(picks[number], lrs[number], momenta[number])
        for ours, theirs in zip(image_filter.proxy.network.parameters(), again.network.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert not image_filter.proxy.network.prep[0].bias.requires_grad  # it has an epoch, as the other network its own


def test_what_is_picked_does_not_depend_on_who_is_trained_on_it():
    batches = [random_batch(20) for _ in range(6)]
    picks = [
        list(build_filter(SPECS | {"model": model}, *ARGUMENTS).narrow(0, batches, [0.05] * 6, [0.9] * 6))
        for model in (SPECS["model"], AIRNET | {"whitening_bias_epochs": 3})
    ]
    for one, other in zip(*picks, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_a_proxy_that_diverges_is_one_line():
    with pytest.raises(InputError, match=r"^training diverged: the loss of filter.model is nan; lower lr_max$"):
        list(build_filter(SPECS, *ARGUMENTS).narrow(0, [random_batch(20)] * 9, [1e30] * 9, [0.9] * 9))


def test_no_filter_is_none():
    assert build_filter(SPECS | {"filter": {"name": "none"}}, *ARGUMENTS) is None
