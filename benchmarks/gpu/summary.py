"""The results as tables for a terminal, and which of the project's aims on a GPU they reach."""

from typing import Any

import pandas as pd

from benchmarks.gpu.plan import AGAIN, FAST, SEEDS
from benchmarks.report import as_text, spread

Steps = dict[str, dict[str, Any]]


def summary(steps: Steps, is_dry: bool) -> str:
    """All tables: the runs, the seeds of `fast`, the speeds, the aims; then what failed or is not finished."""
    parts = [table(runs(steps)), table(seeds(steps)), table(speeds(steps)), table(aims(steps, is_dry)), *notes(steps)]
    return "\n\n".join(part for part in parts if part)


def table(rows: list[dict[str, Any]]) -> str:
    return pd.DataFrame(rows).to_string(index=False, na_rep="") if rows else ""


def word(values: dict[str, float] | None, form: str = ".4g") -> str:
    """Median (lowest to highest), n."""
    return f"{as_text(values, form)}, n = {values['n']}" if values else ""


def runs(steps: Steps) -> list[dict[str, Any]]:
    """A row a training, finished or not."""
    rows = []
    for name, entry in steps.items():
        if "recipe" not in entry:
            continue
        row = {"run": name, "state": entry["state"], "epochs": f"{len(entry['history'])} of {entry['epochs']}"}
        if "accuracy" in entry:
            row |= {"minutes": f"{entry['train_seconds'] / 60:.3f}", "accuracy": f"{entry['accuracy']:.4f}"}
            row |= {"with TTA": entry["tta_accuracy"] and f"{entry['tta_accuracy']:.4f}"}
            row |= {"images/s, by epoch": word(entry["images_per_second"], ".0f")}
        rows.append(row)
    return rows


def of_fast(steps: Steps, figure: str) -> list[float]:
    entries = [steps.get(FAST.format(seed), {}) for seed in SEEDS]
    return [entry[figure] for entry in entries if entry.get(figure) is not None]


def seeds(steps: Steps) -> list[dict[str, Any]]:
    """What the seeds of `fast` come to."""
    figures = {"accuracy": ".4f", "tta_accuracy": ".4f", "train_seconds": ".2f"}
    found = {figure: of_fast(steps, figure) for figure in figures}
    return [
        {"fast, by seed": figure, "median, lowest to highest": word(spread(values), figures[figure])}
        for figure, values in found.items()
        if values
    ]


def speeds(steps: Steps) -> list[dict[str, Any]]:
    """A row a recipe: training images a second, with and without deterministic kernels, and compiled."""
    rows: dict[str, dict[str, Any]] = {}
    for name, entry in steps.items():
        for found in entry.get("rows", []) if name.startswith("speed, ") else []:
            row = rows.setdefault(found["recipe"], {"images/s": found["recipe"]})
            if "failed" in found:
                row[name.removeprefix("speed, ")] = f"failed: {found['failed'][:60]}"
            elif "compiled" in found:
                row |= {"compiled": word(found["compiled"]), "compiling, s": found["compile_seconds"]}
            else:
                row |= {"deterministic": word(found["deterministic"]), "not deterministic": word(found["free"])}
                row |= {"ratio": word(found["ratio"], ".3f")}
    return list(rows.values())


def aims(steps: Steps, is_dry: bool) -> list[dict[str, Any]]:
    """What the project aims at on an H200, in seconds, and whether it is reached."""
    fast, default = of_fast(steps, "train_seconds"), steps.get("default", {})
    stages = default.get("stage_seconds")
    found = {
        "training the default": (12, default.get("train_seconds")),
        "training fast, median of its seeds": (5, spread(fast)["median"] if fast else None),
        "training best, 44 epochs": (30, steps.get("best, 44 epochs", {}).get("train_seconds")),
        "download to gradcam, the default": (120, sum(stages.values()) if stages else None),
    }
    rows = []
    for aim, (seconds, measured) in found.items():
        reached = "not measured" if measured is None else "dry run" if is_dry else "no" if measured > seconds else "yes"
        took = "" if measured is None else f"{measured:.1f}"
        rows.append({"aim": aim, "seconds": seconds, "measured": took, "reached": reached})
    return rows


def notes(steps: Steps) -> list[str]:
    """The tests, the two runs with the same seed, and each step that is not done, in a line each."""
    lines = []
    tests = steps.get("tests", {})
    if "ran" in tests:
        lines.append(
            f"tests: {tests['ran'] - len(tests['failures'])} of {tests['ran']} pass, {tests['skipped']} skipped"
        )
    same = steps.get(AGAIN, {}).get("has_the_same_bits")
    if same is not None:
        lines.append(f"fast twice with seed 0: {'the same' if same else 'NOT the same'} bits")
    for name, entry in steps.items():
        if entry["state"] != "done":
            lines.append(f"{name}: {entry['state']}{', ' + entry['reason'] if 'reason' in entry else ''}")
    return ["\n".join(lines)] if lines else []
