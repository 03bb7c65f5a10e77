"""Show the whole run on one page that opens from disk: what was run, what came out, and the network's mistakes.

Reads the results of all other stages. Writes the page, which shows images of the data set, and the charts on it as SVG
files, which show none.
"""

from cifar.system.stage import start_stage

start_stage(__name__)

from pathlib import Path

from cifar.config.params import load_params
from cifar.data.examples import first_augmented
from cifar.data.policy import build_policy
from cifar.data.splits import hold_out, load_classes, load_split, load_statistics
from cifar.results.heatmaps import load_heatmaps
from cifar.results.predictions import load_predictions
from cifar.results.report import Pictures, render
from cifar.results.vega import CHARTS, draw
from cifar.results.written import load_run
from cifar.system.errors import InputError
from cifar.system.files import write_text
from cifar.system.stage import run

PAGE = Path("report/index.html")
FOLDER = Path("plots/report")


def main() -> None:
    params = load_params("report")
    train, test = load_split("train"), load_split("test")
    classes = load_classes()
    predictions = load_predictions(test.labels, len(classes))
    results = load_run()
    if results.card.get("classes") != classes:
        raise InputError("models/model.json names other classes than the data set; run `dvc repro train`")

    training = train.take(hold_out(train.labels, params.val_size, params.seed)[0])
    policy = build_policy(params.augment, load_statistics().mean, train.images.shape[1])
    originals, augmented = first_augmented(training, policy, params.batch_size, params.seed)
    heatmaps = load_heatmaps(predictions, test.images.shape[1:3])
    pictures = Pictures(train, originals, augmented, test, heatmaps)

    charts = {name: draw(chart, {"workspace": results.tables[chart.table]}) for name, chart in CHARTS.items()}
    page = render(results, params.values(), predictions, pictures, charts=charts)
    for name, svg in charts.items():
        write_text(FOLDER / f"{name}.svg", svg)
    write_text(PAGE, page)
    print(f"written: {PAGE} ({len(page.encode()) / 1e6:.1f} MB), {FOLDER}/: {len(charts)} charts")


if __name__ == "__main__":
    run(main)
