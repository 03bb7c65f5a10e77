"""CIFAR-10's published files: found or downloaded, checked by their md5, and only then unpickled."""

import os
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import requests
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5
from urllib3.exceptions import HTTPError, ReadTimeoutError

from cifar.data.splits import Split
from cifar.system.files import forget_killed
from cifar.system.process import InputError, one_line, progress

TIMEOUT = (10.0, 30.0)  # seconds: to connect, and without a byte
CHUNK = 2**16  # bytes
SLOWEST = 1000  # bytes a second, over as long as a server may be silent


class Dataset(NamedTuple):
    train: Split
    test: Split
    classes: list[str]


class Unfit(Exception):
    """A source cannot be used; the message says why, in a few words."""


def find_dataset(
    raw: Path,
    elsewhere: str | None,
    mirrors: list[str],
    published: type[CIFAR10] = CIFAR10,
    *,
    timeout: tuple[float, float] = TIMEOUT,
) -> tuple[Dataset, str, list[str]]:
    """The data set from the first source that is as `published`, that source, and why those before it were passed over.

    In this order: the folder `raw`, the folder `elsewhere` (which is only read), the mirrors; a download goes to `raw`.
    Raises InputError when there is none.
    """
    sources: dict[str, Callable[[], Dataset]] = {str(raw): partial(load_local, raw, raw, published)}
    if elsewhere:
        sources[f"CIFAR10_DIR={elsewhere}"] = partial(load_local, Path(elsewhere), raw, published)
    for url in mirrors:
        sources[url] = partial(load_mirror, url, raw, published, timeout)
    reasons = []
    for source, load in sources.items():
        try:
            return load(), source, reasons
        except (Unfit, OSError) as error:
            reasons.append(f"{source} ({one_line(error)})")
    raise InputError(
        f"no intact copy of CIFAR-10 found; tried {', '.join(reasons)}; "
        f"put {published.filename} into {raw}/, or set CIFAR10_DIR to a folder that holds it, "
        "or run `make demo`, which draws its own images"
    )


def load_local(folder: Path, scratch: Path, published: type[CIFAR10]) -> Dataset:
    """The data set from the batches or else the archive in `folder`; `scratch` is where the archive is unpacked."""
    reasons = []
    if (folder / published.base_folder).exists():
        try:
            return load_batches(folder, published)
        except Unfit as error:
            reasons.append(f"{published.base_folder}: {error}")
    if (folder / published.filename).exists():
        try:
            return load_archive(folder / published.filename, scratch, published)
        except Unfit as error:
            reasons.append(f"{published.filename}: {error}")
    raise Unfit("; ".join(reasons) or f"has neither {published.base_folder}/ nor {published.filename}")


def load_mirror(url: str, raw: Path, published: type[CIFAR10], timeout: tuple[float, float]) -> Dataset:
    raw.mkdir(parents=True, exist_ok=True)
    fetch(url, raw / published.filename, published.tgz_md5, timeout)
    return load_archive(raw / published.filename, raw, published)


def load_archive(archive: Path, scratch: Path, published: type[CIFAR10]) -> Dataset:
    """The data set in the .tar.gz at `archive`, which is unpacked into a temporary folder under `scratch`."""
    check_md5(archive, published.tgz_md5)
    forget_killed(scratch, "unpacked-", "")
    folder = scratch / f"unpacked-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)  # a killed process had our number, as happens in containers
    folder.mkdir(parents=True)
    try:
        unpack(archive, folder, published)
        return load_batches(folder, published)
    finally:
        shutil.rmtree(folder)


def load_batches(folder: Path, published: type[CIFAR10]) -> Dataset:
    """The data set in folder/cifar-10-batches-py; raises Unfit, nothing unpickled, if a file is not as published."""
    for name, md5 in checksums(published).items():
        check_md5(folder / published.base_folder / name, md5)
    train, test = (published(folder, train=is_train) for is_train in (True, False))
    images = [np.ascontiguousarray(part.data) for part in (train, test)]
    labels = [np.array(part.targets, dtype=np.uint8) for part in (train, test)]
    return Dataset(*map(Split, images, labels), train.classes)


def checksums(published: type[CIFAR10]) -> dict[str, str]:
    """The md5 of each file that is unpickled, by its name."""
    return dict([*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])])


def check_md5(path: Path, md5: str) -> None:
    """Raise Unfit if the file at `path` is missing or another."""
    if not path.is_file():
        raise Unfit(f"{path.name} is missing")
    found = calculate_md5(path)
    if found != md5:
        raise Unfit(f"{path.name} has {path.stat().st_size} bytes with md5 {found}, published is {md5}")


def unpack(archive: Path, folder: Path, published: type[CIFAR10]) -> None:
    """Write the published files of `archive` below `folder`, and nothing else: no other name, no link."""
    (folder / published.base_folder).mkdir()
    names = {f"{published.base_folder}/{name}" for name in checksums(published)}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name in names and member.isfile():
                    with tar.extractfile(member) as source, open(folder / member.name, "wb") as target:
                        shutil.copyfileobj(source, target)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Unfit(f"{archive.name} is damaged: {one_line(error)}") from None


def fetch(url: str, path: Path, md5: str, timeout: tuple[float, float]) -> None:
    """Download `url` to `path`, beginning with what an earlier run left in `path`.part; raises Unfit if it fails.

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
            raise Unfit(explain(error, timeout) + kept) from None
        try:
            check_md5(part, md5)
        except Unfit:
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
            raise Unfit(f"answered {response.status_code} {response.reason}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise Unfit("sent a web page")
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
                        raise Unfit(f"sent {received} bytes in {seconds:.0f} s, {size(part)} bytes are kept")
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
