"""Schedules against values worked out by hand and against PyTorch's own schedulers, step by step."""

import numpy as np
import pytest
import torch
from specs import changed
from torch.optim import lr_scheduler

from cifar.config.schema import Constant, OneCycle, Plateau, ScheduleSpec, StepDecay, Triangular
from cifar.training.schedules import exponential, one_cycle, plan, plateau, step_decay, triangular


def torch_rates(make_scheduler, steps: int, lr: float, key: str = "lr") -> list[float]:
    """The learning rates (or momenta) that one of PyTorch's schedulers sets at each of `steps` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0][key])
        optimizer.step()
        scheduler.step()
    return rates


def test_one_cycle_passes_its_three_corners():
    # 24 epochs of 88 steps, peak after 5
    lrs = one_cycle(steps=2112, peak=440, anneal="linear", start=0.0125, top=0.4, end=0.0125)
    assert len(lrs) == 2112
    assert [lrs[0], lrs[440], lrs[-1]] == pytest.approx([0.0125, 0.4, 0.0125])
    assert lrs[220] == pytest.approx((0.0125 + 0.4) / 2)
    assert lrs.min() == 0.0125  # no annihilation


def test_linear_one_cycle_is_two_straight_lines():
    lrs = one_cycle(steps=50, peak=10, anneal="linear", start=0.1, top=1.1, end=0.32)
    assert np.diff(lrs[:11]) == pytest.approx(np.full(10, 0.1))
    assert np.diff(lrs[10:]) == pytest.approx(np.full(39, -0.02))


def test_one_cycle_with_its_peak_at_the_start_only_falls():
    assert one_cycle(3, 0, "linear", start=0.0, top=1.0, end=0.0) == pytest.approx([1.0, 0.5, 0.0])


# torch's OneCycleLR peaks at step pct_start * steps - 1, and ends at max_lr / div_factor / final_div_factor.
@pytest.mark.parametrize(
    ("anneal", "steps", "peak", "end_factor"), [("linear", 101, 29, 1.0), ("cos", 7820, 2345, 1e-4)]
)
def test_one_cycle_equals_torch_in_rate_and_momentum(anneal, steps, peak, end_factor):
    def scheduler(optimizer):
        return lr_scheduler.OneCycleLR(
            optimizer, 0.1, total_steps=steps, pct_start=(peak + 1) / steps, anneal_strategy=anneal,
            div_factor=25, final_div_factor=1 / end_factor, base_momentum=0.85, max_momentum=0.95,
        )  # fmt: skip

    name = {"linear": "linear", "cos": "cosine"}[anneal]
    lrs = one_cycle(steps, peak, name, start=0.004, top=0.1, end=0.004 * end_factor)
    momenta = one_cycle(steps, peak, name, start=0.95, top=0.85, end=0.95)
    assert lrs == pytest.approx(torch_rates(scheduler, steps, lr=0.1), rel=1e-6)
    assert momenta == pytest.approx(torch_rates(scheduler, steps, lr=0.1, key="momentum"), rel=1e-9)


def test_triangular_equals_torch_over_five_triangles():
    # The drawing of eva4-s11: from 1e-4 to 1e-3, half a cycle in 98 steps.
    ours = triangular(steps=5 * 196, half_cycle=98, lr_min=1e-4, lr_max=1e-3)

    def scheduler(optimizer):
        return lr_scheduler.CyclicLR(optimizer, 1e-4, 1e-3, step_size_up=98, cycle_momentum=False)

    assert ours == pytest.approx(torch_rates(scheduler, 980, lr=1e-4), rel=1e-9)


def test_step_decay_equals_torch():
    # eva5-s9: 0.01, times 0.8 every 4 of 40 epochs.
    ours = step_decay(epochs=40, every=4, factor=0.8, lr_min=1e-9, lr_max=0.01)
    assert ours == pytest.approx(torch_rates(lambda optimizer: lr_scheduler.StepLR(optimizer, 4, 0.8), 40, lr=0.01))
    assert step_decay(4, every=1, factor=0.1, lr_min=0.05, lr_max=1.0) == pytest.approx([1.0, 0.1, 0.05, 0.05])


@pytest.mark.parametrize("seed", range(5))
def test_plateau_equals_torch_on_any_accuracies(seed):
    random = np.random.default_rng(seed)
    noisy = 0.9 - np.exp(-np.arange(60) / 5) + random.normal(0, 0.02, 60)
    accuracies = np.round(noisy, 2).clip(min=0)  # with ties
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.2, patience=3, min_lr=1e-7)
    expected = [1e-3]
    for accuracy in accuracies:
        scheduler.step(accuracy)
        expected.append(optimizer.param_groups[0]["lr"])
    assert min(expected) < 1e-5
    assert plateau(accuracies, patience=3, factor=0.2, lr_min=1e-7, lr_max=1e-3) == pytest.approx(expected, rel=1e-12)


def test_exponential_multiplies_by_a_constant():
    assert exponential(steps=4, lr_start=1e-3, lr_end=1.0) == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])


RATES = {"lr_min": 0.1, "lr_max": 1.0, "momentum": 0.9}


def rates(spec: ScheduleSpec, accuracies=()) -> np.ndarray:
    """The learning rates of a plan of 6 epochs of 5 steps from 0.1 (lr_min) to 1 (lr_max): (6, 5)."""
    found = plan(spec, (6, 5), list(accuracies), **RATES)
    assert found.lrs.shape == found.momenta.shape == (6, 5)
    assert isinstance(spec, OneCycle) or (found.momenta == 0.9).all()
    return found.lrs


CYCLE = OneCycle(name="one_cycle", anneal="linear", peak_epoch=2, end_factor=0.5, peak_momentum="same")


def test_a_plan_that_moves_by_the_step_moves_within_epochs():
    lrs = rates(CYCLE)
    assert (lrs[0, 0], lrs[2, 0], lrs[-1, -1]) == pytest.approx((0.1, 1.0, 0.05))
    assert len(np.unique(lrs.round(9))) > 15
    assert rates(Triangular(name="triangular", half_cycle=3)).ravel()[:7] == pytest.approx(
        [0.1, 0.4, 0.7, 1, 0.7, 0.4, 0.1]
    )


def test_a_plan_that_moves_by_the_epoch_is_constant_within_epochs():
    steps = rates(StepDecay(name="step", every=2, factor=0.5))
    assert steps == pytest.approx(np.repeat([[1], [1], [0.5], [0.5], [0.25], [0.25]], 5, axis=1))
    assert (rates(Constant(name="constant")) == 1.0).all()


def test_a_peak_in_the_last_moment_still_ends_the_cycle():
    lrs = rates(changed(CYCLE, peak_epoch=5.99)).ravel()
    assert (lrs[-2], lrs[-1]) == pytest.approx((1.0, 0.05))
    assert len(plan(changed(CYCLE, peak_epoch=0.9), (1, 1), **RATES).lrs.ravel()) == 1


def test_momentum_moves_against_the_rate_or_stays():
    assert (plan(CYCLE, (6, 5), **RATES).momenta == 0.9).all()
    momenta = plan(changed(CYCLE, peak_momentum=0.8), (6, 5), **RATES).momenta
    assert (momenta[0, 0], momenta[1, 0], momenta[2, 0], momenta[-1, -1]) == pytest.approx((0.9, 0.85, 0.8, 0.9))


def test_a_plateaus_plan_follows_the_epochs_that_are_over_and_then_stays():
    spec = Plateau(name="plateau", patience=1, factor=0.5)
    assert (rates(spec) == 1.0).all()
    assert rates(spec, [0.5, 0.5, 0.4])[:, 0].tolist() == [1, 1, 1, 0.5, 0.5, 0.5]  # two epochs without a new best
    assert rates(spec, [0.5, 0.4, 0.6, 0.5, 0.5, 0.5])[:, 0].tolist() == [1, 1, 1, 1, 1, 0.5]
