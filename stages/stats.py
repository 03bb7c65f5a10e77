"""Look at the data set before training on it.

Reads data/dataset/. Writes the mean and standard deviation of the training pixels, by which networks normalise; counts
of classes; a sheet of sample images, and a sheet of images before and after augmentation. Also writes a table and a
sheet of the test images that are, or nearly are, among the training images.
"""

from cifar.system.process import start_stage

start_stage(__name__)

from pathlib import Path

from cifar.config.params import load_params
from cifar.data.duplicates import DUPLICATES, Duplicates, counts, find_duplicates, save_duplicates
from cifar.data.examples import first_augmented
from cifar.data.policy import build_policy
from cifar.data.splits import hold_out, load_classes, load_split
from cifar.data.statistics import channel_statistics, count_classes, first_of_each_class
from cifar.results.sheets import draw_sheet, side_by_side
from cifar.system.files import write_csv, write_json
from cifar.system.process import run

FOLDER = Path("plots/stats")
SAMPLES, ROWS = 10, 100  # of each class, and classes, at most
AUGMENTED, COLUMNS = 25, 5


def main() -> None:
    params = load_params("stats")
    train, test = load_split("train"), load_split("test")
    classes = load_classes()
    splits = {"train": train, "test": test}

    mean, std = channel_statistics(train.images)
    samples = first_of_each_class(train.labels, min(len(classes), ROWS), SAMPLES)
    training = train.take(hold_out(train.labels, params.val_size, params.seed)[0])
    augment = [(step.name, step.arguments) for step in params.augment]
    policy = build_policy(augment, list(mean.values()), train.images.shape[1])
    originals, augmented = first_augmented(training, policy, params.batch_size, params.seed)

    sizes = {"images": len(train.images), "test_images": len(test.images)}
    write_json("metrics/stats.json", sizes | {"mean": mean, "std": std})
    write_csv(FOLDER / "class_counts.csv", count_classes(splits, classes))
    columns = samples.shape[1]
    title = f"The first {columns} training images of each class"
    labels = classes[: len(samples)]
    draw_sheet(FOLDER / "samples.png", train.images[samples.ravel()], columns, title, row_labels=labels)
    pairs = side_by_side(originals.images[:AUGMENTED], augmented[:AUGMENTED])
    title = f"The first {len(pairs)} images of the first batch, and beside each as augmentation shows it to the network"
    captions = [classes[label] for label in originals.labels[:AUGMENTED]]
    draw_sheet(FOLDER / "augmented.png", pairs, COLUMNS, title, captions=captions)

    duplicates = find_duplicates(train, test)
    found = counts(duplicates)
    write_json("metrics/duplicates.json", found)
    save_duplicates(duplicates, (train.labels, test.labels), classes)
    shown = Duplicates(*(column[:AUGMENTED] for column in duplicates))
    title = (
        f"{len(shown.test)} of {found['duplicate_pairs']:,} pairs of a test image and a training image nearly the same"
    )
    labels = zip(test.labels[shown.test], train.labels[shown.train], strict=True)
    captions = [f"{classes[of_test]}\n{classes[of_train]}" for of_test, of_train in labels]
    pairs = side_by_side(test.images[shown.test], train.images[shown.train])
    draw_sheet(FOLDER / "duplicates.png", pairs, COLUMNS, title, captions=captions)
    print(f"{found['test_duplicates']:,} test images are nearly the same as a training image")
    sheets = "samples.png, augmented.png, duplicates.png"
    print(f"written: metrics/stats.json, duplicates.json, {DUPLICATES}, {FOLDER}/class_counts.csv, {sheets}")


if __name__ == "__main__":
    run(main)
