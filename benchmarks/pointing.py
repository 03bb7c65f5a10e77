"""How often a heatmap's peak lies on the shape that the image shows: the pointing game, on the demo's network.

Zhang et al., "Top-Down Neural Attention by Excitation Backprop" (2016). Shapes are drawn anew for their masks, so this
is for `dataset: shapes`, after `make demo`; heatmaps are those of the predicted class.
"""

import argparse
import os

import numpy as np

from benchmarks.report import report
from cifar.config.params import check_params, read_yaml
from cifar.config.schema import LAYERS
from cifar.data.shapes import draw_split
from cifar.data.splits import load_split
from cifar.nn.inference import predict
from cifar.nn.saved import load_model
from cifar.results.gradcam import CHANNEL_WEIGHTS, in_blocks
from cifar.system.errors import InputError
from cifar.system.stage import run


def hit_rates(maps: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """How often the peak of a heatmap (N, H, W) lies in the mask bool (N, H, W), and how often a random pixel would."""
    peaks = maps.reshape(len(maps), -1).argmax(axis=1)
    hits = masks.reshape(len(masks), -1)[np.arange(len(maps)), peaks]
    return float(hits.mean()), float(masks.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=".demo", help="where the pipeline has run")
    os.chdir(parser.parse_args().folder)

    params = check_params(read_yaml("params.yaml"), "params.yaml")
    model, test = load_model(), load_split("test")
    drawn, masks = draw_split(len(test.labels), params.seed, "test")
    if not np.array_equal(drawn.images, test.images):
        raise InputError("the test images are not the shapes that params.yaml has drawn; run `make demo`")
    predicted = predict(model.network, test.images, model.statistics).argmax(axis=1)
    rows = []
    for method in CHANNEL_WEIGHTS:
        for layer in LAYERS[params.model.name]:
            on_shape, by_chance = hit_rates(in_blocks(model, test.images, predicted, layer=layer, method=method), masks)
            rows.append({"method": method, "layer": layer, "on the shape": on_shape, "by chance": by_chance})
    accuracy = float((predicted == test.labels).mean())
    report(__file__, rows, device="cpu", computed_in="float32", images=len(masks), accuracy=accuracy)


if __name__ == "__main__":
    run(main, "nothing is written")
