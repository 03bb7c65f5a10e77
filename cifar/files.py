"""Artifacts on disk: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar.console import InputError

if TYPE_CHECKING:
    import pandas as pd  # a second to import, and not every stage writes a table


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` when the block ends without an error.

    Never writes into an existing file: DVC's cache may share its inode.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """Write `values` as indented JSON; a NaN or an infinity, which JSON lacks, is a ValueError."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path) from None
    except ValueError:
        raise InputError(f"{path} is not valid JSON; delete it and run `dvc repro` again") from None
    if not isinstance(values, dict):
        raise InputError(
            f"{path} holds {type(values).__name__}, expected an object; delete it and run `dvc repro` again"
        )
    return values


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write `table` without its index; floats keep the shortest form that reads back the same."""
    with replacing(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def write_array(path: str | Path, array: np.ndarray) -> None:
    with replacing(path) as part, open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)


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


def missing(path: str | Path) -> InputError:
    return InputError(f"{path} is missing; run `dvc repro`, which makes what a stage needs before it runs")
