"""The range test on problems whose curve is known, and its suggestions on curves drawn by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from cifar.config.schema import Constant, StepDecay
from cifar.system.errors import InputError
from cifar.system.files import write_json
from cifar.training.range_test import at_the_ends, choose_rates, suggest, sweep
from cifar.training.schedules import exponential


class Scripted:
    """A trainer whose loss at each step is told beforehand."""

    def __init__(self, losses):
        self.losses, self.lrs = iter(losses), []

    def step(self, batch, lr):
        self.lrs.append(lr)
        return torch.tensor([next(self.losses), 0.0, 0.0, 0.0], dtype=torch.float64)


def curve_of(losses, lrs=None, smoothing=1.0, stop_factor=5.0):
    lrs = np.arange(1.0, len(losses) + 1) if lrs is None else lrs
    return sweep(Scripted(losses), [None] * len(losses), lrs, smoothing=smoothing, stop_factor=stop_factor)


def test_smoothing_is_the_bias_corrected_average():
    # Worked by hand with weight 1/2: 4; (4/4 + 2/2) / (3/4) = 8/3; (4/8 + 2/4 + 1/2) / (7/8) = 12/7.
    curve = curve_of([4.0, 2.0, 1.0], smoothing=0.5)
    assert curve["smoothed_loss"].tolist() == pytest.approx([4, 8 / 3, 12 / 7])
    assert curve["loss"].tolist() == [4.0, 2.0, 1.0]


def test_smoothing_equals_that_of_pandas():
    losses = np.random.default_rng(0).uniform(1, 2, 50)
    expected = pd.Series(losses).ewm(alpha=0.05, adjust=True).mean()
    assert curve_of(losses, smoothing=0.05)["smoothed_loss"].to_numpy() == pytest.approx(expected.to_numpy())


def test_stops_after_the_step_that_passes_the_factor():
    assert curve_of([2.0, 1.0, 4.9, 5.1, 9.0])["loss"].tolist() == [2.0, 1.0, 4.9, 5.1]


def test_the_first_losses_do_not_stop_it():
    # Weight 1/4, so 4 losses settle the average; by the second, (1/4 * 3/4 + 9/4) / (7/16) = 39/7, it is above 5.
    assert len(curve_of([1.0, 9.0, 2.0, 1.0, 1.0, 0.5], smoothing=0.25)) == 6
    assert len(curve_of([1.0, 9.0, 9.0, 9.0, 9.0, 9.0], smoothing=0.25)) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_stops_at_a_loss_that_is_not_finite_and_leaves_it_out(bad):
    assert curve_of([2.0, 1.0, bad, 1.0])["loss"].tolist() == [2.0, 1.0]
    with pytest.raises(InputError, match=f"the first loss of the range test is {bad}; "):
        curve_of([bad, 1.0])


LRS = np.geomspace(1e-3, 1.0, 61)


@pytest.mark.parametrize(
    ("lr_max", "lr_min", "warned"),
    [
        (0.3, 0.01, []),
        (1.0, 0.01, ["lr_max 1 is the range's highest rate", "raise lr_find.lr_end"]),
        (0.3, 0.0011, ["lr_min 0.0011 is at the range's start", "lower lr_find.lr_start"]),
        (1.0, 0.001, ["lr_max 1 is", "lr_min 0.001 is"]),
    ],
)
def test_a_suggestion_at_an_end_of_the_range_is_warned_of(lr_max, lr_min, warned):
    warning = at_the_ends({"lr_max": lr_max, "lr_min": lr_min}, LRS)
    assert all(words in warning for words in warned) and bool(warning) == bool(warned)


def test_without_a_suggestion_there_is_no_warning():
    assert at_the_ends({}, LRS) == ""


def test_a_loss_that_falls_to_the_last_rate_is_warned_of():
    curve = curve_of(np.linspace(2.3, 1.0, 61), LRS)
    assert "lr_max 1 is the range's highest rate" in at_the_ends(suggest(curve), LRS)
    curve = curve_of(np.linspace(2.3, 1.0, 61).tolist()[:50] + [9.0] * 11, LRS)
    assert at_the_ends(suggest(curve), LRS) == ""


def test_each_rate_is_used_once_in_order():
    trainer = Scripted([1.0] * 5)
    sweep(trainer, [None] * 5, exponential(5, 1e-3, 10.0), smoothing=0.05, stop_factor=5.0)
    assert trainer.lrs == pytest.approx([1e-3, 1e-2, 1e-1, 1, 10])


def test_lr_max_is_the_bottom_and_lr_min_where_a_fifth_of_the_fall_is_made():
    #           start  noise  -4 %  -20 %  half  bottom  rise
    smoothed = [10.0, 10.0, 9.6, 8.0, 5.0, 0.0, 3.0]
    curve = pd.DataFrame({"lr": [1.0, 2, 3, 4, 5, 6, 7], "smoothed_loss": smoothed})
    assert suggest(curve) == {"lr_max": 6.0, "lr_min": 4.0}


def test_a_low_first_loss_is_not_taken_for_the_fall():
    curve = pd.DataFrame({"lr": [1.0, 2, 3, 4, 5, 6], "smoothed_loss": [5.0, 10.0, 9.0, 7.0, 0.0, 3.0]})
    assert suggest(curve) == {"lr_max": 5.0, "lr_min": 4.0}


def test_suggestion_for_gradient_descent_stays_below_the_known_limit_of_stability():
    # On the loss c w^2 / 2 plain descent diverges beyond the rate 2 / c, and 1 / c is the best single step.
    curvature, weight, losses = 4.0, 1.0, []
    lrs = exponential(60, 1e-3, 10.0)
    for lr in lrs:
        losses.append(curvature * weight**2 / 2 + 1e-3)
        weight -= lr * curvature * weight
    suggestion = suggest(curve_of(losses, lrs, smoothing=1.0))
    assert suggestion["lr_min"] < 1 / curvature <= suggestion["lr_max"] <= 2 / curvature * 1.2


@pytest.mark.parametrize("losses", [[1.0], [1.0, 2.0, 3.0]])
def test_nothing_is_suggested_where_the_loss_never_falls(losses):
    assert suggest(pd.DataFrame({"lr": np.arange(len(losses)) + 1.0, "smoothed_loss": losses})) == {}


@pytest.mark.parametrize(
    ("wanted", "rates"),
    [
        (("find", "find"), (0.02, 0.5)),
        ((0.1, "find"), (0.1, 0.5)),
        (("find", 0.3), (0.02, 0.3)),
        ((0.1, 0.2), (0.1, 0.2)),
    ],
)
def test_find_takes_each_rate_from_the_range_test(tmp_path, monkeypatch, wanted, rates):
    monkeypatch.chdir(tmp_path)
    write_json("metrics/lr_find.json", {"lr_max": 0.5, "lr_min": 0.02, "steps": 9})
    cycle = StepDecay(name="step", every=1, factor=0.5)
    assert choose_rates(*wanted, cycle) == {"lr_min": rates[0], "lr_max": rates[1]}


def test_find_without_a_suggestion_and_rates_in_the_wrong_order_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json("metrics/lr_find.json", {"steps": 9})
    with pytest.raises(InputError, match="the range test suggests no learning rate"):
        choose_rates(0.1, "find", StepDecay(name="step", every=1, factor=0.5))
    with pytest.raises(InputError, match=r"lr_min is 0.3, but must be at most lr_max \(0.2\)"):
        choose_rates(0.3, 0.2, StepDecay(name="step", every=1, factor=0.5))
    assert choose_rates(0.3, 0.2, Constant(name="constant")) == {"lr_min": 0.3, "lr_max": 0.2}


def test_a_rate_that_the_schedule_does_not_use_needs_no_suggestion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json("metrics/lr_find.json", {"steps": 9})
    assert choose_rates("find", 0.2, Constant(name="constant")) == {"lr_min": 0.2, "lr_max": 0.2}
    for lr_min in (0.1, "find"):
        with pytest.raises(InputError, match="the range test suggests no learning rate"):
            choose_rates(lr_min, "find", Constant(name="constant"))
    with pytest.raises(InputError, match="the range test suggests no learning rate"):
        choose_rates("find", 0.2, StepDecay(name="step", every=1, factor=0.5))
