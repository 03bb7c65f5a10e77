"""Which images of a batch are trained on, and how the small network that picks them learns."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from specs import AIRNET, GREY, LOSS, changed, trainer_spec
from torch import nn

from cifar.config.schema import ModelSpec, NoFilter, Proxy
from cifar.data.splits import Batch
from cifar.nn.networks import Network
from cifar.system.errors import InputError
from cifar.training.hardest import Filter, build_filter
from cifar.training.trainer import build_loss, build_trainer, train_epoch

SMALL = changed(AIRNET, norm_momentum=0.1, whitening_bias={"epochs": 1})
PROXY = Proxy(name="proxy", share=0.5, every=4, model=SMALL)
SPEC = trainer_spec(loss=changed(LOSS, label_smoothing=0.2), filter=PROXY)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 32, 32, 3), np.uint8)


def same(one: Batch, other: Batch) -> bool:
    return all(map(torch.equal, one, other))


def random_batch(size: int) -> Batch:
    images, labels = RANDOM.integers(0, 256, (size, 32, 32, 3), np.uint8), RANDOM.integers(0, 10, size)
    return Batch(torch.from_numpy(images), torch.from_numpy(labels))


class FirstPixel(Network):
    """Logits 0 but for the first class, whose logit is the image's first number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.pad(images[:, 0, 0, :1], (0, 9))


def picks_by_first_pixel(share: float, batch: Batch) -> list[Batch]:
    network = FirstPixel()
    proxy = replace(build_trainer(SPEC, GREY, IMAGES), network=network, forward=network)
    image_filter = Filter(proxy=proxy, losses_of=build_loss(SPEC.loss, "none"), share=share, every=4)
    return list(image_filter.narrow(0, [batch], [0.1], [0.9]))


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
        (picked,) = picks_by_first_pixel(share, Batch(torch.from_numpy(images), torch.from_numpy(labels)))
        index = np.sort(np.argsort(-losses)[:count])
        assert np.array_equal(picked.images, images[index]) and np.array_equal(picked.labels, labels[index])


def test_of_equally_hard_images_the_first_are_picked():
    batch = random_batch(64)
    batch.images[:, 0, 0] = 100
    (picked,) = picks_by_first_pixel(0.25, batch._replace(labels=torch.ones(64, dtype=torch.int64)))
    assert torch.equal(picked.images, batch.images[:16])


def test_the_proxy_learns_from_its_picks_of_every_fourth_step_seen_among_the_whole_batch():
    image_filter = build_filter(SPEC, GREY, IMAGES)
    network = copy.deepcopy(image_filter.proxy.network).train()
    trained = [weights for weights in network.parameters() if weights.requires_grad]
    sgd = torch.optim.SGD(trained, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    lrs, momenta = np.linspace(0.05, 0.1, 6), np.linspace(0.9, 0.8, 6)
    for epoch, learnt in (0, (0, 4)), (1, (2,)):  # steps 0 and 4 of the first six, 8 of the next
        batches = [random_batch(20) for _ in lrs]
        network.prep[0].bias.requires_grad = epoch == 0  # it has an epoch, as the other network its own
        for number, picks in enumerate(image_filter.narrow(epoch, batches, lrs, momenta)):
            images, labels = batches[number]
            logits = network((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
            losses = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.2)
            hardest = losses.topk(10).indices.sort().values
            assert same(picks, Batch(images[hardest], labels[hardest]))
            if number in learnt:
                sgd.param_groups[0] |= {"lr": lrs[number], "momentum": momenta[number]}
                sgd.zero_grad()
                losses[hardest].mean().backward()
                sgd.step()
    assert not image_filter.proxy.network.prep[0].bias.requires_grad
    for name, value in image_filter.proxy.network.state_dict().items():
        assert torch.allclose(value, network.state_dict()[name], rtol=1e-4, atol=1e-6), name


def test_what_is_picked_does_not_depend_on_who_is_trained_on_it():
    batches, lrs, momenta = [random_batch(20) for _ in range(6)], [0.05] * 6, [0.9] * 6

    def picks(model: ModelSpec | None) -> list[Batch]:
        """What the filter picks as such a network, or none, trains on it."""
        made, seen = build_filter(SPEC, GREY, IMAGES).narrow(0, batches, lrs, momenta), []
        noted = (seen.append(batch) or batch for batch in made)
        if model is None:
            return list(made)
        trainer = build_trainer(replace(SPEC, model=model), GREY, IMAGES)
        assert [step.images for step in train_epoch(trainer, noted, lrs, momenta, first_step=0)] == [10] * 6
        return seen

    alone = picks(None)
    for model in SPEC.model, changed(SMALL, whitening_bias={"epochs": 3}):
        assert all(map(same, picks(model), alone))


def test_a_proxy_that_diverges_is_one_line_that_names_step_and_rate():
    image_filter = build_filter(replace(SPEC, filter=changed(PROXY, every=1)), GREY, IMAGES)
    lrs = [0.01] * 3 + [1e30] * 6  # step 12 takes the weights away
    with pytest.raises(InputError, match=r"^training diverged: the loss of filter.model is nan at step 13, learning"):
        list(image_filter.narrow(1, [random_batch(20)] * 9, lrs, [0.9] * 9))


def test_no_filter_is_none():
    assert build_filter(replace(SPEC, filter=NoFilter(name="none")), GREY, IMAGES) is None
