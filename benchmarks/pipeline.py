"""The whole pipeline in a folder of its own, each stage timed: what several benchmarks share."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cifar.system.files import write_text
from recipes.values import text_with

ROOT = Path(__file__).parents[1]


class Run(NamedTuple):
    """A `dvc repro` from nothing, and one more with nothing to do."""

    stages: list[dict[str, Any]]  # stage, seconds, peak_mib
    seconds: float
    idle_seconds: float


def run_pipeline(changes: Sequence[str]) -> Run:
    """params.yaml with `changes`, as `dvc exp run -S` takes them, run in a fresh folder, which is deleted."""
    with fresh_project("params.yaml", changes) as project:
        seconds = [project.repro(), project.repro()]
        return Run(project.stages(), *seconds)


class Project(NamedTuple):
    """A copy of this project in which each stage is timed."""

    folder: Path
    log: Path  # a line a run of a stage: see timed.py

    def repro(self, *stages: str) -> float:
        """`dvc repro` of all or of these stages and those before them: its seconds; its failure ends us."""
        started = time.perf_counter()
        ended = subprocess.run([sys.executable, "-m", "dvc", "repro", *stages], cwd=self.folder, env=_environment())
        if ended.returncode:  # it has said why
            raise SystemExit(ended.returncode)
        return time.perf_counter() - started

    def stages(self) -> list[dict[str, Any]]:
        """Each run of a stage so far: stage, seconds, peak_mib."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def _environment() -> dict[str, str]:
    return os.environ | {"CIFAR10_DIR": images_folder()}


def images_folder() -> str:
    """CIFAR10_DIR from the root of the file system on, or this project's data/raw if that is not set."""
    return str(Path(os.environ.get("CIFAR10_DIR") or ROOT / "data/raw").absolute())


@contextmanager
def fresh_project(params: str, changes: Sequence[str]) -> Iterator[Project]:
    """A project that has not run, with the params file `params` after `changes`; it is deleted in the end."""
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name, "project"), Path(name, "log")
        for part in ("stages", "cifar", ".dvc/plots"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "data/images").mkdir(parents=True)
        for part in (".dvcignore", ".dvc/config", "data/images/README.md"):
            shutil.copy(ROOT / part, folder / part)
        write_text(folder / "params.yaml", text_with((ROOT / params).read_text(encoding="utf-8"), changes))
        (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
        timed = shlex.join([sys.executable, str(ROOT / "benchmarks/timed.py"), str(log)])
        pipeline = re.sub(
            r"cmd: python -m (.*)",
            lambda found: f"cmd: {json.dumps(f'{timed} {found[1]}')}",  # quoted: a path may have spaces
            (ROOT / "dvc.yaml").read_text(),
        )
        (folder / "dvc.yaml").write_text(pipeline)
        yield Project(folder, log)
