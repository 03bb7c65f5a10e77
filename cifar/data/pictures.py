"""Picture files as arrays: any of the usual formats, kinds of pixels and sizes, as RGB squares of one size."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from cifar.system.errors import InputError, is_out_of_memory, one_line

FORMATS = "PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"
NAMES = "PNG, JPEG, WebP, BMP, TIFF or GIF"
LARGEST = 100_000_000  # pixels; a small file can claim more, and would fill the memory
OF_THE_SYSTEM = "thumbs.db", "desktop.ini"  # Windows puts them into folders of pictures
TURNS = {  # by the EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def find_pictures(folder: Path) -> list[Path]:
    """All files in `folder` and in its folders, in the order of their names, the same on every machine.

    Hidden files and folders are left out, and links to folders are not followed. What the other files hold is not
    looked at: `read_picture` does that.
    """
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(parent, name) for name in files if not is_hidden(name)]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def is_hidden(name: str) -> bool:
    """Does the name of a file or folder start with a dot, or is it one that Windows adds?"""
    return name.startswith(".") or name.lower() in OF_THE_SYSTEM


def read_picture(path: Path, size: int) -> np.ndarray:
    """The picture in the file at `path` as RGB, uint8 (size, size, 3).

    The largest square in its middle is resized (bilinear with antialiasing, as torchvision resizes). A picture of
    `size` x `size` pixels keeps its pixels. Orientation by EXIF is applied. Transparent pixels lie on white. 16 bits of
    grey are rounded to 8 bits; of 16 bits of colour or alpha Pillow keeps the upper 8. CMYK is converted without its
    colour profile. Of several frames or pages the first is taken.

    Raises InputError, one line that names the file, if it is no picture, is cut off or damaged, or has more than
    LARGEST pixels. Pillow's warnings are the caller's: see `without_warnings`.
    """
    with _readable(path):
        if not path.is_file():
            raise InputError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; a picture file is needed")
    with _readable(path), open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
        pixels = image.width * image.height
        if pixels > LARGEST:
            raise InputError(
                f"{path} has {image.width:,} x {image.height:,} pixels, more than {LARGEST:,}; save it with fewer"
            )
        image.load()
        if image.mode in ("I", "F"):
            raise InputError(f"{path} has pixels of 32 bits; save it with 8 or 16 bits a channel")
        square = _as_rgb(_cut_centre(_upright(image)))
        return np.array(square.resize((size, size), Image.Resampling.BILINEAR))


def without_warnings() -> warnings.catch_warnings:
    """A context that hides Pillow's warnings about metadata.

    Keep it open around all reading threads: they share Python's warning filters, and two that change them at
    once can leave them wrong.
    """
    return warnings.catch_warnings(action="ignore")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise InputError for whatever Pillow raises in the block."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError:
        what = f"holds no {NAMES} picture" if path.stat().st_size else "is an empty file"
        raise InputError(f"{path} {what}; replace it or delete it") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path} has more than {LARGEST:,} pixels; save it with fewer") from None
    except Exception as error:  # for damaged files Pillow's plugins raise whatever their parsers do
        if is_out_of_memory(error):
            raise
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{path} is cut off or damaged ({reason}); replace it or delete it") from None


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it is if the EXIF data cannot be read."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # EXIF data is parsed only here, and may be anything
        return image
    return image if turn is None else image.transpose(turn)


def _cut_centre(image: Image.Image) -> Image.Image:
    """The largest square in the middle; where half a pixel would be left over, it lies further left or up."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255  # a PNG may name one value that is transparent
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
