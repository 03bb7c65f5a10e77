"""CIFAR-10 as its authors publish it: found on disk or downloaded, checked by its md5, and only then unpickled."""

import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar.data.download import LIMITS, Limits, Unusable, check_md5, fetch
from cifar.data.splits import Split
from cifar.system.errors import InputError, one_line, printable

LARGEST = 2**26  # bytes of a file in the archive; the batches have 31 million
LONGEST = 250  # characters about one source in a message


class Dataset(NamedTuple):
    train: Split
    test: Split
    classes: list[str]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set's archive and the pickled files in it, each with its md5 in hexadecimal."""

    archive: str
    archive_md5: str
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]

    @property
    def files(self) -> dict[str, str]:
        return self.train | self.test | self.meta


# https://www.cs.toronto.edu/~kriz/cifar.html; the files' md5 are those of torchvision.datasets.CIFAR10
CIFAR10 = Published(
    archive="cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
)


def find_dataset(
    raw: Path,
    cifar10_dir: str | None,
    mirrors: list[str],
    *,
    published: Published = CIFAR10,
    limits: Limits = LIMITS,
) -> tuple[Dataset, str, list[str]]:
    """The data set from the first intact copy, where that copy is, and why each earlier source was skipped.

    The sources in their order: the folder `raw`; the folder `cifar10_dir`, which is only read; the mirrors, from which
    the archive is downloaded into `raw`. Raises InputError when no source has an intact copy.
    """
    sources: dict[str, Callable[[], Dataset]] = {str(raw): partial(load_folder, raw, published)}
    if cifar10_dir:
        sources[f"CIFAR10_DIR={cifar10_dir}"] = partial(load_folder, Path(cifar10_dir), published)
    for url in mirrors:
        sources[url] = partial(load_mirror, url, raw, published, limits)
    reasons = []
    for source, load in sources.items():
        try:
            return load(), printable(source, LONGEST), reasons
        except (Unusable, OSError) as error:
            reasons.append(printable(f"{source} ({one_line(error)})", LONGEST))
    raise InputError(
        f"no intact copy of CIFAR-10 found; tried {', '.join(reasons)}; "
        f"put {published.archive} into {raw}/, or set CIFAR10_DIR to a folder that contains it, "
        "or run `make demo`, which draws its own images"
    )


def load_mirror(url: str, raw: Path, published: Published, limits: Limits) -> Dataset:
    raw.mkdir(parents=True, exist_ok=True)
    fetch(url, raw / published.archive, published.archive_md5, limits)
    return load_archive(raw / published.archive, published)


def load_folder(folder: Path, published: Published) -> Dataset:
    """The data set from the batches in `folder`, or else from the archive there; raises Unusable."""
    if not folder.is_dir():
        raise Unusable(what_is_wrong_with(folder, published))
    reasons = []
    for name, load in ((published.folder, load_batches), (published.archive, load_archive)):
        if (folder / name).exists():
            try:
                return load(folder / name, published)
            except (Unusable, OSError) as error:
                reasons.append(f"{name}: {one_line(error)}")
    raise Unusable("; ".join(reasons) or what_is_wrong_with(folder, published))


def what_is_wrong_with(folder: Path, published: Published) -> str:
    """Why `folder` has neither batches nor archive, with the next step where it is likely to be a mistake."""
    if folder.is_file():
        return f"is a file; use the folder that contains {published.folder}/ or {published.archive}"
    if not folder.exists():
        expanded = os.path.expanduser(folder)
        return "does not exist" + (f"; ~ is not expanded here, write {expanded}" if expanded != str(folder) else "")
    if any((folder / name).exists() for name in published.files):
        return f"contains the batch files themselves; use its parent folder, {folder.absolute().parent}"
    return f"has neither {published.folder}/ nor {published.archive}"


def load_batches(folder: Path, published: Published) -> Dataset:
    """The data set in the pickled files of `folder`; raises Unusable if one is not as published."""
    files = {}
    for name in published.files:
        if (folder / name).is_file():
            with open(folder / name, "rb") as file:
                files[name] = file.read(LARGEST)
    return unpickle(files, published)


def load_archive(path: Path, published: Published) -> Dataset:
    """The data set in the .tar.gz at `path`; raises Unusable if it is not as published."""
    if not path.is_file():
        raise Unusable(f"{path.name} is missing")
    names = {f"{published.folder}/{name}": name for name in published.files}
    files = {}
    with open(path, "rb") as archive:
        check_md5(archive, path.name, published.archive_md5)
        archive.seek(0)
        try:
            with tarfile.open(fileobj=archive, mode="r:gz") as tar:
                for member in tar:
                    if member.name in names and member.isfile():
                        files[names[member.name]] = tar.extractfile(member).read(LARGEST)
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
            raise Unusable(f"{path.name} is damaged: {one_line(error)}") from None
    return unpickle(files, published)


def unpickle(files: dict[str, bytes], published: Published) -> Dataset:
    """The data set in the pickled `files`; raises Unusable, nothing unpickled, unless all are as published.

    The bytes that are checked are the bytes that are unpickled: a pickle of somebody else's could execute anything.
    """
    for name, md5 in published.files.items():
        if name not in files:
            raise Unusable(f"{name} is missing")
        check_md5(io.BytesIO(files[name]), name, md5)
    batches = {name: pickle.loads(files.pop(name), encoding="latin1") for name in published.files}  # of Python 2
    (meta,) = published.meta
    train, test = (as_split([batches[name] for name in names]) for names in (published.train, published.test))
    return Dataset(train, test, batches[meta]["label_names"])


def as_split(batches: list[dict]) -> Split:
    """The images and labels of all `batches`: `data` uint8 (N, 3072) is red, green, blue, each row by row."""
    rows = np.concatenate([batch["data"] for batch in batches])
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    labels = np.concatenate([np.array(batch["labels"], dtype=np.uint8) for batch in batches])
    return Split(np.ascontiguousarray(images), labels)
