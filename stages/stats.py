"""Look at the data set before anything is trained on it.

Reads data/dataset/; writes the training pixels' mean and deviation, by which every network's input is normalised, the
counts of classes and image sizes, and a sheet of sample images.
"""

from pathlib import Path

from cifar.console import run
from cifar.data import load_classes, load_split
from cifar.files import write_csv, write_json
from cifar.sheets import draw_sheet
from cifar.statistics import channel_statistics, count_classes, count_sizes, first_of_each_class

FOLDER = Path("plots/stats")
SAMPLES = 10  # of each class


def main() -> None:
    train, test = load_split("train"), load_split("test")
    classes = load_classes()
    splits = {"train": train, "test": test}

    mean, std = channel_statistics(train.images)
    samples = first_of_each_class(train.labels, SAMPLES)

    counts = {"images": len(train.images), "test_images": len(test.images)}
    write_json("metrics/stats.json", counts | {"mean": mean, "std": std})
    write_csv(FOLDER / "class_counts.csv", count_classes(splits, classes))
    write_csv(FOLDER / "image_sizes.csv", count_sizes(splits))
    columns = samples.shape[1]
    title = f"The first {columns} training images of each class"
    draw_sheet(FOLDER / "samples.png", train.images[samples.ravel()], columns, title, row_labels=classes)


if __name__ == "__main__":
    run(main)
