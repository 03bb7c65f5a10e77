"""What the measurements share: turns in processes of their own, the machine they ran on, tables and JSON files."""

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cifar.config.params import check_params, read_yaml
from cifar.config.schema import Params
from cifar.data.splits import Statistics
from cifar.system.device import environment, pick_device, pick_precision
from cifar.system.files import write_json

STATISTICS = Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))  # of CIFAR-10


def params_of(recipe: str) -> Params:
    """The params that a recipe sets, or params.yaml's: `default`."""
    path = params_path(recipe)
    return check_params(read_yaml(path), path)


def params_path(recipe: str) -> str:
    """Where the recipe's params are, or for `default` this project's, from its top folder."""
    return "params.yaml" if recipe == "default" else f"recipes/{recipe}.yaml"


def turn(benchmark: str, *words: str, threads: int | None = None) -> float:
    """The number that `python -m benchmarks.<benchmark> --turn <words>` prints: a turn in a fresh process."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--turn", *words]
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | limit)
    return float(ended.stdout.split()[-1])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of measurements or of ratios: how many, the median, and the lowest and the highest."""
    return {"n": len(values), "median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def report(script: str | Path, rows: list[dict[str, Any]], device: str | None = None, **facts: Any) -> None:
    """Print `rows` as a table, and write them with `facts` and the machine as <script>.json, beside the script.

    `device` is the one that was measured, where that is not the pipeline's own choice.
    """
    table = pd.DataFrame([_flat(row) for row in rows])
    print(f"\n{table.to_string(index=False, na_rep='', float_format='{:.4g}'.format)}")
    print("".join(f"\n{name}: {value}" for name, value in facts.items()))
    write_json(Path(script).with_suffix(".json"), {"machine": machine(device), **facts, "rows": rows})


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table in which a summary of several values is one word."""
    return {name: as_text(value) if isinstance(value, dict) else value for name, value in row.items()}


def as_text(summary: dict[str, float], form: str = ".4g") -> str:
    """Median (lowest to highest), or the only measurement."""
    median, lowest, highest = (format(summary[name], form) for name in ("median", "lowest", "highest"))
    return median if summary["n"] == 1 else f"{median} ({lowest} to {highest})"


def machine(name: str | None) -> dict[str, Any]:
    device = torch.device(name) if name else pick_device()
    found = environment(device, pick_precision("auto", device), deterministic=True)
    return {
        "processor": processor(),
        "memory_gib": round(_memory() / 2**30),
        "python": platform.python_version(),
    } | found


def processor() -> str:
    """The processor's name as the kernel tells it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def synchronise() -> None:
    """Wait for a GPU, if there is one, before a clock is read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
