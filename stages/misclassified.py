"""List the network's mistakes, and show the most confident ones of each class.

Reads the predictions and the test images. Writes a table of all mistakes, a table of the pairs of classes that are
confused most often, and two galleries: the most confident mistakes, and as many correctly classified images. Also
writes a table and a sheet of the test images whose label is in doubt.
"""

from cifar.system.stage import start_stage

start_stage(__name__)

from pathlib import Path

from cifar.config.params import load_params
from cifar.data.splits import load_classes, load_split
from cifar.results.captions import CORRECT_COLOURS, MISTAKE_COLOURS, prediction_captions
from cifar.results.labels import LABEL_ISSUES, describe, find_label_issues, save_label_issues
from cifar.results.predictions import (
    MISTAKES,
    confused_pairs,
    find_correct,
    find_mistakes,
    load_predictions,
    save_mistakes,
    spread_over_classes,
)
from cifar.results.sheets import draw_sheet
from cifar.system.errors import printable
from cifar.system.files import write_csv
from cifar.system.stage import run

FOLDER = Path("plots/misclassified")
COLUMNS = 5
PAIRS = 10


def main() -> None:
    params = load_params("misclassified")
    classes = load_classes()
    images, labels = load_split("test")
    predictions = load_predictions(labels, len(classes))
    mistakes, correct = find_mistakes(predictions), find_correct(predictions)
    pairs = confused_pairs(predictions, classes)

    save_mistakes(predictions, mistakes, classes)
    write_csv(FOLDER / "confused_pairs.csv", pairs.head(PAIRS))
    for name, indices, kind, colours in (
        ("gallery", mistakes, "mistakes", MISTAKE_COLOURS),
        ("correct", correct, "correct predictions", CORRECT_COLOURS),
    ):
        shown = spread_over_classes(predictions, indices)[: params.gallery_size]
        title = (
            f"{len(shown)} of {len(indices):,} {kind} on {len(labels):,} test images, "
            "the most confident of each true class first"
        )
        captions = prediction_captions(predictions, shown, classes)
        draw_sheet(FOLDER / f"{name}.png", images[shown], COLUMNS, title, captions=captions, caption_colours=colours)

    issues = find_label_issues(predictions.logits, labels)
    save_label_issues(issues, classes)
    first = issues.first(params.gallery_size)
    title = f"{len(first.indices)} of {len(issues.indices):,} labels in doubt, the most doubtful first"
    draw_sheet(FOLDER / "label_issues.png", images[first.indices], COLUMNS, title, captions=describe(first, classes))

    for pair in pairs.head(3).itertuples():
        actual, predicted = (printable(name) for name in (pair.actual, pair.predicted))
        print(f"{actual} predicted as {predicted}: {pair.images} of {pair.of} images")
    print(
        f"written: {MISTAKES} ({len(mistakes):,} mistakes), {LABEL_ISSUES}, "
        f"{FOLDER}/gallery.png, correct.png, label_issues.png, confused_pairs.csv"
    )


if __name__ == "__main__":
    run(main)
