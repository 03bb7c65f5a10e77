"""The statistics of comparisons against published examples, hand calculations and simulations."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from cifar.results.comparison import (
    Difference,
    Sample,
    accuracy_difference,
    mcnemar,
    paired_difference,
    power,
    seeds_needed,
    summarise,
    verdict,
    welch,
)

# Student's sleep data (1908), as in R's data set `sleep`; the values below are what R's help page for t.test prints.
SLEEP_A = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_B = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_welchs_interval_is_that_of_r_on_the_sleep_data():
    found = welch(SLEEP_A, SLEEP_B)
    assert found == pytest.approx((1.58, -0.2054832, 3.3654832), abs=5e-8)
    assert welch(SLEEP_B, SLEEP_A) == pytest.approx((-1.58, -3.3654832, 0.2054832), abs=5e-8)


def test_welchs_interval_is_that_of_scipy_for_samples_of_different_sizes():
    a, b = np.random.default_rng(0).normal(0.94, 0.001, 4), np.random.default_rng(1).normal(0.93, 0.003, 9)
    expected = ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert welch(a, b)[1:] == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_mean_and_deviation_by_hand():
    # 0.92, 0.94 and 0.96: the squares of -0.02, 0 and 0.02 sum to 2 * 0.0004, over n - 1 = 2
    assert summarise([0.92, 0.94, 0.96]) == pytest.approx((0.94, 0.02, 3))
    assert summarise([0.92]) == Sample(0.92, None, 1)


@pytest.mark.parametrize(("a", "b"), [([0.9], [0.8, 0.9]), ([0.9], [0.8]), ([0.9, 0.9], [0.8, 0.8])])
def test_without_known_noise_there_is_no_interval(a, b):
    assert welch(a, b)[1:] == (None, None)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    # by hand: twice the chance of so few heads: 2 (1 + 7 + 21) / 2^7, 2 (1 + 8) / 2^8, and at most 1
    [(5, 2, 0.453125), (7, 1, 0.0703125), (1, 7, 0.0703125), (3, 3, 1.0), (0, 0, 1.0)],
)
def test_mcnemars_exact_p_by_hand(only_a, only_b, p):
    # images that only A gets right, that only B gets right, that both do, that neither does
    counts = [only_a, only_b, 40, 5]
    is_correct_a = np.repeat([True, False, True, False], counts)
    is_correct_b = np.repeat([False, True, True, False], counts)
    assert mcnemar(is_correct_a, is_correct_b) == pytest.approx((only_a, only_b, p))


def test_the_paired_interval_is_that_of_r_on_the_sleep_data():
    found = paired_difference(np.array(SLEEP_A), np.array(SLEEP_B))
    assert found == pytest.approx((1.58, 0.7001142, 2.4598858), abs=5e-8)
    assert paired_difference(np.array([0.5]), np.array([0.75])) == (0.25, None, None)


def test_the_interval_of_a_difference_in_accuracy_by_hand():
    # 98 images: middle (20 - 10) / 100, variance (31 / 100 - 0.01) / 100 = 0.003, half 1.959964 * 0.0547723
    is_correct_a = np.repeat([True, False, True], [10, 20, 68])
    is_correct_b = np.repeat([False, True, True], [10, 20, 68])
    assert accuracy_difference(is_correct_a, is_correct_b) == pytest.approx((10 / 98, -0.0073517, 0.2073517), abs=5e-7)
    same = accuracy_difference(is_correct_a, is_correct_a)
    assert same.mean == 0 and same.low == -same.high < 0  # equal on these images, not on all


@pytest.mark.parametrize(
    ("only_a", "only_b", "images"), [(0.03, 0.03, 10_000), (0.02, 0.05, 1000), (0.1, 0.2, 50), (0.3, 0.1, 30)]
)
def test_it_holds_the_true_difference_nineteen_times_in_twenty(only_a, only_b, images):
    random, shares = np.random.default_rng(0), [only_a, only_b, 1 - only_a - only_b]
    held = 0
    for _ in range(1000):
        counts = random.multinomial(images, shares)
        sides = (np.repeat([True, False, True], counts), np.repeat([False, True, True], counts))
        _, low, high = accuracy_difference(*sides)
        held += low <= only_b - only_a <= high
    assert 0.93 <= held / 1000 <= 0.98


@pytest.mark.parametrize(
    ("difference", "deviation", "seeds", "expected"),
    # R's help page of power.t.test (the first); G*Power and statsmodels' TTestIndPower
    [(1.0, 1.0, 20, 0.8689528), (0.5, 1.0, 64, 0.8014596), (0.01, 0.01, 17, 0.8070367)],
)
def test_power_for_equal_deviations_is_the_published_one(difference, deviation, seeds, expected):
    assert power(difference, (deviation, deviation), seeds) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("difference", "expected"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_are_cohens_for_small_medium_and_large_effects(difference, expected):
    # Cohen 1988, Table 2.4.1: n at a power of 0.8; 394 by statsmodels' 393.4, where the table has 393
    assert seeds_needed(difference, (1.0, 1.0)) == expected
    assert seeds_needed(difference / 1000, (0.001, 0.001)) == expected
    assert power(difference, (1.0, 1.0), expected - 1) < 0.8 <= power(difference, (1.0, 1.0), expected)


def test_a_million_seeds_are_the_limit():
    assert seeds_needed(1e-6, (0.01, 0.01)) is None
    # n = 2 (z_0.975 + z_0.8)^2 / d^2 for large n, here for d = 0.0045: 775,232
    assert seeds_needed(0.0045, (1.0, 1.0)) == pytest.approx(775_232, rel=1e-4)


def share_seen(difference: float, deviations: tuple[float, float], seeds: tuple[int, int], pairs: int = 2000) -> float:
    """How often, in so many simulated pairs, the verdict names a better one."""
    random = np.random.default_rng(48)
    seen = 0
    for _ in range(pairs):
        a = random.normal(0.94, deviations[0], seeds[0])
        b = random.normal(0.94 + difference, deviations[1], seeds[1])
        interval = welch(a, b)
        seen += interval.low > 0 or interval.high < 0
    return seen / pairs


@pytest.mark.parametrize(
    ("deviations", "seeds"),
    [((0.001, 0.001), (5, 5)), ((0.001, 0.002), (5, 5)), ((0.001, 0.003), (10, 10)), ((0.002, 0.001), (4, 12))],
)
def test_no_difference_is_called_none_in_95_of_100_pairs(deviations, seeds):
    assert 0.935 <= 1 - share_seen(0.0, deviations, seeds) <= 0.965


@pytest.mark.parametrize(
    ("difference", "deviations"),
    [(0.001, (0.001, 0.001)), (0.001, (0.001, 0.002)), (0.002, (0.0011, 0.0011)), (0.003, (0.0011, 0.0023))],
)
def test_a_planted_difference_is_seen_as_often_as_stated(difference, deviations):
    seeds = seeds_needed(difference, deviations)
    stated = power(difference, deviations, seeds)
    assert 0.8 <= stated < 0.9
    # three standard errors of a share in 2,000 pairs
    assert share_seen(difference, deviations, (seeds, seeds)) == pytest.approx(stated, abs=0.027)


def verdict_of(a: list[float], b: list[float], wanted: float = 0.001) -> str:
    return verdict(("old", "new"), (summarise(a), summarise(b)), welch(a, b), wanted)


def test_the_verdict_names_the_better_one_and_the_interval_in_points():
    samples = Sample(0.94, 0.001, 5), Sample(0.9431, 0.001, 5)
    better, worse = Difference(0.0031, 0.0012, 0.005), Difference(-0.0031, -0.005, -0.0012)
    assert verdict(("A", "B"), samples, better, 0.001) == "B is better by 0.31 points (0.12 to 0.50)"
    assert verdict(("A", "B"), samples, worse, 0.001) == "A is better by 0.31 points (0.12 to 0.50)"


def test_without_a_visible_difference_the_verdict_says_how_many_seeds_would_show_one():
    # deviations of exactly 1: Cohen's 17 and 64
    a, b = [-1.0, 0.0, 1.0], [-0.9, 0.1, 1.1]
    for wanted, seeds in ((1.0, 17), (0.5, 64)):
        expected = f"no difference can be seen; to see {100 * wanted:g} points you would need about {seeds} seeds each"
        assert verdict_of(a, b, wanted) == expected
    assert verdict_of(a, b, 1e-6).endswith("more than a million seeds each")


def test_one_seed_is_said_to_show_nothing():
    assert verdict_of([0.93], [0.95]).startswith("one seed cannot tell which is better")
    assert verdict_of([0.93, 0.93], [0.95, 0.95]).endswith("so the noise is unknown; run more seeds")
