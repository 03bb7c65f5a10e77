"""List the network's mistakes, and show those of which it was surest.

Reads the predictions and the test images; writes a table of all mistakes and a gallery of the first ones.
"""

from pathlib import Path

from cifar.console import run
from cifar.data import load_classes, load_split
from cifar.params import load_params
from cifar.predictions import find_mistakes, load_predictions, save_mistakes
from cifar.sheets import draw_sheet

COLUMNS = 5


def main() -> None:
    params = load_params("misclassified")
    classes = load_classes()
    images, labels = load_split("test")
    predictions = load_predictions(labels)

    mistakes = find_mistakes(predictions)
    save_mistakes(predictions, mistakes)

    shown = mistakes[: params.gallery_size]
    captions = [
        f"true: {classes[label]}\npredicted: {classes[predicted]}\n{confidence:.1%} sure"
        for label, predicted, confidence in zip(
            labels[shown], predictions.predictions[shown], predictions.confidences()[shown], strict=True
        )
    ]
    title = f"{len(shown)} of {len(mistakes)} mistakes on {len(labels)} test images, most confident first"
    draw_sheet(Path("plots/misclassified/gallery.png"), images[shown], COLUMNS, title, captions)


if __name__ == "__main__":
    run(main)
