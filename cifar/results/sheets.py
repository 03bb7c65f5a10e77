"""Sheets of images: a grid with captions, drawn with exact pixels."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from cifar.system.files import replacing

# Lengths are in pixels, font sizes in points.
DPI = 100
FONT, TITLE_FONT = 9, 11
LINE, TITLE_LINE = 16, 20
DESCENT = 3  # how far letters such as g reach below the baseline
GAP, MARGIN = 8, 16
TILE = 128  # images are enlarged by the largest whole factor that keeps their height within this


def draw_sheet(
    path: Path,
    images: np.ndarray,
    columns: int,
    title: str,
    *,
    captions: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
) -> None:
    """Write a PNG with the images uint8 (N, H, W, 3) row by row on white, each pixel enlarged to a square.

    `captions`, one for each image, stand below the images; `row_labels`, one for each row, stand to their left. Line
    breaks are kept, and a long title is wrapped. An image may be a strip of several. A sheet without images is a title.
    """
    factor = max(1, TILE // images.shape[1])
    tiles = images.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = tiles.shape
    captions, row_labels = captions or [], row_labels or []
    caption_height = LINE * max((text.count("\n") + 1 for text in captions), default=0)
    cell_width, cell_height = max(width, _widest(captions)) + GAP, height + caption_height + GAP
    left = MARGIN + (_widest(row_labels) + GAP if row_labels else 0)
    sheet_width = max(left + min(columns, count) * cell_width - GAP + MARGIN, 2 * TILE)
    title_lines = [line for text in title.split("\n") for line in _wrap(text, sheet_width - 2 * MARGIN)]
    top = MARGIN + TITLE_LINE * len(title_lines)
    sheet_height = top + math.ceil(count / columns) * cell_height - GAP + MARGIN

    figure = Figure(figsize=(sheet_width / DPI, sheet_height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    pixels = np.full((sheet_height, sheet_width, 3), 255, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        x, y = left + i % columns * cell_width + (cell_width - GAP - width) // 2, top + i // columns * cell_height
        pixels[y : y + height, x : x + width] = tile
        if captions:
            for number, line in enumerate(captions[i].split("\n"), start=1):
                # Aligned by the baseline: matplotlib's other alignments depend on the letters of the line.
                position = (x + width / 2) / sheet_width, 1 - (y + height + number * LINE - DESCENT) / sheet_height
                figure.text(*position, line, size=FONT, ha="center", va="baseline")
    for row, label in enumerate(row_labels):
        middle = 1 - (top + row * cell_height + height / 2) / sheet_height
        figure.text((left - GAP) / sheet_width, middle, label, size=FONT, ha="right", va="center")
    figure.text(MARGIN / sheet_width, 1 - MARGIN / 2 / sheet_height, "\n".join(title_lines), size=TITLE_FONT, va="top")
    figure.figimage(pixels)

    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})


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


def _widest(texts: Sequence[str], size: int = FONT) -> int:
    """The width in pixels of the widest line of `texts`, in the captions' font size or another."""
    renderer = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()
    font = FontProperties(size=size)
    lines = [line for text in texts for line in text.split("\n")]
    return int(max((renderer.get_text_width_height_descent(line, font, False)[0] for line in lines), default=0)) + 1
