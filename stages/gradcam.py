"""Show where the network looks, with Grad-CAM.

Reads the model, its predictions, the list of mistakes and the test images. Draws two sheets: the mistakes that the
gallery shows, and as many correctly classified images. Each image has its heatmaps beside it, one for each layer.
For the report it also writes heatmaps of the most confident mistakes as arrays, for the predicted and the true class.
"""

from cifar.system.stage import start_stage

start_stage(__name__)

from pathlib import Path

from cifar.config.params import load_params
from cifar.data.splits import load_classes, load_split
from cifar.nn.saved import check_fits, load_model
from cifar.results.captions import CORRECT_COLOURS, MISTAKE_COLOURS, prediction_captions
from cifar.results.gradcam import heatmap_strips, legend, map_mistakes
from cifar.results.heatmaps import HEATMAPS, save_heatmaps
from cifar.results.predictions import find_correct, load_mistakes, load_predictions, spread_over_classes
from cifar.results.sheets import draw_sheet
from cifar.system.stage import run

FOLDER = Path("plots/gradcam")
TILES_ACROSS = 10  # images and heatmaps in a row, at most


def main() -> None:
    params = load_params("gradcam")
    model = load_model()
    test = load_split("test")
    check_fits(model, load_classes(), test.images.shape[1])
    predictions = load_predictions(test.labels, len(model.classes))
    mistakes = load_mistakes(predictions)
    columns = TILES_ACROSS // (1 + len(params.gradcam.layers))

    for name, indices, colours in (
        ("misclassified", mistakes, MISTAKE_COLOURS),
        ("correct", find_correct(predictions), CORRECT_COLOURS),
    ):
        shown = spread_over_classes(predictions, indices)[: params.gallery_size]
        targets = (predictions.predicted if params.gradcam.target == "predicted" else test.labels)[shown]
        strips = heatmap_strips(model, test.images[shown], targets, params.gradcam)
        title = f"{len(shown)} of {len(indices):,} {name} test images\nNext to each: {legend(params.gradcam)}"
        captions = prediction_captions(predictions, shown, model.classes)
        draw_sheet(FOLDER / f"{name}.png", strips, columns, title, captions=captions, caption_colours=colours)
    save_heatmaps(map_mistakes(model, test.images, predictions, mistakes, settings=params.gradcam))
    print(f"written: {HEATMAPS}, {FOLDER}/misclassified.png, correct.png")


if __name__ == "__main__":
    run(main)
