import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from cifar.data.pictures import find_pictures, read_picture
from cifar.system.errors import InputError

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
LOSSLESS = {"a.png": {}, "a.bmp": {}, "a.tiff": {}, "a.TIF": {"compression": "tiff_lzw"}, "a.webp": {"lossless": True}}
FORMATS = [*LOSSLESS, "a.jpg", "a.gif"]


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def smooth(height: int, width: int) -> np.ndarray:
    """A gradient, which JPEG and a palette keep to within a few levels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y / height, 255 * x / width, 0 * x + 128], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("name", "options"), LOSSLESS.items())
def test_a_picture_of_the_right_size_keeps_its_pixels(tmp_path, name, options):
    Image.fromarray(PIXELS).save(tmp_path / name, **options)
    np.testing.assert_array_equal(read_picture(tmp_path / name, 32), PIXELS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_shows_the_same_picture(tmp_path, name):
    Image.fromarray(smooth(60, 90)).save(tmp_path / name)
    found, expected = read_picture(tmp_path / name, 24), smooth(60, 90)[:, 15:75]
    assert found.shape == (24, 24, 3) and found.dtype == np.uint8
    by_torch = functional.resize(torch.from_numpy(expected).permute(2, 0, 1), [24, 24], antialias=True)
    assert np.abs(found.astype(int) - by_torch.permute(1, 2, 0).numpy()).mean() < 6


@pytest.mark.parametrize(("height", "width"), [(20, 30), (48, 31), (300, 400), (97, 641)])
@pytest.mark.parametrize("size", [16, 64])
def test_the_shorter_side_is_resized_with_antialiasing_and_the_centre_cut(tmp_path, height, width, size):
    pixels, side = RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8), min(height, width)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(pixels[top : top + side, left : left + side]).permute(2, 0, 1)
    expected = functional.resize(square, [size, size], antialias=True).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(read_picture(tmp_path / "a.png", size) - expected).max() <= 1  # torch rounds in another way


def test_grey_palette_and_black_and_white_become_rgb(tmp_path):
    grey = Image.fromarray(PIXELS[..., 0])
    for name, image in {"l.png": grey, "p.png": grey.convert("P"), "l.tif": grey}.items():
        image.save(tmp_path / name)
        np.testing.assert_array_equal(read_picture(tmp_path / name, 32), np.repeat(PIXELS[..., :1], 3, axis=2))
    Image.fromarray(PIXELS[..., 0] > 127).save(tmp_path / "1.png")
    assert np.unique(read_picture(tmp_path / "1.png", 32)).tolist() == [0, 255]


def test_transparent_pixels_lie_on_white(tmp_path):
    alpha = np.zeros((32, 32, 1), np.uint8)
    alpha[:16], alpha[16:20] = 255, 51  # the upper half is opaque, four rows are a fifth so
    Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)).save(tmp_path / "rgba.png")
    found = read_picture(tmp_path / "rgba.png", 32).astype(int)
    np.testing.assert_array_equal(found[:16], PIXELS[:16])
    assert np.abs(found[16:20] - (0.8 * 255 + 0.2 * PIXELS[16:20])).max() <= 1
    assert (found[20:] == 255).all()

    palette = Image.fromarray((PIXELS[..., 0] > 127).astype(np.uint8), mode="P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    for name in ("p.png", "p.gif"):
        palette.save(tmp_path / name, transparency=0)
        found = read_picture(tmp_path / name, 32)
        assert (found[PIXELS[..., 0] > 127] == [0, 0, 255]).all()
        assert (found[PIXELS[..., 0] <= 127] == 255).all()


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    values = RANDOM.integers(0, 2**16, (32, 32), dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        found = read_picture(tmp_path / name, 32)
        assert np.abs(found - values[..., None] / 257).max() <= 0.5


def png_of_16_bits(values: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG file of pixels uint16 (H, W, 1 to 4): grey, grey with alpha, RGB or RGBA; Pillow writes only grey."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\x00" + row.tobytes() for row in values.astype(">u2"))
    return png(chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)))


def test_of_sixteen_bits_of_colour_or_alpha_the_upper_eight_are_kept(tmp_path):
    values = RANDOM.integers(0, 2**16, (32, 32, 4), dtype=np.uint16)
    (tmp_path / "rgb.png").write_bytes(png_of_16_bits(values[..., :3]))
    cv2.imwrite(str(tmp_path / "rgb.tif"), values[..., 2::-1])
    for name in ("rgb.png", "rgb.tif"):
        np.testing.assert_array_equal(read_picture(tmp_path / name, 32), values[..., :3] >> 8)
    for name, kept in {"rgba.png": values, "la.png": values[..., [0, 3]]}.items():
        (tmp_path / name).write_bytes(png_of_16_bits(kept))
        colour, alpha = kept[..., :-1] >> 8, (kept[..., -1:] >> 8) / 255
        assert np.abs(read_picture(tmp_path / name, 32) - (alpha * colour + (1 - alpha) * 255)).max() <= 1


def test_the_transparent_value_of_sixteen_bits_of_grey_lies_on_white(tmp_path):
    values = RANDOM.integers(0, 2**16, (32, 32, 1), dtype=np.uint16)
    values[:8], values[8:16] = 1000, 1001
    (tmp_path / "a.png").write_bytes(png_of_16_bits(values, chunk(b"tRNS", struct.pack(">H", 1000))))
    found = read_picture(tmp_path / "a.png", 32)
    assert (found[:8] == 255).all() and (found[8:16] == 4).all()  # 1001 / 257 = 3.9


def test_cmyk_is_converted(tmp_path):
    cmyk = np.zeros((32, 32, 4), np.uint8)
    cmyk[:16, :, 0] = 255  # full cyan above, blank paper below
    for name in ("a.jpg", "a.tif"):
        Image.fromarray(cmyk, mode="CMYK").save(tmp_path / name)
        found = read_picture(tmp_path / name, 32).astype(int)
        assert np.abs(found[:12] - [0, 255, 255]).max() < 8 and np.abs(found[20:] - 255).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    image, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: np.rot90,
    }  # fmt: skip
    for name in ("a.png", "a.tif"):
        image.save(tmp_path / name, exif=exif)
        np.testing.assert_array_equal(read_picture(tmp_path / name, 32), upright[orientation](PIXELS))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_does_not_matter(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", 32), PIXELS)


@pytest.mark.parametrize(
    ("tag", "kind", "value"), [(0x0100, 12, struct.pack("<d", 32)), (0x8769, 9, b"\xfb\xff\xff\xff")]
)
def test_exif_data_that_pillow_cannot_write_again_are_not_written(tmp_path, tag, kind, value):
    """A width of 64-bit float, and a folder of tags at the place -5."""
    entries = sorted([(0x0112, 3, struct.pack("<HH", 6, 0)), (tag, kind, value)])
    inline = b"".join(
        struct.pack("<HHI", tag, kind, 1) + (value if len(value) == 4 else struct.pack("<I", 8 + 2 + 2 * 12 + 4))
        for tag, kind, value in entries
    )
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x02\x00" + inline + bytes(4) + value
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", 32), np.rot90(PIXELS, -1))


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert (read_picture(tmp_path / name, 32) == [255, 0, 0]).all()


def test_a_picture_is_known_by_its_content_not_by_its_name(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.jpg", 32), PIXELS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_file_that_is_cut_off_is_one_line(tmp_path, name, share):
    Image.fromarray(smooth(60, 90)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=rf"^\S+{name} (is cut off or damaged|holds no PNG).*replace it or delete it$"):
        read_picture(tmp_path / name, 32)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is an empty file"),
        (b"my notes", "holds no PNG, JPEG, WebP, BMP, TIFF or GIF picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "holds no PNG"),
        (b"P6 1 1 255\n\xff\x00\x00", "holds no PNG"),
    ],
)
def test_what_is_no_picture_is_one_line(tmp_path, content, told):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=f"a.png {told}.*; replace it or delete it$"):
        read_picture(tmp_path / "a.png", 32)


def png_of(width: int, height: int) -> bytes:
    """A PNG file of a few bytes whose header promises a black image of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png(chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (2_000_000, 2_000_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_takes_memory(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(png_of(width, height))
    with pytest.raises(InputError, match="a.png has .*more than 100,000,000.*; save it with fewer"):
        read_picture(tmp_path / "a.png", 32)


def test_pixels_of_32_bits_are_one_line(tmp_path):
    Image.fromarray(np.zeros((32, 32), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="a.tif has pixels of 32 bits; save it with 8 or 16 bits"):
        read_picture(tmp_path / "a.tif", 32)


def test_no_file_a_folder_and_a_pipe_are_one_line(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, told in {"none": "is missing", "folder": "is a folder", "pipe": "is missing"}.items():
        with pytest.raises(InputError, match=f"{name}.png {told}"):
            read_picture(tmp_path / f"{name}.png", 32)


def test_pictures_are_listed_in_the_order_of_their_names(tmp_path):
    for name in (
        "b/2.png",
        "b/10.png",
        "a.png",
        "Z.png",
        "b.png",
        ".DS_Store",
        ".git/1.png",
        "b/Thumbs.db",
        "b/Desktop.ini",
        "b/._2.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    listed = [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path)]
    assert listed == ["Z.png", "a.png", "b/10.png", "b/2.png", "b.png"]
