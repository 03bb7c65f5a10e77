"""The built-in data set: ten classes of shapes, drawn from a seed, with the mask of each shape."""

from collections.abc import Callable

import numpy as np

from cifar.data.splits import Split

SIZE = 32  # pixels a side, as in CIFAR-10
SUBSAMPLES = 3  # a side of each pixel: the antialiasing
STREAM = 0x5A9E5  # part of the random key: keeps these numbers apart from those of (seed, epoch, batch)
BLOCK = 256  # images drawn at a time, to bound the memory

# A shape is a function from points x, y to whether each is inside. Its centre is 0, 0, its radius 1, and it points up.
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def disc(x: np.ndarray, y: np.ndarray, radius: float = 1.0) -> np.ndarray:
    return x * x + y * y < radius * radius


def arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    head = (y > 0) & (np.abs(x) < 0.9 * (1 - y))
    shaft = (np.abs(y + 0.48) < 0.48) & (np.abs(x) < 0.28)
    return head | shaft


def bar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) < 0.25) & (np.abs(y) < 0.97)


def crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return disc(x, y) & ~disc(x - 0.45, y, 0.8)


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return (np.minimum(x, y) < 0.27) & (np.maximum(x, y) < 0.96)


def hourglass(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) < 0.9 * np.abs(y) + 0.05) & (np.abs(y) < 0.72)


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return disc(x, y) & ~disc(x, y, 0.58)


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) < 0.7


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The pentagram: the points on the inner side of at least four of its five lines."""
    angles = np.pi / 5 * np.arange(1, 10, 2, dtype=np.float32)
    inner = np.cos(2 * np.pi / 5, dtype=np.float32)  # the lines' distance from the centre
    return sum((np.sin(a) * x + np.cos(a) * y < inner).astype(np.uint8) for a in angles) >= 4


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (y > -0.5) & (np.sqrt(np.float32(3)) * np.abs(x) + y < 1)


SHAPES: dict[str, Shape] = {
    "arrow": arrow,
    "bar": bar,
    "circle": disc,
    "crescent": crescent,
    "cross": cross,
    "hourglass": hourglass,
    "ring": ring,
    "square": square,
    "star": star,
    "triangle": triangle,
}
CLASSES = list(SHAPES)


def draw_split(count: int, seed: int, split: str) -> tuple[Split, np.ndarray]:
    """`count` images of the split `train` or `test`, and the masks bool (N, 32, 32) of their shapes.

    Colours, size, position, rotation, background and noise are random. The classes are as balanced as `count` allows,
    in random order. The same arguments always give the same images.
    """
    random = np.random.default_rng([seed, STREAM, ("train", "test").index(split)])
    labels = random.permutation(np.arange(count) % len(CLASSES)).astype(np.uint8)
    blocks = [draw_block(labels[start : start + BLOCK], random) for start in range(0, count, BLOCK)]
    images, masks = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return Split(images, labels), masks


def draw_block(labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) of the shapes that `labels` (N,) name, and their masks bool (N, 32, 32)."""
    background, foreground = draw_backgrounds(len(labels), random)
    coverage = draw_coverage(labels, random)[..., None]  # (N, 32, 32, 1)
    images = background + coverage * (foreground - background)
    noise = random.uniform(0, 0.05, (len(labels), 1, 1, 1)).astype(np.float32)
    images += noise * random.standard_normal(images.shape, dtype=np.float32)
    return np.rint(255 * images.clip(0, 1)).astype(np.uint8), coverage[..., 0] > 0.5


def draw_coverage(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """How much of each pixel the rotated shape covers, float32 in [0, 1] (N, 32, 32); all of it is inside the image."""
    radius = random.uniform(10, 13.5, len(labels))  # pixels
    angle = random.uniform(0, 2 * np.pi, len(labels))
    centre = random.uniform(radius, SIZE - radius, (2, len(labels))).astype(np.float32)
    cos, sin = ((f(angle) / radius).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    points = (np.arange(SIZE * SUBSAMPLES, dtype=np.float32) + 0.5) / SUBSAMPLES
    x, y = points - centre[0, :, None, None], points[:, None] - centre[1, :, None, None]  # (N, 1, 96), (N, 96, 1)
    x, y = cos * x + sin * y, cos * y - sin * x  # (N, 96, 96)
    inside = np.empty(x.shape, dtype=bool)
    for label, shape in enumerate(SHAPES.values()):
        has_shape = labels == label
        inside[has_shape] = shape(x[has_shape], y[has_shape])
    pixels = inside.reshape(len(labels), SIZE, SUBSAMPLES, SIZE, SUBSAMPLES)
    return pixels.mean(axis=(2, 4), dtype=np.float32)


def draw_backgrounds(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Backgrounds float32 (N, 32, 32, 3) in [0, 1], and a foreground colour (N, 1, 1, 3) that stands out from each.

    A background is plain, a gradient, stripes or checks of two colours that differ by at most 0.2 in each channel.
    """
    first = random.random((count, 1, 1, 3), dtype=np.float32)
    second = (first + random.uniform(-0.2, 0.2, first.shape).astype(np.float32)).clip(0, 1)
    foreground = (first + random.uniform(0.4, 0.6, first.shape).astype(np.float32)) % 1  # at least 0.4 from the first

    angle = random.uniform(0, 2 * np.pi, (count, 1, 1))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    points = np.arange(SIZE, dtype=np.float32) / SIZE - 0.5
    u, v = cos * points + sin * points[:, None], cos * points[:, None] - sin * points  # (N, 32, 32)
    frequency = random.uniform(2, 5, (count, 1, 1)).astype(np.float32)
    stripes, across = u * frequency % 1 < 0.5, v * frequency % 1 < 0.5
    patterns = [np.zeros_like(u), u.clip(-0.5, 0.5) + 0.5, stripes, stripes ^ across]
    mix = np.choose(random.integers(len(patterns), size=(count, 1, 1)), patterns)[..., None]
    return first + mix.astype(np.float32) * (second - first), foreground
