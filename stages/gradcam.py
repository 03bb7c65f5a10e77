"""Show where the network looks, with Grad-CAM.

Reads the model, its predictions, the list of mistakes and the test images. Draws two sheets: the mistakes that the
gallery shows, and as many correctly classified images. Each image has its heatmaps beside it, one for each layer.
"""

from pathlib import Path

from cifar.config.params import load_params
from cifar.data.splits import load_split
from cifar.nn.saved import load_model
from cifar.results.gradcam import heatmap_strips, legend
from cifar.results.predictions import find_correct, load_mistakes, load_predictions
from cifar.results.sheets import draw_sheet
from cifar.system.process import run

FOLDER = Path("plots/gradcam")
TILES_ACROSS = 10  # images and heatmaps in a row, at most


def main() -> None:
    params = load_params("gradcam")
    model = load_model()
    test = load_split("test")
    predictions = load_predictions(test.labels)
    columns = TILES_ACROSS // (1 + len(params.gradcam.layers))

    for name, indices in ("misclassified", load_mistakes(predictions)), ("correct", find_correct(predictions)):
        shown = indices[: params.gallery_size]
        images, labels = test.take(shown)
        predicted = predictions.predicted[shown]
        targets = predicted if params.gradcam.target == "predicted" else labels
        strips = heatmap_strips(model, images, targets, params.gradcam)
        title = f"{len(shown)} of {len(indices)} {name} test images\nBeside each: {legend(params.gradcam)}"
        captions = [
            f"true: {model.classes[label]}\npredicted: {model.classes[prediction]}"
            for label, prediction in zip(labels, predicted, strict=True)
        ]
        draw_sheet(FOLDER / f"{name}.png", strips, columns, title, captions=captions)


if __name__ == "__main__":
    run(main)
