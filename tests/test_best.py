"""The recipe `best` beside its source, airbench96_faster: written down here once more, by PyTorch's own optimizer."""

from pathlib import Path

import pytest
import torch
from specs import GREY, changed, trainer_spec
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cifar.config.params import check_params, read_yaml
from cifar.data.shapes import draw_split
from cifar.data.splits import Batch
from cifar.nn.inference import normalise
from cifar.training.hardest import build_filter
from cifar.training.schedules import plan
from cifar.training.trainer import build_trainer, train_epoch

PATH = Path(__file__).parents[1] / "recipes/best.yaml"
STEPS, BATCH = 15, 64

# The source's figures: a learning rate and a decay for steps of unit length on 1,024 images and for losses summed over
# the 512 that are kept, and a factor for the rate, not the decay, of the norms' biases.
MOMENTUM, KEPT, BIAS_FACTOR = 0.85, 512, 64
KILOSTEP = 1024 * (1 + 1 / (1 - MOMENTUM))
LR, DECAY = 9.0 / KILOSTEP, 0.012 * 1024 / KILOSTEP


def source_optimizer(network: nn.Module) -> torch.optim.SGD:
    """For losses averaged over what is kept; its rate is set step by step, as a share of the highest."""
    trained = [(name, weights) for name, weights in network.named_parameters() if weights.requires_grad]
    groups = [
        {"params": [weights for name, weights in trained if ("norms" in name) is is_norm], "factor": factor}
        for is_norm, factor in ((True, BIAS_FACTOR), (False, 1))
    ]
    decays = [DECAY / (LR * KEPT * group["factor"]) for group in groups]
    groups = [group | {"weight_decay": decay} for group, decay in zip(groups, decays, strict=True)]
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)


def source_step(optimizer: torch.optim.SGD, loss: Tensor, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = share * LR * KEPT * group["factor"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def test_best_picks_the_images_and_moves_the_weights_as_its_source_does():
    params = check_params(read_yaml(PATH), PATH)
    names = "optimizer", "loss", "average", "regularise", "bias_lr_factor", "l1"
    spec = trainer_spec(
        model=changed(params.model, widths=[16, 24, 32]),  # or it would take long
        filter=changed(params.filter, model=changed(params.filter.model, widths=[8, 8, 8])),
        steps=STEPS,
        **{name: getattr(params, name) for name in names},
    )
    split, _ = draw_split(STEPS * BATCH, 0, "train")
    batches = Batch(torch.from_numpy(split.images), torch.from_numpy(split.labels).long())
    batches = [Batch(*pair) for pair in zip(*(values.split(BATCH) for values in batches), strict=True)]

    limits = {"lr_min": params.lr_min, "lr_max": params.lr_max, "momentum": MOMENTUM}
    (lrs,), (momenta,) = plan(changed(params.schedule, peak_epoch=0.1), (1, STEPS), **limits)
    trainer, image_filter = (build(spec, GREY, split.images) for build in (build_trainer, build_filter))
    network = build_trainer(spec, GREY, split.images).network
    proxy = build_filter(spec, GREY, split.images).proxy.network
    picked = list(image_filter.narrow(0, batches, lrs, momenta))
    list(train_epoch(trainer, picked, lrs, momenta, first_step=0))

    optimizer, proxy_optimizer = source_optimizer(network), source_optimizer(proxy)
    slow = {name: value.clone() for name, value in network.state_dict().items()}
    for step, (batch, lr) in enumerate(zip(batches, lrs, strict=True)):
        images, share = normalise(batch.images, GREY), lr / (LR * KEPT)
        losses = cross_entropy(proxy(images), batch.labels, reduction="none", label_smoothing=0.2)
        hard = losses.argsort()[-BATCH // 2 :].sort().values
        if step % 4 == 0:
            source_step(proxy_optimizer, losses[hard].mean(), share)
        assert torch.equal(picked[step].images, batch.images[hard])
        logits = network(images[hard])
        source_step(optimizer, cross_entropy(logits, batch.labels[hard], label_smoothing=0.2), share)
        if (step + 1) % 5 == 0:
            kept = 0.95**5 * ((step + 1) / STEPS) ** 3 if step > 4 else 0  # at first next to nothing in 2,160 steps
            for name, value in network.state_dict().items():
                if value.is_floating_point():
                    value.copy_(slow[name].lerp_(value, 1 - kept))

    found = trainer.average.model.module.state_dict()
    off = {
        name: ((found[name] - value).norm() / value.norm().clamp(min=1e-9)).item()
        for name, value in network.state_dict().items()
        if value.is_floating_point()
    }
    assert max(off.values()) < 2e-3, off  # rounding leaves 2e-4
    assert max(lrs) == pytest.approx(LR * KEPT, rel=1e-3)
    assert params.optimizer.weight_decay == pytest.approx(DECAY / (LR * KEPT), rel=1e-3)
