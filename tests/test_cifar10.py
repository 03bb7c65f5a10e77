import hashlib
import http.server
import io
import os
import pickle
import socket
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from cifar.cifar10 import Unfit, find_dataset, load_archive, load_batches
from cifar.console import InputError

IMPATIENT = (0.5, 0.5)  # seconds to connect, and without a byte


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def pack(files: dict[str, bytes]) -> bytes:
    """A .tar.gz that holds `files` in the published folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def publish(files: dict[str, bytes], archive: bytes) -> type[CIFAR10]:
    """A small data set with the checksums of `files` and `archive` in place of CIFAR-10's."""
    train = [[name, md5(content)] for name, content in files.items() if name.startswith("data")]
    test = [["test_batch", md5(files["test_batch"])]]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(files["batches.meta"])}
    return type("Tiny", (CIFAR10,), {"train_list": train, "test_list": test, "meta": meta, "tgz_md5": md5(archive)})


def put(folder: Path, files: dict[str, bytes]) -> None:
    (folder / CIFAR10.base_folder).mkdir(parents=True)
    for name, content in files.items():
        (folder / CIFAR10.base_folder / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the archive; the path says how."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.seen.append((self.path, wanted))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.path == "/ranges" else 0
        match self.path:
            case "/ranges" if start >= len(ARCHIVE):
                self.answer(416, b"")
            case "/ranges" | "/whole":
                self.answer(206 if start else 200, ARCHIVE[start:])
            case "/zipped":
                self.answer(200, ARCHIVE, {"Content-Encoding": "gzip"})
            case "/half":
                self.answer(200, ARCHIVE[: len(ARCHIVE) // 2], {"Content-Length": str(len(ARCHIVE))})
            case "/stall":
                self.answer(200, ARCHIVE[:10], {"Content-Length": str(len(ARCHIVE))})
                self.server.stopping.wait(10)
            case "/drip":
                self.answer(200, b"", {"Content-Length": str(len(ARCHIVE))})
                while not self.server.stopping.wait(0.02):
                    self.wfile.write(b".")
            case "/reset":
                self.answer(200, ARCHIVE[:100], {"Content-Length": str(len(ARCHIVE))})
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case "/resets":  # brings 100 kB each time
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
                rest = ARCHIVE[start:]
                self.answer(206 if start else 200, rest[:100_000], {"Content-Length": str(len(rest))})
            case "/short":  # less than it has
                self.answer(200, ARCHIVE, {"Content-Length": str(len(ARCHIVE) - 1000)})
            case "/busy":
                self.answer(503, b"later")
            case "/nonsense":
                self.wfile.write(b"no HTTP at all\r\n\r\n")
            case "/other":
                self.answer(200, pack({"data_batch_1": b"of another data set"}))
            case "/page":
                self.answer(200, b"<html>please log in</html>", {"Content-Type": "text/html; charset=utf-8"})
            case "/loop":
                self.answer(302, b"", {"Location": "/loop"})
            case _:
                self.answer(404, b"<html>no such page</html>")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """Its `url`, and the requests that it has `seen`: path and Range header."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.stopping = [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.stopping.set()
        server.shutdown()


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


# What is on disk


def test_batches_become_arrays(tmp_path):
    put(tmp_path, FILES)
    assert_is_tiny(load_batches(tmp_path, TINY))


def test_the_archive_gives_the_same_and_leaves_nothing_behind(tmp_path):
    (tmp_path / TINY.filename).write_bytes(ARCHIVE)
    assert_is_tiny(load_archive(tmp_path / TINY.filename, tmp_path, TINY))
    assert os.listdir(tmp_path) == [TINY.filename]


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(tmp_path):
    (tmp_path / TINY.filename).write_bytes(ARCHIVE)
    left = tmp_path / f"unpacked-{os.getpid()}" / TINY.base_folder
    left.mkdir(parents=True)
    (left / "data_batch_1").write_bytes(b"half a batch")
    assert_is_tiny(load_archive(tmp_path / TINY.filename, tmp_path, TINY))
    assert os.listdir(tmp_path) == [TINY.filename]


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_nothing_is_unpickled_when_one_file_is_not_as_published(tmp_path, name):
    evil = pickle.dumps(Evil(tmp_path / "executed"))
    put(tmp_path, FILES | {name: evil})
    with pytest.raises(Unfit, match=f"{name} has {len(evil)} bytes with md5 {md5(evil)}, published is"):
        load_batches(tmp_path, TINY)
    assert not (tmp_path / "executed").exists()
    pickle.loads(evil)
    assert (tmp_path / "executed").exists()  # it would have been


def test_a_missing_batch_is_named(tmp_path):
    put(tmp_path, FILES)
    (tmp_path / TINY.base_folder / "data_batch_1").unlink()
    with pytest.raises(Unfit, match="data_batch_1 is missing"):
        load_batches(tmp_path, TINY)


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(FILES["data_batch_1"])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("../escaped", f"{TINY.base_folder}/../../escaped", str(tmp_path / "escaped"), "unexpected"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    archive = tmp_path / "scratch" / TINY.filename
    archive.parent.mkdir()
    archive.write_bytes(buffer.getvalue())
    with pytest.raises(Unfit, match="data_batch_1 is missing"):
        load_archive(archive, archive.parent, publish(FILES, buffer.getvalue()))
    assert sorted(os.listdir(tmp_path)) == ["scratch", "target"]
    assert os.listdir(archive.parent) == [TINY.filename]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_plain_file_is_not_unpacked(tmp_path, kind):
    (tmp_path / "target").write_bytes(FILES["data_batch_1"])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(f"{TINY.base_folder}/data_batch_1")
        member.type, member.linkname = kind, str(tmp_path / "target")
        tar.addfile(member)
    (tmp_path / TINY.filename).write_bytes(buffer.getvalue())
    with pytest.raises(Unfit, match="data_batch_1 is missing"):
        load_archive(tmp_path / TINY.filename, tmp_path, publish(FILES, buffer.getvalue()))


def test_a_truncated_archive_is_told_by_its_md5(tmp_path):
    (tmp_path / TINY.filename).write_bytes(ARCHIVE[:-1000])
    with pytest.raises(Unfit, match=f"has {len(ARCHIVE) - 1000} bytes with md5"):
        load_archive(tmp_path / TINY.filename, tmp_path, TINY)


@pytest.mark.parametrize(
    "content",
    [ARCHIVE[:-1000], ARCHIVE[:10] + b"\7" + ARCHIVE[11:], b"<html>", b""],
    ids=["truncated gzip", "no such deflate block", "web page", "empty"],
)
def test_an_archive_that_cannot_be_unpacked_is_unfit(tmp_path, content):
    (tmp_path / TINY.filename).write_bytes(content)
    with pytest.raises(Unfit, match=f"{TINY.filename} is damaged|data_batch_1 is missing"):
        load_archive(tmp_path / TINY.filename, tmp_path, publish(FILES, content))
    assert os.listdir(tmp_path) == [TINY.filename]


# Where it is looked for


def test_raw_comes_first_then_the_variable_then_the_mirrors(tmp_path, raw, server):
    mirrors = [f"{server.url}/ranges"]
    _, source, _ = find_dataset(raw, None, mirrors, TINY)
    assert source == mirrors[0]

    put(tmp_path / "elsewhere", FILES)
    (raw / TINY.filename).unlink()
    _, source, passed_over = find_dataset(raw, str(tmp_path / "elsewhere"), mirrors, TINY)
    assert source == f"CIFAR10_DIR={tmp_path / 'elsewhere'}"
    assert passed_over == [f"{raw} (has neither cifar-10-batches-py/ nor cifar-10-python.tar.gz)"]

    put(raw, FILES)
    _, source, passed_over = find_dataset(raw, str(tmp_path / "elsewhere"), mirrors, TINY)
    assert (source, passed_over) == (str(raw), [])
    assert len(server.seen) == 1


def test_the_archive_in_raw_stands_in_for_damaged_batches(raw):
    put(raw, FILES | {"test_batch": b"damaged"})
    (raw / TINY.filename).write_bytes(ARCHIVE)
    dataset, source, _ = find_dataset(raw, None, [], TINY)
    assert source == str(raw)
    assert_is_tiny(dataset)


@pytest.mark.parametrize("is_packed", [True, False])
def test_the_folder_of_the_variable_is_only_read(tmp_path, raw, is_packed):
    elsewhere = tmp_path / "elsewhere"
    put(elsewhere, {} if is_packed else FILES)
    if is_packed:
        (elsewhere / TINY.base_folder).rmdir()
        (elsewhere / TINY.filename).write_bytes(ARCHIVE)
    before = contents(elsewhere)
    dataset, *_ = find_dataset(raw, str(elsewhere), [], TINY)
    assert_is_tiny(dataset)
    assert contents(elsewhere) == before


def test_when_nothing_works_one_line_says_what_was_tried_and_the_three_ways_out(tmp_path, raw, server):
    put(raw, FILES | {"test_batch": b"damaged"})
    mirrors = [f"{server.url}/gone", f"{server.url}/page"]
    with pytest.raises(InputError) as caught:
        find_dataset(raw, str(tmp_path / "nowhere"), mirrors, TINY)
    message = str(caught.value)
    for told in (
        f"{raw} (cifar-10-batches-py: test_batch has 7 bytes with md5 {md5(b'damaged')}",
        f"CIFAR10_DIR={tmp_path / 'nowhere'} (has neither",
        f"{server.url}/gone (answered 404 Not Found)",
        f"{server.url}/page (sent a web page)",
        f"put cifar-10-python.tar.gz into {raw}/",
        "set CIFAR10_DIR",
        "make demo",
    ):
        assert told in message
    assert "\n" not in message


# The network


@pytest.mark.parametrize("path", ["/ranges", "/whole", "/zipped"])
def test_a_download_is_kept_in_raw(raw, server, path):
    dataset, *_ = find_dataset(raw, None, [f"{server.url}{path}"], TINY)
    assert_is_tiny(dataset)
    assert contents(raw) == {TINY.filename: ARCHIVE}


@pytest.mark.parametrize(("path", "begun"), [("/ranges", 100_000), ("/whole", 100_000), ("/ranges", len(ARCHIVE))])
def test_a_partial_file_is_continued_or_begun_again(raw, server, path, begun):
    raw.mkdir()
    (raw / f"{TINY.filename}.part").write_bytes(ARCHIVE[:begun])
    dataset, *_ = find_dataset(raw, None, [f"{server.url}{path}"], TINY)
    assert_is_tiny(dataset)
    assert contents(raw) == {TINY.filename: ARCHIVE}
    assert server.seen == [(path, f"bytes={begun}-")]


@pytest.mark.parametrize("begun", [bytes(100_000), bytes(len(ARCHIVE) + 1)], ids=["shorter", "longer"])
def test_a_partial_file_of_something_else_is_begun_again(raw, server, begun):
    raw.mkdir()
    (raw / f"{TINY.filename}.part").write_bytes(begun)
    find_dataset(raw, None, [f"{server.url}/ranges"], TINY)
    assert contents(raw) == {TINY.filename: ARCHIVE}
    assert server.seen == [("/ranges", f"bytes={len(begun)}-"), ("/ranges", None)]


def test_what_came_before_a_connection_broke_is_kept_for_the_next_mirror_or_run(raw, server):
    half = len(ARCHIVE) // 2
    with pytest.raises(InputError, match=f"the connection broke off, {half} bytes are kept for the next try"):
        find_dataset(raw, None, [f"{server.url}/half"], TINY)
    assert contents(raw) == {f"{TINY.filename}.part": ARCHIVE[:half]}

    dataset, source, _ = find_dataset(raw, None, [f"{server.url}/half", f"{server.url}/ranges"], TINY)
    assert_is_tiny(dataset)
    assert source == f"{server.url}/ranges"
    assert server.seen[-1] == ("/ranges", f"bytes={half}-")


def test_another_file_under_the_name_is_thrown_away_and_the_next_mirror_tried(raw, server):
    mirrors = [f"{server.url}/{path}" for path in ("gone", "page", "other", "ranges")]
    dataset, source, passed_over = find_dataset(raw, None, mirrors, TINY)
    assert_is_tiny(dataset)
    assert source == mirrors[-1]
    assert "published is" in passed_over[-1]
    assert contents(raw) == {TINY.filename: ARCHIVE}


def test_a_connection_that_breaks_again_and_again_is_carried_on(raw, server):
    dataset, *_ = find_dataset(raw, None, [f"{server.url}/resets"], TINY)
    assert_is_tiny(dataset)
    assert [wanted for _, wanted in server.seen] == [None, "bytes=100000-", "bytes=200000-"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/stall", "silent for 0.5 s, 10 bytes are kept for the next try"),
        ("/drip", "sent [0-9]+ bytes in [0-9]+ s, [0-9]+ bytes are kept"),
        ("/loop", "redirects without end"),
        ("/reset", "the connection broke off|no connection: Connection reset by peer"),
        ("/short", "has [0-9]+ bytes with md5"),
        ("/busy", "answered 503 Service Unavailable"),
        ("/nonsense", "/nonsense \\("),
    ],
)
def test_a_server_that_never_delivers_is_given_up(raw, server, path, reason):
    with pytest.raises(InputError, match=reason):
        find_dataset(raw, None, [f"{server.url}{path}"], TINY, IMPATIENT)


def test_a_server_that_is_not_there_is_given_up(raw):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/"
    with pytest.raises(InputError, match=r"\(no connection: Connection refused\)"):
        find_dataset(raw, None, [url], TINY, IMPATIENT)


# The real files


@pytest.mark.skipif(
    "CIFAR10_DIR" not in os.environ, reason="CIFAR10_DIR, the folder with the real CIFAR-10, is not set"
)
def test_the_real_data_set_is_what_its_page_says(tmp_path):
    dataset, *_ = find_dataset(tmp_path, os.environ["CIFAR10_DIR"], [])
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
