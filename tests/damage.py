"""Damaged inputs for the loaders: whole ones with bits flipped, bytes cut off, put in, repeated or replaced."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

FUZZ = int(os.environ.get("FUZZ", 200))  # how many damaged inputs each loader is tried on


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
    match random.integers(6):
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
        case _:  # a block of zeros, as a disk that failed may leave
            return content[:start] + bytes(end - start) + content[end:]
