"""Schedules against values worked out by hand and against PyTorch's own schedulers."""

import numpy as np
import pytest
import torch

from cifar.schedules import exponential, one_cycle, triangular


def torch_rates(make_scheduler, steps: int, lr: float) -> list[float]:
    """The learning rates that one of PyTorch's schedulers sets at each of `steps` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_one_cycle_passes_its_three_corners():
    lrs = one_cycle(steps=2112, peak=440, lr_min=0.0125, lr_max=0.4)  # 24 epochs of 88 steps, peak after 5
    assert len(lrs) == 2112
    assert [lrs[0], lrs[440], lrs[-1]] == pytest.approx([0.0125, 0.4, 0.0125])
    assert lrs[220] == pytest.approx((0.0125 + 0.4) / 2)


def test_one_cycle_never_goes_below_lr_min():
    assert one_cycle(steps=100, peak=30, lr_min=0.01, lr_max=0.1).min() == pytest.approx(0.01)


def test_one_cycle_is_piecewise_linear():
    lrs = one_cycle(steps=50, peak=10, lr_min=0.1, lr_max=1.1)
    assert np.diff(lrs[:11]) == pytest.approx(np.full(10, 0.1))
    assert np.diff(lrs[10:]) == pytest.approx(np.full(39, -1 / 39))


def test_one_cycle_with_its_peak_at_the_start_only_falls():
    assert one_cycle(steps=3, peak=0, lr_min=0.0, lr_max=1.0) == pytest.approx([1.0, 0.5, 0.0])


def test_one_cycle_equals_torch():
    # torch's OneCycleLR counts to the last step, ends at initial / final_div_factor and peaks at pct_start * steps - 1.
    ours = one_cycle(steps=101, peak=29, lr_min=0.02, lr_max=0.5)

    def scheduler(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.5, total_steps=101, pct_start=30 / 101, anneal_strategy="linear",
            div_factor=25, final_div_factor=1, cycle_momentum=False,
        )  # fmt: skip

    assert ours == pytest.approx(torch_rates(scheduler, 101, lr=0.5), rel=1e-9)


def test_triangular_equals_torch_over_five_triangles():
    # The drawing of eva4-s11: from 1e-4 to 1e-3, half a cycle in 98 steps.
    ours = triangular(steps=5 * 196, half_cycle=98, lr_min=1e-4, lr_max=1e-3)

    def scheduler(optimizer):
        return torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-4, 1e-3, step_size_up=98, cycle_momentum=False)

    assert ours == pytest.approx(torch_rates(scheduler, 980, lr=1e-4), rel=1e-9)


def test_exponential_multiplies_by_a_constant():
    assert exponential(steps=4, lr_start=1e-3, lr_end=1.0) == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])
