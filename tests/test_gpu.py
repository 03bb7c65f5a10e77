"""What would run on a GPU, seen without one: by tensors that have its device, and shapes, but no values.

An operation on tensors of two devices fails on them, and so does all that would wait for the GPU, such as `.item()`.
Backward passes are beyond them, and left out; so are averages of the weights, whose count of updates a CPU keeps.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from specs import STATISTICS, policy_of, trainer_spec
from torch import Tensor, nn
from torch._dynamo import explain
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from cifar.config.params import check_params, read_yaml
from cifar.config.schema import Params
from cifar.data.batches import EpochBatches, source_of
from cifar.data.splits import Batch
from cifar.nn.inference import views
from cifar.training.compiling import Compiled
from cifar.training.hardest import build_filter
from cifar.training.trainer import Trainer, TrainerSpec, build_trainer

GPU = torch.device("cuda", 0)
RECIPES = "fast", "best", "eva4-s8", "eva5-s9", "resnet18-layernorm"
PATHS = ["params.yaml", *(f"recipes/{name}.yaml" for name in RECIPES)]
IMAGES = np.zeros((10, 32, 32, 3), np.uint8)

pytestmark = [
    pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="PyTorch is built without CUDA"),
    pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning"),  # without which autocast is off
]


@pytest.fixture
def gpu(monkeypatch) -> Callable[[], AbstractContextManager]:
    """A context in which all tensors are of that kind."""

    def apply(module: nn.Module, move, recurse: bool = True) -> nn.Module:
        """Move a module without changing its tensors in place, which these do not allow."""
        for part in module.modules():
            for name, weight in part._parameters.items():
                part._parameters[name] = weight if weight is None else nn.Parameter(move(weight), weight.requires_grad)
            for name, value in part._buffers.items():
                part._buffers[name] = value if value is None else move(value)
        return module

    monkeypatch.setattr("cifar.training.trainer.pick_device", lambda: GPU)
    monkeypatch.setattr(nn.Module, "_apply", torch.no_grad()(apply))
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *_, **__: None)  # not for tensors without values
    monkeypatch.setattr("cifar.training.hardest.torch", SimpleNamespace(set_grad_enabled=lambda _: torch.no_grad()))

    @contextmanager
    def context() -> Iterator[None]:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():  # a graph would ask CUDA as it is freed
            yield

    return context


def read(path: str) -> Params:
    return check_params(read_yaml(path), path)


def spec_of(params: Params) -> TrainerSpec:
    """The recipe's spec in bfloat16, without an average."""
    names = "model", "optimizer", "loss", "filter", "regularise", "bias_lr_factor", "l1", "compile"
    return trainer_spec(precision="bf16", **{name: getattr(params, name) for name in names})


def blank_batch(device: torch.device) -> Batch:
    images = torch.zeros(32, 32, 32, 3, dtype=torch.uint8, device=device)
    return Batch(images, torch.zeros(32, dtype=torch.int64, device=device))


def without_backward(monkeypatch, *trainers: Trainer) -> None:
    """Have `backward` do nothing but say that all gradients are 0."""

    def backward(loss: Tensor) -> None:
        assert loss.device == GPU and loss.shape == ()
        for weight in (weight for trainer in trainers for weight in trainer.network.parameters()):
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None

    monkeypatch.setattr(Tensor, "backward", backward)


@pytest.mark.parametrize("path", PATHS)
def test_training_never_waits_for_the_gpu(gpu, monkeypatch, path):
    spec = spec_of(read(path))
    with gpu():
        trainer, image_filter = (build(spec, STATISTICS, IMAGES) for build in (build_trainer, build_filter))
        without_backward(monkeypatch, trainer, *([image_filter.proxy] if image_filter else []))
        batches = [blank_batch(torch.device("cpu")), blank_batch(GPU)]  # of workers, and made where they are needed
        if image_filter:
            picking = image_filter.narrow(0, batches, [0.1] * 2, [0.9] * 2)
            batches = [next(picking), next(picking)]  # after the last it looks at the losses
        for batch in batches:
            found = trainer.step(batch, 0.1, 0.9)
            assert found.device == GPU and found.shape == (4,)
        with pytest.raises(DataDependentOutputException):
            found.tolist()


@pytest.mark.parametrize("transforms", [
    [("AlternatingFlip", {}), ("Pad", {"padding": 4}), ("RandomCrop", {"height": 32, "width": 32})],
    [("HorizontalFlip", {"p": 0.5}), ("Pad", {"padding": 2, "border_mode": "BORDER_CONSTANT", "fill": 7}),
     ("RandomCrop", {"height": 32, "width": 32})],
    [("VerticalFlip", {"p": 0.5}), ("CoarseDropout", {"num_holes_range": [1, 3], "hole_height_range": [1, 9], "p": 0.5,
                                                      "hole_width_range": [2, 4], "fill": "mean"})],
])  # fmt: skip
def test_batches_are_made_where_the_images_lie(gpu, transforms):
    policy = policy_of(transforms, STATISTICS.mean, 32)
    assert policy.is_batched
    with gpu():
        batches = EpochBatches(source_of(blank_batch(GPU)), policy, 1, batch_size=20, seed=0)
        for size, batch in zip((20, 12), (batches[0], batches[1]), strict=True):
            assert batch.images.device == batch.labels.device == GPU
            assert batch.images.shape == (size, 32, 32, 3) and batch.images.dtype == torch.uint8


def test_test_time_augmentation_stays_on_the_gpu(gpu):
    with gpu():
        assert {view.device for _, view in views(torch.zeros(4, 3, 32, 32, device=GPU), "flip_shift")} == {GPU}


@pytest.mark.parametrize("path", PATHS)
def test_a_gpu_is_given_each_network_to_compile_in_one_piece(gpu, path):
    with gpu():
        trainer = build_trainer(replace(spec_of(read(path)), compile=True), STATISTICS, IMAGES)
        assert isinstance(trainer.forward, Compiled)
        inputs = torch.zeros(4, 3, 32, 32, device=GPU).to(memory_format=torch.channels_last)
        assert explain(trainer.network.requires_grad_(False))(inputs).graph_break_count == 0
