"""Networks, and their weights on disk."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cifar.console import InputError
from cifar.data import IMAGE_SIZE, are_statistics
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


def build_norm(kind: str, width: int) -> nn.Module:
    """`batch` norm; `layer` norm over (C, H, W), with a weight and bias a channel; or `group` norm of 32 groups.

    Layer norm in this form is group norm with one group; 32 is the default of Wu & He, "Group Normalization" (2018).
    """
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm({"layer": 1, "group": 32}[kind], width)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and what leads past them: He et al., "Deep Residual Learning" (2016), figure 2."""

    def __init__(self, width_in: int, width: int, stride: int, norm: str):
        super().__init__()
        self.conv1 = Conv3x3(width_in, width, bias=False, stride=stride)
        self.norm1 = build_norm(norm, width)
        self.conv2 = Conv3x3(width, width, bias=False)
        self.norm2 = build_norm(norm, width)
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, kernel_size=1, stride=stride, bias=False), build_norm(norm, width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet18 for small images (N, 3, 32, 32): a 3x3 stem without pooling, four layers of two blocks, logits (N, 10).

    `strides` are those of the four layers; `pool` is the side of the average pooling's window at the end. With batch
    or layer norm 11,173,962 parameters when the pooling leaves one place, 11,189,322 when it leaves 2x2.
    """

    def __init__(self, norm: str, strides: Sequence[int], pool: int):
        super().__init__()
        self.prep = nn.Sequential(Conv3x3(3, 64, bias=False), build_norm(norm, 64), nn.ReLU(inplace=True))
        width_in, size = 64, IMAGE_SIZE
        for number, (width, stride) in enumerate(zip((64, 128, 256, 512), strides, strict=True), start=1):
            blocks = BasicBlock(width_in, width, stride, norm), BasicBlock(width, width, 1, norm)
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            width_in, size = width, -(-size // stride)
        self.pool = nn.AvgPool2d(pool)
        self.linear = nn.Linear(512 * (size // pool) ** 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.prep(images)  # (N, 64, 32, 32)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, 512, H, H)
        return self.linear(self.pool(x).flatten(1))


NETWORKS = {"custom_resnet": CustomResNet, "resnet18": ResNet18}


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
    weights = save({name: value.contiguous() for name, value in model.network.state_dict().items()})
    with replacing(folder / "model.safetensors") as part:
        part.write_bytes(weights)
    card = {"network": spec, "mean": model.mean, "std": model.std, "classes": model.classes}
    digest = hashlib.sha256(weights).hexdigest()
    write_json(folder / "model.json", card | {"sha256": digest, "environment": environment})


def load_model(folder: Path = FOLDER) -> Model:
    """The trained network in eval mode, on the CPU.

    Raises InputError when a file is missing or damaged, or the weights are another network's or not finite.
    """
    card, path = read_json(folder / "model.json"), folder / "model.safetensors"
    try:
        content = path.read_bytes()
        weights = load(content)
    except FileNotFoundError:
        raise missing(path) from None
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run `dvc repro train`") from None
    if hashlib.sha256(content).hexdigest() != card.get("sha256"):
        raise InputError(
            f"{path} is damaged or of another training: {folder}/model.json has another SHA-256; run `dvc repro train`"
        )
    try:
        network = build_network(card["network"], seed=0)
        network.load_state_dict(weights)
        mean, std = ([float(value) for value in card[name]] for name in ("mean", "std"))
        model = Model(network.eval(), mean, std, [str(name) for name in card["classes"]])
        is_usable = are_statistics(mean, std) and len(model.classes) == 10
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError):
        is_usable = False
    if not is_usable:
        raise InputError(f"{path} does not fit {folder}/model.json; delete both and run `dvc repro train`") from None
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise InputError(f"{path} holds weights that are not finite; delete it and run `dvc repro train`")
    return model
