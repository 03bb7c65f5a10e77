"""The networks: from normalised images (N, 3, S, S) to logits (N, C), for any number C of classes.

The shapes in comments are those of images of 32x32 pixels. The networks take other sizes too, since the last pooling
covers whatever map is left.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.config.schema import IMAGE_SIZE, AirNetSpec, CustomResNetSpec, ModelSpec, ResNet18Spec
from cifar.nn.convolutions import Conv3x3
from cifar.nn.norms import NormGELU, NormReLU, build_norm

PATCH = 2  # pixels: the side of the patches that AirNet's first layer whitens


class Task(NamedTuple):
    """What a data set asks of a network: images of `size` x `size` pixels in, logits of so many classes out."""

    size: int
    classes: int


class Network(nn.Module):
    """The base of all networks: what training asks of a network apart from its logits. By default, nothing."""

    def fit_to(self, images: Tensor) -> None:
        """Set the weights that are computed from normalised training images (N, 3, S, S) before training."""

    def begin_epoch(self, epoch: int) -> None:
        """Freeze the parameters that are not trained in this epoch; the first epoch is 0."""

    def lr_factors(self) -> dict[Tensor, float]:
        """The parameters that train at a learning rate of their own, with its ratio to the schedule's."""
        return {}


class Residual(nn.Sequential):
    """X + res(X), where res is conv, norm, ReLU, conv, norm, ReLU, all of the same width."""

    def __init__(self, width: int):
        super().__init__(
            Conv3x3(width, width, bias=False), NormReLU(width), Conv3x3(width, width, bias=False), NormReLU(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def downsample(width_in: int, width: int) -> list[nn.Module]:
    """Convolution, max pooling, norm and ReLU; the output has half the height and width."""
    return [Conv3x3(width_in, width, bias=True, pool=2), NormReLU(width)]


class CustomResNet(Network):
    """The custom ResNet of eva4-s11: images (N, 3, S, S) to logits (N, C), with ten classes 6,574,090 parameters.

    Close to David Page's ResNet9 (cifar10-fast), which also scales its logits.
    """

    def __init__(self, spec: CustomResNetSpec, task: Task):
        super().__init__()
        self.prep = nn.Sequential(Conv3x3(3, 64, bias=True), NormReLU(64))
        self.layer1 = nn.Sequential(*downsample(64, 128), Residual(128))
        self.layer2 = nn.Sequential(*downsample(128, 256))
        self.layer3 = nn.Sequential(*downsample(256, 512), Residual(512))
        self.pool = nn.MaxPool2d(task.size // 8)
        self.linear = nn.Linear(512, task.classes)
        self.logit_scale = spec.logit_scale

    def forward(self, images: Tensor) -> Tensor:
        x = self.prep(images)  # (N, 64, 32, 32)
        x = self.layer1(x)  # (N, 128, 16, 16)
        x = self.layer2(x)  # (N, 256, 8, 8)
        x = self.layer3(x)  # (N, 512, 4, 4)
        x = self.pool(x).flatten(1)  # (N, 512)
        return self.linear(x) * self.logit_scale  # (N, C)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: He et al., "Deep Residual Learning" (2016), figure 2."""

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


class ResNet18(Network):
    """ResNet18 for small images (N, 3, S, S): a 3x3 stem without pooling, four layers of two blocks, logits (N, C).

    `strides` has one stride for each layer; `pool` is the side of the final average pooling's window for images of
    32x32 pixels. For other sizes that window grows or shrinks with the map, so that as many features are left. With
    ten classes and batch or layer norm the network has 11,173,962 parameters if the pooling leaves 1x1 features,
    11,189,322 if it leaves 2x2.
    """

    def __init__(self, spec: ResNet18Spec, task: Task):
        super().__init__()
        self.prep = nn.Sequential(Conv3x3(3, 64, bias=False), build_norm(spec.norm, 64), nn.ReLU(inplace=True))
        width_in = 64
        for number, (width, stride) in enumerate(zip((64, 128, 256, 512), spec.strides, strict=True), start=1):
            blocks = BasicBlock(width_in, width, stride, spec.norm), BasicBlock(width, width, 1, spec.norm)
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            width_in = width
        side = _side_after(task.size, spec.strides)
        features = min(side, _side_after(IMAGE_SIZE, spec.strides) // spec.pool)
        step = side // features
        self.pool = nn.AvgPool2d(side - (features - 1) * step, stride=step)  # covers the whole map
        self.linear = nn.Linear(512 * features**2, task.classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.prep(images)  # (N, 64, 32, 32)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, 512, H, H)
        return self.linear(self.pool(x).flatten(1))


def _side_after(size: int, strides: Sequence[int]) -> int:
    """The side of the map that convolutions with these strides and with padding leave of a side of `size` pixels."""
    for stride in strides:
        size = math.ceil(size / stride)
    return size


class AirGroup(nn.Module):
    """Convolution, pooling, norm and GELU, then `depth` - 1 more convolutions of the same width.

    The norms' weights are fixed at 1. Each convolution starts as the identity: its first `width_in` outputs are its
    inputs. With a depth of 3, a shortcut adds the input of the last two convolutions to their output, before the GELU.
    """

    def __init__(self, width_in: int, width: int, depth: int, norm_momentum: float):
        super().__init__()
        first = Conv3x3(width_in, width, bias=False, pool=2)
        self.convs = nn.ModuleList([first, *(Conv3x3(width, width, bias=False) for _ in range(depth - 1))])
        last = nn.BatchNorm2d if depth > 2 else NormGELU
        norms = [NormGELU] * (depth - 1) + [last]
        self.norms = nn.ModuleList(norm(width, eps=1e-12, momentum=norm_momentum) for norm in norms)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])
            norm.weight.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.norms[0](self.convs[0](x))
        for conv, norm in zip(self.convs[1:], self.norms[1:], strict=True):
            x = norm(conv(x))
        return F.gelu(x + first) if len(self.convs) > 2 else x


class AirNet(Network):
    """The small networks of the CIFAR-10 speed records: Jordan, "94% on CIFAR-10 in 3.29 Seconds" (2024).

    Images (N, 3, S, S) to logits (N, C). The first layer whitens patches of 2x2 pixels (`fit_to`); only its bias is
    trained. `whitening_bias` says how that bias starts (`start`: zero, or random as in PyTorch's convolutions), for how
    many epochs it is trained (`epochs`), and by which factor its learning rate differs from the schedule's
    (`lr_factor`, see `build_optimizers`). `widths` has one width for each of the three groups. airbench94 has widths
    (64, 256, 256) and a depth of 2: with ten classes 1,972,792 parameters. 288 of them are the frozen filters, 1,152
    the norms' frozen weights. airbench96 has (128, 512, 512), in its latest version (128, 384, 512), and a depth of 3.
    """

    def __init__(self, spec: AirNetSpec, task: Task):
        super().__init__()
        self.prep = nn.Sequential(nn.Conv2d(3, 2 * PATCH**2 * 3, PATCH), nn.GELU())
        self.prep[0].weight.requires_grad = False
        if spec.whitening_bias.start == "zero":
            nn.init.zeros_(self.prep[0].bias)
        width_in = self.prep[0].out_channels
        for number, width in enumerate(spec.widths, start=1):
            self.add_module(f"layer{number}", AirGroup(width_in, width, spec.depth, spec.norm_momentum))
            width_in = width
        self.pool = nn.MaxPool2d((task.size - PATCH + 1) // 8)
        self.linear = nn.Linear(width_in, task.classes, bias=False)
        self.logit_scale, self.whitening_bias = spec.logit_scale, spec.whitening_bias
        self.begin_epoch(0)

    def forward(self, images: Tensor) -> Tensor:
        x = self.prep(images)  # (N, 24, 31, 31)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, K, 3, 3), after maps of 15x15 and 7x7
        return self.linear(self.pool(x).flatten(1)) * self.logit_scale

    def fit_to(self, images: Tensor) -> None:
        """Set the first layer's filters by `whitening_filters`."""
        with torch.no_grad():
            self.prep[0].weight.copy_(whitening_filters(images))

    def begin_epoch(self, epoch: int) -> None:
        """Train the first layer's bias in the first epochs only, then freeze it."""
        self.prep[0].bias.requires_grad = epoch < self.whitening_bias.epochs

    def lr_factors(self) -> dict[Tensor, float]:
        return {self.prep[0].bias: self.whitening_bias.lr_factor}


def whitening_filters(images: Tensor) -> Tensor:
    """Filters (24, 3, 2, 2) that whiten the patches of images (N, 3, H, W): outputs uncorrelated, of unit variance.

    They are the eigenvectors of the patches' second moments (no mean is subtracted), each divided by the square root of
    its eigenvalue, and their negatives. A small constant under the root keeps noise from being amplified. Page, "How to
    Train Your ResNet 8" (2019), in the form of airbench94.
    """
    patches = images.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # (N, 3, H-1, W-1, 2, 2)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH**2)
    eigenvalues, eigenvectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (eigenvectors / torch.sqrt(eigenvalues + 5e-4)).T.reshape(-1, 3, PATCH, PATCH)
    return torch.cat([filters, -filters])


NETWORKS = {AirNetSpec: AirNet, CustomResNetSpec: CustomResNet, ResNet18Spec: ResNet18}


def build_network(spec: ModelSpec, task: Task, seed: int) -> Network:
    """The network for this `task` with initial weights drawn from `seed`, channels last in memory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[type(spec)](spec, task).to(memory_format=torch.channels_last)
