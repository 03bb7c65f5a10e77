"""Artifacts on disk: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar.system.process import InputError, still_wanted

if TYPE_CHECKING:
    import pandas as pd  # a second to import, and not every stage writes a table


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` when the block ends without an error.

    Never writes into an existing file: DVC's cache may share its inode. What killed processes left half written is
    deleted first. Raises InputError when it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        forget_killed(path.parent, f".{path.name}.", ".part")
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        still_wanted()
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; mend that and run `dvc repro` again"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def forget_killed(folder: Path, before: str, after: str) -> None:
    """Delete what lies in `folder` under `before`, the number of a process that is no more, and `after`."""
    for path in folder.glob(f"{glob.escape(before)}*{glob.escape(after)}"):
        number = path.name.removeprefix(before).removesuffix(after)
        if number.isdecimal() and not _is_alive(int(number)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def write_text(path: str | Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """Write `values` as indented JSON; a NaN or an infinity, which JSON lacks, is a ValueError."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not valid JSON; delete it and run `dvc repro` again") from None
    if not isinstance(values, dict):
        raise InputError(
            f"{path} holds {type(values).__name__}, expected an object; delete it and run `dvc repro` again"
        )
    return values


def _refuse(constant: str) -> None:
    """Called for NaN and infinities, which JSON lacks."""
    raise ValueError(constant)


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write `table` without its index; floats keep the shortest form that reads back the same."""
    with replacing(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def write_array(path: str | Path, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array)
    with replacing(path) as part, open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)  # np.save does not say why it could not write


def read_array(path: str | Path, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array in the .npy file at `path`, whose dtype and shape (None: any length) must be as told.

    Raises InputError when the file is missing, damaged, or holds something else.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, EOFError):
        raise InputError(f"{path} is not a whole .npy array; delete it and run `dvc repro` again") from None
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype != np.dtype(dtype) or not fits:
        expected = " x ".join("N" if n is None else str(n) for n in shape)
        found = " x ".join(map(str, array.shape))
        raise InputError(f"{path} holds {array.dtype} {found}, expected {dtype} {expected}; run `dvc repro` again")
    return array


def write_checksums(path: str | Path, names: list[str]) -> None:
    """Write the SHA-256 of the files `names` in the folder of `path`, in the form that `sha256sum --check` reads."""
    write_text(path, "".join(f"{sha256(Path(path).parent / name)}  {name}\n" for name in names))


def check_checksums(path: str | Path, names: list[str]) -> None:
    """Raise InputError unless the file at `path` has the checksums of `names`, and these files are as it says."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise missing(path) from None
    except UnicodeDecodeError:
        lines = []
    for name in names:
        file = Path(path).parent / name
        if f"{sha256(file)}  {name}" not in lines:
            raise InputError(f"{file} is damaged, or {path} is: its SHA-256 is another; run `dvc repro` again")


def sha256(path: str | Path) -> str:
    """64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing(path: str | Path) -> InputError:
    return InputError(f"{path} is missing; run `dvc repro`, which makes what a stage needs before it runs")
