"""Dataset, the digits, the drawn shapes, and what minires.data may import."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest

import minires.data
from minires.data import Dataset, digits, shapes
from minires.data.synthetic import CHUNK, OUTLINES, _shape
from minires.errors import ArgumentError, DataError

pytestmark = pytest.mark.host_only("files and bytes on the host")


def small(n=6, classes=3):
    images = np.arange(n * 4 * 5 * 2, dtype=np.int64).reshape(n, 4, 5, 2).astype(np.uint8)
    return Dataset(images, np.arange(n) % classes, tuple("abcdefghij"[:classes]), "small")


# Dataset


def test_dataset_knows_its_sizes():
    data = small()
    assert len(data) == 6
    assert data.image_shape == (4, 5, 2)
    assert data.labels.dtype == np.int64
    assert repr(data) == "Dataset('small': 6 images 4x5x2, 3 classes)"


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_of_any_whole_dtype_become_int64(dtype):
    assert Dataset(small().images, np.zeros(6, dtype), ("a",)).labels.dtype == np.int64


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (np.zeros((6, 4, 5), np.uint8), np.zeros(6, int), r"\(N, H, W, C\), got uint8 \(6, 4, 5\)"),
        (np.zeros((6, 4, 5, 2), np.float32), np.zeros(6, int), "uint8 array .*, got float32"),
        (np.zeros((6, 4, 5, 2), np.uint8), np.zeros((6, 3), int), r"shape \(N,\), got int64 \(6, 3\)"),
        (np.zeros((6, 4, 5, 2), np.uint8), np.zeros(6), "whole numbers .* got float64"),
        (np.zeros((6, 4, 5, 2), np.uint8), np.zeros(5, int), "6 images but 5 labels"),
        (np.zeros((0, 4, 5, 2), np.uint8), np.zeros(0, int), "no images"),
        (np.zeros((6, 4, 5, 2), np.uint8), np.full(6, 3), "from 3 to 3, but 3 classes allow 0 to 2"),
        (np.zeros((6, 4, 5, 2), np.uint8), np.full(6, -1), "from -1 to -1"),
    ],
)
def test_what_does_not_fit_together_is_refused(images, labels, sentence):
    with pytest.raises(DataError, match=sentence):
        Dataset(images, labels, ("a", "b", "c"))


@pytest.mark.parametrize("index", [slice(1, 5, 2), [1, 3], np.array([False, True, False, True, False, False])])
def test_subset_takes_pictures_with_their_labels(index):
    data, part = small(), small().subset(index)
    np.testing.assert_array_equal(part.images, data.images[[1, 3]])
    np.testing.assert_array_equal(part.labels, data.labels[[1, 3]])
    assert (part.classes, part.name) == (data.classes, data.name)


@pytest.mark.parametrize(
    ("index", "error", "sentence"),
    [
        ([6], ArgumentError, "has 6 images.*out of bounds"),
        ([0.5], ArgumentError, "row of whole numbers, got float64"),
        ([[0]], ArgumentError, "row of whole numbers"),
        ([True], ArgumentError, "has 6 images"),
        ([], DataError, "no images"),
        (slice(6, None), DataError, "no images"),
    ],
)
def test_subset_refuses_what_it_cannot_give(index, error, sentence):
    with pytest.raises(error, match=sentence):
        small().subset(index)


def test_split_in_order():
    first, rest = small().split(4)
    np.testing.assert_array_equal(first.images, small().images[:4])
    np.testing.assert_array_equal(rest.images, small().images[4:])


@pytest.mark.parametrize("seed", [None, 0])
def test_the_part_that_split_holds_out_can_be_told_by_its_name(seed):
    assert [part.name for part in small().split(4, seed)] == ["small", "small (held out)"]


def test_split_with_a_seed_permutes_and_loses_nothing():
    data = Dataset(np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), np.arange(100), tuple(map(str, range(100))))
    first, rest = data.split(70, seed=3)
    assert (len(first), len(rest)) == (70, 30)
    assert sorted([*first.labels, *rest.labels]) == list(range(100))
    assert list(first.labels) != list(range(70))
    np.testing.assert_array_equal(first.images.ravel(), first.labels)  # labels went along
    np.testing.assert_array_equal(first.labels, data.split(70, seed=3)[0].labels)
    assert list(first.labels) != list(data.split(70, seed=4)[0].labels)


@pytest.mark.parametrize("n", [0, 6, -1, 2.0, True, None])
def test_split_leaves_no_part_empty(n):
    with pytest.raises(ArgumentError, match="split: n must be a whole number from 1 to 5"):
        small().split(n)


def test_take():
    np.testing.assert_array_equal(small().take(np.int64(2)).images, small().images[:2])
    assert len(small().take(6)) == 6
    for n in (0, 7):
        with pytest.raises(ArgumentError, match="take: n must be a whole number from 1 to 6"):
            small().take(n)


# digits


def test_digits_are_all_there_and_scaled():
    train, test = digits()
    assert (len(train), len(test)) == (1437, 360)
    assert train.image_shape == test.image_shape == (8, 8, 1)
    assert (train.name, test.name) == ("digits train", "digits test")
    assert set(np.unique(train.images)) == {int(v * 255 / 16 + 0.5) for v in range(17)}
    counts = np.bincount(train.labels) + np.bincount(test.labels)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as scikit-learn documents them


def test_digits_are_split_by_class_without_overlap():
    train, test = digits()
    shares = np.bincount(test.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    assert np.abs(shares - 360 / 1797).max() < 0.5 / 174 + 1e-3
    pictures = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in pictures for image in test.images)


def test_digit_labels_belong_to_their_pictures():
    train, test = digits()
    centres = np.stack([train.images[train.labels == c].mean(axis=0) for c in range(10)])
    distance = np.square(test.images[:, np.newaxis] - centres).sum(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == test.labels).mean() > 0.85


def test_digits_file_is_small_and_documented():
    folder = Path(minires.data.__file__).parent
    assert (folder / "digits.npz").stat().st_size < 150_000
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "10.24432/C50P49" in readme
    assert "Creative Commons Attribution 4.0" in readme
    assert "without warranties of any kind; see section 5 of the licence" in readme


# shapes


def test_shapes_look_like_cifar():
    data = shapes(35, seed=1)
    assert data.images.shape == (35, 32, 32, 3)
    assert data.images.dtype == np.uint8
    assert len(data.classes) == 10
    assert data.images.std() > 20


def test_every_ten_shapes_hold_each_class_once():
    labels = shapes(CHUNK + 20, seed=5).labels
    assert (np.sort(labels.reshape(-1, 10), axis=1) == np.arange(10)).all()
    assert (labels[:10] != labels[10:20]).any()


@pytest.mark.parametrize("n", [1, 9, CHUNK, CHUNK + 1])
def test_shapes_of_one_seed_begin_alike(n):
    longer, shorter = shapes(CHUNK + 40, seed=2), shapes(n, seed=2)
    np.testing.assert_array_equal(shorter.images, longer.images[:n])
    np.testing.assert_array_equal(shorter.labels, longer.labels[:n])


def test_shapes_differ_by_seed_and_by_chunk():
    data = shapes(2 * CHUNK, seed=0)
    assert (data.images[:CHUNK] != data.images[CHUNK:]).any(axis=(1, 2, 3)).all()
    assert (data.images[:CHUNK] != shapes(CHUNK, seed=1).images).any(axis=(1, 2, 3)).all()


def test_shapes_cannot_be_told_by_their_average():
    train, test = shapes(4000, seed=0), shapes(1000, seed=1)
    centres = np.stack([train.images[train.labels == c].mean(axis=0) for c in range(10)]).reshape(10, -1)
    scores = test.images.reshape(1000, -1) @ centres.T - 0.5 * np.square(centres).sum(axis=1)
    assert (scores.argmax(axis=1) == test.labels).mean() < 0.2  # chance is 0.1


INSIDE_AND_OUTSIDE = {  # (u, v) on the shape, (u, v) off it
    "disc": ([(0, 0), (0.8, 0)], [(0.8, 0.8)]),
    "ring": ([(0.7, 0), (0, -0.7)], [(0, 0), (0.8, 0.8)]),
    "square": ([(0, 0), (0.7, 0.7)], [(0.85, 0)]),
    "frame": ([(0.6, 0.6), (0, -0.6)], [(0, 0)]),
    "triangle": ([(0, 0), (0, 0.9), (0.7, -0.45)], [(0.6, 0.6), (0, -0.6)]),
    "star": ([(0, 0), (0.9, 0), (0.9 * np.cos(0.4 * np.pi), 0.9 * np.sin(0.4 * np.pi))], [(-0.9, 0)]),
    "cross": ([(0, 0), (0.8, 0), (0, -0.8)], [(0.6, 0.6)]),
    "crescent": ([(-0.7, 0), (0, 0.75)], [(0, 0), (0.8, 0)]),
    "stripes": ([(0, 0), (0, 0.62), (0.7, -0.62)], [(0, 0.31), (0, -0.31), (0, 0.95)]),
    "bowtie": ([(0, 0), (0.8, 0.5), (-0.8, -0.5)], [(0, 0.5), (0.95, 0)]),
}


@pytest.mark.parametrize("name", OUTLINES)
def test_an_outline_is_what_its_name_says(name):
    inside, outside = INSIDE_AND_OUTSIDE[name]
    assert (OUTLINES[name](*np.array(inside, np.float64).T) < 0).all()
    assert (OUTLINES[name](*np.array(outside, np.float64).T) > 0).all()


def test_a_picture_shows_the_shape_of_its_label():
    """The areas that are drawn, class by class, go with the areas of the outlines."""
    labels = np.tile(np.arange(10), CHUNK // 10)
    generator = np.random.default_rng(0)
    drawn = np.mean([_shape(generator, labels).sum(axis=(1, 2)) for _ in range(8)], axis=0)
    drawn = np.array([drawn[labels == label].mean() for label in range(10)])
    grid = np.linspace(-1.2, 1.2, 241)
    areas = np.array([(outline(grid[None, :], grid[:, None]) < 0).sum() for outline in OUTLINES.values()])
    np.testing.assert_allclose(drawn / drawn.mean(), areas / areas.mean(), rtol=0.1)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), (1.5, 0), (True, 0), (10, -1), (10, None)])
def test_shapes_refuses_bad_numbers(n, seed):
    with pytest.raises(ArgumentError, match=r"shapes: (n|seed) must be a whole number"):
        shapes(n, seed)


# the floor it stands on

LATE = {"tqdm", "urllib", "http", "tarfile", "gzip"}  # slow to import, and most runs do without


@pytest.mark.parametrize("path", sorted(Path(minires.data.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_data_imports_only_what_lies_below(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def modules(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                package = ["", "minires.data.", "minires."][node.level]
                yield package + (node.module or "")

    for module in modules(ast.walk(tree)):
        top = module.split(".")[0]
        assert (
            top in {"numpy", "tqdm"}
            or top in sys.stdlib_module_names
            or module.startswith(("minires.data", "minires.errors"))
            or (path.name == "resident.py" and module.startswith(("minires.backend", "minires.kernels")))
        ), module
    if path.name != "transfer.py":  # which is itself imported late
        early = set(modules(tree.body))
        assert "minires.data.transfer" not in early
        assert not LATE & {module.split(".")[0] for module in early}
