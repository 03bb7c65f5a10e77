"""Sheets of images: a grid with captions, drawn with exact pixels."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from cifar.results.figures import matplotlib_defaults, save_png
from cifar.system.errors import printable

# Lengths are in pixels, font sizes in points.
DPI = 100
FONT, TITLE_FONT = 9, 11
LINE, TITLE_LINE = 16, 20
DESCENT = 3  # how far letters such as g reach below the baseline
GAP, MARGIN = 8, 16
TILE = 128  # images are enlarged by the largest whole factor that keeps their height within this


@matplotlib_defaults()
def draw_sheet(
    path: Path,
    images: np.ndarray,
    columns: int,
    title: str,
    *,
    captions: Sequence[str] = (),
    caption_colours: Sequence[str] = (),
    row_labels: Sequence[str] = (),
) -> None:
    """Write a PNG with the images uint8 (N, H, W, 3) row by row on white, each pixel enlarged to a square.

    `captions`, one for each image, stand below the images. Their lines have the `caption_colours`, or are black.
    `row_labels`, one for each row, stand to the left of the images. Line breaks are kept. Long captions and labels are
    shortened, a long title is wrapped. An image may be a strip of several. A sheet without images is a title.
    """
    factor = max(1, TILE // images.shape[1])
    tiles = images.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = tiles.shape
    captions = [[printable(line) for line in text.split("\n")] for text in captions]
    row_labels = [printable(text) for text in row_labels]
    caption_height = LINE * max(map(len, captions), default=0)
    cell_width, cell_height = max([width, *map(_widest, captions)]) + GAP, height + caption_height + GAP
    left = MARGIN + (_widest(row_labels) + GAP if row_labels else 0)
    sheet_width = max(left + min(columns, count) * cell_width - GAP + MARGIN, 2 * TILE)
    title_lines = [line for text in title.split("\n") for line in _wrap(text, sheet_width - 2 * MARGIN)]
    top = MARGIN + TITLE_LINE * len(title_lines)
    sheet_height = top + math.ceil(count / columns) * cell_height - GAP + MARGIN

    figure = Figure(figsize=(sheet_width / DPI, sheet_height / DPI), dpi=DPI)
    write = partial(figure.text, parse_math=False)  # a class name may hold dollar signs
    pixels = np.full((sheet_height, sheet_width, 3), 255, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        x, y = left + i % columns * cell_width + (cell_width - GAP - width) // 2, top + i // columns * cell_height
        pixels[y : y + height, x : x + width] = tile
        lines = captions[i] if captions else []
        for number, (line, colour) in enumerate(zip_longest(lines, caption_colours[: len(lines)]), start=1):
            # Aligned by the baseline: matplotlib's other alignments depend on the letters of the line.
            position = (x + width / 2) / sheet_width, 1 - (y + height + number * LINE - DESCENT) / sheet_height
            write(*position, line, size=FONT, color=colour or "black", ha="center", va="baseline")
    for row, label in enumerate(row_labels):
        middle = 1 - (top + row * cell_height + height / 2) / sheet_height
        write((left - GAP) / sheet_width, middle, label, size=FONT, ha="right", va="center")
    write(MARGIN / sheet_width, 1 - MARGIN / 2 / sheet_height, "\n".join(title_lines), size=TITLE_FONT, va="top")
    figure.figimage(pixels)
    save_png(figure, path, DPI)


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Strips uint8 (N, H, 2 W + 1, 3): the images on the `left`, a white line, the images on the `right`."""
    return np.concatenate([left, np.full_like(left[:, :, :1], 255), right], axis=2)


def _wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels in the title's font, broken between words; a long word stays whole."""
    first, *rest = text.split()
    lines = [first]
    for word in rest:
        longer = f"{lines[-1]} {word}"
        if _widest([longer], TITLE_FONT) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _widest(lines: Sequence[str], size: int = FONT) -> int:
    """The width in pixels of the widest of `lines`, in the captions' font size or another."""
    renderer = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()
    font = FontProperties(size=size)
    return int(max((renderer.get_text_width_height_descent(line, font, False)[0] for line in lines), default=0)) + 1
