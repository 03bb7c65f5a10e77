"""Networks, and their weights on disk."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cifar.console import InputError
from cifar.files import missing, read_json, replacing, write_json
from cifar.winograd import Conv3x3

FOLDER = Path("models")


class Residual(nn.Sequential):
    """X + res(X), where res is conv, norm, ReLU, conv, norm, ReLU at one width."""

    def __init__(self, width: int):
        block = [Conv3x3(width, width, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        again = [Conv3x3(width, width, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        super().__init__(*block, *again)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def downsample(width_in: int, width: int) -> list[nn.Module]:
    """Convolution, then pooling, then norm and ReLU: half the height and width."""
    return [Conv3x3(width_in, width, bias=True), nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


class CustomResNet(nn.Module):
    """The custom ResNet of eva4-s11: images (N, 3, 32, 32) to logits (N, 10), 6,574,090 parameters.

    Nearly David Page's ResNet9 (cifar10-fast), from whom the scale of the logits comes.
    """

    def __init__(self, logit_scale: float):
        super().__init__()
        self.prep = nn.Sequential(Conv3x3(3, 64, bias=True), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        self.layer1 = nn.Sequential(*downsample(64, 128), Residual(128))
        self.layer2 = nn.Sequential(*downsample(128, 256))
        self.layer3 = nn.Sequential(*downsample(256, 512), Residual(512))
        self.pool = nn.MaxPool2d(4)
        self.linear = nn.Linear(512, 10)
        self.logit_scale = logit_scale

    def forward(self, images: Tensor) -> Tensor:
        x = self.prep(images)  # (N, 64, 32, 32)
        x = self.layer1(x)  # (N, 128, 16, 16)
        x = self.layer2(x)  # (N, 256, 8, 8)
        x = self.layer3(x)  # (N, 512, 4, 4)
        x = self.pool(x).flatten(1)  # (N, 512)
        return self.linear(x) * self.logit_scale


NETWORKS = {"custom_resnet": CustomResNet}


def build_network(spec: dict[str, Any], seed: int) -> nn.Module:
    """The network that `spec` names (its other keys: arguments), with PyTorch's default initial weights from `seed`."""
    arguments = dict(spec)
    network = NETWORKS[arguments.pop("name")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(**arguments).to(memory_format=torch.channels_last)


class Model(NamedTuple):
    """A network with what is needed to use it: each channel's mean and deviation in [0, 1], and the class names."""

    network: nn.Module
    mean: list[float]
    std: list[float]
    classes: list[str]


def save_model(model: Model, spec: dict[str, Any], environment: dict[str, Any], folder: Path = FOLDER) -> None:
    """Write model.safetensors (weights) and model.json (all else, so that params.yaml is not needed to rebuild it).

    `environment` is what decided the weights' bits beside code, data and params: see `cifar.device`.
    """
    card = {"network": spec, "mean": model.mean, "std": model.std, "classes": model.classes, "environment": environment}
    weights = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    with replacing(folder / "model.safetensors") as part:
        save_file(weights, part)
    write_json(folder / "model.json", card)


def load_model(folder: Path = FOLDER) -> Model:
    """The trained network in eval mode, on the CPU.

    Raises InputError when a file is missing or damaged, or the weights are another network's or not finite.
    """
    card, path = read_json(folder / "model.json"), folder / "model.safetensors"
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise missing(path) from None
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run `dvc repro train`") from None
    try:
        network = build_network(card["network"], seed=0)
        network.load_state_dict(weights)
        mean, std = ([float(value) for value in card[name]] for name in ("mean", "std"))
        model = Model(network.eval(), mean, std, [str(name) for name in card["classes"]])
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise InputError(f"{path} does not fit {folder}/model.json; delete both and run `dvc repro train`") from None
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise InputError(f"{path} holds weights that are not finite; delete it and run `dvc repro train`")
    return model
