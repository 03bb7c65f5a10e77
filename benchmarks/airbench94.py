"""Training to 94 %: `fast` beside airbench94, on the same machine, in one run.

airbench94 is a public speed record for one GPU: Jordan, "94% on CIFAR-10 in 3.29 Seconds" (2024), airbench94.py in
cifar10-airbench. Here it is carried over to whatever device is at hand: its network by PyTorch's own layers, channels
last, under autocast where the pipeline would train in bfloat16, with freed memory kept; its augmentation, an epoch at
once, in memory; its loss, SGD and Lookahead. Both train on noise, their first layer's bias frozen as after three
epochs, in turns in a fresh process; the minutes are what all images of a run take at that speed, without validation.
"""

import argparse
import math
from collections.abc import Callable
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.report import STATISTICS, params_of, report, spread, turn
from benchmarks.throughput import WARM_UP, use_plain_layers
from benchmarks.training import images_a_second, random_images, training_of
from cifar.config.schema import IMAGE_SIZE, Lookahead
from cifar.data.splits import Split
from cifar.nn.inference import normalise
from cifar.nn.networks import Task, build_network
from cifar.system.device import pick_device, pick_precision, prepare
from cifar.training.averaging import build_average

BATCH, EPOCHS = 1024, 9.9
STEPS = math.ceil(EPOCHS * (50_000 // BATCH))  # of a run: it leaves out an epoch's last images
PADDING = 2
MOMENTUM, BIAS_FACTOR = 0.85, 64.0
KILOSTEP = 1024 * (1 + 1 / (1 - MOMENTUM))  # its rate and decay are for steps of unit length on 1,024 images
LR, DECAY = 11.5 / KILOSTEP, 0.0153 * BATCH / KILOSTEP


def airbench94_training(split: Split) -> Callable[[int], None]:
    """A function that trains for so many steps as one epoch, by airbench94."""
    device = pick_device()
    precision = pick_precision("auto", device)
    network = airbench94_network().to(device)
    images = normalise(torch.from_numpy(split.images).to(device), STATISTICS)
    network.fit_to(images[:5000])
    images = torch.where(torch.rand(len(images), 1, 1, 1, device=device) < 0.5, images, images.flip(-1))
    padded = F.pad(images, (PADDING,) * 4, "reflect")
    labels = torch.from_numpy(split.labels).to(device).long()
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="sum")
    optimizer = torch.optim.SGD(groups(network), momentum=MOMENTUM, nesterov=True)
    average = build_average(network, Lookahead(name="lookahead", decay=0.95**5, every=5), STEPS)
    epochs = count()

    def train(steps: int) -> None:
        network.train()
        inputs = windows(padded[: BATCH * steps])
        if next(epochs) % 2:
            inputs = inputs.flip(-1)
        order = torch.randperm(len(inputs), device=device)
        for number, chosen in enumerate(order.split(BATCH), start=1):
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                logits = network(inputs[chosen])
            loss = loss_of(logits.float(), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            average.follow(network, number)

    return train


def airbench94_network() -> nn.Module:
    """Its network, of 1,972,792 parameters, by PyTorch's own layers, the first layer's bias frozen."""
    spec = params_of("fast").model.model_copy(update={"logit_scale": 1 / 9})  # the only difference
    network = build_network(spec, Task(IMAGE_SIZE, 10), seed=0)
    use_plain_layers(network)
    network.prep.requires_grad_(False)
    return network


def groups(network: nn.Module) -> list[dict]:
    """SGD's groups: the norms' biases at 64 times the rate of all else, with as much decay a step."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    biases = [parameter for name, parameter in trained.items() if name.endswith("bias")]
    others = [parameter for name, parameter in trained.items() if not name.endswith("bias")]
    lrs = {BIAS_FACTOR * LR: biases, LR: others}
    return [{"params": parameters, "lr": lr, "weight_decay": DECAY / lr} for lr, parameters in lrs.items()]


def windows(padded: Tensor) -> Tensor:
    """A random window of 32 x 32 of each image (N, 3, H, W), those at the same place cut out together."""
    room = padded.shape[-1] - IMAGE_SIZE + 1
    places = torch.randint(room**2, (len(padded),), device=padded.device)
    cut = torch.empty_like(padded[..., :IMAGE_SIZE, :IMAGE_SIZE])
    for place in range(room**2):
        top, left = divmod(place, room)
        here = places == place
        cut[here] = padded[here, :, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
    return cut


def measure(kind: str, steps: int) -> float:
    """Images a second over `steps` steps, after a warm-up."""
    params = params_of("fast")
    batch = BATCH if kind == "airbench94" else params.batch_size
    images = batch * (WARM_UP + steps + 4)  # more than needed: no epoch ends while timed
    prepare(params.deterministic)
    train = airbench94_training(random_images(images)) if kind == "airbench94" else training_of(params, images)
    train(WARM_UP)
    return images_a_second(train, batch, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn")
    parser.add_argument("--images", type=int, default=10_000, help="to train on in a turn, about")
    parser.add_argument("--turn", nargs=2, metavar=("KIND", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        kind, steps = arguments.turn
        print(measure(kind, int(steps)))
        return

    params = params_of("fast")
    batches = {"airbench94": BATCH, "fast": params.batch_size}
    totals = {"airbench94": BATCH * STEPS, "fast": 50_000 * params.epochs}  # images of a run
    speeds: dict[str, list[float]] = {kind: [] for kind in batches}
    for number in range(arguments.rounds):
        for kind, batch in batches.items():
            speeds[kind].append(turn("airbench94", kind, str(max(1, round(arguments.images / batch)))))
            print(f"round {number + 1}: {kind:10s} {speeds[kind][-1]:7.1f} images/s", flush=True)
    minutes = {kind: [totals[kind] / speed / 60 for speed in found] for kind, found in speeds.items()}
    rows = []
    for kind, batch in batches.items():
        facts = {"training": kind, "batch": batch, "images": totals[kind]}
        rows.append(facts | {"images_a_second": spread(speeds[kind]), "minutes": spread(minutes[kind])})
    ratios = [ours / theirs for ours, theirs in zip(minutes["fast"], minutes["airbench94"], strict=True)]
    report(__file__, rows, ratio=spread(ratios), of="fast's minutes to airbench94's, turn by turn")


if __name__ == "__main__":
    main()
