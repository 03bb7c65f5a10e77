"""How time and memory grow with the data: each stage at an eighth, a quarter, a half and all of 50,000 images.

Shapes, a fifth as many to test on, none held out, one epoch. The exponent of a stage is the slope of its seconds over
the images between the last two sizes, both as logarithms: 1 is linear, less is better.
"""

import argparse
import math

from benchmarks.pipeline import run_pipeline
from benchmarks.report import params_of, report
from cifar.system.stage import run

CHANGES = ["dataset=shapes", "val_size=0", "epochs=1", "schedule.peak_epoch=0.2", "lr_find.steps=10"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000, help="of which an eighth, a quarter, a half and all")
    arguments = parser.parse_args()
    if arguments.images < (least := 8 * params_of("default").batch_size):
        parser.error(f"--images is {arguments.images}, it must be at least {least}: an eighth of it must fill a batch")

    rows: dict[str, dict] = {}
    for count in (arguments.images // 8, arguments.images // 4, arguments.images // 2, arguments.images):
        found = run_pipeline([*CHANGES, f"shapes.train={count}", f"shapes.test={count // 5}"])
        for stage in found.stages:
            row = rows.setdefault(stage["stage"], {"stage": stage["stage"]})
            row |= {f"{count} s": stage["seconds"], f"{count} MiB": stage["peak_mib"]}
    for row in rows.values():
        row["exponent"] = math.log2(row[f"{count} s"] / row[f"{count // 2} s"])
    report(__file__, list(rows.values()), changes=CHANGES)


if __name__ == "__main__":
    run(main, "nothing is written")
