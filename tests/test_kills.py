"""Killed at any moment, in other surroundings, the pipeline carries on and ends in the same bytes.

KILLS says how often; without it these tests are left out of `make test`, for they take minutes: see `make kills`.
"""

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest
from projects import STAGES, Project

KILLS = int(os.environ.get("KILLS", 0))
pytestmark = pytest.mark.skipif(KILLS == 0, reason="KILLS, how often to kill it, is not set")
ELSEWHERE = {  # what must not decide anything
    "TZ": "Asia/Kathmandu",
    "LC_ALL": "C",
    "PYTHONHASHSEED": "123",
    "PYTHONUTF8": "0",
    "COLUMNS": "50",
    "TERM": "dumb",
}
LONGEST = 6.0  # seconds from the start of a stage to its end


def start(project: Project) -> psutil.Popen:
    """`dvc repro`; what it says goes to the file `said` beside the project."""
    command = [sys.executable, "-m", "dvc", "repro"]
    with open(project.folder.parent / "said", "w") as said:
        return psutil.Popen(
            command, cwd=project.folder, env=project.environment, stdout=said, stderr=said, start_new_session=True
        )


def stages_of(dvc: psutil.Popen) -> dict[str, psutil.Process]:
    """The stages that run under it, by name: one or none."""
    found = {}
    with suppress(psutil.NoSuchProcess):
        for child in dvc.children(recursive=True):
            found[" ".join(child.cmdline()).rpartition("-m stages.")[2]] = child
    return {name: child for name, child in found.items() if name in STAGES}


def wait_for(dvc: psutil.Popen, is_wanted: Callable[[str], bool]) -> str | None:
    """The first stage to run whose name is wanted; None when the run is over."""
    while dvc.poll() is None:
        if running := [*filter(is_wanted, stages_of(dvc))]:
            return running[0]
        time.sleep(0.02)
    return None


def wait(dvc: psutil.Popen, stage: str, seconds: float) -> None:
    """Until the time is over, or the stage is and DVC takes in what it wrote."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and stage in stages_of(dvc):
        time.sleep(0.02)


def strike(dvc: psutil.Popen, target: str) -> None:
    """Kill dvc, its stage or both; dvc also when it has no stage at the moment."""
    stages = [*stages_of(dvc).values()]
    for process in {"dvc": [dvc], "stage": stages or [dvc], "both": [dvc, *stages]}[target]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def processes_of(project: Project) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(project.folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until_gone(project: Project) -> None:
    """What is left of a run ends by itself."""
    deadline = time.monotonic() + 20
    while alive := processes_of(project):
        assert time.monotonic() < deadline, [process.cmdline() for process in alive]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def killed(project, tmp_path_factory) -> tuple[Project, Counter]:
    """A fresh clone, elsewhere in every sense, in which `dvc repro` was killed in each stage before it came through."""
    clone = project.clone(tmp_path_factory.mktemp("killed") / "project")
    clone = Project(clone.folder, clone.environment | ELSEWHERE)
    (clone.folder / "dvc.lock").unlink()
    draw, kills = random.Random(KILLS), Counter()
    while True:
        dvc = start(clone)
        stage = wait_for(dvc, lambda stage: kills[stage] < KILLS / len(STAGES))
        if stage is None and dvc.returncode == 0:
            break
        if stage is None:  # the last blow fell while DVC wrote a file of its own, in place
            said = (clone.folder.parent / "said").read_text()
            assert "dvc.lock" in said or "RWLock" in said, said
            mended = clone.call("make", "--assume-old=.venv/ready", "mend")
            assert mended.returncode == 0 and "repaired" in mended.stdout, mended
            kills["that make mend had to mend"] += 1
            continue
        wait(dvc, stage, draw.uniform(0, LONGEST))
        strike(dvc, draw.choice(["dvc", "stage", "both"]))
        kills[stage] += 1
        dvc.wait()
        if draw.random() < 0.5:
            wait_until_gone(clone)  # else the next run begins while the last one's stage may still live
    return clone, kills


def test_what_was_killed_ends_in_the_same_bytes(project, killed):
    clone, kills = killed
    print(f"killed in or right after {dict(kills)}")
    assert all(kills[stage] >= KILLS / len(STAGES) for stage in STAGES)
    assert (clone.folder / "dvc.lock").read_text() == (project.folder / "dvc.lock").read_text()
    assert clone.git("status", "--porcelain") == ""


def test_nothing_half_written_and_no_checkpoint_is_left(killed):
    clone = killed[0]
    left = [path for path in clone.folder.rglob("*") if path.name.endswith(".part")]
    assert not left
    assert not list(clone.folder.glob(".checkpoints/*/*"))
    wait_until_gone(clone)
