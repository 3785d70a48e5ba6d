"""The picture of a report, and the fixture that pytest finds where minires is installed."""

import subprocess
import sys

import numpy as np
import pytest

import minires
from minires.gradcheck.picture import _flat

pytestmark = pytest.mark.host_only("plain NumPy")
pytest_plugins = ["pytester"]


def doubled(rng, shape):
    """The report of a gradient that is twice too large for one input and right for the other."""
    inputs = {"x": rng.standard_normal(shape), "y": rng.standard_normal(shape)}
    return minires.gradcheck_fn(lambda x, y: x * y, lambda dy, x, y: {"x": 2 * dy * y, "y": dy * x}, inputs)


@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (2, 3, 4), (2, 5, 6, 3), (3, 3, 2, 4), (2, 1, 2, 2, 3)])
def test_every_rank_is_drawn(shape, rng, tmp_path):
    figure = doubled(rng, shape).plot()
    figure.savefig(tmp_path / "error.png")
    assert (tmp_path / "error.png").stat().st_size > 1000
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in figure.axes]
    assert [t for t in titles if t] == [
        f"x {shape}: yours",
        "measured",
        "FAIL, relative error: it is 2 times too large",
    ]


def test_what_was_not_measured_is_grey_and_what_is_no_number_is_wrong(rng):
    x = rng.standard_normal((4, 5))
    report = minires.gradcheck_fn(
        lambda x: x**2, lambda dy, x: {"x": np.where(x == x[1, 2], np.nan, 2 * dy * x)}, {"x": x}, max_entries=12
    )
    errors = np.ma.filled(report.plot().axes[2].images[0].get_array(), np.nan)
    assert np.isnan(errors[np.isnan(report["x"].numeric)]).all()
    if not np.isnan(report["x"].numeric[1, 2]):
        assert errors[1, 2] == 1


def test_a_report_that_passes_shows_all_inputs(rng):
    report = minires.gradcheck(lambda a, b: a * b, {"a": rng.standard_normal(3), "b": rng.standard_normal(3)})
    titles = [ax.get_title(loc="left") for ax in report.plot().axes]
    assert {"a (3,): yours", "b (3,): yours"} <= set(titles)


def test_pictures_and_filters_are_laid_out_as_tables():
    pictures = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    flat = _flat(pictures)
    assert flat.shape == (6, 20)
    np.testing.assert_array_equal(flat[3:, 8:12], pictures[1, :, :, 2])
    filters = np.arange(3 * 3 * 4 * 5).reshape(3, 3, 4, 5)
    flat = _flat(filters)
    assert flat.shape == (12, 15)
    np.testing.assert_array_equal(flat[3:6, 6:9], filters[:, :, 1, 2])


def test_matplotlib_is_not_imported_before_it_is_needed():
    code = "import sys, minires; print('matplotlib' in sys.modules, 'pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_fixture(pytester):
    pytester.makepyfile("""
        import numpy as np

        def forward(x):
            return np.tanh(x)

        def test_right(gradcheck):
            backward = lambda dy, x: {"x": dy * (1 - np.tanh(x) ** 2)}
            report = gradcheck(forward, backward, {"x": np.array([0.3, 2.0])}, seed=3)
            assert report.seed == 3

        def test_wrong(gradcheck):
            gradcheck(forward, lambda dy, x: {"x": -dy * (1 - np.tanh(x) ** 2)}, {"x": np.array([0.3, 2.0])})

        def test_operations(gradcheck):
            from minires import functional as F
            gradcheck(F.tanh, {"x": np.array([0.3, 2.0])})
    """)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*hint: the sign is wrong*"])
