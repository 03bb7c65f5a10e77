"""Where the time of a training step goes, beside the arithmetic limit of the same machine, measured in the same run.

The limit is what the step's multiplications would take at the speed of one large matrix product. In float32 on a
processor the convolutions may need fewer than the direct method, on which the count is based: see cifar/nn/winograd.py;
what is done within another operation counts as that one: there a convolution's pooling, and a norm's activation.
"""

import argparse
import time
from collections import Counter

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import STATISTICS, params_of, report, spread, synchronise
from benchmarks.training import random_images, trainer_of
from cifar.data.batches import feed
from cifar.data.policy import build_policy
from cifar.system.device import prepare
from cifar.training.trainer import Trainer
from recipes.values import recipe_names

PARTS = {  # by what stands in the name of an operation, the first that fits
    "convolution": ("conv", "Conv"),
    "norm": ("batch_norm", "BatchNorm", "ActivatedNorm", "group_norm", "GroupNorm"),
    "activation": ("relu", "Relu", "gelu", "Gelu"),
    "pooling": ("pool", "Pool"),
    "linear layer": ("linear", "addmm", "Addmm", "aten::mm", "MmBackward"),
    "optimizer": ("Optimizer.", "_foreach", "AccumulateGrad"),
    "augmentation": ("augmentation",),
}


def flops_an_image(trainer: Trainer) -> float:
    """Multiplications and additions of forward and backward pass by the direct method, for one image."""
    network = trainer.network
    images = torch.zeros(2, 3, 32, 32, device=trainer.device, dtype=torch.float64)  # not covered by Winograd
    network.double()
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    network.float()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 2


def matrix_product_flops(precision: torch.dtype, device: torch.device) -> float:
    """Operations a second of a product of two matrices of 4,096 x 4,096: the best of a second."""
    a, b = (torch.randn(4096, 4096, device=device).to(precision) for _ in range(2))
    best, until = 0.0, time.perf_counter() + 1
    while time.perf_counter() < until or best == 0:
        synchronise()
        started = time.perf_counter()
        a @ b
        synchronise()
        best = max(best, 2 * 4096**3 / (time.perf_counter() - started))
    return best


def part_of(name: str) -> str:
    return next((part for part, words in PARTS.items() if any(word in name for word in words)), "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ["default", *recipe_names()]
    parser.add_argument("--recipe", choices=names, default="default", help="whose step: default is params.yaml")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()

    params = params_of(arguments.recipe)
    if params.filter.name != "none":
        parser.error(f"{arguments.recipe} trains on a part of each batch (filter), which is not measured here")
    prepare(params.deterministic)
    split = random_images(params.batch_size * (arguments.steps + 3))
    trainer = trainer_of(params, split.images)
    limit = matrix_product_flops(trainer.precision, trainer.device)
    flops = flops_an_image(trainer)
    policy = build_policy(params.augment, STATISTICS.mean, 32)
    batches = feed(split, policy, trainer.device, batch_size=params.batch_size, seed=0)(0)
    for _ in range(2):
        trainer.step(next(batches), 0.01).tolist()

    activities = [ProfilerActivity.CUDA] if trainer.device.type == "cuda" else []
    walls, parts = [], []
    for _ in range(arguments.steps):
        synchronise()
        started = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU, *activities], acc_events=True) as profiler:
            with torch.profiler.record_function("augmentation"):
                batch = next(batches)
            trainer.step(batch, 0.01).tolist()
            synchronise()
            walls.append(time.perf_counter() - started)
        on_device = "device_time_total" if activities else "cpu_time_total"
        seconds: Counter[str] = Counter()
        for event in profiler.events():
            # of outermost operations, which include the kernels that they start
            if event.cpu_parent is None and event.device_type == DeviceType.CPU:
                seconds[part_of(event.name)] += getattr(event, on_device) / 1e6
        parts.append(seconds)

    names = sorted({name for seconds in parts for name in seconds}, key=lambda name: -parts[-1][name])
    rows = [{"part": name, "seconds": spread([seconds[name] for seconds in parts])} for name in names]
    rows += [{"part": "between these", "seconds": spread([w - s.total() for w, s in zip(walls, parts, strict=True)])}]
    for row in rows:
        row["share"] = round(row["seconds"]["median"] / spread(walls)["median"], 3)
    facts = {
        "recipe": arguments.recipe, "batch": params.batch_size, "step_seconds": spread(walls),
        "gflop_an_image": round(flops / 1e9, 3), "matrix_product_gflops": round(limit / 1e9, 1),
        "limit_seconds": round(flops * params.batch_size / limit, 3),
    }  # fmt: skip
    report(__file__, rows, **facts)


if __name__ == "__main__":
    main()
