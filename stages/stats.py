"""Look at the data set before training on it.

Reads data/dataset/. Writes the mean and standard deviation of the training pixels, by which networks normalise; counts
of classes; a sheet of sample images, and a sheet of images before and after augmentation.
"""

from cifar.system.process import start_stage

start_stage(__name__)

from pathlib import Path

import numpy as np

from cifar.config.params import load_params
from cifar.data.examples import first_augmented
from cifar.data.policy import build_policy
from cifar.data.splits import hold_out, load_classes, load_split
from cifar.data.statistics import channel_statistics, count_classes, first_of_each_class
from cifar.results.sheets import draw_sheet
from cifar.system.files import write_csv, write_json
from cifar.system.process import run

FOLDER = Path("plots/stats")
SAMPLES = 10  # of each class
AUGMENTED, COLUMNS = 25, 5


def main() -> None:
    params = load_params("stats")
    train, test = load_split("train"), load_split("test")
    classes = load_classes()
    splits = {"train": train, "test": test}

    mean, std = channel_statistics(train.images)
    samples = first_of_each_class(train.labels, len(classes), SAMPLES)
    training = train.take(hold_out(train.labels, params.val_size, params.seed)[0])
    policy = build_policy([(step.name, step.arguments) for step in params.augment], list(mean.values()))
    originals, augmented = first_augmented(training, policy, params.batch_size, params.seed)

    counts = {"images": len(train.images), "test_images": len(test.images)}
    write_json("metrics/stats.json", counts | {"mean": mean, "std": std})
    write_csv(FOLDER / "class_counts.csv", count_classes(splits, classes))
    columns = samples.shape[1]
    title = f"The first {columns} training images of each class"
    draw_sheet(FOLDER / "samples.png", train.images[samples.ravel()], columns, title, row_labels=classes)
    gap = np.full_like(originals.images[:, :, :1], 255)
    pairs = np.concatenate([originals.images, gap, augmented], axis=2)[:AUGMENTED]
    title = f"The first {len(pairs)} images of the first batch, and beside each as augmentation shows it to the network"
    captions = [classes[label] for label in originals.labels[:AUGMENTED]]
    draw_sheet(FOLDER / "augmented.png", pairs, COLUMNS, title, captions=captions)
    print("written: metrics/stats.json, plots/stats/class_counts.csv, samples.png, augmented.png")


if __name__ == "__main__":
    run(main)
