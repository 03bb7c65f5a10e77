"""What a GPU is wanted for, in order of worth."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.journal import Journal
from benchmarks.gpu.programs import running
from benchmarks.gpu.runs import ALL_STAGES, ROOT, Lab, Run, Tell, complete, prepare_data, slug
from benchmarks.gpu.speed import KINDS
from cifar.system.errors import InputError, one_line

SYSTEMS = "eva4-s8", "eva4-s11", "eva5-s9", "eva6-s8", "resnet18-layernorm"
SEEDS = range(5)
FAST, AGAIN = "fast, seed {}", "fast, seed 0, again"
BEST_AS_ITS_SOURCE = {"epochs": 44, "schedule.peak_epoch": 4.4}
ONE_PASS = ["lr_find", "train", "evaluate"]
LIMIT_OF_TESTS, LIMIT_OF_SPEEDS = 300, 900  # seconds

Work = Generator[None, None, dict[str, Any] | None]  # yields while a program runs, and returns what was found


class Step(NamedTuple):
    """A part of the plan. One that is `alone` is timed, so nothing runs at the same time."""

    name: str
    begin: Callable[[Tell], Work]
    alone: bool = True
    always: bool = False  # also when an earlier call has done it: its result is on this machine's disk


def steps(lab: Lab, journal: Journal) -> list[Step]:
    def system(recipe: str) -> Step:
        return Step(recipe, partial(complete, Run(recipe, recipe, {}, ONE_PASS), lab), alone=False)

    def fast(seed: int) -> Step:
        name = FAST.format(seed)
        return Step(name, partial(complete, Run(name, "fast", {"seed": seed}, ONE_PASS), lab))

    first_seed, *other_seeds = map(fast, SEEDS)
    best = Run("best, 44 epochs", "best", BEST_AS_ITS_SOURCE, ONE_PASS)
    return [
        Step("data", partial(prepared, lab), always=True),
        Step("tests", partial(gpu_tests, lab), alone=False),
        Step("default", partial(complete, Run("default", "default", {}, ALL_STAGES), lab)),
        first_seed,
        Step(best.name, partial(complete, best, lab)),
        *other_seeds,
        *map(system, SYSTEMS),
        Step(AGAIN, partial(fast_again, lab, journal)),
        *(Step(f"speed, {kind}", partial(speeds, kind, lab)) for kind in KINDS),
    ]


def prepared(lab: Lab, _: Tell) -> Work:
    yield from prepare_data(lab)
    return {}


def fast_again(lab: Lab, journal: Journal, tell: Tell) -> Work:
    """`fast` with seed 0 a second time: do its weights have the same hash?"""
    found = yield from complete(Run(AGAIN, "fast", {"seed": 0}, ONE_PASS), lab, tell)
    first = journal.steps.get(FAST.format(0), {}).get("sha256")
    return found | {"has_the_same_bits": None if first is None else found["sha256"] == first}


def gpu_tests(lab: Lab, tell: Tell) -> Work:
    """The tests that are marked for a GPU. Raises InputError, with the first reason, when one fails."""
    folder = lab.scratch / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "tests.xml"
    report.unlink(missing_ok=True)
    words = ["pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}", "tests/test_on_gpu.py"]
    try:
        yield from running(words, ROOT, folder / "log.txt", limit=LIMIT_OF_TESTS, forked=lab.is_dry)
    except InputError:
        if not report.exists():
            raise
    found = outcomes(report)
    tell(found)
    if not found["ran"]:
        raise InputError(f"no test for a GPU ran; {folder / 'log.txt'} has the reasons")
    if found["failures"]:
        name, reason = next(iter(found["failures"].items()))
        raise InputError(f"{len(found['failures'])} of {found['ran']} tests fail, first {name}: {reason}")
    return found


def outcomes(report: Path) -> dict[str, Any]:
    """How many tests of a JUnit report ran and were skipped, and each failure's reason in a line."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failures = {}
    for case in cases:
        for problem in (*case.findall("failure"), *case.findall("error")):
            failures[case.get("name")] = one_line(ValueError(problem.get("message", "")))[:300]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"ran": len(cases) - skipped, "skipped": skipped, "failures": failures}


def speeds(kind: str, lab: Lab, tell: Tell) -> Work:
    """What `benchmarks.gpu.speed` finds, a row a recipe; each is told as soon as it is there."""
    folder = lab.scratch / slug(f"speed, {kind}")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    log.unlink(missing_ok=True)
    words = ["benchmarks.gpu.speed", kind, *(["--dry-run"] if lab.is_dry else [])]
    rows = []
    for _ in running(words, ROOT, log, limit=LIMIT_OF_SPEEDS, forked=lab.is_dry):
        if len(read_rows(log)) > len(rows):
            rows = read_rows(log)
            tell({"rows": rows})
        yield
    rows = read_rows(log)
    tell({"rows": rows})
    if rows and all("failed" in row for row in rows):
        raise InputError(f"it fails for every recipe, first {rows[0]['recipe']}: {rows[0]['failed']}")
    return {"rows": rows}


def read_rows(log: Path) -> list[dict[str, Any]]:
    """The whole lines of JSON in a log; other lines are those of libraries."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith('{"recipe"') and line.endswith("}\n")]
