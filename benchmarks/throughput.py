"""Training images a second: this pipeline against a plain loop, on the same network and batch, in one run.

The plain loop is what a tutorial does: float32, NCHW, PyTorch's own convolution, torchvision transforms on PIL images
in a DataLoader with two workers, SGD. The pipeline runs in float32, and in bfloat16 where it would choose that, with
all that the recipe asks for; for `eva4-s8` that is more than the plain loop does: rotations, and an L1 term. Each takes
turns in a fresh process: the memory allocator is tuned by process.
"""

import argparse
from collections.abc import Callable
from itertools import islice

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.report import STATISTICS, params_of, report, spread, turn
from benchmarks.training import CLASSES, images_a_second, random_images, training_of
from cifar.config.schema import IMAGE_SIZE, Params
from cifar.data.splits import Split
from cifar.nn.convolutions import Conv3x3
from cifar.nn.networks import Task, build_network
from cifar.nn.norms import ActivatedNorm, NormGELU, NormReLU
from cifar.system.device import pick_device, pick_precision, prepare
from cifar.training.trainer import build_loss

RECIPES = "default", "eva4-s8"  # the default network, and ResNet18
WARM_UP = 2  # steps


class PlainImages(Dataset):
    """PIL images through torchvision transforms, one at a time."""

    def __init__(self, split: Split):
        self.images = [torchvision.transforms.functional.to_pil_image(image) for image in split.images]
        self.labels = split.labels.astype(int)
        self.transform = v2.Compose([
            v2.RandomCrop(32, padding=4, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*STATISTICS),
            v2.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1)),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        return self.transform(self.images[i]), self.labels[i]


def use_plain_layers(network: nn.Module) -> None:
    """Have PyTorch's own layers do what this project's do, on the same weights."""

    def convolve(layer: Conv3x3, images: Tensor) -> Tensor:
        outputs = nn.Conv2d.forward(layer, images)
        return F.max_pool2d(outputs, layer.pool) if layer.pool > 1 else outputs

    def normalise(layer: ActivatedNorm, images: Tensor) -> Tensor:
        return layer.activate(nn.BatchNorm2d.forward(layer, images))

    plain = {Conv3x3: convolve, NormReLU: normalise, NormGELU: normalise}
    for module in network.modules():
        if type(module) in plain:
            module.forward = plain[type(module)].__get__(module)


def plain_training(split: Split, params: Params) -> Callable[[int], None]:
    """A function that trains for so many steps, by the plain loop."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # else float32 is not float32 on a GPU
    network = build_network(params.model, Task(IMAGE_SIZE, CLASSES), seed=0).to(
        device, memory_format=torch.contiguous_format
    )
    use_plain_layers(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loss_of = build_loss(params.loss)
    loader = DataLoader(PlainImages(split), params.batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    batches = iter(loader)

    def train(steps: int) -> None:
        for images, labels in islice(batches, steps):
            optimizer.zero_grad()
            loss = loss_of(network(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            loss.item()

    return train


def measure(kind: str, recipe: str, steps: int) -> float:
    """Images a second over `steps` steps, after a warm-up: of the plain loop, or of the pipeline in a precision."""
    params = params_of(recipe)
    images = params.batch_size * (WARM_UP + steps + 4)  # more than needed: no epoch ends while timed
    if kind == "plain":
        train = plain_training(random_images(images), params)
    else:
        prepare(params.deterministic)
        train = training_of(params.model_copy(update={"precision": kind}), images)
    train(WARM_UP)
    return images_a_second(train, params.batch_size, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn")
    parser.add_argument("--images", type=int, default=2048, help="to train on in a turn, about")
    parser.add_argument("--turn", nargs=3, metavar=("KIND", "RECIPE", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        kind, recipe, steps = arguments.turn
        print(measure(kind, recipe, int(steps)))
        return

    chosen = "bf16" if pick_precision("auto", pick_device()) == torch.bfloat16 else "fp32"
    rows = []
    for recipe in RECIPES:
        params = params_of(recipe)
        steps = max(1, round(arguments.images / params.batch_size))
        speeds: dict[str, list[float]] = {kind: [] for kind in ("plain", "fp32", chosen)}
        for number in range(arguments.rounds):
            for kind, found in speeds.items():
                found.append(turn("throughput", kind, recipe, str(steps)))
                print(f"{recipe}, round {number + 1}: {kind:5s} {found[-1]:7.1f} images/s", flush=True)
        ratios = [ours / plain for plain, ours in zip(speeds["plain"], speeds[chosen], strict=True)]
        facts = {"recipe": recipe, "network": params.model.name, "batch": params.batch_size, "steps": steps}
        rows.append(facts | {kind: spread(found) for kind, found in speeds.items()} | {"ratio": spread(ratios)})
    report(__file__, rows, unit="images/s", ratio=f"{chosen} to plain")


if __name__ == "__main__":
    main()
