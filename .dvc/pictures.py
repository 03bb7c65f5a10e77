"""Draw a small folder of pictures to try `dataset: folder` with: what `make pictures` does.

360 pictures of six classes of shapes go into data/images/. They are PNG and JPEG files, of 30x20 to 400x300 pixels, the
same ones each time. Pictures of other classes stay. A folder of one of these names with other files is refused.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from cifar.data.shapes import SHAPES
from cifar.system.errors import InputError
from cifar.system.files import replacing
from cifar.system.stage import run

FOLDER = Path("data/images")
CLASSES = "arrow", "circle", "cross", "ring", "star", "triangle"
OF_EACH = 60
SMALLEST, LARGEST = (30, 20), (400, 300)  # pixels
SMOOTH = 2  # a picture is drawn this many times larger, and then reduced


def main() -> None:
    if not (FOLDER / "README.md").exists():
        sys.exit(f"error: {FOLDER}/README.md is missing; run this from the root of the repository")
    for name in CLASSES:
        ours = {file_name(name, k) for k in range(OF_EACH)}
        if others := sorted({path.name for path in (FOLDER / name).glob("[!.]*")} - ours):
            raise InputError(f"{FOLDER}/{name}/ has other files, for example {others[0]}; rename this folder first")
    for number, name in enumerate(CLASSES):
        for k in range(OF_EACH):
            with replacing(FOLDER / name / file_name(name, k)) as part:
                draw(name, np.random.default_rng([number, k])).save(part, format="PNG" if k % 2 else "JPEG")
    print(f"written: {FOLDER}/{{{','.join(CLASSES)}}}/: {OF_EACH} pictures each")


def file_name(name: str, k: int) -> str:
    return f"{name}-{k:02d}.{'png' if k % 2 else 'jpg'}"


def draw(name: str, random: np.random.Generator) -> Image.Image:
    """A picture of the shape: in any colours, of any size, turned, somewhere near the middle."""
    share = random.random()
    width, height = (round(a + share * (b - a)) for a, b in zip(SMALLEST, LARGEST, strict=True))
    if random.random() < 0.3:
        width, height = height, width
    side = min(width, height)
    radius, angle = side * random.uniform(0.3, 0.42), random.uniform(0, 2 * np.pi)
    room = side / 2 - radius
    centre_y, centre_x = height / 2 + room * random.uniform(-1, 1), width / 2 + room * random.uniform(-1, 1)
    y, x = np.mgrid[0 : SMOOTH * height, 0 : SMOOTH * width].astype(np.float32) / SMOOTH
    x, y = (x - centre_x) / radius, (y - centre_y) / radius
    inside = SHAPES[name](np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x)
    background = random.uniform(0, 1, 3)
    foreground = (background + random.uniform(0.35, 0.65, 3)) % 1
    pixels = np.where(inside[..., None], foreground, background) + random.normal(0, 0.03, (*inside.shape, 1))
    image = Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BOX)


if __name__ == "__main__":
    run(main, "run `make pictures` again")
