"""Sections of params.yaml, and a trainer's spec made of them."""

from collections.abc import Sequence
from typing import Any

from cifar.config.schema import (
    AdamSpec,
    AirNetSpec,
    CrossEntropy,
    CustomResNetSpec,
    MuonSpec,
    NoAverage,
    NoFilter,
    ResNet18Spec,
    Section,
    SGDSpec,
    TransformSpec,
)
from cifar.data.policy import Policy, build_policy
from cifar.data.splits import Statistics
from cifar.nn.networks import Task
from cifar.training.trainer import TrainerSpec

CIFAR = Task(size=32, classes=10)
STATISTICS = Statistics((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
GREY = Statistics((0.5,) * 3, (0.25,) * 3)

CUSTOM_RESNET = CustomResNetSpec(name="custom_resnet", logit_scale=0.125)
RESNET18 = ResNet18Spec(name="resnet18", norm="batch", strides=[1, 2, 2, 2], pool=4)
AIRNET = AirNetSpec(
    name="airnet",
    widths=[8, 8, 8],
    depth=2,
    norm_momentum=0.4,
    logit_scale=0.1,
    whitening_bias={"start": "zero", "epochs": 3, "lr_factor": 1.0},
)
SGD = SGDSpec(name="sgd", momentum=0.9, nesterov=True, weight_decay=5e-4)
ADAM = AdamSpec(name="adam", beta1=0.8, beta2=0.99, weight_decay=0.1)
MUON = MuonSpec(name="muon", momentum=0.8, nesterov=True, weight_decay=0.1, filter_momentum=0.6, filter_lr_factor=0.25)
LOSS = CrossEntropy(name="cross_entropy", label_smoothing=0.1)


def changed(section: Section, **changes: Any) -> Any:
    """The section with other values, checked; a change of `whitening_bias` may name some of its keys."""
    values = section.model_dump()
    if "whitening_bias" in changes:
        changes["whitening_bias"] = values["whitening_bias"] | changes["whitening_bias"]
    return type(section).model_validate(values | changes)


def trainer_spec(**changes: Any) -> TrainerSpec:
    """CustomResNet, SGD and nothing else, in float32; or with `changes`."""
    values = {
        "model": CUSTOM_RESNET, "optimizer": SGD, "loss": LOSS, "steps": 1, "seed": 0, "precision": "fp32",
        "average": NoAverage(name="none"), "filter": NoFilter(name="none"), "compile": False,
        "regularise": "all", "shards": 1, "classes": 10, "bias_lr_factor": 1.0, "l1": 0.0,
    }  # fmt: skip
    return TrainerSpec(**values | changes)


def policy_of(transforms: Sequence[tuple[str, dict[str, Any]]], mean: Sequence[float], size: int) -> Policy:
    """`build_policy` of `transforms`, (name, arguments) each."""
    return build_policy([TransformSpec(name=name, **arguments) for name, arguments in transforms], mean, size)
