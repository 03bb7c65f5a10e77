"""CIFAR-10's files and its archive on disk: checked, unpacked, turned into arrays."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from tiny import ARCHIVE, FILES, TINY, assert_is_tiny, md5, pack, publish, put

from cifar.data.archive import CIFAR10, find_dataset, load_archive, load_batches
from cifar.data.download import Unusable, check_md5


def test_batches_become_arrays(tmp_path):
    put(tmp_path, FILES)
    assert_is_tiny(load_batches(tmp_path / TINY.folder, TINY))


def test_the_archive_gives_the_same_and_leaves_nothing_behind(tmp_path):
    (tmp_path / TINY.archive).write_bytes(ARCHIVE)
    assert_is_tiny(load_archive(tmp_path / TINY.archive, TINY))
    assert os.listdir(tmp_path) == [TINY.archive]


def test_the_checksums_are_torchvisions():
    theirs = torchvision.datasets.CIFAR10
    assert (CIFAR10.archive, CIFAR10.archive_md5, CIFAR10.folder) == (
        theirs.filename,
        theirs.tgz_md5,
        theirs.base_folder,
    )
    assert list(CIFAR10.train.items()) == [tuple(entry) for entry in theirs.train_list]
    assert list(CIFAR10.test.items()) == [tuple(entry) for entry in theirs.test_list]
    assert CIFAR10.meta == {theirs.meta["filename"]: theirs.meta["md5"]}


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_nothing_is_unpickled_when_one_file_is_not_as_published(tmp_path, name):
    evil = pickle.dumps(Evil(tmp_path / "executed"))
    put(tmp_path, FILES | {name: evil})
    with pytest.raises(Unusable, match=f"{name} has {len(evil)} bytes with md5 {md5(evil)}, published is"):
        load_batches(tmp_path / TINY.folder, TINY)
    assert not (tmp_path / "executed").exists()
    pickle.loads(evil)
    assert (tmp_path / "executed").exists()  # it would have been


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_file_that_is_swapped_after_its_check_is_not_unpickled(tmp_path, monkeypatch, is_packed):
    """The bytes that are unpickled are those that were hashed, whatever the disk holds by then."""
    evil = dict.fromkeys(FILES, pickle.dumps(Evil(tmp_path / "executed")))
    put(tmp_path, FILES)
    (tmp_path / TINY.archive).write_bytes(ARCHIVE)

    def check_and_swap(file, name, md5):
        check_md5(file, name, md5)
        for batch, content in evil.items():
            (tmp_path / TINY.folder / batch).write_bytes(content)
        (tmp_path / TINY.archive).write_bytes(pack(evil))

    monkeypatch.setattr("cifar.data.archive.check_md5", check_and_swap)
    if is_packed:
        with pytest.raises(Unusable):
            load_archive(tmp_path / TINY.archive, TINY)
    else:
        assert_is_tiny(load_batches(tmp_path / TINY.folder, TINY))
    assert not (tmp_path / "executed").exists()


def test_a_missing_batch_is_named(tmp_path):
    put(tmp_path, FILES)
    (tmp_path / TINY.folder / "data_batch_1").unlink()
    with pytest.raises(Unusable, match="data_batch_1 is missing"):
        load_batches(tmp_path / TINY.folder, TINY)


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(FILES["data_batch_1"])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("../escaped", f"{TINY.folder}/../../escaped", str(tmp_path / "escaped"), "unexpected"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    archive = tmp_path / "scratch" / TINY.archive
    archive.parent.mkdir()
    archive.write_bytes(buffer.getvalue())
    with pytest.raises(Unusable, match="data_batch_1 is missing"):
        load_archive(archive, publish(FILES, buffer.getvalue()))
    assert sorted(os.listdir(tmp_path)) == ["scratch", "target"]
    assert os.listdir(archive.parent) == [TINY.archive]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_plain_file_is_not_unpacked(tmp_path, kind):
    (tmp_path / "target").write_bytes(FILES["data_batch_1"])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(f"{TINY.folder}/data_batch_1")
        member.type, member.linkname = kind, str(tmp_path / "target")
        tar.addfile(member)
    (tmp_path / TINY.archive).write_bytes(buffer.getvalue())
    with pytest.raises(Unusable, match="data_batch_1 is missing"):
        load_archive(tmp_path / TINY.archive, publish(FILES, buffer.getvalue()))


def test_a_truncated_archive_is_told_by_its_md5(tmp_path):
    (tmp_path / TINY.archive).write_bytes(ARCHIVE[:-1000])
    with pytest.raises(Unusable, match=f"has {len(ARCHIVE) - 1000} bytes with md5"):
        load_archive(tmp_path / TINY.archive, TINY)


@pytest.mark.parametrize(
    "content",
    [ARCHIVE[:-1000], ARCHIVE[:10] + b"\7" + ARCHIVE[11:], b"<html>", b""],
    ids=["truncated gzip", "no such deflate block", "web page", "empty"],
)
def test_an_archive_that_cannot_be_unpacked_is_unfit(tmp_path, content):
    (tmp_path / TINY.archive).write_bytes(content)
    with pytest.raises(Unusable, match=f"{TINY.archive} is damaged|data_batch_1 is missing"):
        load_archive(tmp_path / TINY.archive, publish(FILES, content))
    assert os.listdir(tmp_path) == [TINY.archive]


# The real files


@pytest.mark.skipif(
    "CIFAR10_DIR" not in os.environ, reason="CIFAR10_DIR, the folder with the real CIFAR-10, is not set"
)
def test_the_real_data_set_is_what_its_page_says(tmp_path):
    dataset, *_ = find_dataset(tmp_path, os.environ["CIFAR10_DIR"], [])
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
