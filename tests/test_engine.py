"""The training step against the same step written out by hand, and what it is fed with."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cifar.augment import build_policy
from cifar.console import InputError
from cifar.data import Split
from cifar.engine import build_trainer, train_epoch, training_batches
from cifar.inference import normalise, predict

NETWORK = {"name": "custom_resnet", "logit_scale": 0.125}
SGD = {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.3]


def make_trainer(label_smoothing=0.1):
    return build_trainer(NETWORK, SGD, MEAN, STD, label_smoothing, "fp32", seed=0)


@pytest.fixture
def batch() -> Split:
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (8, 32, 32, 3), np.uint8), random.integers(0, 10, 8, np.uint8))


def test_two_steps_equal_nesterov_momentum_written_out(batch):
    trainer, reference = make_trainer(), make_trainer().network.train()
    starts = copy.deepcopy(list(reference.parameters()))
    velocities = [torch.zeros_like(weight) for weight in reference.parameters()]
    inputs = torch.from_numpy(batch.images).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]
    inputs = inputs / torch.tensor(STD)[:, None, None]
    for lr in (0.05, 0.02):
        found = trainer.step(batch, lr)
        log_probabilities = F.log_softmax(reference(inputs), 1)
        wanted = F.one_hot(torch.from_numpy(batch.labels).long(), 10) * 0.9 + 0.01  # label smoothing 0.1
        objective = -(wanted * log_probabilities).sum(1).mean()
        reference.zero_grad()
        objective.backward()
        with torch.no_grad():
            for weight, velocity in zip(reference.parameters(), velocities, strict=True):
                gradient = weight.grad + 5e-4 * weight
                velocity.mul_(0.9).add_(gradient)
                weight.sub_(lr * (gradient + 0.9 * velocity))
        assert found.objective == pytest.approx(objective.item(), rel=1e-4)
        expected_loss = -log_probabilities[range(8), batch.labels.astype(int)].sum().item()
        assert found.loss == pytest.approx(expected_loss, rel=1e-4)
    for start, ours, theirs in zip(starts, trainer.network.parameters(), reference.parameters(), strict=True):
        assert (ours - theirs).norm() < 0.05 * (theirs - start).norm()


def test_step_counts_what_was_right_before_the_update(batch):
    trainer = make_trainer()
    for _ in range(30):
        step = trainer.step(batch, 0.05)
    assert (step.correct, step.images, step.lr) == (8, 8, 0.05)  # eight images are learnt by heart


def test_restored_trainer_goes_on_bit_for_bit(batch):
    one, other = make_trainer(), make_trainer()
    one.step(batch, 0.1)
    other.restore(copy.deepcopy(one.state()))
    assert one.step(batch, 0.1) == other.step(batch, 0.1)
    for ours, theirs in zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_epoch_shows_every_image_once_in_an_order_of_its_own(batch):
    images = np.zeros((50, 32, 32, 3), np.uint8)
    images[:] = np.arange(50, dtype=np.uint8)[:, None, None, None]
    split = Split(images, (np.arange(50) % 10).astype(np.uint8))
    policy = build_policy([], MEAN, seed=0)
    orders = []
    for epoch in (0, 1):
        batches = list(training_batches(split, policy, 16, seed=3, epoch=epoch))
        assert [len(part.labels) for part in batches] == [16, 16, 16, 2]
        orders.append(np.concatenate([part.images[:, 0, 0, 0] for part in batches]))
        assert np.array_equal(np.concatenate([part.labels for part in batches]), orders[-1] % 10)
        assert sorted(orders[-1]) == list(range(50))
    assert not np.array_equal(*orders)


def test_divergence_stops_at_once_and_names_step_and_rate(batch):
    trainer = make_trainer()
    seen = []
    with pytest.raises(InputError, match=r"the loss is nan at step 12, learning rate 1e\+30; lower lr_max"):
        seen.extend(train_epoch(trainer, [batch] * 5, [0.1, 1e30, 1e30, 1e30, 1e30], first_step=10))
    assert len(seen) == 2


def test_normalised_images_have_mean_0_and_deviation_1():
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    mean, std = images.mean((0, 1, 2)) / 255, images.std((0, 1, 2)) / 255
    inputs = normalise(torch.from_numpy(images), mean, std)
    assert inputs.shape == (20, 3, 32, 32) and inputs.is_contiguous(memory_format=torch.channels_last)
    assert inputs.mean((0, 2, 3)).numpy() == pytest.approx(np.zeros(3), abs=1e-5)
    assert inputs.std((0, 2, 3), correction=0).numpy() == pytest.approx(np.ones(3), abs=1e-5)


def test_prediction_uses_eval_mode_and_leaves_the_mode_as_it_was(batch):
    network = make_trainer().network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logits = predict(network, batch.images, MEAN, STD, batch_size=3)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        expected = network.eval()(normalise(torch.from_numpy(batch.images), MEAN, STD))
    assert logits == pytest.approx(expected.numpy(), abs=1e-5)
    assert logits.dtype == np.float32
