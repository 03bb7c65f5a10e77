"""Sheets of images: a grid with captions, drawn to the pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from cifar.system.files import replacing

# All lengths are in pixels, all font sizes in points.
DPI = 100
FONT, TITLE_FONT = 9, 11
LINE, TITLE_LINE = 16, 20
DESCENT = 3  # of a caption's letters below their baseline
GAP, MARGIN = 8, 16
TILE = 128  # an image is enlarged by the largest whole factor that keeps its height within this


def draw_sheet(
    path: Path,
    images: np.ndarray,
    columns: int,
    title: str,
    *,
    captions: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
) -> None:
    """Write a PNG with the images uint8 (N, H, W, 3), row by row, each pixel enlarged to a square, on white.

    An image may itself be a strip of several. `captions`, one for each image, stand below; `row_labels`, one for each
    row, stand to the left. Line breaks are kept, and a long title has more. Without images the sheet is its title.
    """
    factor = max(1, TILE // images.shape[1])
    tiles = images.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = tiles.shape
    captions, row_labels = captions or [], row_labels or []
    caption_height = LINE * max((text.count("\n") + 1 for text in captions), default=0)
    cell_width, cell_height = max(width, _widest(captions)) + GAP, height + caption_height + GAP
    left = MARGIN + (_widest(row_labels) + GAP if row_labels else 0)
    sheet_width = max(left + min(columns, count) * cell_width - GAP + MARGIN, 2 * TILE)
    title_lines = [line for part in title.split("\n") for line in _wrap(part, sheet_width - 2 * MARGIN)]
    top = MARGIN + TITLE_LINE * len(title_lines)
    sheet_height = top + -(-count // columns) * cell_height - GAP + MARGIN

    figure = Figure(figsize=(sheet_width / DPI, sheet_height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    pixels = np.full((sheet_height, sheet_width, 3), 255, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        x, y = left + i % columns * cell_width + (cell_width - GAP - width) // 2, top + i // columns * cell_height
        pixels[y : y + height, x : x + width] = tile
        if captions:
            for number, line in enumerate(captions[i].split("\n"), start=1):
                # By its baseline: matplotlib's other places depend on which letters there are.
                at = (x + width / 2) / sheet_width, 1 - (y + height + number * LINE - DESCENT) / sheet_height
                figure.text(*at, line, size=FONT, ha="center", va="baseline")
    for row, label in enumerate(row_labels):
        middle = 1 - (top + row * cell_height + height / 2) / sheet_height
        figure.text((left - GAP) / sheet_width, middle, label, size=FONT, ha="right", va="center")
    figure.text(MARGIN / sheet_width, 1 - MARGIN / 2 / sheet_height, "\n".join(title_lines), size=TITLE_FONT, va="top")
    figure.figimage(pixels)

    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})


def _wrap(text: str, width: int) -> list[str]:
    """The words of `text` in lines that take at most `width` pixels in the title's font, as far as words allow."""
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
    """Pixels that the widest line of `texts` takes in a font of that size: the captions', if nothing is said."""
    renderer = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()
    font = FontProperties(size=size)
    lines = [line for text in texts for line in text.split("\n")]
    return int(max((renderer.get_text_width_height_descent(line, font, False)[0] for line in lines), default=0)) + 1
