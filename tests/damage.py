"""Damaged inputs for the loaders: whole ones with bits flipped, bytes cut off, put in or repeated; and Evil."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

FUZZ = int(os.environ.get("FUZZ", 200))  # how many damaged inputs each loader is tried on
TOKENS = [
    *(b"&a ", b"*a", b"<<: *a\n", b"!!bool maybe", b"!!int x", b"!!float x", b"!!timestamp x", b"!!binary x"),
    *(b"!!set ", b"!!omap ", b"!!pairs ", b"!!null x", b"!x ", b"? ", b"- ", b": ", b"{", b"}", b"[", b"]", b"'", b'"'),
    *(b"|\n", b">\n", b"#", b"%YAML 9.9\n", b"---\n", b"...\n", b"\t", b"\0", b"\x1b[31m", b"\xff", b"\xef\xbb\xbf"),
    *(b"~", b".nan", b"-.inf", b"1e999", b"0x" + b"f" * 9000, b"9" * 5000, b"1" * 400, b"0o7", b"2026-11-22"),
    *(b"12:30:45", b'"\\e[31m"'),
]  # fmt: skip


class Evil:
    """Whoever unpickles it makes the folder `executed`."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def damaged(random: np.random.Generator, whole: Sequence[bytes], count: int) -> Iterator[bytes]:
    """`count` inputs, each one of `whole` with one to three kinds of damage, and none of them whole."""
    made = 0
    while made < count:
        original = whole[random.integers(len(whole))]
        content = original
        for _ in range(random.integers(1, 4)):
            content = _damage(random, content)
        if content != original:
            made += 1
            yield content


def _damage(random: np.random.Generator, content: bytes) -> bytes:
    start, end = sorted(random.integers(0, len(content) + 1, 2).tolist())
    if random.integers(2):  # a short part
        end = min(end, start + 20)
    match random.integers(7):
        case 0 if content:  # one bit
            changed, place = bytearray(content), random.integers(len(content))
            changed[place] ^= 1 << random.integers(8)
            return bytes(changed)
        case 1:  # cut off
            return content[:start]
        case 2:  # a part is missing
            return content[:start] + content[end:]
        case 3:  # a part is twice there
            return content[:end] + content[start:]
        case 4:  # random bytes in between
            return content[:start] + random.bytes(random.integers(1, 20)) + content[start:]
        case 5:  # what may mean something in YAML, JSON or CSV
            return content[:start] + TOKENS[random.integers(len(TOKENS))] + content[end:]
        case _:  # a block of zeros, as a disk that failed may leave
            return content[:start] + bytes(end - start) + content[end:]
