"""Show where the network looks, with Grad-CAM.

Reads the model, its predictions, the list of mistakes and the test images. Draws one sheet of the mistakes that the
gallery shows and one of as many correct predictions: each image, followed by a heatmap for each layer.
"""

from cifar.system.process import start_stage

start_stage(__name__)

from pathlib import Path

import matplotlib
import numpy as np
import torch

from cifar.config.params import load_params
from cifar.config.schema import GradCAM
from cifar.data.splits import load_split
from cifar.nn.inference import normalise
from cifar.nn.saved import Model, load_model
from cifar.results.gradcam import heatmaps
from cifar.results.predictions import find_correct, load_mistakes, load_predictions
from cifar.results.sheets import draw_sheet
from cifar.system.process import run

FOLDER = Path("plots/gradcam")
TILES_ACROSS = 10  # at most: images and heatmaps
METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++"}
TARGETS = {"predicted": "predicted", "label": "true"}


def main() -> None:
    params = load_params("gradcam")
    model = load_model()
    test = load_split("test")
    predictions = load_predictions(test.labels)
    columns = TILES_ACROSS // (1 + len(params.gradcam.layers))

    for name, index in ("misclassified", load_mistakes(predictions)), ("correct", find_correct(predictions)):
        shown = index[: params.gallery_size]
        images, labels = test.take(shown)
        predicted = predictions.predictions[shown]
        targets = predicted if params.gradcam.target == "predicted" else labels
        strips = draw_strips(model, images, targets, params.gradcam)
        title = f"{len(shown)} of {len(index)} {name} test images\nBeside each: {legend(params.gradcam)}"
        captions = [
            f"true: {model.classes[label]}\npredicted: {model.classes[guess]}"
            for label, guess in zip(labels, predicted, strict=True)
        ]
        draw_sheet(FOLDER / f"{name}.png", strips, columns, title, captions=captions)


def draw_strips(model: Model, images: np.ndarray, targets: np.ndarray, settings: GradCAM) -> np.ndarray:
    """Strips uint8 (N, H, W', 3): each image, and beside it for each layer the heatmap of its class in `targets`."""
    inputs = normalise(torch.from_numpy(images), model.statistics)
    classes = torch.from_numpy(targets).long()
    gap = np.full_like(images[:, :, :1], 255)
    strip = [images]
    for layer in settings.layers:
        strip += [gap, overlay(images, heatmaps(model.network, inputs, layer, classes, method=settings.method))]
    return np.concatenate(strip, axis=2)


def overlay(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Images uint8 (N, H, W, 3) in grey, half covered by the colours of heatmaps (N, H, W) in [0, 1]."""
    grey = images @ np.array([0.299, 0.587, 0.114])  # luma (ITU-R BT.601)
    colours = 255 * matplotlib.colormaps["inferno"](maps)[..., :3]
    return ((grey[..., None] + colours) / 2).round().astype(np.uint8)


def legend(settings: GradCAM) -> str:
    """What the heatmaps show, in words."""
    return (
        f"{METHODS[settings.method]} of {', '.join(settings.layers)} for the {TARGETS[settings.target]} class, "
        "each map from its least (grey) over purple to its most (yellow)"
    )


if __name__ == "__main__":
    run(main)
