"""Run all that a GPU is wanted for, in order of worth: `python -m benchmarks.gpu --help`.

Each result is written as soon as it is there, into the folder $OUT, or benchmarks/gpu/results/. A time limit loses
nothing: called again, the program skips what is done, and a training that was cut short carries on. A step that fails
is recorded with its reason, and the next one runs.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.journal import Journal
from benchmarks.gpu.plan import Step, Work, steps
from benchmarks.gpu.runs import Lab, files_to_keep, slug
from benchmarks.gpu.summary import summary
from benchmarks.pipeline import images_folder
from benchmarks.report import machine
from cifar.system.errors import InputError, one_line
from cifar.system.stage import run

RESULTS = Path(__file__).with_name("results")
TOGETHER = 2  # steps that may share the GPU: small batches leave it idle between two kernels
POLL = 0.1  # seconds


class TimeIsOver(Exception):
    """The minutes that were asked for have passed."""


class Active(NamedTuple):
    """A step that has begun."""

    step: Step
    work: Work
    started: float
    told: dict[str, Any]  # what is known of it so far


def main() -> None:
    arguments = parse()
    is_dry = arguments.dry_run
    if not (is_dry or torch.cuda.is_available()):
        raise InputError("PyTorch sees no GPU here; `python -m benchmarks.gpu --dry-run` tries every step without one")
    os.environ["CIFAR10_DIR"] = images_folder()
    place = Path(os.environ.get("OUT") or RESULTS) / ("dry-run" if is_dry else "")
    lab = Lab(Path(tempfile.gettempdir(), f"cifar-gpu{'-dry-run' if is_dry else ''}-{os.getuid()}"), is_dry)
    if is_dry:
        begin_dry_run(lab, place)
    journal = Journal(place, place if is_dry else RESULTS, machine(None))
    until = time.monotonic() + 60 * arguments.minutes
    ended = None
    try:
        work(steps(lab, journal), journal, lab, until)
    except TimeIsOver:
        ended = f"{arguments.minutes:g} minutes are over; run the same command again to continue"
    finally:
        print(f"\n{summary(journal.steps, is_dry)}\n\nResults: {journal.results}, {journal.files}", flush=True)
    if ended:
        print(ended)
    failed = [name for name, entry in journal.steps.items() if entry["state"] == "failed"]
    if failed:
        raise InputError(f"{len(failed)} steps failed: {'; '.join(failed)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="every step on tiny data, on a processor, from nothing")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so long (default: no limit)")
    return parser.parse_args()


def begin_dry_run(lab: Lab, place: Path) -> None:
    """Start from nothing, on a processor; import what the programs need, which are copies of this process then."""
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "GPU_TESTS_ON": "cpu"}
    for folder in (lab.scratch, place):
        shutil.rmtree(folder, ignore_errors=True)
    import pytest  # noqa: F401

    import stages.gradcam
    import stages.lr_find
    import stages.train  # noqa: F401


def work(plan: list[Step], journal: Journal, lab: Lab, until: float) -> None:
    """Take the steps in order, TOGETHER at a time where none is to be alone. Raises TimeIsOver."""
    waiting = [step for step in plan if step.always or not journal.is_done(step.name)]
    print(f"{len(waiting)} of {len(plan)} steps are to do; results go to {journal.results.parent}", flush=True)
    active: list[Active] = []
    try:
        while waiting or active:
            while waiting and has_room(waiting[0], active):
                active.append(begin(waiting.pop(0), journal))
            active = [each for each in active if goes_on(each, journal, lab)]
            if time.monotonic() > until:
                raise TimeIsOver
            time.sleep(POLL)
    finally:
        for each in active:
            journal.record(each.step.name, "stopped", **each.told)
        for each in active:
            each.work.close()
        for each in active:
            keep_files(each.step.name, journal, lab)


def has_room(step: Step, active: list[Active]) -> bool:
    is_alone = step.alone or any(each.step.alone for each in active)
    return len(active) < (1 if is_alone else TOGETHER)


def begin(step: Step, journal: Journal) -> Active:
    print(f"{time.strftime('%H:%M:%S')} {step.name}", flush=True)
    told: dict[str, Any] = {}

    def tell(found: dict[str, Any]) -> None:
        told.update(found)
        journal.record(step.name, "running", **told)

    return Active(step, step.begin(tell), time.monotonic(), told)


def goes_on(active: Active, journal: Journal, lab: Lab) -> bool:
    """Look after a step; record its end. Whatever fails in it, the steps after it run."""
    name = active.step.name
    try:
        next(active.work)
        return True
    except StopIteration as end:
        state, found = "done", end.value or {}
    except Exception as error:
        state, found = "failed", active.told | {"reason": reason_of(error)}
    seconds = round(time.monotonic() - active.started, 2)
    keep_files(name, journal, lab)
    journal.record(name, state, seconds=seconds, alone=active.step.alone, **found)
    why = f": {found['reason']}" if "reason" in found else ""
    print(f"{time.strftime('%H:%M:%S')} {name}: {state} after {seconds:.1f} s{why}", flush=True)
    return False


def keep_files(name: str, journal: Journal, lab: Lab) -> None:
    if kept := files_to_keep(name, lab):
        journal.keep(slug(name), kept)


def reason_of(error: Exception) -> str:
    """In a line what went wrong; of a bug its kind too."""
    told = one_line(error)[:500]
    return told if isinstance(error, InputError | OSError) else f"{type(error).__name__}: {told}"


if __name__ == "__main__":
    run(main, "run the same command again to continue")
