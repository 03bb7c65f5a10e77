"""Damaged files, at random: each loader accepts what it reads or explains in one line what is wrong with it.

FUZZ=20000 sets the number of damaged files for all loaders together; every case can be repeated by its number.
"""

import os
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cifar.config.params import check_params, read_yaml
from cifar.results.predictions import Predictions, load_predictions, save_predictions
from cifar.system.files import read_array, write_array
from cifar.system.process import LONGEST, InputError, one_line

ROOT = Path(__file__).parents[1]
CASES = int(os.environ.get("FUZZ", 400))
SECONDS = 10  # of processor time for one file
LABELS = np.arange(6, dtype=np.uint8)
TOKENS = [
    *(b"&a ", b"*a", b"<<: *a\n", b"!!bool maybe", b"!!int x", b"!!float x", b"!!timestamp x", b"!!binary x"),
    *(b"!!set ", b"!!omap ", b"!!pairs ", b"!!null x", b"!x ", b"? ", b"- ", b": ", b"{", b"}", b"[", b"]", b"'", b'"'),
    *(b"|\n", b">\n", b"#", b"%YAML 9.9\n", b"---\n", b"...\n", b"\t", b"\0", b"\x1b[31m", b"\xff", b"\xef\xbb\xbf"),
    *(b"~", b".nan", b"-.inf", b"1e999", b"0x" + b"f" * 9000, b"9" * 5000, b"1" * 400, b"0o7", b"2026-11-22"),
    *(b"12:30:45", b'"\\e[31m"'),
]  # fmt: skip


def damaged(content: bytes, draw: random.Random) -> bytes:
    """`content` with up to four faults: a bit flipped, a piece cut or repeated, a token put in, the end cut off."""
    for _ in range(draw.randint(1, 4)):
        a, b = sorted(draw.choices(range(len(content) + 1), k=2))
        b = min(b, a + draw.choice([1, 2, 8, 60]))
        match draw.randrange(7):
            case 0 | 1 if content:
                place = draw.randrange(min(len(content), draw.choice([200, len(content)])))
                flipped = content[place] ^ (1 << draw.randrange(8))
                content = content[:place] + bytes([flipped]) + content[place + 1 :]
            case 2:
                content = content[:a] + content[b:]
            case 3:
                content = content[:a] + content[a:b] * draw.choice([2, 3, 50]) + content[b:]
            case 4:
                content = content[:a] + draw.choice(TOKENS) + content[b:]
            case 5:
                content = content[:a]
            case _:
                content = content[:a] + draw.randbytes(draw.choice([1, 4, 30])) + content[b:]
    return content


def whole_params(path: Path) -> Callable[[], object]:
    lines = (ROOT / "recipes/best.yaml").read_text().splitlines()
    path.write_text("".join(f"{line.partition(' #')[0]}\n" for line in lines if not line.startswith("#")))
    return lambda: check_params(read_yaml(path), "params.yaml")


def whole_images(path: Path) -> Callable[[], object]:
    write_array(path, np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3))
    return lambda: read_array(path, "uint8", (None, 8, 8, 3))


def whole_predictions(path: Path) -> Callable[[], object]:
    save_predictions(Predictions(np.eye(6, 10, dtype=np.float32), LABELS, LABELS), path)
    return lambda: load_predictions(LABELS, path)


LOADERS = {"params.yaml": whole_params, "images.npy": whole_images, "predictions.npz": whole_predictions}


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_file_is_read_or_explained_in_one_line(name, tmp_path):
    path = tmp_path / name
    load = LOADERS[name](path)
    load()
    content, refused = path.read_bytes(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in range(CASES // len(LOADERS)):
            path.write_bytes(damaged(content, random.Random(f"{name} {case}")))
            began = time.process_time()
            try:
                load()
            except InputError as error:
                refused += 1
                line = one_line(error)
                assert line.isprintable() and 10 < len(line) <= LONGEST, case
            except Exception as error:
                raise AssertionError(f"case {case}: {error!r}") from error
            assert time.process_time() - began < SECONDS, case
    print(f"{name}: {refused} of {CASES // len(LOADERS)} damaged files refused")
    assert refused > CASES // len(LOADERS) / 2
