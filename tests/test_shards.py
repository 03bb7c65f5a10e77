"""A step over shards of a batch, against the same step written out by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from specs import AIRNET, MUON, RESNET18, SGD, STATISTICS, changed, trainer_spec

from cifar.config.schema import Lookahead, Proxy
from cifar.data.splits import Batch
from cifar.nn.inference import normalise
from cifar.system.errors import InputError
from cifar.training.hardest import build_filter
from cifar.training.shards import check_shards, cut, tree_sum
from cifar.training.trainer import Trainer, build_trainer, train_epoch

PLAIN = trainer_spec(model=AIRNET, optimizer=changed(SGD, momentum=0.0, nesterov=False, weight_decay=0.0))


def make_trainer(**changes) -> Trainer:
    return build_trainer(replace(PLAIN, **changes), STATISTICS, batch_of(8).images.numpy())


def batch_of(count: int) -> Batch:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (count, 32, 32, 3), np.uint8), random.integers(0, 10, count)
    return Batch(torch.from_numpy(images), torch.from_numpy(labels))


@pytest.mark.parametrize(
    ("count", "shards", "sizes"), [(8, 4, [2] * 4), (10, 4, [3, 3, 2, 2]), (7, 2, [4, 3]), (5, 1, [5])]
)
def test_a_batch_is_cut_as_evenly_as_it_goes(count, shards, sizes):
    parts = cut(count, shards)
    assert [len(range(count)[part]) for part in parts] == sizes
    assert [place for part in parts for place in range(count)[part]] == list(range(count))


def test_sums_follow_a_binary_tree():
    leaves = [1e8, 3.0, -1e8, 1.0, 1.0, 2.0, 3.0, 4.0]
    a, b, c, d, e, f, g, h = (np.float32(leaf) for leaf in leaves)
    tree = ((a + b) + (c + d)) + ((e + f) + (g + h))
    assert tree != a + b + c + d + e + f + g + h  # the order matters
    assert tree_sum(torch.tensor([leaf]) for leaf in leaves).item() == tree


@pytest.mark.parametrize("count", [16, 11])
def test_a_step_over_four_shards_written_out(count):
    """Gradients are weighted by the shards' sizes, running statistics averaged, and the L1 penalty counts once."""
    trainer, batch = make_trainer(shards=4, l1=1e-3), batch_of(count)
    reference = copy.deepcopy(trainer.network).train()
    start = copy.deepcopy(reference.state_dict())
    gradients = {name: 0.0 for name, weight in reference.named_parameters() if weight.requires_grad}
    statistics, objective, loss = dict.fromkeys(start, 0.0), 0.0, 0.0
    quarters = np.array_split(np.arange(count), 4)  # NumPy also gives the first ones one more
    for rows in quarters:
        reference.load_state_dict(start)
        logits = reference(normalise(batch.images[rows], STATISTICS))
        part = F.cross_entropy(logits, batch.labels[rows], label_smoothing=0.1) * len(rows) / count
        reference.zero_grad()
        part.backward()
        objective += part.item()
        loss += F.cross_entropy(logits, batch.labels[rows], reduction="sum").item()
        for name in gradients:
            gradients[name] = gradients[name] + reference.get_parameter(name).grad.double()
        for name, value in reference.state_dict().items():
            statistics[name] = statistics[name] + value.double() / 4

    found = trainer.step(batch, lr=0.1).tolist()
    assert found[0] == pytest.approx(objective, rel=1e-5) and found[2] == pytest.approx(loss, rel=1e-5)
    penalised = [start[name] for name in gradients]
    assert found[1] == pytest.approx(1e-3 * sum(weight.abs().sum().item() for weight in penalised), rel=1e-5)
    for name, value in trainer.network.state_dict().items():
        expected = start[name].double()
        if name in gradients:
            expected = expected - 0.1 * (gradients[name] + 1e-3 * expected.sign())
        elif "running" in name:
            expected = statistics[name]
        elif "tracked" in name:
            expected = expected + 1  # one update a step
        assert torch.allclose(value.double(), expected, rtol=1e-4, atol=1e-6), name


def test_without_batch_norm_shards_change_nothing_but_the_rounding():
    batch, model = batch_of(10), changed(RESNET18, norm="group")
    whole, sharded = (make_trainer(model=model, shards=shards) for shards in (1, 4))
    start = copy.deepcopy(list(whole.network.parameters()))
    one, other = whole.step(batch, 0.01), sharded.step(batch, 0.01)
    assert torch.allclose(one, other, rtol=1e-5)
    moves = zip(start, whole.network.parameters(), sharded.network.parameters(), strict=True)
    assert all((ours - theirs).norm() <= 1e-3 * (theirs - before).norm() for before, theirs, ours in moves)


def test_a_restored_trainer_goes_on_bit_for_bit_with_muon_and_an_average():
    average, batch = Lookahead(name="lookahead", decay=0.5, every=1), batch_of(9)
    one, other = (make_trainer(shards=4, optimizer=MUON, average=average, steps=3) for _ in range(2))
    list(train_epoch(one, [batch] * 2, [0.1] * 2, [0.9] * 2, first_step=0))
    other.restore(copy.deepcopy(one.state()))
    for trainer in (one, other):
        list(train_epoch(trainer, [batch], [0.1], [0.9], first_step=2))
    ours, theirs = (trainer.result.state_dict().values() for trainer in (one, other))
    assert all(torch.equal(value, same) for value, same in zip(ours, theirs, strict=True))


def test_a_filter_picks_from_the_whole_batch():
    batch = batch_of(16)
    specs = [
        replace(PLAIN, shards=shards, filter=Proxy(name="proxy", share=0.5, every=2, model=AIRNET)) for shards in (1, 4)
    ]
    filters = [build_filter(spec, STATISTICS, batch.images.numpy()) for spec in specs]
    (one,), (other,) = (list(each.narrow(0, [batch], [0.1], [0.9])) for each in filters)
    assert len(one.labels) == 8 and torch.equal(one.images, other.images)


@pytest.mark.parametrize(
    ("images", "share", "smallest"), [(21, 1.0, 1), (27, 1.0, 7), (40, 0.3, 3), (10, 0.7, 7)], ids=str
)
def test_a_shard_of_fewer_than_two_images_is_refused(images, share, smallest):
    with pytest.raises(InputError, match=f"shards is 4, but the smallest batch has {smallest} images to train on"):
        check_shards(4, images, 10, share=share)


@pytest.mark.parametrize(("images", "batch_size", "share"), [(21, 10, 1.0), (5, 1, 1.0), (12, 10, 0.3)], ids=str)
def test_a_batch_of_a_single_image_is_refused(images, batch_size, share):
    with pytest.raises(InputError, match="the smallest batch of an epoch has 1 image to train on, and 2 are the"):
        check_shards(1, images, batch_size, share=share)


def test_batches_of_two_images_are_enough():
    check_shards(1, 22, 10)
    check_shards(1, 40, 10, share=0.2)


def test_shards_of_two_images_are_enough():
    check_shards(4, 28, 20)
    check_shards(4, 16, 16, share=0.5)
