"""Training images a second: this pipeline against a plain loop, on the same network and batch, in one run.

The plain loop is what a tutorial does: float32, NCHW, PyTorch's own convolution, torchvision transforms on PIL images
in a DataLoader with two workers, SGD. Each takes turns in a fresh process: the memory allocator is tuned by process.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from cifar.augment import build_policy, training_batches
from cifar.data import Split
from cifar.device import keep_memory
from cifar.engine import build_loss, build_trainer
from cifar.files import write_json
from cifar.networks import build_network
from cifar.params import check_params, read_yaml
from cifar.winograd import Conv3x3

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
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
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1)),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        return self.transform(self.images[i]), self.labels[i]


def plain_steps(split: Split, params) -> Iterator[None]:
    network = build_network(params.model.model_dump(), seed=0).to(memory_format=torch.contiguous_format)
    for module in network.modules():
        if isinstance(module, Conv3x3):
            module.forward = nn.Conv2d.forward.__get__(module)
    options = params.optimizer.model_dump(exclude={"name"})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, **options)
    loss_of = build_loss(params.loss.model_dump())
    loader = DataLoader(PlainImages(split), params.batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(network(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
            yield


def our_steps(split: Split, params) -> Iterator[None]:
    keep_memory()
    policy = build_policy([(step.name, step.arguments) for step in params.augment], MEAN, seed=0)
    specs = [section.model_dump() for section in (params.model, params.optimizer, params.loss)]
    trainer = build_trainer(*specs, params.regularise, params.l1, MEAN, STD, params.precision, seed=0)
    epoch = 0
    while True:
        for batch in training_batches(split, policy, params.batch_size, 0, epoch):
            trainer.step(batch, 0.01)
            yield
        epoch += 1


def measure(kind: str, steps: int) -> float:
    """Images a second over `steps` steps, after a warm-up, on random images (their content does not matter)."""
    params = check_params(read_yaml("params.yaml"), "params.yaml")
    random = np.random.default_rng(0)
    count = params.batch_size * (steps + WARM_UP + 4)  # more than is used: no epoch ends while the clock runs
    split = Split(random.integers(0, 256, (count, 32, 32, 3), np.uint8), random.integers(0, 10, count, np.uint8))
    run = {"plain": plain_steps, "ours": our_steps}[kind](split, params)
    for _ in range(WARM_UP):
        next(run)
    started = time.perf_counter()
    for _ in range(steps):
        next(run)
    return params.batch_size * steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn")
    parser.add_argument("--steps", type=int, default=4, help="training steps a turn")
    parser.add_argument("--measure", choices=["plain", "ours"], help=argparse.SUPPRESS)  # one turn, in this process
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(arguments.measure, arguments.steps))
        return

    speeds: dict[str, list[float]] = {"plain": [], "ours": []}
    for number in range(arguments.rounds):
        for kind, found in speeds.items():
            turn = [sys.executable, "-m", "benchmarks.throughput", "--measure", kind, "--steps", str(arguments.steps)]
            found.append(float(subprocess.run(turn, check=True, stdout=subprocess.PIPE, text=True).stdout))
            print(f"round {number + 1}: {kind:5s} {found[-1]:7.1f} images/s", flush=True)

    ratios = [ours / plain for ours, plain in zip(speeds["ours"], speeds["plain"], strict=True)]
    result = {
        "processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(), "rounds": arguments.rounds, "steps": arguments.steps,
        "images_per_second": {kind: {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}
                              for kind, found in speeds.items()},
        "ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
    }  # fmt: skip
    write_json(Path(__file__).with_suffix(".json"), result)
    print(json.dumps(result, indent=2))


def processor() -> str:
    """The processor's name as the kernel tells it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
