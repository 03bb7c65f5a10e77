"""Own pictures as a data set: one folder a class, with the test pictures in folders of their own or drawn from all."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar.config.schema import CLASS_COUNTS
from cifar.data.pictures import find_pictures, is_hidden, read_picture, without_warnings
from cifar.data.splits import FOLDER, Split, label_dtype
from cifar.system.errors import InputError, printable
from cifar.system.files import write_text

IMAGES = Path("data/images")
LAYOUT = "put pictures into {0}/<class>/, or into {0}/train/<class>/ and {0}/test/<class>/; {0}/README.md has more"
ByClass = dict[str, list[Path]]  # the picture files of each class


class Listing(NamedTuple):
    """The picture files for training and for testing, and the classes: the folders' names in their order."""

    train: ByClass
    test: ByClass
    classes: list[str]


class Pictures:
    """Picture files as images uint8 (N, size, size, 3), which are read when they are asked for, several at a time.

    Raises InputError then, one line, if a file is no picture or is damaged: it names the first of all such files and
    says how many others there are. `seen` is called with 1 for each file that has been read.
    """

    def __init__(self, paths: list[Path], size: int, seen: Callable[[int], object] = lambda _: None):
        self.paths, self.size, self.seen = paths, size, seen

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.paths), self.size, self.size, 3

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        numbers = np.arange(len(self.paths))[index]
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        with _pool() as pool:
            try:
                for row, image in enumerate(pool.map(self._read, numbers)):
                    images[row] = image
                    self.seen(1)
            except InputError as error:
                pool.shutdown(cancel_futures=True)
                raise self._all_problems(error) from None
        return images

    def _read(self, number: int) -> np.ndarray:
        return read_picture(self.paths[number], self.size)

    def _all_problems(self, met: InputError) -> InputError:
        """The first problem among all files; `met` if a file that was being copied is whole by now."""
        with _pool() as pool:
            problems = [problem for problem in pool.map(self._problem, range(len(self.paths))) if problem] or [met]
        others = len(problems) - 1
        more = f" ({others:,} other file{'s' * (others > 1)} cannot be used either)" if others else ""
        return InputError(f"{problems[0]}{more}")

    def _problem(self, number: int) -> InputError | None:
        try:
            self._read(number)
        except InputError as error:
            return error
        return None


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    with without_warnings(), ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without Python's lock
        yield pool


def list_images(folder: Path, *, test_share: float, seed: int) -> Listing:
    """The picture files in `folder`, which has train/<class>/ and test/<class>/, or <class>/ alone.

    Without train/ and test/, a `test_share` of each class is for testing: at least one picture, never all. These are
    the ones with the lowest hash of `seed`, class and file name, so that a new picture moves at most one old one.
    Raises InputError if the folders are laid out in another way, or if a class has too few pictures.
    """
    _refuse_links(folder)
    names = set(_folders(folder))
    if {"train", "test"} <= names:
        if names != {"train", "test"}:
            other = printable(min(names - {"train", "test"}))
            raise InputError(f"{folder} has train/, test/ and {other}/; {LAYOUT.format(folder)}")
        train, test = _by_class(folder / "train"), _by_class(folder / "test")
        if train.keys() != test.keys():
            name = min(train.keys() ^ test.keys())
            there, missing = ("train", "test") if name in train else ("test", "train")
            raise InputError(
                f"{folder}/{there} has a class {printable(name)}, which {folder}/{missing} lacks; add its pictures"
            )
        return Listing(train, test, list(train))
    if len(names) == 1 and names <= {"train", "test"}:
        raise InputError(f"{folder} has {names.pop()}/ alone; {LAYOUT.format(folder)}")
    train, test = {}, {}
    for name, paths in _by_class(folder).items():
        if len(paths) < 2:
            raise InputError(f"{folder}/{name} has one picture, at least two are needed: to train on and to test")
        keys = {path: hashlib.sha256(os.fsencode(f"{seed}/{path.relative_to(folder)}")).digest() for path in paths}
        count = min(len(paths) - 1, max(1, round(test_share * len(paths))))
        chosen = set(sorted(paths, key=keys.get)[:count])
        train[name] = [path for path in paths if path not in chosen]
        test[name] = [path for path in paths if path in chosen]
    return Listing(train, test, list(train))


def _refuse_links(folder: Path) -> None:
    """Raise InputError if there is a link to a folder in `folder` or deeper: DVC does not look at its pictures."""
    for parent, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                raise InputError(f"{path} is a link, whose pictures DVC does not look at; copy the folder")


def _folders(folder: Path) -> list[str]:
    """The names of the folders in `folder` in their order; raises InputError if another file lies next to them."""
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; {LAYOUT.format(folder)}")
    seen = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    for path in seen:
        if not path.is_dir() and path.name != "README.md" and path.suffix != ".dvc":
            raise InputError(
                f"{path} is in no class's folder; move it into one, or out of {folder} if it is no picture"
            )
    return [path.name for path in seen if path.is_dir()]


def _by_class(folder: Path) -> ByClass:
    """The picture files in each folder of `folder`; raises InputError unless all are classes."""
    names = _folders(folder)
    if not names:
        raise InputError(
            f"{folder} has no folders of pictures; {LAYOUT.format(folder)}. "
            "(`--temp` and the queue see only what was added by `dvc add`)"
        )
    if len(names) not in CLASS_COUNTS:
        raise InputError(
            f"{folder} has {len(names):,} folders, one for each class; {CLASS_COUNTS[0]} to {CLASS_COUNTS[-1]:,} work"
        )
    for name in names:
        if not name.isprintable() or not name.strip():
            raise InputError(f"{folder} has a folder '{printable(name)}', which is no name for a class; rename it")
    found = {name: find_pictures(folder / name) for name in names}
    for name, paths in found.items():
        if not paths:
            raise InputError(f"{folder}/{name} holds no picture; add some or delete it")
    return found


def build_splits(listing: Listing, size: int, seen: Callable[[int], object]) -> tuple[Split, Split]:
    """The training and the test pictures, not yet read, each in an order in which the classes take turns.

    A part of them then holds all classes. `seen` is as in Pictures.
    """
    paths, labels, counts = [], [], []
    for by_class in (listing.train, listing.test):
        turns = [(turn, label) for label, name in enumerate(listing.classes) for turn in range(len(by_class[name]))]
        turns.sort()
        paths += [by_class[listing.classes[label]][turn] for turn, label in turns]
        labels += [label for _, label in turns]
        counts.append(len(turns))
    everything = Split(Pictures(paths, size, seen), np.array(labels, label_dtype(len(listing.classes))))
    numbers = np.arange(sum(counts))
    return everything.take(numbers[: counts[0]]), everything.take(numbers[counts[0] :])


def save_names(name: str, split: Split, folder: Path = FOLDER) -> None:
    """Write the names of the files of a split of `build_splits` as <name>_files.txt: line k is image k's, from 0 on."""
    paths = split.images.images.paths
    names = [printable(str(paths[number]), length=10_000) for number in split.images.index]
    write_text(folder / f"{name}_files.txt", "".join(f"{each}\n" for each in names))
