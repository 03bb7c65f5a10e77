"""What training looks at, what it says of itself, which weights it keeps and what it freezes."""

import io
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss
from specs import AIRNET, CIFAR, GREY, LOSS, SGD, changed, trainer_spec
from tqdm import tqdm

from cifar.config.params import read_yaml
from cifar.config.schema import ExponentialAverage, ModelSpec, Plateau, Proxy
from cifar.data.splits import Batch, Split, load_train_and_val, save_classes, save_split
from cifar.nn.inference import predict
from cifar.nn.networks import build_network
from cifar.nn.summary import summary
from cifar.system.errors import InputError
from cifar.training.checkpoint import Checkpoints
from cifar.training.hardest import build_filter
from cifar.training.loop import LoopSpec, fit, measure, summarise, watch
from cifar.training.schedules import Plan, plan
from cifar.training.trainer import Step, build_trainer

ROOT = Path(__file__).parents[1]
PLAIN = trainer_spec(optimizer=changed(SGD, weight_decay=0.0), loss=changed(LOSS, label_smoothing=0.0))


def loop_of(split: Split, batches, shape: tuple[int, int], select: str = "last") -> LoopSpec:
    """Training and validation on `split` over `shape` = (epochs, steps an epoch), at a rate of 0.01."""
    plan = Plan(np.full(shape, 0.01), np.full(shape, 0.9))
    return LoopSpec(
        train=split, val=split, batches=batches, schedule=lambda _: plan, train_scores="running", select=select
    )


@pytest.fixture
def few_images(tmp_path, monkeypatch) -> Split:
    """Eight images, and a folder without dvc as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (8, 32, 32, 3), np.uint8), np.arange(8, dtype=np.uint8))


@pytest.mark.parametrize(("count", "images"), [(7, 100), (32, 2000), (3, 2)])
def test_the_bar_moves_by_whole_images_and_ends_at_their_number(count, images):
    steps = [Step(objective=0.5, penalty=0.0, loss=10.0, correct=3, images=20, lr=0.1)] * count
    terminal = io.StringIO()
    with tqdm(total=images, file=terminal, mininterval=0, miniters=1, ascii=True) as bar:
        seen = [bar.n for _ in watch(steps, bar, images, count)]
        assert bar.n == images and all(isinstance(n, int) for n in seen) and seen == sorted(seen)
        assert seen[-1] == images and seen[0] == images // count
    assert "clamping" not in terminal.getvalue() and "<-" not in terminal.getvalue()


def test_validation_has_a_bar_of_its_own(few_images, monkeypatch):
    bars = []

    def recorded(items, total, label, unit, **options):
        bars.append((label, unit, total))
        return items

    monkeypatch.setattr("cifar.nn.inference.progress", recorded)
    trainer = build_trainer(PLAIN, GREY, few_images.images)
    measure(trainer, few_images, "val")
    measure(trainer, few_images, "train")
    assert bars == [("validate", "batches", 1), ("score the training images", "batches", 1)]


def test_the_time_of_an_interrupted_training_is_that_of_all_its_epochs(few_images):
    checkpoints = Checkpoints("a", {})

    def train(epochs: int, wait: float) -> tuple[float, float]:
        """Up to so many epochs, each with a wait: the seconds that it counted, and those that it took just now."""

        def batches(epoch):
            time.sleep(wait)
            yield Batch(torch.from_numpy(few_images.images), torch.from_numpy(few_images.labels).long())

        trainer = build_trainer(PLAIN, GREY, few_images.images)
        started = time.monotonic()
        record = fit(trainer, None, loop_of(few_images, batches, (epochs, 1)), checkpoints)
        return record.seconds, time.monotonic() - started

    first, took = train(epochs=2, wait=0.4)
    assert 0.8 < first < took
    both, took = train(epochs=3, wait=0.1)  # carries on after the second epoch
    assert first + 0.1 < both < first + took


def test_the_scores_of_an_epoch_are_those_of_its_images_by_the_averaged_weights(few_images):
    random = np.random.default_rng(1)
    val = Split(random.integers(0, 256, (6, 32, 32, 3), np.uint8), np.array([3, 1, 4, 1, 5, 9], np.uint8))
    batch = Batch(torch.from_numpy(few_images.images), torch.from_numpy(few_images.labels).long())
    spec = replace(PLAIN, average=ExponentialAverage(name="ema", decay=0.9, every=1))
    trainer = build_trainer(spec, GREY, few_images.images)
    loop = replace(loop_of(few_images, lambda epoch: [batch], (3, 1)), val=val, train_scores="eval")
    row = fit(trainer, None, loop, Checkpoints("a", {})).history[-1]
    assert not torch.equal(trainer.result.linear.weight, trainer.network.linear.weight)
    for name, split in (("train", few_images), ("val", val)):
        logits = predict(trainer.result, split.images, GREY)
        loss = log_loss(split.labels, softmax(logits.astype(float), axis=1), labels=range(10))
        assert row[f"{name}_loss"] == pytest.approx(loss, abs=1e-5)
        assert row[f"{name}_accuracy"] == accuracy_score(split.labels, logits.argmax(axis=1))


def test_the_running_scores_of_an_epoch_are_means_over_its_images():
    steps = [Step(objective=9.0, penalty=0.1, loss=loss, correct=correct, images=images, lr=0.1)
             for loss, correct, images in ((10.0, 3, 20), (8.0, 4, 4))]  # fmt: skip
    assert summarise(steps) == {"train_loss": 0.75, "train_accuracy": 7 / 24}


def test_on_a_plateau_the_rate_falls_as_pytorchs_does_also_over_an_interruption(few_images, monkeypatch):
    monkeypatch.setattr("cifar.training.loop.accuracy", lambda *_: 0.5)
    batch = Batch(torch.from_numpy(few_images.images), torch.from_numpy(few_images.labels).long())
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=1)
    expected = []
    for _ in range(6):
        expected.append(optimizer.param_groups[0]["lr"])
        theirs.step(0.5)
    assert expected[-1] < 0.1
    plateau = Plateau(name="plateau", patience=1, factor=0.5)
    for epochs in (3, 6):
        schedule = partial(plan, plateau, (epochs, 1), lr_min=0.001, lr_max=0.1, momentum=0.9)
        loop = replace(loop_of(few_images, lambda epoch: [batch], (epochs, 1)), schedule=schedule)
        trainer = build_trainer(PLAIN, GREY, few_images.images)
        history = fit(trainer, None, loop, Checkpoints("a", {})).history
        assert [row["lr"] for row in history] == pytest.approx(expected[:epochs])


def test_with_a_filter_an_interrupted_training_ends_in_the_same_bits(few_images, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "cifar.training.loop.summarise", lambda steps: seen.append([step.images for step in steps]) or summarise(steps)
    )
    proxy = changed(AIRNET, norm_momentum=0.1, whitening_bias={"epochs": 0})
    spec = replace(PLAIN, filter=Proxy(name="proxy", share=0.5, every=2, model=proxy))
    split = Batch(torch.from_numpy(few_images.images), torch.from_numpy(few_images.labels).long())

    def train(name: str, epochs: int) -> tuple[list[dict], list[torch.Tensor]]:
        def batches(epoch):
            for shift in range(5):  # so that the proxy learns in other steps of each epoch
                yield Batch(split.images.roll(shift + epoch, 1), split.labels)

        trainer, image_filter = (build(spec, GREY, few_images.images) for build in (build_trainer, build_filter))
        record = fit(trainer, image_filter, loop_of(few_images, batches, (epochs, 5)), Checkpoints(name, {}))
        return record.history, [*trainer.network.parameters(), *image_filter.proxy.network.parameters()]

    train("stopped", epochs=1)
    stopped, straight = train("stopped", epochs=3), train("straight", epochs=3)
    assert stopped[0] == straight[0]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(stopped[1], straight[1], strict=True))
    assert seen == [[4] * 5] * 6  # four of eight images in each of five steps: one epoch, two more, three
    right = [row["train_accuracy"] * 20 for row in straight[0]]
    assert right == pytest.approx(np.round(right))


def test_validation_is_on_held_out_images_and_needs_no_test_images(few_images):
    save_split("train", few_images)
    save_classes([f"class {k}" for k in range(10)])
    train, val = load_train_and_val(val_size=3, seed=0)
    assert (len(train.images), len(val.images)) == (5, 3)
    assert sorted([*train.labels, *val.labels]) == list(range(8))  # each image once, told apart by its label
    for part in train, val:
        assert np.array_equal(part.images, few_images.images[part.labels])

    with pytest.raises(InputError, match="test_images.npy is missing"):
        load_train_and_val(val_size=0, seed=0)
    test = few_images.take(np.array([6, 2]))
    save_split("test", test)
    train, val = load_train_and_val(val_size=0, seed=0)
    assert np.array_equal(train.images, few_images.images) and np.array_equal(val.images, test.images)


def test_the_best_epochs_weights_are_kept_even_over_an_interruption(few_images, monkeypatch):
    accuracies = [0.1, 0.7, 0.3, 0.7]
    monkeypatch.setattr("cifar.training.loop.accuracy", lambda *_: accuracies[len(seen) - 1])
    seen = []

    def batches(epoch):
        seen.append(None)
        yield Batch(torch.from_numpy(few_images.images), torch.from_numpy(few_images.labels).long())
        seen[epoch] = {name: value.clone() for name, value in trainer.network.state_dict().items()}

    for epochs in (3, 4):  # the second time it carries on after the third epoch
        trainer = build_trainer(PLAIN, GREY, few_images.images)
        loop = loop_of(few_images, batches, (epochs, 1), select="best")
        best = fit(trainer, None, loop, Checkpoints("a", {})).best_weights
        assert all(torch.equal(best[name], value) for name, value in seen[1].items())
    assert not torch.equal(best["linear.weight"], seen[3]["linear.weight"])


# Of the convolutions, by hand: 9 products for each pair of channels and each place of the output, before pooling.
RESNET_PRODUCTS = 9 * (3 * 64 * 32**2 + 64 * 128 * 32**2 + 2 * 128**2 * 16**2 + 128 * 256 * 16**2 + 256 * 512 * 8**2)
AIRNET_PRODUCTS = 9 * (
    24 * 64 * 31**2 + 64**2 * 15**2 + 64 * 256 * 15**2 + 256**2 * 7**2 + 256**2 * 7**2 + 256**2 * 3**2
)
WORK = {  # and the number of parameters
    "params": (RESNET_PRODUCTS + 9 * 2 * 512**2 * 4**2, "6,574,090"),
    "recipes/fast": (12 * 24 * 31**2 + AIRNET_PRODUCTS, "1,972,792"),
}


@pytest.mark.parametrize("name", WORK)
def test_the_summary_counts_the_multiplications_and_shows_the_pooling(name):
    products, parameters = WORK[name]
    network = build_network(
        TypeAdapter(ModelSpec).validate_python(read_yaml(ROOT / f"{name}.yaml")["model"]), CIFAR, seed=0
    )
    text = summary(network, 32)
    (line,) = [line for line in text.splitlines() if "mult-adds" in line]
    assert line.startswith("Total mult-adds (M): ")
    assert float(line.split()[-1]) == pytest.approx(products / 1e6, rel=0.002)  # and biases, norms, the linear layer
    assert text.count("MaxPool2d") == 4
    assert f"Total params: {parameters}\n" in text


def test_the_bias_of_the_whitening_is_trained_in_the_first_epochs_only(few_images):
    spec = replace(PLAIN, model=changed(AIRNET, whitening_bias={"epochs": 2}))
    seen = []

    def batches(epoch):
        seen.append(trainer.network.prep[0].bias.detach().clone())
        yield Batch(torch.from_numpy(few_images.images), torch.from_numpy(few_images.labels).long())

    for epochs in (3, 5):  # the second time it carries on after the third epoch
        trainer = build_trainer(spec, GREY, few_images.images)
        fit(trainer, None, loop_of(few_images, batches, (epochs, 1)), Checkpoints("a", {}))
    moved = [not torch.equal(one, other) for one, other in zip(seen, seen[1:], strict=False)]
    assert moved == [True, True, False, False]

    never = build_network(changed(AIRNET, whitening_bias={"epochs": 0}), CIFAR, seed=0)
    assert never.prep[0].bias.requires_grad is False  # before an epoch begins too, as in the range test
