"""The command line: it works, and what goes wrong is one sentence and exit status 2."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import minires
from minires.cli import main

pytestmark = pytest.mark.host_only("tests/gpu/test_commands.py has them with --device")

SMALL = ["--model", "resnet8", "--width", "2", "--batch-size", "240", "--seed", "1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with no data set anywhere near."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path / "no-data"))
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command: (exit status, standard output, standard error)."""

    def call(*arguments):
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_train_eval_predict(here, run):
    from PIL import Image

    status, out, err = run("train", *SMALL, "--epochs", 2)
    assert status == 0, err
    folder = here / "runs" / "digits-resnet8"
    assert {p.name for p in folder.iterdir()} == {"checkpoint.npz", "config.json", "curves.png", "log.jsonl"}
    error = re.search(r"test error (\S+)%", out).group(1)

    status, out, _ = run("eval", folder)
    assert status == 0
    assert f"error {error}%" in out
    assert len(out.splitlines()) == 12  # a head of two lines, then the ten classes

    picture = minires.data.digits()[1].images[0, :, :, 0]
    Image.fromarray(picture).resize((80, 80), Image.Resampling.NEAREST).save(here / "digit.png")
    Image.fromarray(255 - picture).convert("RGB").save(here / "ink.png")
    status, out, _ = run("predict", folder, here / "digit.png")
    inverted = run("predict", folder, "--invert", here / "ink.png")[1]
    assert status == 0
    assert out.split(":")[1] == inverted.split(":")[1]
    assert re.search(r"digit\.png: \d \d+\.\d%, \d \d+\.\d%, \d \d+\.\d%", out)


def test_train_again_takes_another_folder(here, run):
    for name in ("digits-resnet8", "digits-resnet8-2"):
        status, out, _ = run("train", *SMALL, "--iterations", 2)
        assert status == 0
        assert (here / "runs" / name / "checkpoint.npz").exists()
        assert f"runs/{name}: log.jsonl" in out


def test_train_resume(here, run):
    command = ["train", *SMALL, "--iterations", 7, "--out", "mine"]
    assert run(*command)[0] == 0
    status, _, err = run(*command)
    assert (status, "already holds a run" in err) == (2, True)
    status, out, err = run(*command, "--resume")
    assert status == 0
    assert "resumed mine at iteration 7 of 7" in out + err
    status, _, err = run(*command, "--resume", "--lr", "0.3")
    assert (status, "lr 0.1 there, 0.3 here" in err) == (2, True)


def test_ctrl_c_says_how_to_go_on(here):
    program = (
        "import os, signal, sys, minires.train.trainer as t\n"
        "step = t.Trainer._step\n"
        "def press(self, *batch):\n"
        "    step(self, *batch)\n"
        "    if self.iteration == 3: os.kill(os.getpid(), signal.SIGINT)\n"
        "t.Trainer._step = press\n"
        "from minires.cli import main\n"
        "sys.exit(main())\n"
    )
    command = ["train", *SMALL, "--epochs", "2", "--out", "a run"]
    stopped = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, cwd=here)
    assert stopped.returncode == 130
    assert "stopped at iteration 3 of 12; saved. Go on with: minires train" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    told = re.search(r"minires (train .*)", stopped.stderr).group(1)
    assert told == "train --model resnet8 --width 2 --batch-size 240 --seed 1 --epochs 2 --out 'a run' --resume"


def test_options_reach_the_configuration(here, run):
    options = ["--shortcut", "B", "--optimizer", "adam", "--lr", "0.01", "--schedule", "cosine", "--label-smoothing",
               "0.1", "--validation", "200", "--decay", "weights", "--zero-init-residual", "--warmup", "1",
               "--augment", "--padding", "2", "--flip", "--warmup-shape", "linear"]  # fmt: skip
    status, _, err = run("train", *SMALL, "--iterations", 2, "--out", "r", *options)
    assert status == 0, err
    config = json.loads((here / "r" / "config.json").read_text())
    expected = {"shortcut": "B", "optimizer": "adam", "lr": 0.01, "schedule": "cosine", "label_smoothing": 0.1,
                "validation": 200, "decay": "weights", "zero_init_residual": True, "warmup": 1, "seed": 1,
                "augment": True, "padding": 2, "flip": True, "warmup_shape": "linear"}  # fmt: skip
    assert {name: config[name] for name in expected} == expected


def test_cifar_from_a_path(here, run, rng):
    folder = here / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]:
        records = rng.integers(0, 256, (8, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        (folder / name).write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")
    status, _, err = run("train", "--data", here, "--model", "resnet8", "--iterations", 2, "--out", "r")
    assert status == 0, err
    config = json.loads((here / "r" / "config.json").read_text())
    assert (config["lr"], config["batch_size"], config["schedule"], config["augment"]) == (0.1, 128, "steps", True)
    status, _, err = run("eval", "r", "--data", "digits")
    assert (status, "something else" in err) == (2, True)


def test_both_kinds_of_cifar_in_one_folder(here, run):
    for family, names in (("cifar-10-batches-bin", ["data_batch_1.bin"]), ("cifar-100-binary", ["train.bin"])):
        (here / family).mkdir()
        for name in names:
            (here / family / name).write_bytes(b"")
    status, _, err = run("train", "--data", here)
    assert (status, "holds both CIFAR-10 and CIFAR-100" in err) == (2, True)


def test_summary_gradcheck_doctor_info(here, run):
    status, out, _ = run("summary", "resnet50", "--size", 33)
    assert status == 0
    assert "parameters           25,557,032" in out
    status, out, _ = run("gradcheck", "resnet8", "--size", 5, "--entries", 1)
    assert status == 0
    assert "all gradients agree" in out
    status, out, _ = run("doctor")
    assert status == 0
    for name in ("Python", "NumPy", "BLAS", "CuPy", "digits"):
        assert name in out
    status, out, _ = run("data", "info")
    assert status == 0
    assert "no CIFAR" in out


def test_a_wrong_gradient_gives_status_1(run, monkeypatch):
    from minires.ops.norm import BatchNorm

    monkeypatch.setattr(BatchNorm, "backward", staticmethod(lambda ctx, dy: (dy, dy.sum((0, 1, 2)), dy.sum((0, 1, 2)))))
    status, out, _ = run("gradcheck", "resnet8", "--size", 5, "--entries", 1)
    assert status == 1
    assert "FAIL" in out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("tran", "invalid choice: 'tran'"),
        ("train --schedule poly", "choose from"),
        ("train --model resnet21", "the depth must be 6n + 2"),
        ("train --model vgg", "there is no model 'vgg'; choose resnetN or plainN"),
        ("train --model resnet18 --width 8", "has the widths of table 1"),
        ("train --data nowhere", "no data 'nowhere': give digits, shapes"),
        ("train --data cifar10", "minires data download cifar10"),
        ("train --epochs nan", "epochs must be a number"),
        ("train --epochs 1 --iterations 5", "not allowed with"),
        ("train --lr fast", "invalid float value: 'fast'"),
        ("train --batch-size 0", "batch_size must be a whole number of at least 1"),
        ("train --resume", "add --out DIR"),
        ("train --out file", "is a file; the run needs a folder"),
        ("train --milestones 9 3 --iterations 12", "milestones must increase"),
        ("eval nothing", "there is no checkpoint"),
        ("eval file", "not a whole minires checkpoint"),
        ("predict nothing x.png", "there is no checkpoint"),
        ("summary resnet50 --size 0", "--size must be positive"),
        ("summary resnet20 --stride-in 1x1", "is for bottlenecks"),
        ("gradcheck resnet8 --entries 0", "--entries must be at least 1"),
        ("gradcheck resnet8 --seed -1", "--seed must be at least 0"),
        ("summary resnet²", "there is no model"),
        ("summary resnet20 --classes 0", "--classes must be positive"),
        ("train --label-smoothing 1.5", "label_smoothing must be"),
        ("train --epochs inf", "epochs must be"),
        ("train --optimizer adam --nesterov", "nesterov"),
        ("train --resume --out gone", "there is no run in gone"),
        ("data info file --debugg", "unrecognized arguments"),
        ("data fetch", "invalid choice: 'fetch'"),
    ],
)
def test_mistakes_are_one_sentence(here, run, command, sentence):
    (here / "file").write_text("something")
    status, out, err = run(*command.split())
    assert status == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in out + err
    assert not (here / "runs").exists()


def test_the_first_command_of_the_readme_reaches_98_percent(here, run):
    status, out, err = run("train")
    assert status == 0, err
    assert float(re.search(r"accuracy (\S+)%", out).group(1)) >= 98


def test_a_run_with_validation_is_tested_on_the_test_set(here, run):
    assert run("train", *SMALL, "--iterations", 2, "--validation", 200, "--out", "r")[0] == 0
    assert "digits test" in run("eval", "r")[1]
    assert "200 images" in run("eval", "r", "--validation")[1]
    assert run("train", *SMALL, "--iterations", 2, "--out", "s")[0] == 0
    assert "held no images out" in run("eval", "s", "--validation")[2]


def test_pictures_of_all_kinds(here):
    from PIL import Image

    from minires.cli.runs import _read

    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(ramp).save(here / "16bit.png")
    np.testing.assert_array_equal(_read(here / "16bit.png", (8, 8, 1), False)[..., 0], ramp >> 8)
    ink = np.zeros((8, 8, 4), np.uint8)  # black, and transparent but for the upper half
    ink[:4, :, 3] = 255
    Image.fromarray(ink).save(here / "ink.png")
    np.testing.assert_array_equal(_read(here / "ink.png", (8, 8, 1), True)[:, 0, 0], [255] * 4 + [0] * 4)


def test_predict_names_what_it_cannot_read(here, run):
    assert run("train", *SMALL, "--iterations", 1, "--out", "r")[0] == 0
    (here / "text.png").write_text("not a picture")
    assert "text.png is not a readable picture" in run("predict", "r", "text.png")[2]
    assert "there is no picture gone.png" in run("predict", "r", "gone.png")[2]


def test_debug_shows_the_traceback(here):
    command = [sys.executable, "-m", "minires", "eval", "nothing"]
    for arguments in ([*command, "--debug"], [*command[:3], "--debug", *command[3:]]):
        shown = subprocess.run(arguments, capture_output=True, text=True, cwd=here)
        assert "Traceback" in shown.stderr
    hidden = subprocess.run(command, capture_output=True, text=True, cwd=here)
    assert hidden.returncode == 2
    assert hidden.stderr == "minires: there is no checkpoint nothing.\n"


def test_importing_is_light():
    """matplotlib, tqdm and CuPy are loaded when they are used; together they take most of a second."""
    late = ["matplotlib", "tqdm", "cupy", "PIL", "urllib.request"]
    program = f"import sys, minires, minires.cli; print([m for m in {late} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
