"""The whole pipeline in a folder of its own, each stage timed: what two of the benchmarks share."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dvc.utils.hydra import apply_overrides

ROOT = Path(__file__).parents[1]


class Run(NamedTuple):
    """A `dvc repro` from nothing, and one more with nothing to do."""

    stages: list[dict[str, Any]]  # stage, seconds, peak_mib
    seconds: float
    idle_seconds: float


def run_pipeline(changes: Sequence[str]) -> Run:
    """params.yaml with `changes`, as `dvc exp run -S` takes them, run in a fresh folder, which is deleted."""
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name, "project"), Path(name, "log")
        for part in ("stages", "cifar", ".dvc/plots"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("params.yaml", ".dvcignore", ".dvc/config"):
            shutil.copy(ROOT / part, folder / part)
        (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
        timed = f"{sys.executable} {ROOT / 'benchmarks/timed.py'} {log}"
        pipeline = (ROOT / "dvc.yaml").read_text().replace("cmd: python -m ", f"cmd: {timed} ")
        (folder / "dvc.yaml").write_text(pipeline)
        apply_overrides(folder / "params.yaml", list(changes))
        seconds = [_repro(folder), _repro(folder)]
        return Run([json.loads(line) for line in log.read_text().splitlines()], *seconds)


def _repro(folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=folder, check=True)
    return time.perf_counter() - started
