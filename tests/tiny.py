"""A data set of a few random images, published as CIFAR-10 is: its files, its archive, their checksums."""

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from cifar.data.archive import CIFAR10, Published


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def pack(files: dict[str, bytes]) -> bytes:
    """A .tar.gz that holds `files` in the published folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{CIFAR10.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def publish(files: dict[str, bytes], archive: bytes) -> Published:
    """A small data set with the checksums of `files` and `archive` in place of CIFAR-10's."""
    train = {name: md5(content) for name, content in files.items() if name.startswith("data")}
    test, meta = ({name: md5(files[name])} for name in ("test_batch", "batches.meta"))
    return replace(CIFAR10, archive_md5=md5(archive), train=train, test=test, meta=meta)


def put(folder: Path, files: dict[str, bytes]) -> None:
    (folder / CIFAR10.folder).mkdir(parents=True)
    for name, content in files.items():
        (folder / CIFAR10.folder / name).write_bytes(content)


CLASSES = [f"class{k}" for k in range(10)]
RANDOM = np.random.default_rng(0)
BATCHES = {
    name: {"data": RANDOM.integers(0, 256, (30, 3072), dtype=np.uint8), "labels": RANDOM.integers(0, 10, 30).tolist()}
    for name in ("data_batch_1", "data_batch_2", "test_batch")
}
FILES = {name: pickle.dumps(batch) for name, batch in BATCHES.items()} | {
    "batches.meta": pickle.dumps({"label_names": CLASSES})
}
ARCHIVE = pack(FILES)  # some 280 kB
TINY = publish(FILES, ARCHIVE)


def assert_is_tiny(dataset) -> None:
    """The arrays hold what the format's description says: 1024 bytes red, then green, then blue, row by row."""
    for split, names in ((dataset.train, ("data_batch_1", "data_batch_2")), (dataset.test, ("test_batch",))):
        rows = np.concatenate([BATCHES[name]["data"] for name in names])
        assert split.images.dtype == split.labels.dtype == np.uint8
        assert split.images.shape == (len(rows), 32, 32, 3) and split.images.flags["C_CONTIGUOUS"]
        for channel in range(3):
            for y, x in ((0, 0), (0, 31), (17, 4), (31, 31)):
                np.testing.assert_array_equal(split.images[:, y, x, channel], rows[:, 1024 * channel + 32 * y + x])
        assert split.labels.tolist() == [label for name in names for label in BATCHES[name]["labels"]]
    assert dataset.classes == CLASSES
