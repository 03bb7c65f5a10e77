"""Look at the data set before training on it.

Reads data/dataset/. Writes the mean and standard deviation of the training pixels, the counts of classes, sheets of
sample and augmented images, and a table and a sheet of the test images that are almost the same as a training image.
"""

from cifar.system.stage import start_stage

start_stage(__name__)

from pathlib import Path

import numpy as np

from cifar.config.params import load_params
from cifar.data.duplicates import DUPLICATES, Duplicates, counts, find_duplicates, save_duplicates
from cifar.data.examples import first_augmented
from cifar.data.policy import build_policy
from cifar.data.splits import Split, hold_out, load_classes, load_split
from cifar.data.statistics import channel_statistics, count_classes, first_of_each_class, refuse_constant
from cifar.results.sheets import draw_sheet, side_by_side
from cifar.system.files import write_csv, write_json
from cifar.system.stage import run

FOLDER = Path("plots/stats")
SAMPLES, ROWS = 10, 100  # images of each class, and classes, at most
SHOWN, COLUMNS = 25, 5  # pairs on a sheet, and in a row of it


def main() -> None:
    params = load_params("stats")
    train, test, classes = load_split("train"), load_split("test"), load_classes()

    mean, std = channel_statistics(train.images)
    refuse_constant(mean, std)
    training = train.take(hold_out(train.labels, params.val_size, params.seed)[0])
    policy = build_policy(params.augment, list(mean.values()), train.images.shape[1])
    augmented = first_augmented(training, policy, params.batch_size, params.seed)
    sizes = {"images": len(train.images), "test_images": len(test.images)}
    write_json("metrics/stats.json", sizes | {"mean": mean, "std": std})
    write_csv(FOLDER / "class_counts.csv", count_classes({"train": train, "test": test}, classes))
    draw_samples(train, classes)
    draw_augmented(*augmented, classes)

    duplicates = find_duplicates(train, test)
    found = counts(duplicates)
    write_json("metrics/duplicates.json", found)
    save_duplicates(duplicates, (train.labels, test.labels), classes)
    draw_duplicates(duplicates, train, test, classes)
    print(f"test images that are nearly the same as a training image: {found['test_duplicates']:,}")
    print(f"written: metrics/stats.json, duplicates.json, {DUPLICATES}, {FOLDER}/")


def draw_samples(train: Split, classes: list[str]) -> None:
    samples = first_of_each_class(train.labels, min(len(classes), ROWS), SAMPLES)
    (rows, columns), images = samples.shape, train.images[samples.ravel()]
    title = f"The first {columns} training images of {'each class' if rows == len(classes) else f'{rows} classes'}"
    draw_sheet(FOLDER / "samples.png", images, columns, title, row_labels=classes[:rows])


def draw_augmented(originals: Split, augmented: np.ndarray, classes: list[str]) -> None:
    pairs = side_by_side(originals.images[:SHOWN], augmented[:SHOWN])
    title = f"The first {len(pairs)} images of the first batch, each next to its augmented version"
    captions = [classes[label] for label in originals.labels[:SHOWN]]
    draw_sheet(FOLDER / "augmented.png", pairs, COLUMNS, title, captions=captions)


def draw_duplicates(duplicates: Duplicates, train: Split, test: Split, classes: list[str]) -> None:
    """Each test image beside its training image, the most alike first."""
    of_test, of_train = duplicates.test[:SHOWN], duplicates.train[:SHOWN]
    pairs = side_by_side(test.images[of_test], train.images[of_train])
    count = f"{len(pairs)} of {len(duplicates.test):,}" if len(pairs) else "No"
    title = f"{count} pairs of a test image and a training image that is nearly the same"
    labels = zip(test.labels[of_test], train.labels[of_train], strict=True)
    captions = ["\n".join(classes[label] for label in pair) for pair in labels]
    draw_sheet(FOLDER / "duplicates.png", pairs, COLUMNS, title, captions=captions)


if __name__ == "__main__":
    run(main)
