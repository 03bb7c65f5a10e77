"""Sheets of images: every pixel, caption and label is where it belongs, whatever the captions say."""

import matplotlib
import numpy as np
import pytest
from pixels import MATPLOTLIBRC, read_png

from cifar.results.sheets import draw_sheet

COLOURS = np.array([[230, 30, 30], [20, 200, 40], [30, 60, 240]], dtype=np.uint8)


def plain(colours: np.ndarray, width: int = 32) -> np.ndarray:
    return np.broadcast_to(colours[:, None, None], (len(colours), 32, width, 3)).copy()


def boxes(sheet: np.ndarray, colour: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of the one area of this colour, which must be a rectangle."""
    ys, xs = np.nonzero((sheet == colour).all(axis=2))
    top, left, height, width = ys.min(), xs.min(), np.ptp(ys) + 1, np.ptp(xs) + 1
    assert len(ys) == height * width
    return int(top), int(left), int(height), int(width)


def test_every_image_stands_whole_in_its_row_and_column(tmp_path):
    draw_sheet(tmp_path / "sheet.png", plain(COLOURS), 2, "Three", captions=["a", "b", "c"])
    sheet = read_png(tmp_path / "sheet.png")
    first, second, third = (boxes(sheet, colour) for colour in COLOURS)
    assert {box[2:] for box in (first, second, third)} == {(128, 128)}  # four times 32
    assert first[0] == second[0] and first[1] + 128 < second[1]
    assert first[1] == third[1] and first[0] + 128 < third[0]


def test_a_pixel_becomes_a_square_of_its_own_colour(tmp_path):
    image = plain(COLOURS[:1])
    image[0, 5, 20] = COLOURS[1]
    draw_sheet(tmp_path / "sheet.png", image, 1, "One")
    sheet = read_png(tmp_path / "sheet.png")
    top, left, height, width = boxes(sheet, COLOURS[1])
    ys, xs = np.nonzero((sheet == COLOURS[0]).all(axis=2))
    assert (top - ys.min(), left - xs.min(), height, width) == (4 * 5, 4 * 20, 4, 4)


def test_a_strip_of_panels_keeps_its_width(tmp_path):
    draw_sheet(tmp_path / "sheet.png", plain(COLOURS[:1], width=97), 1, "Strip", captions=["image and two heatmaps"])
    assert boxes(read_png(tmp_path / "sheet.png"), COLOURS[0])[2:] == (128, 4 * 97)


def test_captions_and_labels_cover_no_image(tmp_path):
    captions = ["true automobile\npredicted automobile 100.0 % sure\nand more"] * 3
    draw_sheet(
        tmp_path / "sheet.png",
        plain(COLOURS),
        2,
        "A title that is long " * 5,
        captions=captions,
        row_labels=["automobile", "truck"],
    )
    sheet = read_png(tmp_path / "sheet.png")
    found = [boxes(sheet, colour) for colour in COLOURS]  # each is whole
    ink = (sheet < 128).all(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert rows.max() < len(sheet) - 4 and rows.min() > 2  # nothing is cut off
    assert columns.max() < sheet.shape[1] - 4 and columns.min() > 4
    assert ink[:, : found[0][1]].any()  # labels to the left
    gap = slice(found[0][1] + 128 + 1, found[1][1] - 1)
    middle = (gap.start + gap.stop) // 2
    assert not ink[found[0][0] :, middle - 2 : middle + 2].any()  # and captions side by side do not touch


def test_a_long_title_fills_its_lines_and_stays_inside(tmp_path):
    draw_sheet(tmp_path / "sheet.png", plain(np.repeat(COLOURS, 2, axis=0)), 6, "illicit iliac lilies " * 12)
    ink = (read_png(tmp_path / "sheet.png") < 128).all(axis=2)
    rows = np.flatnonzero(ink.any(axis=1))
    first_line = ink[rows.min() : rows.min() + 12]  # narrow letters: counting them would end it early
    end = np.flatnonzero(first_line.any(axis=0)).max()
    assert ink.shape[1] - 16 - 60 < end < ink.shape[1] - 16  # no word is 60 pixels wide


def test_captions_side_by_side_stand_on_the_same_lines(tmp_path):
    captions = ["true: eel\npredicted: frog", "true: eagle\nx", "true: lily\npredicted: cat"]  # an l in each first line
    draw_sheet(tmp_path / "sheet.png", plain(COLOURS), 3, "Three", captions=captions)
    sheet = read_png(tmp_path / "sheet.png")
    images = [boxes(sheet, colour) for colour in COLOURS]
    inks = [(sheet[top + height :, left : left + width] < 128).all(axis=2) for top, left, height, width in images]
    tops = [np.flatnonzero(ink.any(axis=1)).min() for ink in inks]  # of the l
    assert len(set(tops)) == 1


def draw_captions(path, *captions: str, **options) -> np.ndarray:
    """A sheet with a white image for each caption, side by side."""
    images = np.full((len(captions), 32, 32, 3), 255, np.uint8)
    draw_sheet(path, images, len(captions), "Title", captions=captions, **options)
    return read_png(path)


def test_each_line_of_a_caption_has_its_colour(tmp_path):
    images = np.full((2, 32, 32, 3), 255, np.uint8)
    captions, colours = ["one\ntwo\nthree", "one\ntwo\nthree"], ["#1a7f37", "#b3261e"]
    draw_sheet(tmp_path / "sheet.png", images, 2, "Title", captions=captions, caption_colours=colours)
    sheet = read_png(tmp_path / "sheet.png")
    rows = [np.flatnonzero((sheet == colour).all(axis=2).any(axis=1)) for colour in ([26, 127, 55], [179, 38, 30])]
    black = np.flatnonzero((sheet[100:] == 0).all(axis=2).any(axis=1)) + 100  # the title is above
    assert rows[0].max() < rows[1].min() and rows[1].max() < black.min()


def test_dollar_signs_and_backslashes_are_drawn_as_they_are(tmp_path):
    draw_captions(tmp_path / "bad.png", "$\\bad$", "$x$", "_^{}%#&")  # matplotlib knows no \\bad
    widths = []
    for text in ("x", "$x$"):
        ink = (draw_captions(tmp_path / "x.png", text)[60:] < 128).any(axis=(0, 2))  # without the title
        widths.append(np.ptp(np.flatnonzero(ink)))
    assert widths[1] > widths[0] + 10


def test_control_characters_are_escaped(tmp_path):
    raw = draw_captions(tmp_path / "sheet.png", "a\x1b[31mb\u202e\x07")
    assert np.array_equal(raw, draw_captions(tmp_path / "sheet.png", "a\\x1b[31mb\\u202e\\x07"))


def test_a_letter_that_the_font_lacks_is_drawn_without_a_warning(tmp_path, recwarn):
    draw_captions(tmp_path / "sheet.png", "\u732b")  # cat, in Chinese
    assert not recwarn


def test_a_caption_of_40_000_letters_is_shortened(tmp_path):
    long = draw_captions(tmp_path / "sheet.png", "a" * 40_000 + "b", "c")
    assert np.array_equal(long, draw_captions(tmp_path / "sheet.png", "a" * 20 + " ... " + "a" * 19 + "b", "c"))
    draw_sheet(tmp_path / "sheet.png", plain(COLOURS), 3, "Title", row_labels=["a" * 40_000])
    assert read_png(tmp_path / "sheet.png").shape[1] < 1000


def test_the_same_sheet_has_the_same_bytes_whatever_matplotlibrc_says(tmp_path):
    for name, settings in ("one.png", {}), ("other.png", {}), ("third.png", MATPLOTLIBRC):
        with matplotlib.rc_context(settings):
            draw_sheet(tmp_path / name, plain(COLOURS), 2, "Three", captions=["a", "b", "c"], row_labels=["d", "e"])
            assert matplotlib.rcParams["font.size"] == settings.get("font.size", 10)  # the user's settings come back
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "third.png").read_bytes()


@pytest.mark.parametrize("captions", [[], ()])
def test_a_sheet_without_images_is_its_title(tmp_path, captions):
    draw_sheet(tmp_path / "sheet.png", plain(COLOURS)[:0], 5, "No mistakes", captions=captions)
    assert (read_png(tmp_path / "sheet.png") < 128).any()
