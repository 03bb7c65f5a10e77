"""Where CIFAR-10 is looked for, and how it is downloaded from servers of every kind."""

import errno
import http.server
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damage import FUZZ, damaged
from mirror import Handler, serving
from projects import contents
from tiny import ARCHIVE, FILES, TINY, assert_is_tiny, md5, put

from cifar.data import archive, download
from cifar.data.archive import find_dataset
from cifar.data.download import Limits, check_md5
from cifar.system.errors import InputError

PATIENT = Limits(connect=20, silence=20, deadline=60, size=2**20)
IMPATIENT, WARY = replace(PATIENT, silence=0.5), replace(PATIENT, silence=1)


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


@pytest.fixture
def server():
    with serving() as server:
        yield server


# Where it is looked for


def test_raw_comes_first_then_the_variable_then_the_mirrors(tmp_path, raw, server):
    mirrors = [f"{server.url}/ranges"]
    _, source, _ = find_dataset(raw, None, mirrors, published=TINY)
    assert source == mirrors[0]

    put(tmp_path / "elsewhere", FILES)
    (raw / TINY.archive).unlink()
    _, source, passed_over = find_dataset(raw, str(tmp_path / "elsewhere"), mirrors, published=TINY)
    assert source == f"CIFAR10_DIR={tmp_path / 'elsewhere'}"
    assert passed_over == [f"{raw} (has neither cifar-10-batches-py/ nor cifar-10-python.tar.gz)"]

    put(raw, FILES)
    _, source, passed_over = find_dataset(raw, str(tmp_path / "elsewhere"), mirrors, published=TINY)
    assert (source, passed_over) == (str(raw), [])
    assert len(server.seen) == 1


def test_the_archive_in_raw_stands_in_for_damaged_batches(raw):
    put(raw, FILES | {"test_batch": b"damaged"})
    (raw / TINY.archive).write_bytes(ARCHIVE)
    dataset, source, _ = find_dataset(raw, None, [], published=TINY)
    assert source == str(raw)
    assert_is_tiny(dataset)


@pytest.mark.parametrize("is_packed", [True, False])
def test_the_folder_of_the_variable_is_only_read(tmp_path, raw, is_packed):
    elsewhere = tmp_path / "elsewhere"
    put(elsewhere, {} if is_packed else FILES)
    if is_packed:
        (elsewhere / TINY.folder).rmdir()
        (elsewhere / TINY.archive).write_bytes(ARCHIVE)
    before = contents(elsewhere)
    dataset, *_ = find_dataset(raw, str(elsewhere), [], published=TINY)
    assert_is_tiny(dataset)
    assert contents(elsewhere) == before


def test_when_nothing_works_one_line_says_what_was_tried_and_the_three_ways_out(tmp_path, raw, server):
    put(raw, FILES | {"test_batch": b"damaged"})
    mirrors = [f"{server.url}/gone", f"{server.url}/page"]
    with pytest.raises(InputError) as caught:
        find_dataset(raw, str(tmp_path / "nowhere"), mirrors, published=TINY)
    message = str(caught.value)
    for told in (
        f"{raw} (cifar-10-batches-py: test_batch has 7 bytes with md5 {md5(b'damaged')}",
        f"CIFAR10_DIR={tmp_path / 'nowhere'} (does not exist)",
        f"{server.url}/gone (answered 404 Not Found)",
        f"{server.url}/page (sent a web page)",
        f"put cifar-10-python.tar.gz into {raw}/",
        "set CIFAR10_DIR",
        "make demo",
    ):
        assert told in message
    assert "\n" not in message


def test_a_file_that_the_system_cannot_read_is_told_without_its_errno(raw, monkeypatch):
    put(raw, FILES)

    def load(path: Path, _) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path / "test_batch"))

    monkeypatch.setattr(archive, "load_batches", load)
    with pytest.raises(InputError) as caught:
        find_dataset(raw, None, [], published=TINY)
    assert f"cifar-10-batches-py: {raw}/cifar-10-batches-py/test_batch: Input/output error)" in str(caught.value)


def test_a_folder_that_is_no_utf_8_is_read_and_can_be_printed(tmp_path, raw):
    elsewhere = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    put(Path(elsewhere), FILES)
    dataset, source, _ = find_dataset(raw, elsewhere, [], published=TINY)
    assert_is_tiny(dataset)
    assert source == f"CIFAR10_DIR={tmp_path}/caf\\udce9" and source.encode("utf-8")


# The network


@pytest.mark.parametrize("path", ["/ranges", "/whole", "/zipped"])
def test_a_download_is_kept_in_raw(raw, server, path):
    dataset, *_ = find_dataset(raw, None, [f"{server.url}{path}"], published=TINY)
    assert_is_tiny(dataset)
    assert contents(raw) == {TINY.archive: ARCHIVE}


@pytest.mark.parametrize(("path", "begun"), [("/ranges", 100_000), ("/whole", 100_000), ("/ranges", len(ARCHIVE))])
def test_a_partial_file_is_continued_or_begun_again(raw, server, path, begun):
    raw.mkdir()
    (raw / f"{TINY.archive}.part").write_bytes(ARCHIVE[:begun])
    dataset, *_ = find_dataset(raw, None, [f"{server.url}{path}"], published=TINY)
    assert_is_tiny(dataset)
    assert contents(raw) == {TINY.archive: ARCHIVE}
    assert server.seen == [(path, f"bytes={begun}-")]


@pytest.mark.parametrize("begun", [bytes(100_000), bytes(len(ARCHIVE) + 1)], ids=["shorter", "longer"])
def test_a_partial_file_of_something_else_is_begun_again(raw, server, begun):
    raw.mkdir()
    (raw / f"{TINY.archive}.part").write_bytes(begun)
    find_dataset(raw, None, [f"{server.url}/ranges"], published=TINY)
    assert contents(raw) == {TINY.archive: ARCHIVE}
    assert server.seen == [("/ranges", f"bytes={len(begun)}-"), ("/ranges", None)]


def test_what_came_before_a_connection_broke_is_kept_for_the_next_mirror_or_run(raw, server):
    half = len(ARCHIVE) // 2
    with pytest.raises(InputError, match=f"the connection broke off, {half} bytes are kept for the next try"):
        find_dataset(raw, None, [f"{server.url}/half"], published=TINY)
    assert contents(raw) == {f"{TINY.archive}.part": ARCHIVE[:half]}

    dataset, source, _ = find_dataset(raw, None, [f"{server.url}/half", f"{server.url}/ranges"], published=TINY)
    assert_is_tiny(dataset)
    assert source == f"{server.url}/ranges"
    assert server.seen[-1] == ("/ranges", f"bytes={half}-")


def test_the_time_of_the_checksum_is_not_the_servers(raw, server, monkeypatch):
    def check_slowly(*words) -> None:
        time.sleep(4)  # on a slow disk
        check_md5(*words)

    monkeypatch.setattr(download, "check_md5", check_slowly)
    limits = Limits(connect=20, silence=3, deadline=3, size=2**20)
    dataset, *_ = find_dataset(raw, None, [f"{server.url}/ranges"], published=TINY, limits=limits)
    assert_is_tiny(dataset)
    assert contents(raw) == {TINY.archive: ARCHIVE}


def test_another_file_under_the_name_is_thrown_away_and_the_next_mirror_tried(raw, server):
    mirrors = [f"{server.url}/{path}" for path in ("gone", "page", "other", "ranges")]
    dataset, source, passed_over = find_dataset(raw, None, mirrors, published=TINY)
    assert_is_tiny(dataset)
    assert source == mirrors[-1]
    assert "published is" in passed_over[-1]
    assert contents(raw) == {TINY.archive: ARCHIVE}


def test_a_connection_that_breaks_again_and_again_is_carried_on(raw, server):
    dataset, *_ = find_dataset(raw, None, [f"{server.url}/resets"], published=TINY)
    assert_is_tiny(dataset)
    assert [wanted for _, wanted in server.seen] == [None, "bytes=100000-", "bytes=200000-"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/stall", "(silent for|sent 10 bytes in) 0.5 s, 10 bytes are kept for the next try"),
        ("/drip", "sent [0-9]+ bytes in 0.5 s, [0-9]+ bytes are kept"),
        ("/loop", "redirects without end"),
        ("/reset", "the connection broke off|no connection: Connection reset by peer"),
        ("/short", "has [0-9]+ bytes with md5"),
        ("/busy", "answered 503 Service Unavailable"),
        ("/nonsense", "/nonsense \\("),
    ],
)
def test_a_server_that_never_delivers_is_given_up(raw, server, path, reason):
    limits = IMPATIENT if "0.5 s" in reason else PATIENT
    with pytest.raises(InputError, match=reason):
        find_dataset(raw, None, [f"{server.url}{path}"], published=TINY, limits=limits)


def test_a_server_that_is_not_there_is_given_up(raw):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/"
    with pytest.raises(InputError, match=r"\(no connection: Connection refused\)"):
        find_dataset(raw, None, [url], published=TINY, limits=PATIENT)


# Hostile servers, which speak HTTP by hand. Each comes before a good mirror, which must be reached.

OTHER = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
END = b"\r\n\r\n"


def once(answer: bytes) -> Iterator[bytes]:
    yield answer


def then(answer: bytes, rest: bytes, pause: float = 0.0) -> Iterator[bytes]:
    """`answer`, and then `rest` without end."""
    yield answer
    while True:
        yield rest
        time.sleep(pause)


@pytest.fixture
def hostile():
    """A function that starts a server, which gives an answer in pieces to whatever is asked, and returns its URL."""
    sockets = []

    def serve(pieces: Callable[[], Iterator[bytes]]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(2**16)
                        for piece in pieces():
                            connection.sendall(piece)

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/file"

    yield serve
    for listener in sockets:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


HOSTILE = {
    # answer, reason
    "redirect to no address": (lambda: once(OTHER + b"http://[zz]/" + END), "redirects to http://[zz]/, which is no"),
    "redirect in no encoding": (
        lambda: once(OTHER + b"http://\xff\xfe/" + END),
        "redirects to http://\xff\xfe/, which is no",
    ),
    "redirect to a wrong port": (lambda: once(OTHER + b"http://localhost:99999/" + END), "99999"),
    "redirect to a long host": (lambda: once(OTHER + b"http://" + b"a" * 300 + b"/" + END), "aaa"),
    "redirect to a file": (lambda: once(OTHER + b"file:///etc/passwd" + END), "No connection adapters were found"),
    "redirect to itself": (lambda: once(OTHER + END), "redirects without end"),
    "drips the status line": (lambda: then(b"HTTP/1.1 ", b"2", 0.05), "sent 0 bytes in 1 s"),
    "drips headers": (lambda: then(b"HTTP/1.1 200 OK\r\nA: ", b"a", 0.05), "sent 0 bytes in 1 s"),
    "continues for ever": (lambda: then(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "sent 0 bytes in 1 s"),
    "headers without end": (lambda: then(b"HTTP/1.1 200 OK\r\n", b"A: a\r\n"), "got more than 100 headers"),
    "a body without end": (lambda: then(b"HTTP/1.1 200 OK" + END, bytes(2**16)), "sent more than 1048576 bytes"),
    "a length beyond the limit": (
        lambda: then(b"HTTP/1.1 200 OK\r\nContent-Length: 1500000000" + END, bytes(2**16)),
        "would send 1500000000 bytes, more than 1048576",
    ),
    "escapes": (lambda: once(b"HTTP/1.1 503 \x1b[31mred\x07" + END), "answered 503 \\x1b[31mred\\x07"),
    "a long reason": (lambda: once(b"HTTP/1.1 503 " + b"x" * 60_000 + END), "answered 503 xxxx"),
    "two lengths": (lambda: once(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2" + END), "("),
    "a chunk of no length": (
        lambda: once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked" + END + b"zz\r\n"),
        "broke off",
    ),
    "no range though none was asked": (lambda: once(b"HTTP/1.1 416 No\r\nContent-Length: 0" + END), "answered 416 No"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_server_is_passed_over_in_a_few_readable_words(raw, server, hostile, case):
    answer, reason = HOSTILE[case]
    mirrors = [hostile(answer), f"{server.url}/whole"]
    started = time.monotonic()
    limits = WARY if "in 1 s" in reason else PATIENT
    dataset, source, passed_over = find_dataset(raw, None, mirrors, published=TINY, limits=limits)
    assert_is_tiny(dataset)
    assert source == mirrors[1] and time.monotonic() - started < 30
    assert contents(raw) == {TINY.archive: ARCHIVE}
    assert reason in passed_over[1] and passed_over[1].isprintable() and len(passed_over[1]) < 400


@pytest.mark.parametrize("length", [b"", b"Content-Length: 1500000000\r\n"], ids=["drips", "floods"])
def test_the_body_of_a_redirect_is_not_read(raw, server, hostile, length):
    answer = b"HTTP/1.1 302 Found\r\n" + length + b"Location: " + f"{server.url}/whole".encode() + END
    url = hostile(lambda: then(answer, bytes(2**16) if length else b".", pause=0 if length else 0.05))
    dataset, source, _ = find_dataset(raw, None, [url], published=TINY, limits=PATIENT)
    assert_is_tiny(dataset)
    assert source == url


def test_a_server_that_always_begins_again_is_given_up_at_the_deadline(raw, hostile):
    """It brings 100 kB more each time, and never the end: each connection alone is quick enough.

    Without the deadline it would go on for 400 connections, until the file is as long as it was said to be.
    """
    sizes = itertools.count(100_000, 100_000)

    def more() -> Iterator[bytes]:
        time.sleep(0.05)
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 40000000" + END + bytes(next(sizes))

    limits = Limits(connect=1, silence=1, deadline=2, size=2**30)
    with pytest.raises(InputError, match="not complete after 2 s"):
        find_dataset(raw, None, [hostile(more)], published=TINY, limits=limits)


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/gzip\r\nContent-Length: 9\r\nSet-Cookie: a=b" + END + b"too short",
    b"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-9/10"
    + END
    + b"3\r\nabc\r\n0\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: ../other?a=b#c\r\nSet-Cookie: a=b; Path=/; Domain=localhost" + END,
]


def test_no_damaged_answer_is_a_traceback(raw, hostile):
    random = np.random.default_rng(0)
    served = iter(damaged(random, ANSWERS, FUZZ))
    url = hostile(lambda: once(next(served, b"")))
    for number in range(FUZZ):
        with pytest.raises(InputError) as caught:
            find_dataset(raw, None, [url], published=TINY, limits=PATIENT)
        assert str(caught.value).isprintable(), number
