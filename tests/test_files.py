import json
import os
import subprocess
import warnings

import numpy as np
import pandas as pd
import pytest
from damage import Evil

from cifar.system.errors import InputError
from cifar.system.files import (
    check_checksums,
    filling,
    read_array,
    read_arrays,
    read_json,
    replacing,
    write_array,
    write_checksums,
    write_csv,
    write_json,
    write_text,
)


def test_a_failure_leaves_the_old_file_and_nothing_half_written(tmp_path):
    path = tmp_path / "artifact.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half of the n")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["artifact.txt"]


def test_what_a_killed_process_of_the_same_number_left_is_not_taken_over(tmp_path):
    left = tmp_path / f".dataset.{os.getpid()}.part"
    left.mkdir()
    (left / "other.txt").write_text("of another data set")
    with filling(tmp_path / "dataset") as folder:
        write_text(folder / "own.txt", "")
    assert os.listdir(tmp_path) == ["dataset"] and os.listdir(tmp_path / "dataset") == ["own.txt"]


@pytest.mark.parametrize("path", [".", "", "/"])
def test_a_path_without_a_name_is_one_line(path):
    with pytest.raises(InputError, match="^cannot write .*: it is a folder; name a file$"):
        write_text(path, "")


def test_a_failure_before_the_first_byte_is_the_one_that_is_reported(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "artifact.txt"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_file_that_shares_its_inode_with_the_cache_is_not_written_into(tmp_path, link):
    cached, path = tmp_path / "cached", tmp_path / "artifact.txt"
    cached.write_text("old")
    link(cached, path)
    write_text(path, "new")
    assert (cached.read_text(), path.read_text()) == ("old", "new")
    assert path.stat().st_ino != cached.stat().st_ino


def test_a_read_only_file_of_the_cache_is_replaced(tmp_path):
    path = tmp_path / "artifact.txt"
    path.write_text("old")
    path.chmod(0o444)
    write_text(path, "new")
    assert path.read_text() == "new"


def test_what_killed_processes_left_half_written_is_swept_away_and_what_living_ones_write_is_not(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for owner in (ended.pid, os.getppid()):
        (tmp_path / f".artifact.txt.{owner}.part").write_text("half of the n")
    (tmp_path / f".other.txt.{ended.pid}.part").write_text("half of another")
    write_text(tmp_path / "artifact.txt", "new")
    left = {"artifact.txt", f".artifact.txt.{os.getppid()}.part", f".other.txt.{ended.pid}.part"}
    assert set(os.listdir(tmp_path)) == left


def test_checksums_are_those_of_sha256sum(tmp_path):
    write_text(tmp_path / "a.txt", "abc")
    write_text(tmp_path / "b.txt", "")
    write_checksums(tmp_path / "both.sha256", ["a.txt", "b.txt"])
    # FIPS 180-2, appendix B.1, and the hash of nothing
    assert (tmp_path / "both.sha256").read_text() == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.txt\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  b.txt\n"
    )
    check_checksums(tmp_path / "both.sha256", ["a.txt", "b.txt"])
    write_text(tmp_path / "b.txt", " ")
    with pytest.raises(InputError, match="b.txt or .*both.sha256 is damaged: the SHA-256 differs"):
        check_checksums(tmp_path / "both.sha256", ["a.txt", "b.txt"])


def test_folders_are_made_and_lines_end_the_same_everywhere(tmp_path):
    write_text(tmp_path / "plots/stats/notes.txt", "one\ntwo é\n")
    write_csv(tmp_path / "plots/stats/table.csv", pd.DataFrame({"a": [1, 2], "b": [0.1, 1 / 3]}))
    assert (tmp_path / "plots/stats/notes.txt").read_bytes() == "one\ntwo é\n".encode()
    assert (tmp_path / "plots/stats/table.csv").read_bytes() == b"a,b\n1,0.1\n2,0.3333333333333333\n"


def test_json_is_what_was_written(tmp_path):
    write_json(tmp_path / "metrics.json", {"accuracy": 0.44, "wrong": 56})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"accuracy": 0.44, "wrong": 56}
    assert read_json(tmp_path / "metrics.json") == {"accuracy": 0.44, "wrong": 56}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_lacks_is_not_written(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "metrics.json", {"loss": value})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is missing; run"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b'{"loss": NaN}', "is not valid JSON"),
        (b"[" * 99999, "is not valid JSON"),
        (b"[1]", "holds list"),
    ],
)
def test_unreadable_json_is_one_line_that_names_the_file(tmp_path, content, told):
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} {told}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.zeros((3, 0)), np.asfortranarray(np.ones((2, 3)))])
def test_an_array_is_written_as_numpy_writes_it_in_c_order(tmp_path, array):
    write_array(tmp_path / "ours.npy", array)
    np.save(tmp_path / "numpys.npy", np.ascontiguousarray(array))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((2, 3), np.float32), "holds float32 2 x 3, expected uint8 N x 3"),
        (np.zeros((2, 4), np.uint8), "holds uint8 2 x 4, expected uint8 N x 3"),
        (np.zeros(3, np.uint8), "holds uint8 3, expected uint8 N x 3"),
        (np.zeros((2, 3, 1), np.uint8), "holds uint8 2 x 3 x 1, expected uint8 N x 3"),
    ],
)
def test_another_array_is_told_from_the_one_expected(tmp_path, array, told):
    np.save(tmp_path / "labels.npy", array)
    with pytest.raises(InputError, match=told):
        read_array(tmp_path / "labels.npy", "uint8", (None, 3))


def test_a_missing_array_is_one_line(tmp_path):
    with pytest.raises(InputError, match="labels.npy is missing; run `dvc repro`"):
        read_array(tmp_path / "labels.npy", "uint8", (None,))


@pytest.mark.parametrize("length", [0, 3, 50, 130])
def test_a_damaged_array_is_one_line(tmp_path, length):
    np.save(tmp_path / "labels.npy", np.arange(100, dtype=np.uint8))
    content = (tmp_path / "labels.npy").read_bytes()
    (tmp_path / "labels.npy").write_bytes(content[:length])
    with pytest.raises(InputError, match="is not a whole .npy array"):
        read_array(tmp_path / "labels.npy", "uint8", (None,))


def test_any_flipped_bit_of_a_header_is_one_line(tmp_path):
    """In 128 bytes: np.load takes them for Python source and answers with errors of Python's parser."""
    path = tmp_path / "labels.npy"
    write_array(path, np.arange(100, dtype=np.uint8))
    content = path.read_bytes()
    for bit in range(8 * 128):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                assert read_array(path, "uint8", (None,)).tolist() == list(range(100))
            except InputError as error:
                assert str(error).startswith(f"{path} ")


def test_an_archive_in_place_of_an_array_is_not_one(tmp_path):
    with open(tmp_path / "labels.npy", "wb") as file:
        np.savez(file, labels=np.arange(3, dtype=np.uint8))
    with pytest.raises(InputError, match="is not a whole .npy array"):
        read_array(tmp_path / "labels.npy", "uint8", (None,))


def test_a_header_that_tells_of_more_than_there_is_asks_for_no_memory(tmp_path):
    path = tmp_path / "labels.npy"
    write_array(path, np.arange(100, dtype=np.uint8))
    before, after = b"(100,), }" + b" " * 15, b"(100000000000000000,), }"
    assert before in path.read_bytes() and len(before) == len(after)
    path.write_bytes(path.read_bytes().replace(before, after))
    with pytest.raises(InputError, match="is not a whole .npy array"):
        read_array(path, "uint8", (None,))


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
                                   np.array(5, "int64"), np.zeros((2, 0, 3), "uint16")])  # fmt: skip
def test_arrays_that_numpy_wrote_are_read_as_numpy_reads_them(tmp_path, array):
    np.save(tmp_path / "array.npy", array)
    np.testing.assert_array_equal(read_array(tmp_path / "array.npy", array.dtype.name, array.shape), array)


def test_an_archive_is_read_as_numpy_reads_it_and_damage_anywhere_is_one_line(tmp_path):
    path, arrays = tmp_path / "arrays.npz", {"one": np.arange(3), "two": np.ones((2, 2), "float32")}
    np.savez(path, **arrays)
    for array, expected in zip(read_arrays(path, ["one", "two"]), arrays.values(), strict=True):
        np.testing.assert_array_equal(array, expected)
    content = path.read_bytes()
    for end in range(0, len(content), 7):  # the directory at the end, too, whose damage gave "Invalid argument"
        for damaged in content[:end], content[:end] + bytes([content[end] ^ 64]) + content[end + 1 :]:
            path.write_bytes(damaged)
            try:
                found = read_arrays(path, ["one", "two"])
            except InputError as error:
                assert str(error) == f"{path} is damaged; delete it and run `make repro`"
            else:  # the damage is in what nobody reads
                assert all(map(np.array_equal, found, arrays.values()))
    with pytest.raises(InputError, match="is damaged"):
        read_arrays(path, ["three"])


def test_a_pickle_in_place_of_an_array_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.array([Evil()]), allow_pickle=True)
    with pytest.raises(InputError):
        read_array("labels.npy", "uint8", (None,))
    assert not os.path.exists("executed")
