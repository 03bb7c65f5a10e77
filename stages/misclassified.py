"""List the network's mistakes, and show the most confident ones.

Reads the predictions and the test images. Writes a table of all mistakes, a table of the pairs of classes that are
confused most often, and two galleries: the most confident mistakes, and as many correctly classified images.
"""

from pathlib import Path

from cifar.config.params import load_params
from cifar.data.splits import load_classes, load_split
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
    for name, indices, description in (
        ("gallery", mistakes, f"mistakes {of_all}, most confident first"),
        ("correct", correct, f"correct predictions {of_all}, each class's most confident first"),
    ):
        shown = indices[: params.gallery_size]
        captions = [
            f"true: {classes[label]}\npredicted: {classes[prediction]}\n{confidence:.1%} sure"
            for label, prediction, confidence in zip(
                labels[shown], predictions.predicted[shown], predictions.confidences()[shown], strict=True
            )
        ]
        title = f"{len(shown)} of {len(indices)} {description}"
        draw_sheet(FOLDER / f"{name}.png", images[shown], COLUMNS, title, captions=captions)
    for pair in pairs.head(3).itertuples():
        print(f"{pair.images} of {pair.of} images of {pair.actual} taken for {pair.predicted}")


if __name__ == "__main__":
    run(main)
