"""The training step against the same step written out by hand, and what it is fed with."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cifar.augment import build_policy, training_batches
from cifar.console import InputError
from cifar.data import Split
from cifar.engine import build_loss, build_optimizer, build_trainer, train_epoch
from cifar.inference import normalise, predict

NETWORK = {"name": "custom_resnet", "logit_scale": 0.125}
SGD = {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.3]


LOSS = {"name": "cross_entropy", "label_smoothing": 0.1}


def make_trainer(optimizer=SGD, regularise="all", l1=0.0):
    return build_trainer(NETWORK, optimizer, LOSS, regularise, l1, MEAN, STD, "fp32", seed=0)


@pytest.fixture
def batch() -> Split:
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (8, 32, 32, 3), np.uint8), random.integers(0, 10, 8, np.uint8))


def test_two_steps_equal_nesterov_momentum_written_out(batch):
    trainer, reference = make_trainer(), make_trainer().network.train()
    starts = copy.deepcopy(list(reference.parameters()))
    velocities = [torch.zeros_like(weight) for weight in reference.parameters()]
    momenta = {0.05: 0.9, 0.02: 0.7}  # cycled
    # To the bit the same inputs, for maxima in so small a batch tip over at the least change.
    inputs = normalise(torch.from_numpy(batch.images), MEAN, STD)
    for lr in (0.05, 0.02):
        found = trainer.step(batch, lr, momenta[lr])
        log_probabilities = F.log_softmax(reference(inputs), 1)
        wanted = F.one_hot(torch.from_numpy(batch.labels).long(), 10) * 0.9 + 0.01  # label smoothing 0.1
        objective = -(wanted * log_probabilities).sum(1).mean()
        reference.zero_grad()
        objective.backward()
        with torch.no_grad():
            for weight, velocity in zip(reference.parameters(), velocities, strict=True):
                gradient = weight.grad + 5e-4 * weight
                velocity.mul_(momenta[lr]).add_(gradient)
                weight.sub_(lr * (gradient + momenta[lr] * velocity))
        assert found.objective == pytest.approx(objective.item(), rel=1e-4)
        expected_loss = -log_probabilities[range(8), batch.labels.astype(int)].sum().item()
        assert found.loss == pytest.approx(expected_loss, rel=1e-4)
    for start, ours, theirs in zip(starts, trainer.network.parameters(), reference.parameters(), strict=True):
        assert (ours - theirs).norm() < 0.05 * (theirs - start).norm()


def toy() -> torch.nn.Module:
    """A network with a matrix (3, 2), a bias (3,) and a norm's weight and bias (3,), all of known values."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.full_like(parameter, 0.5)
    return network


def moved(network: torch.nn.Module, optimizer: torch.optim.Optimizer, lr: float) -> list[float]:
    """How far a step at `lr` moves the matrix and each of the three vectors, all of whose elements move alike."""
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[-1]["lr"] = lr
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer.step()
    steps = [new.detach() - old for old, new in zip(before, network.parameters(), strict=True)]
    assert all(torch.allclose(step, step.flatten()[0]) for step in steps)
    return [step.flatten()[0].item() for step in steps]


ADAM = {"name": "adam", "beta1": 0.8, "beta2": 0.99, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("spec", "with_decay", "without"),
    [  # by hand, for a weight of 2, a gradient of 0.5 and decay of 0.1: the first step of Adam is the gradient's sign
        ({"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.1}, 0.5 + 0.2, 0.5),
        ({"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, 1.9 * (0.5 + 0.2), 1.9 * 0.5),
        (ADAM, 1.0, 1.0),
        (ADAM | {"name": "adamw"}, 1.0 + 0.2, 1.0),
    ],
)
def test_weight_decay_pulls_on_all_parameters_or_on_weights_alone(spec, with_decay, without):
    for regularise, vectors in ("all", with_decay), ("weights", without):
        network = toy()
        steps = moved(network, build_optimizer(network, spec, regularise), lr=0.01)
        assert steps == pytest.approx([-0.01 * with_decay, *[-0.01 * vectors] * 3], rel=1e-4)


def test_the_second_step_of_adam_is_that_of_the_paper():
    # Kingma & Ba (2015), algorithm 1, with the gradient 0.5, then -1, and L2 of 0.1 on the weight as it is then.
    network, weight, m, v = toy(), 2.0, 0.0, 0.0
    optimizer = build_optimizer(network, ADAM, "all")
    for t, raw in enumerate([0.5, -1.0], start=1):
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter.grad, raw)
        moved(network, optimizer, lr=0.01)
        gradient = raw + 0.1 * weight
        m, v = 0.8 * m + 0.2 * gradient, 0.99 * v + 0.01 * gradient**2
        weight -= 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-8)
    assert network[0].weight.detach().numpy() == pytest.approx(np.full((3, 2), weight), rel=1e-6)


def test_adams_beta1_takes_momentums_part(batch):
    trainer = make_trainer(ADAM)
    trainer.step(batch, 0.001, momentum=0.85)
    assert trainer.optimizer.param_groups[0]["betas"] == (0.85, 0.99)
    trainer.step(batch, 0.001)
    assert trainer.optimizer.param_groups[0]["betas"] == (0.85, 0.99)


@pytest.mark.parametrize("regularise", ["all", "weights"])
def test_l1_adds_its_slope_to_the_gradient_and_is_reported_apart(batch, regularise):
    plain = {"name": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    without, with_l1 = make_trainer(plain, regularise), make_trainer(plain, regularise, l1=1e-3)
    starts = copy.deepcopy(list(without.network.parameters()))
    one, other = without.step(batch, 1.0), with_l1.step(batch, 1.0)
    assert (one.objective, one.loss, one.penalty) == (other.objective, other.loss, 0.0)
    pulled = [start for start in starts if regularise == "all" or start.dim() > 1]
    assert other.penalty == pytest.approx(1e-3 * sum(start.abs().sum().item() for start in pulled), rel=1e-5)
    for start, ours, theirs in zip(starts, without.network.parameters(), with_l1.network.parameters(), strict=True):
        is_pulled = regularise == "all" or start.dim() > 1
        assert torch.allclose(ours - theirs, 1e-3 * start.sign() * is_pulled, atol=1e-6)


def test_nll_of_log_softmax_is_cross_entropy():
    random = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 10, generator=random) * 5, torch.arange(50) % 10
    nll = build_loss({"name": "nll"})(logits, targets)
    by_hand = np.mean(
        [np.log(np.exp(row).sum()) - row[k] for row, k in zip(logits.double().numpy(), targets, strict=True)]
    )
    assert nll.item() == pytest.approx(by_hand, rel=1e-5)
    cross_entropy = build_loss({"name": "cross_entropy", "label_smoothing": 0.0})(logits, targets)
    assert nll.item() == pytest.approx(cross_entropy.item(), rel=1e-6)


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
        seen.extend(train_epoch(trainer, [batch] * 5, [0.1, 1e30, 1e30, 1e30, 1e30], [0.9] * 5, first_step=10))
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
