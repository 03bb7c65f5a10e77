"""One file from a web server: whole and with the published md5, or a reason in a few words why not."""

import hashlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError, LocationValueError, ReadTimeoutError

from cifar.system.errors import one_line, printable
from cifar.system.progress import progress

CHUNK = 2**16  # bytes
SLOWEST = 1000  # bytes a second
REDIRECTS = 10  # in a row
NETWORK_ERRORS = requests.RequestException, HTTPError, HTTPException, ValueError  # the last: of what is no address


class Unusable(Exception):
    """A copy of a file cannot be used; the message says why, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a server is given up."""

    connect: float  # seconds until it accepts the connection
    silence: float  # seconds without a byte, or with fewer than SLOWEST times as many
    deadline: float  # seconds for everything: redirects, headers, body and new connections
    size: int  # bytes of the file


LIMITS = Limits(connect=10, silence=30, deadline=2 * 3600, size=2**28)  # CIFAR-10's archive has 170 million bytes


def check_md5(file: BinaryIO, name: str, md5: str) -> None:
    """Raise Unusable if the `file` from its position to its end is not as published; `name` is for the message."""
    actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual != md5:
        raise Unusable(f"{name} has {file.seek(0, os.SEEK_END)} bytes with md5 {actual}, published is {md5}")


def fetch(url: str, path: Path, md5: str, limits: Limits) -> None:
    """Download `url` to `path`; raises Unusable if that fails, and OSError if the file cannot be written.

    It continues what an earlier download left in `path`.part. A connection that breaks is opened again if the file
    is then 64 KiB longer than before. To be called in the main thread: an alarm signal enforces `limits`.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        _fetch_part(url, part, md5, limits)
    except Unusable as error:
        kept = f", {size(part)} bytes are kept for the next try" if size(part) else ""
        raise Unusable(f"{error}{kept}") from None
    os.replace(part, path)


@contextmanager
def _alarm(limits: Limits, started: float) -> Iterator[Callable[[int], None]]:
    """Raise Unusable in the block when the server is too slow; yields a function that counts the bytes received.

    `started` is when the download began, in seconds of `time.monotonic`: all its connections share the deadline.

    A socket's own timeout starts again with each byte, so a server could send a header byte by byte for ever. The alarm
    interrupts any wait. It repeats, because an exception that is raised in a finalizer is lost.
    """
    in_window = 0

    def count(received: int) -> None:
        nonlocal in_window
        in_window += received

    def check_deadline() -> None:
        if time.monotonic() - started >= limits.deadline:
            raise Unusable(f"not complete after {limits.deadline:g} s")

    def check(*_) -> None:
        nonlocal in_window
        check_deadline()
        if in_window < SLOWEST * limits.silence:
            raise Unusable(f"sent {in_window} bytes in {limits.silence:g} s")
        in_window = 0

    check_deadline()
    handler = signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, limits.silence, limits.silence)
    try:
        yield count
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _fetch_part(url: str, part: Path, md5: str, limits: Limits) -> None:
    """Download `url` into the file `part`, until that has the `md5`."""
    started, may_restart = time.monotonic(), True
    while True:
        before = size(part)
        try:
            with _alarm(limits, started) as received:  # not while the whole file is checked
                _receive(url, part, limits, received)
        except NETWORK_ERRORS as error:
            if size(part) >= before + CHUNK:
                continue
            raise Unusable(_explain(error, limits)) from None
        try:
            if size(part) > limits.size:
                raise Unusable(f"sent more than {limits.size} bytes")
            with open(part, "rb") as file:
                check_md5(file, part.name, md5)
            return
        except Unusable:
            part.unlink()
            if not before or not may_restart:
                raise
            may_restart = False  # the file may have begun as something else: once more, from zero


def _receive(url: str, part: Path, limits: Limits, received: Callable[[int], None]) -> None:
    """Append the rest of `url` to the file `part`, or write all of it if the server ignores the range.

    Stops when the file is larger than the limit.
    """
    start = size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with WithoutRedirects() as session, _get(session, url, headers, limits) as response:
        if response.status_code == 416 and start:
            return  # the server has no more bytes; the md5 decides
        if response.status_code not in (200, 206):
            raise Unusable(f"answered {response.status_code} {printable(response.reason or '')}".rstrip())
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise Unusable("sent a web page")
        if response.status_code == 200:
            start = 0
        length = response.raw.length_remaining
        if length is not None and length > limits.size:
            raise Unusable(f"would send {length} bytes, more than {limits.size}")
        total = None if length is None else start + length
        bar = progress(None, total, label=part.stem, unit="B", initial=start, unit_scale=True)
        with bar, open(part, "ab" if start else "wb", buffering=0) as file:
            while start <= limits.size and (chunk := response.raw.read1(CHUNK, decode_content=False)):
                file.write(chunk)
                start += len(chunk)
                bar.update(len(chunk))
                received(len(chunk))


class WithoutRedirects(requests.Session):
    """A session that leaves redirects to `_get`: requests itself reads their whole bodies into memory."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _get(session: WithoutRedirects, url: str, headers: dict[str, str], limits: Limits) -> requests.Response:
    """The response to a GET of `url`, its body not yet read; follows redirects, without their bodies."""
    for _ in range(REDIRECTS + 1):
        response = session.get(url, headers=headers, stream=True, timeout=(limits.connect, limits.silence))
        if not response.is_redirect:
            return response
        response.close()
        location = response.headers["Location"]  # its bytes as Latin-1
        try:
            url = urljoin(url, location.encode("latin-1").decode("utf-8"))
        except ValueError:
            raise Unusable(f"redirects to {printable(location)}, which is no address") from None
    raise Unusable("redirects without end")


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _explain(error: Exception, limits: Limits) -> str:
    """A network error in a few words: requests' own name every object that it passed through."""
    match error:
        case requests.ConnectTimeout():
            return f"no connection within {limits.connect:g} s"
        case requests.Timeout() | ReadTimeoutError():
            return f"silent for {limits.silence:g} s"
        case HTTPError() if not isinstance(error, LocationValueError):
            return "the connection broke off"
    system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(error))
    return printable(f"no connection: {system[1]}" if system else one_line(error), 200)
