"""Pictures that need no file: ten shapes, drawn on backgrounds that try to hide them.

They have CIFAR's format, 32x32x3 and ten classes.  The class is only in the outline, never in the colour, the place,
the size or the angle: a linear model stays near chance, and depth helps.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np

from ..errors import ArgumentError
from .dataset import Dataset

SIZE = 32  # pixels, both ways
CHUNK = 250  # images drawn together from one random stream; small enough for the cache

# An outline is given by a distance, negative inside, in a frame where the shape fills about -1..1.


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.85


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - 0.7) - 0.2


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.75


def _frame(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.62) - 0.18


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    slope = np.sqrt(3) / 2
    return np.maximum(-v, 0.5 * v + slope * np.abs(u)) - 0.52


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points: fold the plane onto a tenth of a turn, where one straight edge is left."""
    tenth = np.pi / 5
    angle = np.abs(np.mod(np.arctan2(v, u), 2 * tenth) - tenth)
    radius = np.hypot(u, v)
    valley, tip = np.array([0.42, 0.0]), 1.05 * np.array([np.cos(tenth), np.sin(tenth)])
    along = (tip - valley) / np.hypot(*(tip - valley))
    x, y = radius * np.cos(angle) - valley[0], radius * np.sin(angle)
    return x * along[1] - y * along[0]


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - 0.9, np.minimum(u, v) - 0.27)


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(u, v) - 0.9, 0.72 - np.hypot(u - 0.5, v))


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Three bars."""
    bar = v - 0.62 * np.clip(np.rint(v / 0.62), -1, 1)
    return np.maximum(np.abs(u) - 0.8, np.abs(bar) - 0.17)


def _bowtie(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u) - 0.85, (np.abs(v) - 0.1 - 0.85 * np.abs(u)) * 0.76)


OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "stripes": _stripes,
    "bowtie": _bowtie,
}


def shapes(n: int, seed: int = 0) -> Dataset:
    """Draw pictures (n, 32, 32, 3) of ten shapes, one in each.

    Every ten pictures in a row hold each class once.

    Args:
        n: how many pictures.
        seed: all that the pictures depend on: ``shapes(100, 7)`` is the beginning of ``shapes(1000, 7)``.  Take another
            seed for test pictures.

    Raises:
        ArgumentError: ``n`` is not a whole number of at least 1, or ``seed`` not one of at least 0.
    """
    for argument, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < least:
            raise ArgumentError(f"shapes: {argument} must be a whole number of {least} or more, got {value!r}.")
    images = np.empty((n, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.empty(n, dtype=np.int64)
    for chunk, start in enumerate(range(0, n, CHUNK)):
        generator = np.random.default_rng(np.random.SeedSequence(operator.index(seed), spawn_key=(chunk,)))
        part = slice(start, min(start + CHUNK, n))
        drawn, classes = _draw(generator)
        images[part], labels[part] = drawn[: n - start], classes[: n - start]
    return Dataset(images, labels, tuple(OUTLINES), f"shapes (seed {seed})")


def _draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw CHUNK pictures: background, clutter, the shape, a little clutter in front of it, noise."""
    tens = np.tile(np.arange(len(OUTLINES)), (CHUNK // len(OUTLINES), 1))
    labels = generator.permuted(tens, axis=1).reshape(-1)

    ground = generator.uniform(50, 205, (CHUNK, 1, 1, 3)).astype(np.float32)
    image = ground + _texture(generator, amplitude=16) + _texture(generator, amplitude=10)
    for _ in range(2):
        image = _paint(image, _stroke(generator), ground + _contrast(generator, 20, 60))
    ink = ground + _contrast(generator, 60, 140) + _texture(generator, amplitude=10)
    image = _paint(image, _shape(generator, labels), ink)
    image = _paint(image, _stroke(generator), ground + _contrast(generator, 20, 60))

    noise = generator.standard_normal(image.shape, dtype=np.float32)
    noise *= generator.uniform(2, 10, (CHUNK, 1, 1, 1)).astype(np.float32)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8), labels


def _paint(image: np.ndarray, cover: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Lay ``ink`` over the image where ``cover`` (CHUNK, 32, 32) is 1."""
    return image + cover[..., np.newaxis] * (ink - image)


def _cover(distance: np.ndarray) -> np.ndarray:
    """How much of each pixel lies inside, 0 to 1, from the distance to the outline in pixels."""
    return np.clip(0.5 - distance, 0, 1).astype(np.float32)


def _shape(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Where the shapes are: any angle, 6.5 to 12.5 pixels from centre to edge, stretched by up to a quarter."""
    radius = _each(generator, 6.5, 12.5)
    room = SIZE / 2 - 0.85 * radius
    stretch = np.exp(_each(generator, -0.2, 0.2))
    x, y = _pixels()
    u, v = _turn(x - room * _each(generator, -1, 1), y - room * _each(generator, -1, 1), _each(generator, 0, 2 * np.pi))
    u, v = u * stretch / radius, v / stretch / radius
    distance = np.empty(u.shape, dtype=np.float32)
    for label, outline in enumerate(OUTLINES.values()):
        chosen = labels == label
        distance[chosen] = outline(u[chosen], v[chosen])
    return _cover(distance * radius)


def _stroke(generator: np.random.Generator) -> np.ndarray:
    """Clutter: a short straight stroke with round ends, 1 to 4 pixels wide, anywhere."""
    x, y = _pixels()
    u, v = _turn(x - _each(generator, -15, 15), y - _each(generator, -15, 15), _each(generator, 0, np.pi))
    half = _each(generator, 0, 7)
    return _cover(np.hypot(u - np.clip(u, -half, half), v) - _each(generator, 0.5, 2))


def _texture(generator: np.random.Generator, amplitude: float) -> np.ndarray:
    """Coloured waves (CHUNK, 32, 32, 3) of up to ``amplitude`` grey levels and half a wave to 4 waves across."""
    x, y = _pixels()
    u, _ = _turn(x, y, _each(generator, 0, 2 * np.pi))
    wave = np.sin(u * (2 * np.pi / SIZE * _each(generator, 0.5, 4)) + _each(generator, 0, 2 * np.pi))
    return wave[..., np.newaxis] * generator.uniform(-amplitude, amplitude, (CHUNK, 1, 1, 3)).astype(np.float32)


def _contrast(generator: np.random.Generator, least: float, most: float) -> np.ndarray:
    """Random steps in colour (CHUNK, 1, 1, 3), ``least`` to ``most`` grey levels long."""
    step = generator.standard_normal((CHUNK, 1, 1, 3), dtype=np.float32)
    step /= np.linalg.norm(step, axis=-1, keepdims=True)
    return step * _each(generator, least, most)[..., np.newaxis]


def _each(generator: np.random.Generator, low: float, high: float) -> np.ndarray:
    """One random number for each picture, (CHUNK, 1, 1)."""
    return generator.uniform(low, high, (CHUNK, 1, 1)).astype(np.float32)


def _pixels() -> tuple[np.ndarray, np.ndarray]:
    """x (1, 1, 32) and y (1, 32, 1) of the pixels' centres, measured from the middle of the picture."""
    steps = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    return steps.reshape(1, 1, SIZE), steps.reshape(1, SIZE, 1)


def _turn(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates of (x, y) in a frame turned by ``angle`` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x
