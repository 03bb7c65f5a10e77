"""Each stage's time and peak memory, and DVC's share, on all of CIFAR-10; training is cut to one epoch.

The images are those of CIFAR10_DIR, else of data/raw/; without either they are downloaded on the clock.
"""

import argparse

from benchmarks.pipeline import run_pipeline
from benchmarks.report import report, spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    text = "change a param, as in `dvc exp run -S`; may be repeated (default: one epoch, ten steps of lr_find)"
    parser.add_argument("-S", dest="changes", metavar="KEY=VALUE", action="append", help=text)
    arguments = parser.parse_args()
    changes = arguments.changes or ["epochs=1", "schedule.peak_epoch=0.2", "lr_find.steps=10"]

    runs = [run_pipeline(changes) for _ in range(arguments.rounds)]
    rows = []
    for stages in zip(*(run.stages for run in runs), strict=True):
        figures = {name: spread([stage[name] for stage in stages]) for name in ("seconds", "peak_mib")}
        rows.append({"stage": stages[0]["stage"]} | figures)
    by_dvc = [run.seconds - sum(stage["seconds"] for stage in run.stages) for run in runs]
    rows.append({"stage": "DVC itself", "seconds": spread(by_dvc)})
    rows.append({"stage": "dvc repro with nothing to do", "seconds": spread([run.idle_seconds for run in runs])})
    report(__file__, rows, changes=changes)


if __name__ == "__main__":
    main()
