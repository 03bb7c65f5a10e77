"""One file from a web server: whole and with the published md5, or a reason in a few words why not."""

import hashlib
import os
import re
import time
from pathlib import Path
from typing import BinaryIO

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from cifar.system.process import one_line, progress

TIMEOUT = (10.0, 30.0)  # seconds: to connect, and without a byte
CHUNK = 2**16  # bytes
SLOWEST = 1000  # bytes a second, over as long as a server may be silent


class Unusable(Exception):
    """A copy of a file cannot be used; the message says why, in a few words."""


def check_md5(file: BinaryIO, name: str, md5: str) -> None:
    """Raise Unusable if the `file` from its position to its end is not as published; `name` is for the message."""
    actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual != md5:
        raise Unusable(f"{name} has {file.seek(0, os.SEEK_END)} bytes with md5 {actual}, published is {md5}")


def fetch(url: str, path: Path, md5: str, timeout: tuple[float, float]) -> None:
    """Download `url` to `path`, beginning with what an earlier run left in `path`.part; raises Unusable if it fails.

    A connection that breaks is taken up again for as long as that brings 64 KiB.
    """
    part = path.with_name(f"{path.name}.part")
    while True:
        before = size(part)
        try:
            receive(url, part, timeout)
        except (requests.RequestException, HTTPError) as error:
            if size(part) >= before + CHUNK:
                continue
            kept = f", {size(part)} bytes are kept for the next try" if size(part) else ""
            raise Unusable(explain(error, timeout) + kept) from None
        try:
            with open(part, "rb") as file:
                check_md5(file, part.name, md5)
        except Unusable:
            part.unlink()
            if before:
                continue  # what was there may have been the beginning of something else: once more, from zero
            raise
        os.replace(part, path)
        return


def receive(url: str, part: Path, timeout: tuple[float, float]) -> None:
    """Append the rest of `url` to the file `part`, or write all of it if the server sends no ranges."""
    start = size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 416:
            return  # no byte is left to send; the md5 will tell
        if response.status_code not in (200, 206):
            raise Unusable(f"answered {response.status_code} {response.reason}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise Unusable("sent a web page")
        if response.status_code == 200:
            start = 0
        left = response.raw.length_remaining
        total = None if left is None else start + left
        bar = progress(None, total, label=part.stem, unit="B", initial=start, unit_scale=True)
        with bar, open(part, "ab" if start else "wb") as file:
            since, received = time.monotonic(), 0
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
                received += len(chunk)
                if (seconds := time.monotonic() - since) > timeout[1]:
                    if received < SLOWEST * seconds:
                        raise Unusable(f"sent {received} bytes in {seconds:.0f} s, {size(part)} bytes are kept")
                    since, received = time.monotonic(), 0


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def explain(error: Exception, timeout: tuple[float, float]) -> str:
    """A network error in a few words: requests' own name every object that it passed through."""
    connect, read = timeout
    match error:
        case requests.ConnectTimeout():
            return f"no connection within {connect:g} s"
        case requests.Timeout() | ReadTimeoutError():
            return f"silent for {read:g} s"
        case requests.TooManyRedirects():
            return "redirects without end"
        case HTTPError():
            return "the connection broke off"
    system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(error))
    return f"no connection: {system[1]}" if system else one_line(error)
