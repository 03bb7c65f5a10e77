"""Each stage's time and peak memory, and DVC's share, on all of CIFAR-10; training is cut to one epoch.

The images are those of CIFAR10_DIR, else of data/raw/; without either they are downloaded on the clock.
"""

import argparse

from benchmarks.pipeline import run_pipeline
from benchmarks.report import report, spread
from cifar.system.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    text = "change a param, as in `dvc exp run -S`; may be repeated (default: one epoch, ten steps of lr_find)"
    parser.add_argument("-S", dest="changes", metavar="KEY=VALUE", action="append", help=text)
    arguments = parser.parse_args()
    changes = arguments.changes or ["epochs=1", "schedule.peak_epoch=0.2", "lr_find.steps=10"]

    passes = [run_pipeline(changes) for _ in range(arguments.rounds)]
    rows = []
    for stages in zip(*(each.stages for each in passes), strict=True):
        figures = {name: spread([stage[name] for stage in stages]) for name in ("seconds", "peak_mib")}
        rows.append({"stage": stages[0]["stage"]} | figures)
    by_dvc = [each.seconds - sum(stage["seconds"] for stage in each.stages) for each in passes]
    rows.append({"stage": "DVC itself", "seconds": spread(by_dvc)})
    rows.append({"stage": "dvc repro with nothing to do", "seconds": spread([each.idle_seconds for each in passes])})
    report(__file__, rows, changes=changes)


if __name__ == "__main__":
    run(main, "nothing is written")
