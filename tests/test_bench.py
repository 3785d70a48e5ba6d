"""The measurements measure what they say.  No test here looks at how long anything took."""

import gc
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minires
from minires import inspect, kernels, models
from minires.bench import machine, naive
from minires.bench import memory as bench_memory
from minires.bench.kernels import Layer, layers
from minires.bench.machine import Others, _busy
from minires.bench.networks import network
from minires.bench.report import Row, Table, disturbed, duration, notes
from minires.bench.timing import Contender, Spread, alternate

from .programs import run_program

pytestmark = pytest.mark.host_only("measures the CPU")

TINY = ["--models", "resnet8", "--batch", "2", "--rounds", "1", "--threads", "1"]


class Stage:
    """A clock that only work moves, and a record of who worked."""

    def __init__(self):
        self.now, self.played = 0.0, []

    def alternate(self, *arguments, **options):
        """By this clock, and with a rest that is only noted."""
        return alternate(*arguments, clock=self, rest=5.0, sleep=self.played.append, **options)

    def actor(self, name, *seconds):
        """Takes these times in turn, and the last one from then on."""
        left = list(seconds)

        def work():
            self.played.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work

    def __call__(self):
        return self.now


# -- timing -----------------------------------------------------------------------------------------------------------


def test_contenders_take_turns():
    stage = Stage()
    times = stage.alternate({"a": stage.actor("a", 1.0), "b": stage.actor("b", 2.0)}, rounds=3)
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}
    # the warm-up, then the rounds: nobody begins while the threads of the one before still look for work
    assert stage.played == ["a", "a", "b", "b"] + [5.0, "a", 5.0, "b"] * 3


def test_nobody_rests_alone():
    stage = Stage()
    stage.alternate({"a": stage.actor("a", 1.0)}, rounds=3)
    assert stage.played == ["a"] * 5


def test_the_warm_up_is_not_counted():
    stage = Stage()
    assert stage.alternate({"a": stage.actor("a", 9.0, 8.0, 1.0)}, rounds=2) == {"a": [1.0, 1.0]}


def test_a_turn_is_as_many_calls_as_fit():
    stage = Stage()
    times = stage.alternate({"quick": stage.actor("q", 0.25), "slow": stage.actor("s", 3.0)}, 2, turn=1.0)
    assert times == {"quick": [0.25, 0.25], "slow": [3.0, 3.0]}
    # and before a turn of several another call, which wakes who sleeps
    assert [who for who in stage.played[4:] if who != 5.0] == (["q"] * 5 + ["s"]) * 2


def test_the_call_that_wakes_is_not_counted():
    stage = Stage()
    quick = stage.actor("q", 0.25, 0.25, 9.0, 0.25, 0.25, 0.25, 0.25, 8.0, 0.25)
    times = stage.alternate({"quick": quick, "slow": stage.actor("s", 3.0)}, 2, turn=1.0)
    assert times["quick"] == [0.25, 0.25]


def test_a_rest_lasts_until_the_threads_of_the_one_before_sleep():
    stage = Stage()
    late = Contender(stage.actor("late", 1.0), awake=7.0)
    stage.alternate({"late": late, "b": stage.actor("b", 1.0), "c": stage.actor("c", 1.0)}, rounds=2)
    assert stage.played[6:] == [5.0, "late", 7.0, "b", 5.0, "c"] * 2


def test_preparation_is_not_timed():
    stage = Stage()

    def prepare():
        stage.now += 100.0
        return ("argument",)

    seen = []

    def work(argument):
        seen.append(argument)
        stage.now += 1.0

    assert stage.alternate({"a": Contender(work, prepare)}, rounds=2) == {"a": [1.0, 1.0]}
    assert seen == ["argument"] * 4


def test_whole_rounds_survive_an_interruption():
    stage, times = Stage(), {}
    second = stage.actor("b", 1.0)

    def interrupted():
        second()
        if stage.played.count("b") == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.alternate({"a": stage.actor("a", 1.0), "b": interrupted}, rounds=9, into=times)
    assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert gc.isenabled()


def test_no_garbage_collection_while_timing():
    states = []
    alternate({"a": lambda: states.append(gc.isenabled())}, rounds=2, turn=0)
    assert states == [False] * 4
    assert gc.isenabled()


def test_spread():
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(3, 2, 4)
    assert Spread.of([7.0]) == Spread(7, 7, 7)
    # a slow round is slow for both: the ratio does not see it, though the median of the times does
    assert Spread.of_ratios([1, 10, 3], [2, 20, 4]) == Spread(0.5, 0.5, 0.625)


# -- what is counted --------------------------------------------------------------------------------------------------


def test_layers_of_resnet20():
    convolutions, norms = layers(models.cifar_resnet(20, generator=0), 32)
    assert [(k.size, k.channels, k.filters[3], k.stride[0], n) for k, n in convolutions.items()] == [
        ((32, 32), 3, 16, 1, 1),
        ((32, 32), 16, 16, 1, 6),
        ((32, 32), 16, 32, 2, 1),
        ((16, 16), 32, 32, 1, 5),
        ((16, 16), 32, 64, 2, 1),
        ((8, 8), 64, 64, 1, 5),
    ]
    assert [k.first for k in convolutions] == [True] + [False] * 5
    assert {n.shape: k for n, k in norms.items()} == {(32, 32, 16): 7, (16, 16, 32): 6, (8, 8, 64): 6}


@pytest.mark.parametrize("name", ["resnet20", "resnet18-cifar", "resnet18"])
def test_layers_hold_all_multiply_adds_but_the_classifier(name):
    net = network(name)
    model = net.build()
    found = sum(count * layer.multiply_adds for layer, count in layers(model, net.size)[0].items())
    whole = inspect.summary(model, (net.size, net.size, 3)).multiply_adds
    assert found == whole - np.prod(model.fc.weight.shape)
    assert model.training
    assert not any(module._hooks for module in model.modules())


def test_gflops_by_hand():
    layer = Layer((4, 6), 2, (3, 3, 2, 5), (1, 1), (1, 1), (1, 1), 1)
    assert layer.output == (4, 6, 5)
    assert layer.multiply_adds == 4 * 6 * 5 * 18
    row = Row("kernels", "m", "h", "n", "ms", {"minires": [2.0, 4.0, 4.0]}, flop=8e9, peak=[8000.0, 4000.0, 2000.0])
    assert row.gflops == pytest.approx(2000)  # 8 GFLOP in 4 ms
    assert row.of_peak == Spread(0.5, 0.5, 0.75)  # 4000 of 8000, 2000 of 4000, 2000 of 2000


def test_products_leave_out_the_padding():
    layer = Layer((3, 3), 2, (3, 3, 2, 4), (1, 1), (1, 1), (1, 1), 1)
    counted = []

    class Counting(np.ndarray):  # each product of the loops reads w once
        def __getitem__(self, index):
            counted.append(index)
            return super().__getitem__(index)

    kernels.KERNELS["reference"].conv2d(
        np.ones((1, 3, 3, 2)), np.ones((3, 3, 2, 4)).view(Counting), None, *layer.window
    )
    assert naive.products(layer) == len(counted) == 49 * 8


def test_a_piece_is_small_and_of_the_same_kind():
    convolutions, _ = layers(network("resnet18").build(), 224)
    for layer in convolutions:
        small = naive.piece(layer)
        assert (small.stride, small.padding, small.filters[:2]) == (layer.stride, layer.padding, layer.filters[:2])
        assert naive.products(small) < 2e5


def test_what_others_use():
    readings = iter([(10.0, 100.0), (13.0, 120.0)])  # busy for others, and all there was: 3 of 20
    assert Others(lambda: next(readings)).share() == pytest.approx(0.15)
    assert Others(lambda: None).share() is None
    assert disturbed(None) == disturbed(0.04) == []
    assert "used 15% of all cores" in disturbed(0.15)[0]


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc")
def test_our_own_work_is_not_that_of_others(monkeypatch):
    busy, spent = _busy()[0], os.times()
    monkeypatch.setattr(os, "times", lambda: (spent[0] + 1000, *spent[1:]))
    assert _busy()[0] < busy - 900


def test_durations():
    assert [duration(s) for s in (0.01234, 2.5, 90, 7200)] == ["12.3 ms", "2.50 s", "1.50 min", "2.00 h"]


def test_the_table_fits_100_columns():
    values = {"minires": [12345.678] * 5, "torch": [98765.4] * 5, "channels_last": [4567.8] * 5}
    row = Row(
        "kernels", "resnet20", "3x3, 512 -> 512 channels", "conv2d_backward, dw", "ms", values, 1e12, peak=[1e3] * 5
    )
    lines = Table(("torch", "channels_last")).lines(row)
    assert lines[0] == ""
    assert max(map(len, lines)) <= 100
    assert "0.13 (0.13-0.13)" in lines[-1]
    assert notes([row])[-1].startswith("Ratios are minires / PyTorch")


# -- the command ------------------------------------------------------------------------------------------------------


def test_everything_on_a_tiny_network(bench, tmp_path):
    status, out, err = bench("kernels", "step", "inference", *TINY, "--out", "kept")
    assert (status, err) == (0, "")
    for text in ("conv2d_moments", "batch_norm_backward", "training step of resnet8", "batch 1", "take --rounds 5"):
        assert text in out
    assert all(len(line) <= 100 for line in out.splitlines() if not line.startswith(("set:", "kept")))
    (file,) = (tmp_path / "kept").glob("*.json")
    result = json.loads(file.read_text())
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert result["command"].startswith("minires bench kernels step inference --models resnet8")
    assert result["machine"]["numpy"] == np.__version__
    assert {"cpu", "cores", "python", "blas", "environment", "threads", "commit"} <= result["machine"].keys()
    assert "stopped" not in result
    rows = result["rows"]
    assert [r["bench"] for r in rows if r["bench"] != "kernels"] == ["step"] + ["inference"] * 3
    step = next(r for r in rows if r["bench"] == "step")
    assert len(step["values"]["minires"]) == result["rounds"] == 1
    assert step["summary"]["spread"]["minires"]["median"] == step["values"]["minires"][0]
    forward = next(r for r in rows if r["name"] == "conv2d")
    assert forward["flop"] == 2 * 2 * 32 * 32 * 27 * 16  # 2 for a multiply-add, 2 pictures
    backward = [r for r in rows if r["name"].startswith("conv2d_backward")]
    assert [r["flop"] / forward["flop"] for r in backward[:2]] == [1, 2 * 16 / 3]  # the first layer needs no dx
    assert forward["peak"][0] > 0


def test_where_results_are_kept(bench, tmp_path):
    assert "--out DIR keeps" in bench("inference", *TINY)[1]
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert "kept in benchmarks/results/bench" in bench("inference", *TINY)[1]
    assert len(list((tmp_path / "benchmarks" / "results" / "bench").iterdir())) == 2


def test_threads_are_put_back(bench):
    before = minires.get_num_threads()
    status, out, _ = bench("inference", *TINY, "--threads", before + 1)
    assert (status, f"{before + 1} used" in out) == (0, True)
    assert minires.get_num_threads() == before


def test_overhead(bench, monkeypatch):
    monkeypatch.setattr("minires.bench.overhead.LINKS", 2)
    status, out, err = bench("overhead", "--rounds", 1)
    assert status == 0, err
    assert "forward, one operation on 0-d float32" in out
    assert "backward, one operation on 8x8 float32" in out
    assert "relu(y @ a + b)" in out


@pytest.mark.skipif(not bench_memory._STATUS.exists(), reason="needs /proc")
@pytest.mark.parametrize("batch", [8, 64])
def test_memory_is_that_of_a_step(bench, tmp_path, batch):
    status, _, err = bench("memory", "--models", "resnet8", "--batch", batch, "--rounds", 1, "--out", "kept")
    assert status == 0, err
    (row,) = json.loads(next((tmp_path / "kept").glob("*.json")).read_text())["rows"]
    graph = batch * inspect.summary(network("resnet8").build(), (32, 32, 3)).saved_bytes / 1e6  # MB
    assert 0.8 * graph < row["values"]["minires"][0] < 3 * graph + 15  # buffers of a few MB; a process has 50 and more


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("nosuch", "there is no benchmark 'nosuch'; choose from kernels, step"),
        ("step --models resnet21", "the depth must be 6n + 2"),
        ("step --models vgg", "there is no model 'vgg'"),
        ("--batch 0", "--batch must be at least 1, got 0"),
        ("--rounds 0", "--rounds must be at least 1"),
        ("--threads -1", "--threads must be at least 1"),
        ("--vs jax", "invalid choice: 'jax'"),
        ("--out file", "file is a file; the results need a folder"),
        ("--ladder kernels", "invalid int value: 'kernels'"),
        ("step --ladder", "--ladder is a benchmark of its own and does not go with step"),
        ("--ladder --vs torch", "does not go with --vs"),
        ("--ladder 9", "the rungs are 1 to 8, got 9"),
        ("--ladder 2 --out kept", "--out keeps whole ladders only"),
        ("--ladder --models resnet8 resnet20", "--ladder takes one model, got 2"),
    ],
)
def test_mistakes_are_one_sentence(bench, tmp_path, command, sentence):
    (tmp_path / "file").write_text("something")
    status, out, err = bench(*command.split())
    assert (status, out) == (2, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_without_torch(bench, monkeypatch):
    monkeypatch.setattr("minires.bench.machine.find_spec", lambda name: None)
    status, _, err = bench("step", *TINY, "--vs", "torch")
    assert (status, err) == (
        2, "minires: --vs torch needs PyTorch, which is not installed. Run pip install torch, or leave it out.\n",
    )  # fmt: skip


def test_ctrl_c_keeps_what_was_measured(bench, tmp_path, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("minires.bench.networks.steps", stopped)
    status, out, err = bench("inference", "step", *TINY, "--out", "kept")
    assert status == 130
    assert "stopped; kept in kept" in err
    assert "batch 2" in out
    result = json.loads(next((tmp_path / "kept").glob("*.json")).read_text())
    assert result["stopped"] is True
    assert [r["bench"] for r in result["rows"]] == ["inference"] * 3


def test_importing_is_light():
    program = """
import pkgutil, sys, minires, minires.cli
print([name for name in sys.modules if name.startswith("minires.bench")])
import minires.bench
for module in pkgutil.iter_modules(minires.bench.__path__, "minires.bench."):
    if "torch" not in module.name:
        __import__(module.name)
print([name for name in ("torch", "matplotlib") if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n[]\n"


@pytest.mark.parametrize(("free", "gil", "said"), [
    (None, True, ""), (0, True, ""), (1, False, " free-threaded"),
    (1, True, " free-threaded (but with the GIL, see PYTHON_GIL)"),
])  # fmt: skip
def test_whether_the_threads_of_python_share_its_work_is_told(monkeypatch, free, gil, said):
    monkeypatch.setattr(machine, "sysconfig", SimpleNamespace(get_config_var={"Py_GIL_DISABLED": free}.get))
    monkeypatch.setattr(machine, "has_gil", lambda: gil)
    assert machine.describe(1)["python"] == platform.python_version() + said


@pytest.mark.parametrize(("blas", "loops", "variables", "said"), [
    ("Haswell", "AVX512", {"OPENBLAS_CORETYPE": "Haswell"}, "BLAS may not use AVX-512 here and PyTorch may"),
    ("SkylakeX", "AVX2", {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "avx2"}, "PyTorch may not use AVX-512"),
    ("SkylakeX", "AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX"}, "PyTorch may not use AVX-512 here and BLAS may"),
    ("Haswell", "AVX2", {"OPENBLAS_CORETYPE": "Haswell", "ONEDNN_MAX_CPU_ISA": "AVX2"}, None),
    ("Haswell", "AVX512", {"OPENBLAS_CORETYPE": "Haswell", "ONEDNN_MAX_CPU_ISA": "AVX2"}, None),  # only half of it
    ("Haswell", "AVX2", {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2"}, None),
    ("SkylakeX", "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, None),
    ("SkylakeX", "AVX2", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, None),
    ("Haswell", "AVX2", {}, None),  # a processor without AVX-512
    ("Zen", "AVX512", {}, None),  # the choice of an old OpenBLAS: nobody has held it
])  # fmt: skip
def test_it_is_told_if_only_one_contender_may_use_avx512(blas, loops, variables, said):
    found = machine.describe(1) | {
        "blas": [{"internal_api": "openblas", "architecture": blas}],
        "torch": {"version": "2", "cpu capability": loops},
        "environment": variables,
    }
    told = "\n".join(machine.lines(found))
    assert ("AVX-512 here" in told) == (said is not None)
    assert (said or "") in told
    assert all(len(line) <= 100 for line in told.splitlines())


def test_beside_torch(bench, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    import torch

    asked, before, really = [], torch.get_num_threads(), torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (asked.append(n), really(n)))
    status, out, err = bench("kernels", "step", "inference", *TINY, "--vs", "torch", "--threads", 1, "--out", "kept")
    assert (status, err) == (0, "")
    assert asked == [1, before]
    result = json.loads(next((tmp_path / "kept").glob("*.json")).read_text())
    assert result["machine"]["torch"]["version"] == torch.__version__
    compared = [r for r in result["rows"] if len(r["values"]) > 1]
    assert {r["name"] for r in compared} >= {"conv2d", "conv2d_backward", "batch 2", "batch 1", "batch 1, replayed"}
    for row in compared:
        assert list(row["values"]) == ["minires", "torch", "channels_last"]
        ratio = row["values"]["minires"][0] / row["values"]["torch"][0]
        assert row["summary"]["minires divided by"]["torch"]["median"] == pytest.approx(ratio)
    assert re.search(r"batch 2 .*\(\d+\.\d\d-\d+\.\d\d\)", out)


@pytest.mark.parametrize("kept", [False, True])
def test_whether_malloc_keeps_memory_is_told(bench, tmp_path, monkeypatch, kept):
    pytest.importorskip("torch")
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: kept)
    _, out, _ = bench("inference", *TINY, "--vs", "torch", "--out", "kept")
    assert ("\nmalloc keeps freed memory, or PyTorch would lose" in out) == kept
    result = json.loads(next((tmp_path / "kept").glob("*.json")).read_text())
    assert result["machine"]["malloc keeps freed memory"] is kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its malloc")
def test_freed_memory_is_kept():
    shown = run_program("""
import ctypes, resource
from minires.bench.machine import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = libc.memset.argtypes = None
def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block = ctypes.c_void_p(libc.malloc(1 << 24))
        libc.memset(block, 1, 1 << 24)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = page_faults()
keep_freed_memory()
page_faults()
print(page_faults() < given_back / 10)
""")
    assert (shown.stdout, shown.stderr) == ("True\n", "")


@pytest.mark.parametrize(
    ("system", "library"),
    [("linux", SimpleNamespace()), ("darwin", None), ("win32", None), ("linux", SimpleNamespace(mallopt=lambda *_: 0))],
)
def test_another_malloc_is_left_as_it_is(monkeypatch, system, library):
    monkeypatch.setattr(machine.sys, "platform", system)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _: library)
    assert machine.keep_freed_memory() is False


def test_an_older_glibc_is_asked_for_less(monkeypatch):
    asked = []
    library = SimpleNamespace(mallopt=lambda what, size: asked.append((what, size)) or int(size <= 1 << 25))
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _: library)
    assert machine.keep_freed_memory() is False
    assert asked == [(-3, 1 << 30), (-3, 1 << 25), (-1, 1 << 25)]
    asked.clear()
    library.mallopt = lambda what, size: asked.append((what, size)) or 1
    assert machine.keep_freed_memory() is True
    assert asked == [(-3, 1 << 30), (-1, 1 << 30)]


def test_torch_convolutions_are_the_same_convolutions(rng):
    pytest.importorskip("torch")
    from minires.bench import torch_side
    from minires.bench.torch_twin import in_minires_layout, nhwc

    layer = Layer((7, 6), 4, (3, 3, 4, 5), (2, 2), (1, 1), (1, 1), 1)
    x, w = rng.standard_normal((2, *layer.size, 4), np.float32), rng.standard_normal(layer.filters, np.float32)
    dy = rng.standard_normal((2, *layer.output), np.float32)
    y = kernels.active().conv2d(x, w, None, *layer.window)
    dx, dw = kernels.active().conv2d_backward(dy, x, w, x.shape, w.shape, *layer.window)
    for memory_format in torch_side.LAYOUTS.values():
        forward, backward = torch_side.convolution(layer, x, w, dy, memory_format)
        np.testing.assert_allclose(nhwc(forward()), y, rtol=1e-4, atol=1e-5)
        their_dx, their_dw, _ = backward()
        np.testing.assert_allclose(nhwc(their_dx), dx, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(in_minires_layout("weight", their_dw), dw, rtol=1e-4, atol=1e-5)


def test_different_results_are_not_compared(bench, monkeypatch):
    pytest.importorskip("torch")
    from minires.bench import torch_side

    monkeypatch.setattr(torch_side, "RATE", 1.0)  # the first loss is the same, the second is not
    status, _, err = bench("step", *TINY, "--vs", "torch")
    assert status == 2
    assert "resnet8: minires and torch differ by" in err
