"""What a real GPU computes, beside the processor: `python -m pytest -m gpu`, or the first step of `make gpu`.

Without `-m gpu` the tests see no GPU and are skipped. GPU_TESTS_ON=cpu rehearses them on a processor, with tiny
networks: a processor is then compared with itself, so this tries the tests, not the GPU.
"""

import copy
import io
import os
from contextlib import contextmanager
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu.runs import params_for
from benchmarks.report import STATISTICS, params_of
from benchmarks.training import random_images, trainer_of
from cifar.config.params import check_params
from cifar.config.schema import ExponentialAverage, Lookahead, Params
from cifar.data.batches import feed
from cifar.data.policy import augment_batch, build_policy
from cifar.data.splits import Batch
from cifar.nn.inference import predict
from cifar.system.device import prepare
from cifar.training.averaging import build_average
from cifar.training.compiling import Compiled, compile_seconds
from cifar.training.hardest import Filter
from cifar.training.trainer import Trainer, build_loss, train_epoch

DEVICE = torch.device(os.environ.get("GPU_TESTS_ON", "cuda"))
ON_GPU = DEVICE.type == "cuda"
RECIPES = ["fast", "best", *(["default", "eva4-s8", "eva5-s9", "resnet18-layernorm"] if ON_GPU else [])]
IMAGES = random_images(128 if ON_GPU else 8)
BATCH = 32 if ON_GPU else 4
LR, MOMENTUM = 0.001, 0.9

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a GPU and `-m gpu`"),
]


@pytest.fixture(autouse=True)
def deterministic():
    """As a training sets up its process; afterwards as PyTorch begins."""
    prepare(deterministic=True)
    yield
    torch.use_deterministic_algorithms(False)


@contextmanager
def without_gpu():
    """What is built in this context is built on the processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def params_in(recipe: str, precision: str) -> Params:
    return check_params(params_for(recipe, {"precision": precision}, is_dry=not ON_GPU), recipe)


def trainers(recipe: str, precision: str = "fp32") -> tuple[Trainer, Trainer]:
    """The recipe's trainer on the processor, and on the device."""
    params = params_in(recipe, precision)
    with without_gpu():
        on_processor = trainer_of(params, IMAGES.images)
    return on_processor, trainer_of(params, IMAGES.images)


def batch(number: int = 0, device: torch.device = DEVICE) -> Batch:
    chosen = slice(number * BATCH % len(IMAGES.labels), number * BATCH % len(IMAGES.labels) + BATCH)
    images, labels = (torch.from_numpy(values[chosen]).to(device) for values in IMAGES)
    return Batch(images, labels.long())


def train(trainer: Trainer, steps: int, first: int = 0) -> list[list[float]]:
    """Losses and hits of some steps."""
    return [trainer.step(batch(first + i, trainer.device), LR, MOMENTUM).tolist() for i in range(steps)]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in trainer.network.state_dict().items()}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def policy_of(recipe: str):
    return build_policy(params_of(recipe).augment, STATISTICS.mean, 32)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_in_float32_is_the_processors(recipe):
    on_processor, on_device = trainers(recipe)
    assert on_device.device.type == DEVICE.type and on_processor.device.type == "cpu"
    assert_same_bits(weights(on_processor), weights(on_device))  # both begin with the same weights
    expected, found = (train(trainer, 2) for trainer in (on_processor, on_device))
    assert found[0] == pytest.approx(expected[0], rel=1e-4, abs=1e-4)  # the first step: sums in another order alone
    assert found[1][0] == pytest.approx(expected[1][0], rel=1e-2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_in_float32_are_the_processors(recipe):
    found = []
    for trainer in trainers(recipe):
        trainer.network.train()
        images, labels = batch(0, trainer.device)
        trainer.loss(trainer.logits(images), labels).backward()
        gradients = [weight.grad for weight in trainer.network.parameters() if weight.grad is not None]
        found.append(torch.cat([gradient.flatten().cpu() for gradient in gradients]))
    assert (found[1] - found[0]).norm() < 1e-2 * found[0].norm()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_loss_in_bfloat16_is_near_that_in_float32(recipe):
    exact, rounded = (
        train(trainer_of(params_in(recipe, precision), IMAGES.images), 1) for precision in ("fp32", "bf16")
    )
    assert rounded[0][0] == pytest.approx(exact[0][0], rel=0.05)


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_again_ends_in_the_same_bits(recipe):
    """Augmentation, steps in bfloat16 and the reading of their losses: all of an epoch."""
    ends = []
    for _ in range(2):
        trainer = trainer_of(params_in(recipe, "bf16"), IMAGES.images)
        batches = feed(IMAGES, policy_of(recipe), trainer.device, batch_size=BATCH, seed=0)(0)
        count = len(IMAGES.labels) // BATCH
        losses = list(train_epoch(trainer, islice(batches, count), [LR] * count, [MOMENTUM] * count, first_step=0))
        ends.append((losses, weights(trainer)))
    assert len(ends[0][0]) == count and ends[0][0] == ends[1][0]
    assert_same_bits(ends[0][1], ends[1][1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_restored_training_goes_on_in_the_same_bits(recipe):
    whole = trainer_of(params_in(recipe, "bf16"), IMAGES.images)
    train(whole, 1)
    file = io.BytesIO()
    torch.save(whole.state(), file)
    file.seek(0)
    carried_on = trainer_of(params_in(recipe, "bf16"), IMAGES.images)
    carried_on.restore(torch.load(file, map_location="cpu", weights_only=True))
    assert train(whole, 2, first=1) == train(carried_on, 2, first=1)
    assert_same_bits(weights(whole), weights(carried_on))


@pytest.mark.parametrize("recipe", ["default", "fast", "best"])
def test_augmentation_makes_the_same_bytes_on_both_devices(recipe):
    policy, images, numbers = policy_of(recipe), torch.from_numpy(IMAGES.images), np.arange(len(IMAGES.images))
    for key in ((0, 0, 0), (0, 1, 3)):
        expected, found = (augment_batch(policy, some, numbers, key) for some in (images, images.to(DEVICE)))
        assert found.device.type == DEVICE.type and torch.equal(found.cpu(), expected)
        assert not torch.equal(expected, images)


def test_the_filter_picks_the_processors_images():
    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(64) % 10
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    hardest = filter_of_best().hardest(logits.to(DEVICE), targets.to(DEVICE))
    smoothed = losses * 0.8 + 0.2 * -logits.log_softmax(1).mean(1)  # label_smoothing 0.2, by hand
    assert hardest.tolist() == smoothed.argsort(descending=True)[:32].sort().values.tolist()


def filter_of_best() -> Filter:
    """The filter of `best`, whose network lies on the device."""
    params = params_of("best")
    proxy = params.model_copy(update={"model": params.filter.model, "precision": "bf16"})
    trainer = trainer_of(proxy, IMAGES.images)
    return Filter(
        proxy=trainer,
        losses_of=build_loss(params.loss, "none"),
        share=params.filter.share,
        every=params.filter.every,
    )


def test_the_filter_learns_and_narrows_in_the_same_bits():
    ends = []
    for _ in range(2):
        image_filter = filter_of_best()
        before = weights(image_filter.proxy)
        picked = list(image_filter.narrow(0, [batch(0), batch(1)], [LR] * 2, [MOMENTUM] * 2))
        assert [len(some.labels) for some in picked] == [BATCH // 2] * 2
        after = weights(image_filter.proxy)
        assert any(not torch.equal(before[name], after[name]) for name in before)
        ends.append((picked, after))
    assert all(map(torch.equal, ends[0][0][0], ends[1][0][0]))
    assert_same_bits(ends[0][1], ends[1][1])


@pytest.mark.parametrize("spec", [
    ExponentialAverage(name="ema", decay=0.9, every=1), Lookahead(name="lookahead", decay=0.8, every=2),
])  # fmt: skip
def test_the_average_of_the_weights_is_the_processors(spec):
    found = []
    for trainer in trainers("fast"):
        average = build_average(trainer.network, spec, steps=4)
        for number in range(4):
            with torch.no_grad():
                for weight in trainer.network.parameters():
                    weight.add_(0.1)
            average.follow(trainer.network, number + 1)
        found.append({name: value.cpu() for name, value in average.model.module.state_dict().items()})
    for name, value in found[0].items():
        assert torch.allclose(found[1][name], value, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("augmentation", ["none", "flip_shift"])
def test_predictions_are_the_processors(augmentation):
    found = []
    for trainer in trainers("fast"):
        found.append(predict(trainer.network, IMAGES.images[:BATCH], STATISTICS, augmentation=augmentation))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not ON_GPU, reason="a processor never waits for itself")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_never_waits_for_the_gpu(recipe):
    trainer = trainer_of(params_in(recipe, "bf16"), IMAGES.images)
    first, second = batch(0), batch(1)
    trainer.step(first, LR, MOMENTUM)  # what waits once, as a kernel is loaded, may
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(second, LR, MOMENTUM)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not ON_GPU, reason="tests/test_compiling.py compiles for a processor")
@pytest.mark.parametrize("recipe", ["default", "fast"])
def test_steps_of_a_compiled_network_are_those_of_the_network_and_repeat_their_bits(recipe):
    params = params_in(recipe, "fp32")
    plain = trainer_of(params, IMAGES.images)
    begun = copy.deepcopy(plain.network.state_dict())
    expected, ends = train(plain, 2), []
    before = compile_seconds()
    for _ in range(2):
        compiled = trainer_of(params.model_copy(update={"compile": True}), IMAGES.images)
        assert isinstance(compiled.forward, Compiled)
        compiled.network.load_state_dict(begun)
        found = train(compiled, 2)
        assert found[0] == pytest.approx(expected[0], rel=1e-3, abs=1e-3)
        assert found[1][0] == pytest.approx(expected[1][0], rel=1e-2)
        ends.append(weights(compiled))
    assert compile_seconds() > before
    assert_same_bits(*ends)
