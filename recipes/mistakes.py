"""What the mistakes of a run have in common, in sentences that its figures allow."""

from itertools import combinations
from typing import NamedTuple

import pandas as pd
from scipy.stats import binomtest

from cifar.results.words import SURE, listed, percent

# The classes of CIFAR-10 fall into two kinds.
KINDS = {
    "animals": {"bird", "cat", "deer", "dog", "frog", "horse"},
    "vehicles": {"airplane", "automobile", "ship", "truck"},
}
NAMED_PAIRS = 3
NAMED_CLASSES = 3
CHANCE = 0.05  # the chance of one false alarm among all pairs of classes, or among all classes
SIGNIFICANT = "Significance is by binomial tests at 5\u00a0%, corrected for the number of pairs or of classes."


class Pair(NamedTuple):
    """Two classes, and how many images of each are taken for the other."""

    one: str
    other: str
    one_as_other: int
    other_as_one: int

    @property
    def mistakes(self) -> int:
        return self.one_as_other + self.other_as_one


def confusion_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Images (C, C) by actual class, one a row, and predicted class; of columns `actual`, `predicted` and `images`."""
    names = list(dict.fromkeys(table["actual"]))
    counts = table.pivot_table(index="actual", columns="predicted", values="images", aggfunc="sum", fill_value=0)
    return counts.reindex(index=names, columns=names, fill_value=0).astype(int)


def pairs(counts: pd.DataFrame) -> list[Pair]:
    """The pairs of classes that are confused, the most often confused first; equals in the order of the classes."""
    found = [
        Pair(one, other, int(counts.loc[one, other]), int(counts.loc[other, one]))
        for one, other in combinations(counts.index, 2)
    ]
    return sorted((pair for pair in found if pair.mistakes), key=lambda pair: -pair.mistakes)


def concentration(counts: pd.DataFrame) -> str:
    """How many of the mistakes lie between the few pairs of classes that are confused most."""
    found, possible = pairs(counts), len(counts) * (len(counts) - 1) // 2
    wrong, first = sum(pair.mistakes for pair in found), found[:NAMED_PAIRS]
    if not wrong:
        return ""
    named = [f"{pair.one} and {pair.other} ({pair.mistakes:,})" for pair in first]
    which = "The pair confused most is" if len(first) == 1 else "The pairs confused most are"
    text = f"{which} {listed(named)}."
    if len(first) == len(found):
        return text
    share = percent(sum(pair.mistakes for pair in first) / wrong, 0)
    these = f"These {len(first)} of {possible} pairs have" if len(first) > 1 else f"This pair, one of {possible}, has"
    return f"{text} {these} {share} of the {wrong:,} mistakes."


def one_sided(counts: pd.DataFrame) -> str:
    """The pairs of which one class is taken for the other significantly more often, the most frequent first.

    A two-sided binomial test for each pair, by Bonferroni's bound over all pairs: if all directions were equally
    likely, a pair would be named with a probability of at most `CHANCE`.
    """
    found = pairs(counts)
    possible = len(counts) * (len(counts) - 1) // 2
    named = []
    for pair in found:
        if binomtest(pair.one_as_other, pair.mistakes).pvalue < CHANCE / possible:
            ways = [(pair.one_as_other, pair.one, pair.other), (pair.other_as_one, pair.other, pair.one)]
            (more, actual, predicted), (fewer, *_) = sorted(ways, reverse=True)
            reverse = f"the reverse happens {times(fewer)}" if fewer else "the reverse never happens"
            named.append(f"{actual} is taken for {predicted} {times(more)}, and {reverse}")
    if not found:
        return ""
    who = {0: "No pair of classes is", 1: "One pair of classes is"}.get(
        len(named), f"{len(named)} pairs of classes are"
    )
    text = f"{who} significantly more often confused in one direction"
    most = ", most often these:" if len(named) > NAMED_PAIRS else ":"
    return f"{text}{most} {'; '.join(named[:NAMED_PAIRS])}." if named else f"{text}."


def kinds(counts: pd.DataFrame) -> str:
    """How many mistakes stay among the animals of CIFAR-10, or among its vehicles; empty for other classes."""
    if set(counts.index) != set.union(*KINDS.values()):
        return ""
    within = {
        kind: sum(pair.mistakes for pair in pairs(counts) if {pair.one, pair.other} <= names)
        for kind, names in KINDS.items()
    }
    wrong = sum(pair.mistakes for pair in pairs(counts))
    if not wrong:
        return ""
    across = wrong - sum(within.values())
    even = [percent(share, 0) for share in (15 / 45, 6 / 45, 24 / 45)]  # of the 45 pairs of classes
    groups = (
        ("two animals", within["animals"]),
        ("two vehicles", within["vehicles"]),
        ("an animal and a vehicle", across),
    )
    named = [f"{count:,} ({percent(count / wrong, 0)}) are between {which}" for which, count in groups]
    return (
        f"Of the mistakes, {listed(named)}. If all pairs of classes were confused equally often, these shares would be "
        f"{listed(even)}."
    )


def leanings(counts: pd.DataFrame) -> str:
    """The classes that are predicted significantly more or less often than they occur.

    As in `one_sided`, of the mistakes that take another class for this one, and this one for another.
    """
    often, rarely = [], []
    for name in counts.index:
        occurs, predicted, right = (
            int(n) for n in (counts.loc[name].sum(), counts[name].sum(), counts.loc[name, name])
        )
        wrong = occurs + predicted - 2 * right
        if wrong and binomtest(predicted - right, wrong).pvalue < CHANCE / len(counts):
            count = predicted - right
            others = f"{count:,} image{'' if count == 1 else 's'} of other classes {'is' if count == 1 else 'are'}"
            figures = f"{others} predicted as {name}, and {occurs - right:,} of class {name} as another class"
            (often if predicted > occurs else rarely).append((name, figures))
    named = [
        f"The class {name} is predicted significantly too {how}: {figures}."
        for how, found in (("often", often), ("rarely", rarely))
        for name, figures in found
    ]
    if len(named) > NAMED_CLASSES:
        return f"The network predicts {len(named)} classes significantly too often or too rarely."
    if not named:
        return "The network predicts no class significantly too often or too rarely."
    return " ".join(named)


def precision(counts: pd.DataFrame) -> str:
    """The classes whose predictions are wrong most often."""
    shares = pd.Series({name: counts.loc[name, name] / max(1, counts[name].sum()) for name in counts.index})
    lowest = shares[(shares < 1) & (counts.sum(axis=0) > 0)].nsmallest(NAMED_CLASSES)
    named = [f"{name} ({percent(share, 1)})" for name, share in lowest.items()]
    return (
        f"Precision, the share of a class's predictions that are right, is lowest for {listed(named)}." if named else ""
    )


def sureness(mistakes: pd.DataFrame) -> str:
    """How sure the network is when it is wrong; `mistakes` has a column `confidence`."""
    if not len(mistakes):
        return ""
    sure = int((mistakes["confidence"] > SURE).sum())
    return (
        f"Half of the mistakes have a confidence of {percent(mistakes['confidence'].median(), 0)} or more, and "
        f"{f'{sure:,} of {len(mistakes):,}' if sure else 'none'} {'have' if sure > 1 else 'has'} more than "
        f"{percent(SURE, 0)}."
    )


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(int(count), f"{count:,} times")


def paragraphs(counts: pd.DataFrame, mistakes: pd.DataFrame) -> list[str]:
    """Where the mistakes are, which way they go, and how sure the network is of them."""
    if not len(mistakes):
        return ["The network makes no mistake on the test images."]
    groups = (
        [concentration(counts), kinds(counts)],
        [one_sided(counts), leanings(counts), SIGNIFICANT],
        [precision(counts), sureness(mistakes)],
    )
    return [" ".join(filter(None, group)) for group in groups]
