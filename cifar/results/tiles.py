"""Small images for a web page: many of them in one PNG, from which the page cuts its tiles."""

import base64
import io
import math
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image

COLUMNS = 25
LEVELS = 64  # colours of a heatmap; fewer make smaller files
STOPS = 8  # colours of the bar that explains them
INFERNO = (255 * matplotlib.colormaps["inferno"](np.linspace(0, 1, LEVELS))[:, :3]).round().astype(np.uint8)
TILE = 96  # pixels on the screen at most, by a whole factor, so that all pixels of an image are equally large


class Sheet(NamedTuple):
    """A PNG as a data URI, with tiles row by row; `side` is the width of a tile on the screen in CSS pixels."""

    uri: str
    columns: int
    rows: int
    side: int

    def place(self, number: int) -> tuple[int, int]:
        """The column and the row of a tile."""
        return number % self.columns, number // self.columns


def image_sheet(images: np.ndarray, tile: int = TILE) -> Sheet:
    """A sheet of the images uint8 (N, H, W, 3), each at most `tile` CSS pixels wide."""
    return _sheet(images, tile, lambda pixels: Image.fromarray(pixels, "RGB"))


def heatmap_sheet(maps: np.ndarray) -> Sheet:
    """A sheet of the maps uint8 (N, H, W), in matplotlib's inferno from black (0) to yellow (255)."""

    def coloured(pixels: np.ndarray) -> Image.Image:
        picture = Image.fromarray(pixels // (256 // LEVELS), "P")
        picture.putpalette(INFERNO.tobytes())
        return picture

    return _sheet(maps, TILE, coloured)


def colour_bar() -> list[str]:
    """The colours of heatmaps from the least to the most, as CSS writes them."""
    return [f"#{INFERNO[round(k * (LEVELS - 1) / (STOPS - 1))].tobytes().hex()}" for k in range(STOPS)]


def _sheet(tiles: np.ndarray, tile: int, to_image) -> Sheet:
    tiles = _fitted(tiles, tile)
    count, height, width = tiles.shape[:3]
    columns, rows = max(1, min(COLUMNS, count)), max(1, math.ceil(count / COLUMNS))
    pixels = np.zeros((rows * height, columns * width, *tiles.shape[3:]), np.uint8)
    for number, each in enumerate(tiles):
        y, x = number // columns * height, number % columns * width
        pixels[y : y + height, x : x + width] = each
    file = io.BytesIO()
    to_image(pixels).save(file, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Sheet(uri, columns, rows, max(1, tile // width) * width)


def _fitted(tiles: np.ndarray, tile: int) -> np.ndarray:
    """Tiles uint8 (N, H, W) or (N, H, W, 3), made smaller where they are higher or wider than `tile` pixels."""
    height, width = tiles.shape[1:3]
    largest = max(height, width)
    if largest <= tile or not len(tiles):
        return tiles
    size = max(1, round(width * tile / largest)), max(1, round(height * tile / largest))
    return np.stack([np.asarray(Image.fromarray(each).resize(size, Image.Resampling.LANCZOS)) for each in tiles])
