"""The commands with --device, runs that change their device, and a GPU whose memory is full."""

import re

import numpy as np
import pytest

import minires
from minires import Tensor, nn
from minires.cli import main
from minires.data import Dataset
from minires.errors import DeviceError
from minires.train import Config, Run, Trainer, evaluate, load_checkpoint
from tests.gpu import standin

pytestmark = pytest.mark.host_only("says where everything is")
only_standin = pytest.mark.parametrize("gpu", ["standin"], indirect=True)

TINY = {"data": "digits", "model": "resnet8", "width": 2, "batch_size": 240, "iterations": 5, "log_every": 2,
        "checkpoint_every": 3, "seed": 7}  # fmt: skip
TRAIN = ["train", "--model", "resnet8", "--width", "2", "--batch-size", "240", "--seed", "1", "--iterations", "3"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_every_command_takes_a_device(gpu, run, tmp_path):
    assert run(*TRAIN, "--device", "cuda", "--out", "there")[0] == 0
    assert run(*TRAIN, "--out", "here")[0] == 0
    results = {}
    for folder in ("here", "there"):
        for device in ("cpu", "cuda"):
            status, out, err = run("eval", folder, "--device", device, "--batch-size", "100")
            assert status == 0, err
            results[folder, device] = [float(n) for n in re.findall(r"\d+\.\d+", out.splitlines()[1])]
    for numbers in results.values():
        np.testing.assert_allclose(numbers, results["here", "cpu"], rtol=2e-3)
    from PIL import Image

    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3).save(tmp_path / "digit.png")
    answers = [run("predict", "here", "digit.png", "--device", d)[1] for d in ("cpu", "cuda")]
    assert answers[0] == answers[1]
    tables = [run("summary", "resnet8", "--size", "8", "--device", d)[1] for d in ("cpu", "cuda")]
    assert tables[0].splitlines()[:5] == tables[1].splitlines()[:5]
    status, out, err = run("gradcheck", "resnet8", "--size", "5", "--entries", "1", "--device", "cuda")
    assert (status, out.splitlines()[-1]) == (0, "all gradients agree"), err


def test_a_run_goes_on_elsewhere(gpu, tmp_path):
    ends = {}
    for first, second in (("cpu", "cpu"), ("cpu", "cuda"), ("cuda", "cpu")):
        folder = tmp_path / f"{first}-{second}"

        def stop(trainer):
            if trainer.iteration == 3:  # right after a checkpoint
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Trainer(Config(**TINY), folder, on_step=stop, device=first).fit()
        trainer = Trainer(Config(**TINY), folder, resume=True, device=second)
        assert {p.device for p in trainer.model.parameters()} == {second}
        trainer.fit()
        arrays, meta = load_checkpoint(folder / "checkpoint.npz")
        assert not {"device", "precision"} & {*meta, *meta["config"]}
        ends[first, second] = arrays
        run = Run(folder, "cuda")
        assert run.probabilities(trainer.sets.test.images[:3]).shape == (3, 10)
    for arrays in ends.values():
        for name, expected in ends["cpu", "cpu"].items():
            np.testing.assert_allclose(arrays[name], expected, rtol=1e-3, atol=1e-4, err_msg=name)


def test_without_a_gpu_there_is_one_sentence(run):
    if minires.cuda.is_available():
        pytest.skip("there is a GPU")
    for command in (TRAIN, ["summary", "resnet8"], ["gradcheck", "resnet8", "--size", "5"]):
        status, _, err = run(*command, "--device", "cuda")
        assert (status, len(err.splitlines())) == (2, 1)
        assert re.match(r"minires: CuPy is not installed\. .*minires\[cuda12\].*minires\[cuda13\]", err)
    status, _, err = run(*TRAIN, "--device", "gpu")
    assert status == 2
    assert "invalid choice: 'gpu'" in err
    assert re.search(r"^no GPU: CuPy is not installed", run("doctor")[1], re.M)


def test_doctor_names_the_gpu(gpu, run):
    line = next(line for line in run("doctor")[1].splitlines() if line.startswith("GPU "))
    assert re.search(
        r"compute capability \d+\.\d, [\d.]+ GB of memory, .* free; driver for CUDA \d+\.\d+, runtime", line
    )


# -- a GPU whose memory is full ---------------------------------------------------------------------------------------

WIDE = {**TINY, "width": 8, "batch_size": 256, "augment": False}


@only_standin
@pytest.mark.parametrize("megabytes", [2.5, 4, 6])
@pytest.mark.parametrize("graph", [True, False])
def test_a_batch_that_does_not_fit_names_one_that_does(gpu, megabytes, graph):
    with standin.memory_limit(standin.memory_in_use() + int(megabytes * 2**20)):
        with pytest.raises(DeviceError) as caught:
            Trainer(Config(**WIDE), device="cuda", graph=graph).fit()
        told = re.fullmatch(
            r"the GPU is out of memory: [\d.]+ [kM]?B were asked for, and [\d.]+ [kM]B of [\d.]+ MB are free. "
            r"A batch of (\d+) would fit instead of 256.", str(caught.value))  # fmt: skip
        del caught
        assert told, "the sentence"
        Trainer(Config(**{**WIDE, "batch_size": int(told[1])}), device="cuda", graph=graph).fit()


@only_standin
def test_evaluation_and_hopeless_cases(gpu, run):
    images = np.zeros((64, 64, 64, 1), np.uint8)
    dataset = Dataset(images, np.zeros(64, np.int64), ["a", "b"], name="blank")
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Linear(32, 2)).to("cuda")
    as_they_are = lambda images, generator: images.astype(np.float32)
    with standin.memory_limit(standin.memory_in_use() + (16 << 20)):
        with pytest.raises(DeviceError, match=r"A batch of (\d+) would fit instead of 64") as caught:
            evaluate(model, dataset, as_they_are, batch_size=64)
        fits = int(re.search(r"batch of (\d+)", str(caught.value))[1])
        assert 4 <= fits < 64
        evaluate(model, dataset, as_they_are, batch_size=fits)
    with (
        standin.memory_limit(standin.memory_in_use() + (1 << 19)),
        pytest.raises(DeviceError, match="Not even one picture would fit"),
    ):
        evaluate(model, dataset, as_they_are, batch_size=2)
    with standin.memory_limit(standin.memory_in_use() + 50_000):
        status, _, err = run("summary", "resnet20", "--device", "cuda")
    assert status == 2
    assert re.fullmatch(
        r"minires: the GPU is out of memory: .* were asked for, and .* are free\. Give it less.*\n", err
    )
    assert (Tensor([1.0]).to("cuda") + 1).item() == 2  # and everything goes on
