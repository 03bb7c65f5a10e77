"""Where CIFAR-10 is looked for, and how it is downloaded from servers of every kind."""

import http.server
import socket
import struct
import threading

import pytest
from tiny import ARCHIVE, FILES, TINY, assert_is_tiny, contents, md5, pack, put

from cifar.data.cifar10 import find_dataset
from cifar.system.process import InputError

IMPATIENT = (0.5, 0.5)  # seconds to connect, and without a byte


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
        find_dataset(raw, None, [f"{server.url}{path}"], TINY, timeout=IMPATIENT)


def test_a_server_that_is_not_there_is_given_up(raw):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/"
    with pytest.raises(InputError, match=r"\(no connection: Connection refused\)"):
        find_dataset(raw, None, [url], TINY, timeout=IMPATIENT)
