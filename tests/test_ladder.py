"""The ladder: every rung computes the same, leaves nothing behind, and the page shows what was measured."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import minires
from minires import kernels
from minires.backend import memory
from minires.bench import ladder, results, whole_batch
from minires.bench.networks import network

pytestmark = pytest.mark.host_only("measures the CPU")

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--models", "resnet8", "--batch", "2", "--rounds", "1", "--threads", "1"]


@pytest.mark.parametrize("number", range(1, len(ladder.RUNGS) + 1), ids=ladder.label)
def test_every_rung_computes_the_same(number):
    model, pictures, labels = ladder.small(network("resnet8"))
    assert ladder.check(ladder.RUNGS[number - 1], model, pictures, labels, threads=2) < 1e-11


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [((1, 1), (1, 1), (1, 1)), ((2, 3), (2, 0), (1, 2))])
def test_the_kernels_for_whole_batches(rng, layout, stride, padding, dilation):
    x, w = rng.standard_normal((3, 9, 8, 4)), rng.standard_normal((3, 2, 4, 5))
    window = stride, padding, dilation, 1
    expected = kernels.KERNELS["numpy"].conv2d(x, w, None, *window)
    forward, backward = (getattr(whole_batch, f"{name}_{layout}") for name in ("conv2d", "conv2d_backward"))
    y = forward(x, w, None, *window)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)
    assert y.transpose(0, 3, 1, 2).flags.c_contiguous == (layout == "nchw")  # where the numbers lie is the point
    dy = rng.standard_normal(y.shape)
    for given in ((x, w), (x, None), (None, w)):
        found = backward(dy, *given, x.shape, w.shape, *window)
        wanted = kernels.KERNELS["numpy"].conv2d_backward(dy, *given, x.shape, w.shape, *window)
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_pictures_stay_in_the_rung_s_layout():
    seen = {}
    for number in (2, 3):
        rung, net = ladder.RUNGS[number - 1], network("resnet8")
        model = net.build()
        model.stage1[0].register_forward_hook(lambda m, i, y, n=number: seen.update({n: y.data.strides}))
        with rung.standing(1):
            model(minires.Tensor(net.data(2)[0]))
    assert seen == {2: (65536, 128, 4, 4096), 3: (65536, 2048, 64, 4)}


def test_a_wrong_rung_is_not_timed(monkeypatch):
    model, pictures, labels = ladder.small(network("resnet8"))
    monkeypatch.setattr(ladder._NHWC, "relu_dx", lambda dy, y: dy)
    with pytest.raises(minires.MiniresError, match=r"rung 'NHWC' .* differ by .* in d "):
        ladder.check(ladder.RUNGS[2], model, pictures, labels, threads=1)


def test_a_rung_leaves_everything_as_it_was():
    def state():
        return minires.get_num_threads(), memory._SMALLEST, list(kernels.KERNELS)

    before = state()

    def stand(rung):
        with rung.standing(before[0] + 1):
            assert kernels.active() is rung.kernels
            assert minires.get_num_threads() == (before[0] + 1 if rung.shared else 1)
            assert isinstance(memory.empty((1 << 18,), np.float32).base, memory._Block) == rung.recycled
            raise KeyboardInterrupt

    for rung in ladder.RUNGS:
        with pytest.raises(KeyboardInterrupt):
            stand(rung)
        assert state() == before
        assert "rung" not in kernels.KERNELS


def test_rungs_without_fusion_cannot_use_it():
    for rung in ladder.RUNGS[1:5]:
        assert not hasattr(rung.kernels, "conv2d_moments")
        assert not hasattr(rung.kernels, "conv2d_norm_backward")


def test_the_ladder_and_its_page(bench, tmp_path):
    (tmp_path / "LADDER.md").write_text(f"above\n{results._BEGIN}\nold\n{results._END}\nbelow\n")
    status, out, err = bench("--ladder", *TINY, "--out", "results/ladder")
    assert (status, err) == (0, "")
    folder = tmp_path / "results" / "ladder"
    assert {p.name for p in folder.iterdir()} == {"ladder.json", "ladder.md", "ladder.png"}
    result = json.loads((folder / "ladder.json").read_text())
    assert [r["rung"] for r in result["rungs"]] == [ladder.label(n) for n in range(1, 9)]
    assert [r["scaled"] for r in result["rungs"]] == [True] + [False] * 7
    second = result["rungs"][1]
    assert second["to the first"] == result["rungs"][0]["spread"]["median"] / second["spread"]["median"]
    page = (tmp_path / "LADDER.md").read_text()
    assert page.startswith("above\n")
    assert page.endswith("\nbelow\n")
    assert (folder / "ladder.md").read_text() in page
    assert "old" not in page
    assert "* scaled" in out


def test_two_rungs(bench):
    status, out, _ = bench("--ladder", 4, 3, *TINY)
    assert status == 0
    assert re.findall(r"^(\d) ", out, re.MULTILINE) == ["3", "4"]
    assert "scaled" not in out


def test_factors_are_taken_round_by_round():
    rungs = results.ladder(
        {"1 a": [90.0, 100.0, 130.0], "2 b": [4.0, 40.0, 6.0], "3 c": [2.0, 20.0, 2.0]}, scaled="1 a"
    )
    assert [r.get("to the rung above") for r in rungs] == [None, 100 / 6, 2.0]
    assert [r.get("to the first") for r in rungs] == [None, 100 / 6, 50.0]


def test_the_page_shows_the_table_that_was_measured():
    result = json.loads((ROOT / "benchmarks" / "results" / "ladder" / "ladder.json").read_text())
    page = (ROOT / "benchmarks" / "LADDER.md").read_text(encoding="utf-8")
    assert f"{results._BEGIN}\n{results.ladder_markdown(result)}{results._END}" in page
    assert re.findall(r"^## (\d)\.", page, re.MULTILINE) == [str(n) for n in range(1, len(ladder.RUNGS) + 1)]
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / "benchmarks" / target).exists(), target
