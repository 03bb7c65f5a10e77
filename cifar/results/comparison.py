"""Is one set of accuracies really better than another? Differences over seeds, and image by image.

Accuracies and differences are fractions in [0, 1] and [-1, 1]; only `verdict` speaks of points, which are hundredths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

CONFIDENCE = 0.95
# The usual choice (Cohen, "Statistical Power Analysis", 1988): a true difference is seen four times in five.
POWER = 0.8
MOST_SEEDS = 1_000_000  # the search for a number of seeds ends here


class Sample(NamedTuple):
    """What several seeds reached: mean, standard deviation of a sample (None for one seed), number of seeds."""

    mean: float
    deviation: float | None
    n: int


class Difference(NamedTuple):
    """The mean of B minus that of A, and its 95 % interval; `low` and `high` are None where there can be none."""

    mean: float
    low: float | None
    high: float | None


class Discordant(NamedTuple):
    """How many images only A and only B gets right, and McNemar's exact p value."""

    only_a: int
    only_b: int
    p: float


def summarise(values: Sequence[float]) -> Sample:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Sample(float(np.mean(values)), deviation, len(values))


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """B minus A with Welch's interval, which lets the two deviations differ (Welch, Biometrika 34, 1947).

    There is no interval when one side has a single value or when neither side varies: the noise is then unknown.
    """
    mean = float(np.mean(b) - np.mean(a))
    if min(len(a), len(b)) < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return Difference(mean, None, None)
    squares = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)  # of the means' standard errors
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / (len(a) - 1) + squares[1] ** 2 / (len(b) - 1))
    # Not by scipy's ttest_ind, which warns where the values of one side are equal.
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2) * np.sqrt(sum(squares)))
    return Difference(mean, mean - half, mean + half)


def mcnemar(is_correct_a: np.ndarray, is_correct_b: np.ndarray) -> Discordant:
    """Two networks on the same images, bool (N,) each: do they err on equally many? (McNemar, Psychometrika 12, 1947)

    The p value is exact: if both erred equally often, an image that only one gets right would be a fair coin.
    """
    only_a = int(np.count_nonzero(is_correct_a & ~is_correct_b))
    only_b = int(np.count_nonzero(is_correct_b & ~is_correct_a))
    p = stats.binomtest(only_b, only_a + only_b).pvalue if only_a + only_b else 1.0
    return Discordant(only_a, only_b, float(p))


def accuracy_difference(is_correct_a: np.ndarray, is_correct_b: np.ndarray) -> Difference:
    """The accuracy of B minus that of A on the same images, bool (N,) each, with its 95 % interval for other images.

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions" (2005): Wald's interval
    after adding half an image to each cell of the 2x2 table, so that it also holds for few images.
    """
    images = len(is_correct_a)
    only_a, only_b, _ = mcnemar(is_correct_a, is_correct_b)
    middle = (only_b - only_a) / (images + 2)
    variance = ((only_a + only_b + 1) / (images + 2) - middle**2) / (images + 2)
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * variance**0.5
    return Difference((only_b - only_a) / images, max(-1.0, float(middle - half)), min(1.0, float(middle + half)))


def paired_difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """The mean of B minus that of A, values (N,) of the same images, with its 95 % interval by Student's t."""
    differences = np.asarray(b, dtype=np.float64) - a
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Difference(mean, None, None)
    half = float(special.stdtrit(count - 1, (1 + CONFIDENCE) / 2) * differences.std(ddof=1) / count**0.5)
    return Difference(mean, mean - half, mean + half)


def power(difference: float, deviations: tuple[float, float], seeds: int) -> float:
    """How often Welch's interval over `seeds` of each leaves out 0, when the true means differ by `difference`.

    By the noncentral t distribution, with Satterthwaite's degrees of freedom for the true `deviations`.
    """
    variances = np.square(deviations)
    freedom = (seeds - 1) * variances.sum() ** 2 / np.square(variances).sum()
    shift = abs(difference) / np.sqrt(variances.sum() / seeds)
    edge = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    return float(stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift))


def seeds_needed(difference: float, deviations: tuple[float, float]) -> int | None:
    """The fewest seeds of each with which a true `difference` is seen with a power of 0.8; None above a million."""
    low, high = 1, 2  # `low` is too few
    while power(difference, deviations, high) < POWER:
        if high == MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, deviations, middle) >= POWER else (middle, high)
    return high


def verdict(names: tuple[str, str], samples: tuple[Sample, Sample], difference: Difference, wanted: float) -> str:
    """The conclusion in words; without a visible difference, how many seeds would show one of `wanted`."""
    a, b = names
    points = 100 * abs(difference.mean)
    better = b if difference.mean > 0 else a
    if min(samples[0].n, samples[1].n) < 2:
        return (
            "one seed cannot tell which is better: accuracies differ from seed to seed, and one seed does not say by "
            "how much; run three seeds or more"
        )
    if difference.low is None:
        return f"neither {a} nor {b} differs from seed to seed, so the noise is unknown; run more seeds"
    if difference.low > 0 or difference.high < 0:
        ends = sorted((100 * abs(difference.low), 100 * abs(difference.high)))
        return f"{better} is better by {points:.2f} points ({ends[0]:.2f} to {ends[1]:.2f})"
    seeds = seeds_needed(wanted, (samples[0].deviation, samples[1].deviation))
    count = f"about {float(f'{seeds:.2g}'):,.0f}" if seeds else "more than a million"  # two digits: it is an estimate
    return f"no difference can be seen; to see {100 * wanted:g} points you would need {count} seeds each"
