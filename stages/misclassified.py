"""List the network's mistakes, and show those of which it was surest.

Reads the predictions and the test images; writes a table of all mistakes, one of the classes that are most often
confused, and two galleries: the first mistakes, and as many correctly classified images. Then a table and a sheet of
the test images whose label is probably wrong.
"""

from pathlib import Path

from cifar.config.params import load_params
from cifar.data.splits import load_classes, load_split
from cifar.results.labels import describe, find_label_issues, save_label_issues
from cifar.results.predictions import confused_pairs, find_correct, find_mistakes, load_predictions, save_mistakes
from cifar.results.sheets import draw_sheet
from cifar.system.files import write_csv
from cifar.system.process import run

FOLDER = Path("plots/misclassified")
COLUMNS = 5
PAIRS = 10


def main() -> None:
    params = load_params("misclassified")
    classes = load_classes()
    images, labels = load_split("test")
    predictions = load_predictions(labels)
    mistakes, correct = find_mistakes(predictions), find_correct(predictions)
    pairs = confused_pairs(predictions, classes)

    save_mistakes(predictions, mistakes)
    write_csv(FOLDER / "confused_pairs.csv", pairs.head(PAIRS))
    of_all = f"on {len(labels)} test images"
    for name, index, what in (
        ("gallery", mistakes, f"mistakes {of_all}, most confident first"),
        ("correct", correct, f"correct predictions {of_all}, each class's most confident first"),
    ):
        shown = index[: params.gallery_size]
        captions = [
            f"true: {classes[label]}\npredicted: {classes[predicted]}\n{confidence:.1%} sure"
            for label, predicted, confidence in zip(
                labels[shown], predictions.predictions[shown], predictions.confidences()[shown], strict=True
            )
        ]
        draw_sheet(FOLDER / f"{name}.png", images[shown], COLUMNS, f"{len(shown)} of {len(index)} {what}", captions)

    issues = find_label_issues(predictions.logits, labels)
    save_label_issues(issues, classes)
    shown = issues.first(params.gallery_size)
    title = f"{len(shown.indices)} of {len(issues.indices)} labels in doubt {of_all}, the most doubtful first"
    draw_sheet(FOLDER / "label_issues.png", images[shown.indices], COLUMNS, title, captions=describe(shown, classes))
    for row in pairs.head(3).itertuples():
        print(f"{row.images} of {row.of} images of {row.actual} taken for {row.predicted}")


if __name__ == "__main__":
    run(main)
