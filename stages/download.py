"""Obtain the data set: CIFAR-10 from disk or the network, your own pictures, or shapes drawn on the spot.

Writes data/dataset/, which every other stage reads: images and labels as arrays, class names as text.
"""

from cifar.system.stage import start_stage

start_stage(__name__)

import os
from contextlib import ExitStack
from pathlib import Path

from cifar.config.params import load_params
from cifar.data.archive import find_dataset
from cifar.data.folder import IMAGES, build_splits, list_images, save_names
from cifar.data.shapes import CLASSES, draw_split
from cifar.data.splits import FOLDER, save_classes, save_split
from cifar.system.files import filling, write_array
from cifar.system.progress import progress
from cifar.system.stage import run


def main() -> None:
    params = load_params("download")
    # A bad picture, for example, is met when others have been written.
    with filling(FOLDER) as folder, ExitStack() as until_written:
        if params.dataset == "cifar10":
            cifar10_dir = os.environ.get("CIFAR10_DIR")
            (train, test, classes), source, skipped = find_dataset(Path("data/raw"), cifar10_dir, params.mirrors)
            notes = f"; skipped {', '.join(skipped)}" if skipped else ""
            source = f"from {source}{notes}"
        elif params.dataset == "folder":
            listing = list_images(IMAGES, test_share=params.folder.test_share, seed=params.seed)
            classes, total = listing.classes, sum(map(len, [*listing.train.values(), *listing.test.values()]))
            bar = until_written.enter_context(progress(None, total, "read", "images"))
            train, test = build_splits(listing, params.folder.size, bar.update)  # pictures are read as they are saved
            save_names("train", train, folder)
            save_names("test", test, folder)
            source = f"of {params.folder.size}x{params.folder.size} pixels in {len(classes)} classes from {IMAGES}/"
        else:
            train, train_masks = draw_split(params.shapes.train, params.seed, "train")
            test, test_masks = draw_split(params.shapes.test, params.seed, "test")
            classes, source = CLASSES, f"drawn from seed {params.seed}"
            write_array(folder / "train_masks.npy", train_masks)
            write_array(folder / "test_masks.npy", test_masks)

        save_split("train", train, folder)
        save_split("test", test, folder)
        save_classes(classes, folder)
    print(f"{params.dataset}: {len(train.labels)} training and {len(test.labels)} test images {source}")


if __name__ == "__main__":
    run(main)
