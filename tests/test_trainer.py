"""The training step against the same step written out by hand, and the pass over an epoch."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from specs import ADAM, MUON, SGD, STATISTICS, changed, trainer_spec

from cifar.config.schema import NLL, CrossEntropy, ExponentialAverage, Lookahead
from cifar.data.splits import Batch
from cifar.nn.inference import normalise
from cifar.system.errors import InputError
from cifar.training.averaging import build_average
from cifar.training.trainer import Trainer, build_loss, build_trainer, train_epoch


def make_trainer(**changes) -> Trainer:
    return build_trainer(trainer_spec(**changes), STATISTICS, np.zeros((1, 32, 32, 3), np.uint8))


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (8, 32, 32, 3), np.uint8), random.integers(0, 10, 8, np.uint8)
    return Batch(torch.from_numpy(images), torch.from_numpy(labels).long())


def test_two_steps_equal_nesterov_momentum_written_out(batch):
    trainer, reference = make_trainer(), make_trainer().network.train()
    starts = copy.deepcopy(list(reference.parameters()))
    velocities = [torch.zeros_like(weight) for weight in reference.parameters()]
    momenta = {0.05: 0.9, 0.02: 0.7}  # cycled
    inputs = normalise(batch.images, STATISTICS)  # to the bit: maxima in so small a batch tip over at the least change
    for lr in (0.05, 0.02):
        found = trainer.step(batch, lr, momenta[lr])
        log_probabilities = F.log_softmax(reference(inputs), 1)
        wanted = F.one_hot(batch.labels, 10) * 0.9 + 0.01  # label smoothing 0.1
        objective = -(wanted * log_probabilities).sum(1).mean()
        reference.zero_grad()
        objective.backward()
        with torch.no_grad():
            for weight, velocity in zip(reference.parameters(), velocities, strict=True):
                gradient = weight.grad + 5e-4 * weight
                velocity.mul_(momenta[lr]).add_(gradient)
                weight.sub_(lr * (gradient + momenta[lr] * velocity))
        assert found[0].item() == pytest.approx(objective.item(), rel=1e-4)
        expected_loss = -log_probabilities[range(8), batch.labels].sum().item()
        assert found[2].item() == pytest.approx(expected_loss, rel=1e-4)
    for start, ours, theirs in zip(starts, trainer.network.parameters(), reference.parameters(), strict=True):
        assert (ours - theirs).norm() < 0.01 * (theirs - start).norm()


def test_adams_beta1_takes_momentums_part(batch):
    trainer = make_trainer(optimizer=ADAM)
    trainer.step(batch, 0.001, momentum=0.85)
    assert trainer.optimizers[0].param_groups[0]["betas"] == (0.85, 0.99)
    trainer.step(batch, 0.001)
    assert trainer.optimizers[0].param_groups[0]["betas"] == (0.85, 0.99)


@pytest.mark.parametrize("regularise", ["all", "weights"])
def test_l1_adds_its_slope_to_the_gradient_and_is_reported_apart(batch, regularise):
    plain = changed(SGD, momentum=0.0, nesterov=False, weight_decay=0.0)
    without, with_l1 = (make_trainer(optimizer=plain, regularise=regularise, l1=l1) for l1 in (0.0, 1e-3))
    starts = copy.deepcopy(list(without.network.parameters()))
    (objective, penalty, loss, _), other = without.step(batch, 1.0).tolist(), with_l1.step(batch, 1.0).tolist()
    assert (objective, loss, penalty) == (other[0], other[2], 0.0)
    pulled = [start for start in starts if regularise == "all" or start.dim() > 1]
    assert other[1] == pytest.approx(1e-3 * sum(start.abs().sum().item() for start in pulled), rel=1e-5)
    for start, ours, theirs in zip(starts, without.network.parameters(), with_l1.network.parameters(), strict=True):
        is_pulled = regularise == "all" or start.dim() > 1
        assert torch.allclose(ours - theirs, 1e-3 * start.sign() * is_pulled, atol=1e-6)


def test_nll_of_log_softmax_is_cross_entropy():
    random = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 10, generator=random) * 5, torch.arange(50) % 10
    nll = build_loss(NLL(name="nll"))(logits, targets)
    by_hand = np.mean(
        [np.log(np.exp(row).sum()) - row[k] for row, k in zip(logits.double().numpy(), targets, strict=True)]
    )
    assert nll.item() == pytest.approx(by_hand, rel=1e-5)
    cross_entropy = build_loss(CrossEntropy(name="cross_entropy", label_smoothing=0.0))(logits, targets)
    assert nll.item() == pytest.approx(cross_entropy.item(), rel=1e-6)


def test_step_counts_what_was_right_before_the_update(batch):
    trainer = make_trainer()
    twin = copy.deepcopy(trainer.network).train()
    before = twin(normalise(batch.images, trainer.statistics)).argmax(dim=1)
    (step,) = train_epoch(trainer, [batch], [0.3], [0.9], first_step=0)
    assert step.correct == int((before == batch.labels).sum()) < 8
    for _ in range(30):
        (step,) = train_epoch(trainer, [batch], [0.05], [0.9], first_step=0)
    assert (step.correct, step.images, step.lr) == (8, 8, 0.05)  # eight images are learnt by heart


AVERAGES = ExponentialAverage(name="ema", decay=0.5, every=1), Lookahead(name="lookahead", decay=0.5, every=1)


@pytest.mark.parametrize("average", AVERAGES, ids=lambda spec: spec.name)
@pytest.mark.parametrize("optimizer", [SGD, ADAM, MUON], ids=lambda spec: spec.name)
def test_restored_trainer_goes_on_bit_for_bit(batch, optimizer, average):
    one, other = (make_trainer(optimizer=optimizer, average=average, steps=3) for _ in range(2))
    list(train_epoch(one, [batch] * 2, [0.1] * 2, [0.9] * 2, first_step=0))
    other.restore(copy.deepcopy(one.state()))
    for trainer in (one, other):
        list(train_epoch(trainer, [batch], [0.1], [0.9], first_step=2))
    for network in "network", "result":
        ours, theirs = (getattr(trainer, network).state_dict().values() for trainer in (one, other))
        assert all(torch.equal(value, same) for value, same in zip(ours, theirs, strict=True))


def test_the_average_is_that_of_the_weights_after_every_second_step(batch):
    trainer = make_trainer(average=ExponentialAverage(name="ema", decay=0.2, every=2), steps=6)
    seen = []
    for first_step in range(6):
        list(train_epoch(trainer, [batch], [0.05], [0.9], first_step=first_step))
        seen.append({name: value.double() for name, value in trainer.network.state_dict().items()})
        assert (trainer.result is trainer.network) == (first_step == 0)
    # After 2, 4 and 6 steps: the weights as they are; 2/11 of the average, as it is young; 0.2, which is below 3/12.
    for name, value in trainer.result.state_dict().items():
        if value.dtype == torch.float32:
            expected = 0.2 * (2 / 11 * seen[1][name] + 9 / 11 * seen[3][name]) + 0.8 * seen[5][name]
            assert torch.allclose(value.double(), expected, rtol=1e-5, atol=1e-7), name
        else:
            assert value == seen[5][name] == 6  # batch norm's count of steps


def test_lookahead_goes_on_from_the_average_which_keeps_more_of_itself_by_the_cube_of_the_steps():
    network = torch.nn.BatchNorm2d(1)
    average = build_average(network, Lookahead(name="lookahead", decay=0.81, every=2), steps=6)
    values = network.weight, network.bias, network.running_mean
    # After 2 steps the values as they are; after 4 kept is 0.81 (4/6)^3 = 0.24, 0.24 * 10 + 0.76 * 20; after 6 0.81.
    for steps, reached, left in (1, 5, 5), (2, 10, 10), (3, 15, 15), (4, 20, 17.6), (5, 25, 25), (6, 30, 19.956):
        for scale, value in enumerate(values, start=1):
            value.data.fill_(reached * scale)
        network.num_batches_tracked.fill_(steps)
        average.follow(network, steps)
        assert network.num_batches_tracked == steps  # a count is not averaged
        assert [value.item() for value in values] == pytest.approx([left, 2 * left, 3 * left])
    ours, theirs = network.state_dict(), average.model.module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_goes_on_from_the_average_with_lookahead(batch):
    trainer = make_trainer(average=Lookahead(name="lookahead", decay=0.9, every=1), steps=3)
    plain = make_trainer()
    for step in range(3):
        before = {name: value.double() for name, value in trainer.network.state_dict().items()}
        plain.restore(copy.deepcopy(trainer.state()))
        list(train_epoch(plain, [batch], [0.05], [0.9], first_step=step))
        list(train_epoch(trainer, [batch], [0.05], [0.9], first_step=step))
        kept = 0.9 * ((step + 1) / 3) ** 3 if step else 0
        for name, value in trainer.network.state_dict().items():
            if value.dtype == torch.float32:
                expected = kept * before[name] + (1 - kept) * plain.network.state_dict()[name].double()
                assert torch.allclose(value.double(), expected, rtol=1e-5, atol=1e-7), name
            else:
                assert value == step + 1, name
    assert all(map(torch.equal, trainer.result.parameters(), trainer.network.parameters()))


def test_divergence_stops_at_once_and_names_step_and_rate(batch):
    trainer = make_trainer()
    seen = []
    with pytest.raises(InputError, match=r"the loss is nan at step 12, learning rate 1e\+30; lower lr_max"):
        seen.extend(train_epoch(trainer, [batch] * 5, [0.1, 1e30, 1e30, 1e30, 1e30], [0.9] * 5, first_step=10))
    assert len(seen) == 2
