"""The mean picture, crops and mirrors."""

import numpy as np
import pytest

from minires.data import Compose, CropFlip, Dataset, Normalise, eval_transform, train_transform
from minires.errors import ArgumentError, ShapeError

pytestmark = pytest.mark.host_only("batches are prepared on the host")


def generator(seed=0):
    return np.random.default_rng(seed)


def pictures(n, height=5, width=6, channels=3, seed=0):
    return generator(seed).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


# Normalise


def test_normalise_is_scale_times_x_minus_mean():
    x = pictures(4)
    mean = generator().random((5, 6, 3))
    y = Normalise(mean, scale=0.5)(x, generator())
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, 0.5 * x.astype(np.float64) - mean, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("n", [1, 4095, 4097])  # on either side of the chunk that it sums at a time
def test_fit_finds_the_mean_picture(n):
    x = pictures(n)
    normalise = Normalise.fit(Dataset(x, np.zeros(n, int), ("only",)))
    assert normalise.mean.shape == (5, 6, 3)
    np.testing.assert_allclose(normalise.mean, x.astype(np.float64).mean(axis=0) / 255, rtol=1e-6)
    assert np.abs(normalise(x).mean(axis=0)).max() < 1e-5


def test_fit_does_not_overflow():
    white = Dataset(np.full((5000, 1, 1, 1), 255, np.uint8), np.zeros(5000, int), ("white",))
    assert Normalise.fit(white).mean.item() == 1.0


@pytest.mark.parametrize("mean", [0.5, np.full(3, 0.5), np.full((5, 6, 3), 0.5), np.full((1, 1, 3), 0.5)])
def test_a_mean_may_be_a_number_a_colour_or_a_picture(mean):
    np.testing.assert_array_equal(Normalise(mean)(pictures(2)), Normalise(0.5)(pictures(2)))


@pytest.mark.parametrize("shape", [(6, 5, 3), (5, 6, 4), (2, 5, 6, 3), (2,)])
def test_a_mean_of_another_shape_is_refused(shape):
    with pytest.raises(ShapeError, match=r"the mean .* does not fit images \(2, 5, 6, 3\)"):
        Normalise(np.zeros(shape))(pictures(2))


def test_a_single_picture_is_refused():
    with pytest.raises(ShapeError, match=r"give \(B, H, W, C\)"):
        Normalise(0.5)(pictures(1)[0])


@pytest.mark.parametrize(("mean", "scale"), [(np.nan, 1), ([0.5, np.inf, 0], 1), (0.5, np.nan)])
def test_a_mean_or_scale_that_is_not_finite_is_refused(mean, scale):
    with pytest.raises(ArgumentError, match="must be finite"):
        Normalise(mean, scale)


# CropFlip


def crop_by_hand(x, top, left, padding, mirrored):
    """One picture, pixel by pixel."""
    y = np.zeros_like(x)
    height, width, _ = x.shape
    for row in range(height):
        for column in range(width):
            r, c = row + top - padding, column + left - padding
            if 0 <= r < height and 0 <= c < width:
                y[row, column] = x[r, c]
    return y[:, ::-1] if mirrored else y


def test_every_crop_is_one_of_all_windows_and_all_come_up():
    padding, n = 2, 2000
    x = pictures(1, height=7)
    crops = CropFlip(padding)(np.repeat(x, n, axis=0), generator())
    places = range(2 * padding + 1)
    windows = {
        crop_by_hand(x[0], top, left, padding, mirrored).tobytes(): (top, left, mirrored)
        for top in places
        for left in places
        for mirrored in (False, True)
    }
    assert len(windows) == 50
    seen = [windows[crop.tobytes()] for crop in crops]  # a KeyError is a crop that should not be
    assert len(set(seen)) == 50
    counts = [seen.count(window) for window in windows.values()]
    assert np.square(np.subtract(counts, n / 50)).sum() / (n / 50) < 100  # chi squared, 49 degrees: p < 1e-4


def test_pictures_of_a_batch_are_cropped_each_in_its_own_way():
    crops = CropFlip()(np.repeat(pictures(1), 50, axis=0), generator())
    assert len({crop.tobytes() for crop in crops}) > 25


def test_padding_is_zero_after_the_mean():
    mean = np.full((5, 6, 3), 0.4, np.float32)
    shifted = train_transform(mean)(pictures(200), generator()) == 0  # no byte is 0.4 * 255 to the last bit
    border = shifted.all(axis=3)
    assert border.any()
    np.testing.assert_array_equal(border, shifted.any(axis=3))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crops_keep_dtype_and_are_contiguous(dtype):
    x = pictures(3).astype(dtype)
    before = x.copy()
    y = CropFlip()(x, generator())
    assert (y.dtype, y.shape) == (dtype, x.shape)
    assert y.flags.c_contiguous
    np.testing.assert_array_equal(x, before)


def test_no_padding_and_no_flip_change_nothing():
    np.testing.assert_array_equal(CropFlip(0, flip=False)(pictures(9), generator()), pictures(9))


def test_without_flip_nothing_is_mirrored():
    x = np.zeros((200, 4, 4, 1), np.uint8)
    x[:, :, 0], x[:, :, 3] = 1, 2
    y = CropFlip(0, flip=False)(x, generator())
    np.testing.assert_array_equal(y, x)
    mirrored = CropFlip(0)(x, generator())[:, 0, 0, 0] == 2
    assert 60 < mirrored.sum() < 140


@pytest.mark.parametrize("padding", [-1, 1.5, True, "4"])
def test_padding_must_be_a_number_of_pixels(padding):
    with pytest.raises(ArgumentError, match="CropFlip: padding must be a whole number"):
        CropFlip(padding)


# pipelines


def test_train_transform_normalises_then_crops():
    x, mean = pictures(20), generator(1).random((5, 6, 3))
    expected = CropFlip(3)(Normalise(mean)(x), generator(2))
    np.testing.assert_array_equal(train_transform(mean, padding=3)(x, generator(2)), expected)


def test_eval_transform_only_normalises():
    x, mean = pictures(20), generator(1).random((5, 6, 3))
    np.testing.assert_array_equal(eval_transform(mean)(x, generator()), Normalise(mean)(x))


def test_compose_runs_from_left_to_right_with_one_generator():
    def draw(images, rng):
        return np.concatenate([images, [rng.integers(1000)]])

    rng = generator()
    assert Compose(draw, draw)([], generator()).tolist() == [rng.integers(1000), rng.integers(1000)]


def test_transforms_say_what_they_do():
    assert repr(train_transform(np.full((5, 6, 3), 0.5))) == (
        "Compose(Normalise(mean (5, 6, 3) about 0.500, scale=0.00392), CropFlip(padding=4, flip=True))"
    )
