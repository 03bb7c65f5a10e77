"""Artifacts on disk: written whole or not at all, and checked when they are read.

Errors of damaged files name `make repro`, not `dvc repro`: it looks for damage in DVC's cache first.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cifar.system.errors import InputError
from cifar.system.stage import still_wanted

if TYPE_CHECKING:
    import pandas as pd  # a second to import, and not every stage writes a table


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it replaces `path` when the block ends without an error.

    Never writes into an existing file, because DVC's cache may share its inode. Half-written files of killed processes
    are deleted first. Raises InputError when the file cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget_killed(path)
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        still_wanted()
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; fix this and run the same command again"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; its files go there when the block ends without an error, else none.

    What `folder` holds besides stays. Half-filled folders of killed processes are deleted first.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    _forget_killed(folder)
    shutil.rmtree(part, ignore_errors=True)  # of a killed process that had our number, as it may be in a container
    try:
        yield part
        still_wanted()
        folder.mkdir(parents=True, exist_ok=True)
        for path in part.iterdir():
            os.replace(path, folder / path.name)
    except InputError as error:
        raise InputError(str(error).replace(f"{part}/", f"{folder}/")) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _forget_killed(path: Path) -> None:
    """Delete half-written copies of `path` that dead processes left."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        number = part.name.removeprefix(f".{path.name}.").removesuffix(".part")
        if number.isdecimal() and not _is_alive(int(number)):
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
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
        raise InputError(f"{path} is not valid JSON; delete it and run `make repro`") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds {type(values).__name__}, expected an object; delete it and run `make repro`")
    return values


def _refuse(constant: str) -> None:
    """Called for NaN and infinities, which JSON lacks."""
    raise ValueError(constant)


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write `table` without its index; floats keep the shortest form that reads back the same."""
    with replacing(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def write_array(path: str | Path, array: np.ndarray) -> None:
    write_blocks(path, array.dtype, array.shape, [array])


def write_blocks(path: str | Path, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write an array of this dtype and shape as .npy, from `blocks` of it along the first axis, in their order."""
    empty = np.empty((0, *shape[1:]), dtype)
    header = np.lib.format.header_data_from_array_1_0(empty) | {"shape": shape}
    with replacing(path) as part, open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)  # np.save does not say why it could not write


def read_array(path: str | Path, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array in the .npy file at `path`, which must have this dtype and shape (None: any length).

    Raises InputError when the file is missing, damaged or another array.
    """
    return _checked_array(path, dtype, shape, _read_values)


def map_array(path: str | Path, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The same as `read_array`, mapped: the values are read when they are used, and need not fit the memory.

    The array may be written to, which does not change the file.
    """
    return _checked_array(path, dtype, shape, _map_values)


def _checked_array(path: str | Path, dtype: str, shape: tuple[int | None, ...], values_of: ValuesOf) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            array = _parse_array(file, os.fstat(file.fileno()).st_size, values_of)
    except FileNotFoundError:
        raise missing(path) from None
    except ValueError:
        raise InputError(f"{path} is not a whole .npy array; delete it and run `make repro`") from None
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype != np.dtype(dtype) or not fits:
        expected = " x ".join("N" if n is None else str(n) for n in shape)
        actual = " x ".join(map(str, array.shape))
        raise InputError(f"{path} holds {array.dtype} {actual}, expected {dtype} {expected}; run `make repro`")
    return array


def read_arrays(path: str | Path, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays `names` of the .npz archive at `path`; raises InputError when it is missing or damaged."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise missing(path) from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [archive.read(f"{name}.npy") for name in names]
        return [_parse_array(io.BytesIO(member), len(member), _read_values) for member in members]
    except MemoryError:
        raise
    except Exception:  # in memory no read can fail, so anything that zipfile and zlib raise means a damaged archive
        raise InputError(f"{path} is damaged; delete it and run `make repro`") from None


ValuesOf = Callable[[BinaryIO, np.dtype, int], np.ndarray]
NPY_MAGIC = b"\x93NUMPY\x01\x00"
NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|=][a-zA-Z]\d{1,4})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?)*\d{0,18})\), \} *\n"
)


def _parse_array(file: BinaryIO, size: int, values_of: ValuesOf) -> np.ndarray:
    """The array in a .npy file of `size` bytes, of the form that NumPy writes (numpy.lib.format, version 1.0).

    `values_of` gives so many values of a dtype from the file's position on. Raises ValueError when it is not one.
    np.load takes the header for Python source, so that damaged bytes raise errors and warnings of the parser's, and
    trusts the shape in it before it knows how long the file is.
    """
    start = file.read(len(NPY_MAGIC) + 2)
    header = file.read(int.from_bytes(start[len(NPY_MAGIC) :], "little"))
    fields = NPY_HEADER.fullmatch(header)
    if not start.startswith(NPY_MAGIC) or not fields:
        raise ValueError("no header of a .npy file")
    try:
        dtype = np.dtype(fields[1].decode())
    except (TypeError, OverflowError):
        raise ValueError("no dtype") from None
    shape = tuple(int(length) for length in fields[3].replace(b" ", b"").split(b",") if length)
    if dtype.hasobject or len(shape) > 32 or size - file.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError("pickles, or another length than the header says")
    values = values_of(file, dtype, math.prod(shape))
    return values.reshape(shape, order="F" if fields[2] == b"True" else "C")


def _read_values(file: BinaryIO, dtype: np.dtype, count: int) -> np.ndarray:
    values = np.empty(count, dtype)
    if file.readinto(values.view(np.uint8)) != values.nbytes:
        raise ValueError("cut off while it was read")
    return values


def _map_values(file: BinaryIO, dtype: np.dtype, count: int) -> np.ndarray:
    if count == 0:
        return np.empty(0, dtype)  # nothing cannot be mapped
    return np.asarray(np.memmap(file, dtype, mode="c", offset=file.tell(), shape=(count,)))


def write_checksums(path: str | Path, names: list[str]) -> None:
    """Write the SHA-256 of the files `names` in the folder of `path`, in the form that `sha256sum --check` reads."""
    write_text(path, "".join(f"{sha256(Path(path).parent / name)}  {name}\n" for name in names))


def check_checksums(path: str | Path, names: list[str]) -> None:
    """Raise InputError unless the file at `path` lists each of the files `names` with the SHA-256 that it has."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise missing(path) from None
    except UnicodeDecodeError:
        lines = []
    for name in names:
        file = Path(path).parent / name
        if f"{sha256(file)}  {name}" not in lines:
            raise InputError(f"{file} or {path} is damaged: the SHA-256 differs; run `make repro`")


def sha256(path: str | Path) -> str:
    """64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing(path: str | Path) -> InputError:
    return InputError(f"{path} is missing; run `dvc repro`, which runs the stage that writes it first")
