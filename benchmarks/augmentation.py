"""Augmented images a second on one core: the default policy by this pipeline and by three others, in one run.

All pad by 4 with reflection, crop, flip and cut an 8x8 hole of the mean colour, into uint8. Albumentations and NumPy
take one image after another, as a Dataset would; torchvision's v2 takes one image, or a whole batch with the same draws
for all of it, which is not the same thing and is shown for its speed alone.
"""

import argparse
import time
from collections.abc import Callable

import albumentations
import cv2
import numpy as np
import torch
from torchvision.transforms import v2

from benchmarks.report import STATISTICS, params_of, report, spread, turn
from cifar.data.policy import augment_batch, build_policy

BATCH = 512
COLOUR = tuple(round(255 * channel) for channel in STATISTICS.mean)


def ours(images: np.ndarray) -> Callable[[], object]:
    policy = build_policy(params_of("default").augment, STATISTICS.mean, 32)
    batch, index = torch.from_numpy(images), np.arange(len(images))
    return lambda: augment_batch(policy, batch, index, (0, 0, 0))


def albumentations_compose(images: np.ndarray) -> Callable[[], object]:
    compose = albumentations.Compose([
        albumentations.Pad(padding=4, border_mode=cv2.BORDER_REFLECT_101),
        albumentations.RandomCrop(32, 32),
        albumentations.HorizontalFlip(p=0.5),
        albumentations.CoarseDropout((1, 1), (8, 8), (8, 8), fill=COLOUR, p=1.0),
    ], seed=0)  # fmt: skip
    return lambda: np.stack([compose(image=image)["image"] for image in images])


def _torchvision() -> v2.Compose:
    return v2.Compose([
        v2.RandomCrop(32, padding=4, padding_mode="reflect"),
        v2.RandomHorizontalFlip(),
        v2.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1), value=list(COLOUR)),
    ])  # fmt: skip


def torchvision_v2(images: np.ndarray) -> Callable[[], object]:
    compose, batch = _torchvision(), torch.from_numpy(images).permute(0, 3, 1, 2)
    return lambda: torch.stack([compose(image) for image in batch])


def torchvision_v2_batch(images: np.ndarray) -> Callable[[], object]:
    compose, batch = _torchvision(), torch.from_numpy(images).permute(0, 3, 1, 2)
    return lambda: compose(batch)


def numpy_loop(images: np.ndarray) -> Callable[[], object]:
    random = np.random.default_rng(0)

    def augment(image: np.ndarray) -> np.ndarray:
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        (top, left), (y, x) = random.integers(0, 9, 2), random.integers(0, 25, 2)
        window = padded[top : top + 32, left : left + 32]
        window = (window[:, ::-1] if random.random() < 0.5 else window).copy()
        window[y : y + 8, x : x + 8] = COLOUR
        return window

    return lambda: np.stack([augment(image) for image in images])


KINDS = {
    "ours": ours,
    "albumentations": albumentations_compose,
    "torchvision v2": torchvision_v2,
    "torchvision v2, one draw a batch": torchvision_v2_batch,
    "numpy": numpy_loop,
}


def measure(kind: str, seconds: float) -> float:
    """Images a second over about `seconds`, after a warm-up."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), np.uint8)
    run = KINDS[kind](images)
    run()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        run()
        count += 1
    return count * BATCH / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--turn", nargs=2, metavar=("KIND", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        print(measure(arguments.turn[0], float(arguments.turn[1])))
        return

    speeds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(arguments.rounds):
        for kind, found in speeds.items():
            found.append(turn("augmentation", kind, str(arguments.seconds), threads=1))
            print(f"round {number + 1}: {kind:33s} {found[-1]:9.0f} images/s", flush=True)
    rows = []
    for kind, found in speeds.items():
        ratios = [mine / theirs for mine, theirs in zip(speeds["ours"], found, strict=True)]
        rows.append({"by": kind, "images/s": spread(found), "ours is faster by": spread(ratios)})
    report(__file__, rows, device="cpu", unit="images/s on one core, in one thread", batch=BATCH)


if __name__ == "__main__":
    main()
