"""An error is a small lesson: every sentence shows the shapes and the arithmetic that does not work out.

What a test expects is literal; `` ... `` stands for anything in between.
"""

import re

import numpy as np
import pytest

import minires
from minires import Tensor, nn, tensor
from minires import functional as F
from minires.backend import array_module, cupy_problem, device_of
from minires.errors import ArgumentError, DeviceError, MiniresError, ShapeError
from tests.devices import here

ON_THE_HOST = pytest.mark.host_only("to look at labels would make a GPU wait: a wrong one makes its loss NaN there")


def zeros(*shape, dtype="float32"):
    return Tensor(np.zeros(shape, dtype))


PICTURES = zeros(2, 8, 9, 3)
WEIGHTS = zeros(3, 3, 3, 6)
CHANNELS = zeros(3)


@pytest.fixture(autouse=True)
def on_their_device(device, monkeypatch):
    for name in ("PICTURES", "WEIGHTS", "CHANNELS"):
        monkeypatch.setitem(globals(), name, here(globals()[name]))


def fails(run, error, sentence, marks=()):
    return pytest.param(run, error, sentence, id=sentence[:60], marks=marks)


def assert_fails(run, error, sentence):
    """The error is of this class and of minires, and its message is a sentence with these parts in this order."""
    with pytest.raises(error) as caught:
        run()
    assert isinstance(caught.value, MiniresError)
    message = str(caught.value)
    assert message.endswith(".")
    end = 0
    for part in sentence.split(" ... "):
        assert part in message[end:], f"{message!r} lacks {part!r}"
        end = message.index(part, end) + len(part)


CONV = [
    fails(lambda: F.conv2d(zeros(2, 8, 9, 16), WEIGHTS), ShapeError,
          "conv2d: x has 16 channels but w expects 3 (x (2, 8, 9, 16), w (3, 3, 3, 6), groups 1)."),
    fails(lambda: F.conv2d(PICTURES, WEIGHTS, groups=1.0), ShapeError,
          "conv2d: groups must be an integer, got 1.0."),
    fails(lambda: F.conv2d(PICTURES, WEIGHTS, groups=True), ShapeError, "conv2d: groups must be an integer, got True."),
    fails(lambda: F.conv2d(PICTURES, zeros(0, 3, 3, 6)), ShapeError,
          "conv2d: the filters have shape (0, 3, 3, 6), so that there is nothing to convolve with."),
    fails(lambda: F.conv2d(PICTURES, zeros(3, 3, 3, 6), groups=3), ShapeError,
          "conv2d: x has 3 channels but w expects 9 (x (2, 8, 9, 3), w (3, 3, 3, 6), groups 3)."),
    fails(lambda: F.conv2d(zeros(8, 9, 3), WEIGHTS), ShapeError,
          "conv2d: expected pictures (N, H, W, C), got shape (8, 9, 3) with 3 axes. Add a batch axis: x[None]."),
    fails(lambda: F.conv2d(zeros(2, 27), WEIGHTS), ShapeError,
          "conv2d: expected pictures (N, H, W, C), got shape (2, 27) with 2 axes."),
    fails(lambda: F.conv2d(PICTURES, zeros(3, 6)), ShapeError,
          "conv2d: expected filters (KH, KW, C_in / groups, C_out), got shape (3, 6)."),
    *(
        fails(lambda g=groups: F.conv2d(PICTURES, WEIGHTS, groups=g), ShapeError,
              f"conv2d: groups {groups} must divide ... the 3 channels of x ... 6 filters")
        for groups in (2, 0, -1)
    ),
    fails(lambda: F.conv2d(PICTURES, WEIGHTS, zeros(5)), ShapeError,
          "conv2d: the bias has shape (5,) but w (3, 3, 3, 6) makes 6 channels."),
    fails(lambda: F.conv2d(zeros(1, 4, 9, 3), zeros(5, 5, 3, 6)), ShapeError,
          "conv2d: a window of 5 rows does not fit a picture of 4 rows with padding 0: (4 + 2*0 - 5)//1 + 1 = 0 rows."),
    fails(lambda: F.conv2d(zeros(1, 9, 2, 3), WEIGHTS, stride=2, padding=(0, 1), dilation=3), ShapeError,
          "conv2d: a window of 7 columns does not fit a picture of 2 columns with padding 1: "
          "(2 + 2*1 - (3*(3 - 1) + 1))//2 + 1 = -1 columns."),
    fails(lambda: F.conv2d(PICTURES, zeros(3, 3, 3, 6, dtype="float64")), ArgumentError,
          "conv2d: all arguments must have one dtype, got x float32, w float64. Convert with .astype(dtype)"),
    fails(lambda: F.conv2d(zeros(2, 8, 9, 3, dtype="int64"), WEIGHTS), ArgumentError,
          "conv2d: expected floating point, got int64. Convert it: x.astype('float32')."),
    *(
        fails(lambda o=option, v=value: F.conv2d(PICTURES, WEIGHTS, **{o: v}), ArgumentError,
              f"conv2d: {option} must be an integer of at least {least}, or a pair of them ... got {value!r}.")
        for option, least, wrong in (
            ("stride", 1, (0, (1, 0), "2", (1, 2, 3))),
            ("padding", 0, (-1, 1.0, "same")),
            ("dilation", 1, (0, True)),
        )
        for value in wrong
    ),
]  # fmt: skip

POOLS = [
    case
    for pool in (F.max_pool2d, F.avg_pool2d)
    for case in (
        fails(lambda p=pool: p(PICTURES, 3, padding=2), ShapeError,
              f"{pool.__name__}: padding (2, 2) is more than half of the window (3, 3)"),
        fails(lambda p=pool: p(PICTURES, (3, 5), padding=(2, 0)), ShapeError,
              f"{pool.__name__}: padding (2, 0) is more than half of the window (3, 5)"),
        fails(lambda p=pool: p(PICTURES, (5, 3), padding=(2, 2)), ShapeError,
              f"{pool.__name__}: padding (2, 2) is more than half of the window (5, 3)"),
        fails(lambda p=pool: p(zeros(1, 4, 4, 2), 5), ShapeError,
              f"{pool.__name__}: a window of 5 rows does not fit a picture of 4 ... (4 + 2*0 - 5)//5 + 1 = 0 rows"),
        fails(lambda p=pool: p(zeros(4, 4, 2), 2), ShapeError, f"{pool.__name__}: expected pictures (N, H, W, C)"),
        fails(lambda p=pool: p(PICTURES, 0), ArgumentError,
              f"{pool.__name__}: kernel must be an integer of at least 1"),
        fails(lambda p=pool: p(PICTURES, 2, 0), ArgumentError,
              f"{pool.__name__}: stride must be an integer of at least 1"),
        fails(lambda p=pool: p(PICTURES, 2, 1, -1), ArgumentError,
              f"{pool.__name__}: padding must be an integer of at"),
        fails(lambda p=pool: p(PICTURES == 0, 2), ArgumentError,
              f"{pool.__name__}: expected floating point, got bool."),
    )
]  # fmt: skip

PICTURE_SHAPES = [
    fails(lambda: F.global_avg_pool2d(zeros(4, 4, 2)), ShapeError, "global_avg_pool2d: expected pictures (N, H, W, C)"),
    fails(lambda: F.global_avg_pool2d(zeros(1, 0, 4, 2)), ShapeError,
          "mean: there are no elements to reduce over axes"),
    fails(lambda: F.pad2d(zeros(4, 4), 1), ShapeError, "pad2d: expected pictures (N, H, W, C), got shape (4, 4)."),
    fails(lambda: F.pad2d(PICTURES, -1), ArgumentError, "pad2d: padding must be an integer of at least 0"),
    fails(lambda: F.subsample_pad(PICTURES, 2, 2), ShapeError, "subsample_pad: cannot pad 3 channels to 2"),
    fails(lambda: F.subsample_pad(PICTURES, 0, 6), ArgumentError,
          "subsample_pad: stride must be an integer of at least 1"),
    fails(lambda: F.pad(zeros(2, 3), ((1, 1),)), ArgumentError,
          "pad: expected a pair (before, after) ... each of the 2 axes, got ((1, 1),)."),
    fails(lambda: F.pad(zeros(2), -1), ArgumentError, "pad: expected a pair ... negative ... got ((-1, -1),)."),
]  # fmt: skip

LOSSES = [
    fails(lambda: F.cross_entropy(zeros(4, 3), np.array([0, 1, 3, 2])), ArgumentError,
          "cross_entropy: labels must be 0 to 2 for 3 classes, got 0 to 3.", ON_THE_HOST),
    fails(lambda: F.cross_entropy(zeros(2, 3), np.array([-1, 1])), ArgumentError,
          "cross_entropy: labels must be 0 to 2 for 3 classes, got -1 to 1.", ON_THE_HOST),
    fails(lambda: F.cross_entropy(zeros(2, 3), F.one_hot([0, 2], 3)), ShapeError,
          "cross_entropy: expected logits (N, K) and labels (N,), got (2, 3) and (2, 3). "
          "Labels are class numbers, not one-hot rows: labels.argmax(1)."),
    fails(lambda: F.cross_entropy(zeros(2, 3), [0, 1, 2]), ShapeError, "labels (N,), got (2, 3) and (3,)."),
    fails(lambda: F.cross_entropy(zeros(3), [0]), ShapeError,
          "expected logits (N, K) and labels (N,), got (3,) and (1,)."),
    fails(lambda: F.cross_entropy(zeros(2, 3), [0.0, 1.0]), ArgumentError, "labels must be integers, got float32."),
    fails(lambda: F.cross_entropy(zeros(0, 3), np.zeros(0, int)), ShapeError,
          "nothing to average in logits of shape (0, 3)."),
    fails(lambda: F.cross_entropy(zeros(2, 0), [0, 0]), ShapeError, "nothing to average in logits of shape (2, 0)."),
    fails(lambda: F.cross_entropy(np.zeros((2, 3), int), [0, 1]), ArgumentError,
          "cross_entropy: expected floating point"),
    *(
        fails(lambda s=s: F.cross_entropy(zeros(1, 3), [0], label_smoothing=s), ArgumentError,
              f"cross_entropy: label_smoothing must be at least 0 and below 1, got {s}.")
        for s in (1.0, -0.1, float("nan"))
    ),
    fails(lambda: F.cross_entropy(zeros(1, 3), [0], reduction="average"), ArgumentError,
          "cross_entropy: reduction must be one of mean, sum, none, got 'average'."),
    fails(lambda: F.mse_loss(CHANNELS, CHANNELS, "sums"), ArgumentError,
          "mse_loss: reduction must be one of mean, sum, none"),
    fails(lambda: F.mse_loss(zeros(4, 1), zeros(4)), ShapeError,
          "mse_loss: prediction (4, 1) and target (4,) must have one shape."),
    fails(lambda: F.mse_loss(zeros(0), zeros(0)), ShapeError,
          "mse_loss: nothing to average in a prediction of shape (0,)."),
    fails(lambda: F.one_hot([0, 3], 3), ArgumentError, "one_hot: labels must be 0 to 2 for 3 classes, got 0 to 3.",
          ON_THE_HOST),
    fails(lambda: F.one_hot([0.5], 3), ArgumentError, "one_hot: labels must be integers, got float32."),
]  # fmt: skip

NORMS = [
    fails(lambda: F.batch_norm(zeros(1, 1, 1, 3), CHANNELS, CHANNELS), ShapeError,
          "batch_norm: training needs at least two values for each channel ... but x (1, 1, 1, 3) has 1."),
    fails(lambda: F.batch_norm(zeros(0, 3), CHANNELS, CHANNELS), ShapeError, "but x (0, 3) has 0. Use a larger batch"),
    fails(lambda: F.batch_norm(PICTURES, zeros(4), CHANNELS), ShapeError,
          "batch_norm: gamma has shape (4,) but x (2, 8, 9, 3) has 3 channels on its last axis."),
    fails(lambda: F.batch_norm(PICTURES, CHANNELS, zeros(1, 3)), ShapeError, "batch_norm: beta has shape (1, 3) but"),
    fails(lambda: F.batch_norm(PICTURES, CHANNELS, CHANNELS, zeros(4), CHANNELS, training=False), ShapeError,
          "batch_norm: running_mean has shape (4,) but"),
    fails(lambda: F.batch_norm(PICTURES, CHANNELS, CHANNELS, training=False), ShapeError,
          "batch_norm: evaluation needs running_mean and running_var, got None."),
    fails(lambda: F.batch_norm(PICTURES.astype("float64"), CHANNELS, CHANNELS), ArgumentError,
          "batch_norm: all arguments must have one dtype, got x float64, gamma float32, beta float32."),
    fails(lambda: F.batch_norm(PICTURES.astype(int), CHANNELS, CHANNELS), ArgumentError,
          "batch_norm: expected floating"),
    fails(lambda: F.layer_norm(zeros(2, 5), CHANNELS, CHANNELS), ShapeError,
          "layer_norm: gamma (3,) and beta (3,) must ... the last axes of x (2, 5)."),
    fails(lambda: F.layer_norm(zeros(2, 3), CHANNELS, zeros(2, 3)), ShapeError,
          "layer_norm: gamma (3,) and beta (2, 3)"),
    fails(lambda: F.layer_norm(zeros(3), zeros(2, 3), zeros(2, 3)), ShapeError, "last axes of x (3,)."),
    fails(lambda: F.layer_norm(zeros(3), zeros(), zeros()), ShapeError, "layer_norm: gamma () and beta ()"),
    fails(lambda: F.linear(zeros(4, 5), zeros(6, 2)), ShapeError,
          "linear: x (4, 5) @ w (6, 2) does not fit: the last axis of x must be as long as the first of w."),
    fails(lambda: F.linear(zeros(4, 5), zeros(5)), ShapeError, "linear: x (4, 5) @ w (5,) does not fit"),
    fails(lambda: F.linear(zeros(), zeros(5, 2)), ShapeError, "linear: x () @ w (5, 2) does not fit"),
    fails(lambda: F.linear(zeros(4, 5), zeros(5, 2), zeros(1, 2)), ShapeError,
          "linear: the bias has shape (1, 2) but w (5, 2) makes 2 outputs."),
    fails(lambda: F.linear(zeros(4, 5), zeros(5, 2, dtype="float16")), ArgumentError, "got x float32, w float16."),
    *(
        fails(lambda p=p: F.dropout(CHANNELS, p), ArgumentError, f"dropout: p must be at least 0 and below 1, got {p}.")
        for p in (1.0, -0.5, 1.5)
    ),
]  # fmt: skip

ARRAYS = [
    *(
        fails(lambda op=op: op(zeros(2, 3), zeros(4, 3)), ShapeError,
              f"{name}: the shapes (2, 3) and (4, 3) do not broadcast. Aligned from the right")
        for name, op in (
            ("add", lambda a, b: a + b),
            ("subtract", lambda a, b: a - b),
            ("multiply", lambda a, b: a * b),
            ("divide", lambda a, b: a / b),
            ("power", lambda a, b: a**b),
            ("maximum", F.maximum),
            ("minimum", F.minimum),
        )
    ),
    fails(lambda: zeros(2, 3) @ zeros(2, 3), ShapeError,
          "matmul: (2, 3) @ (2, 3) does not fit: the last axis of the first"),
    fails(lambda: zeros(2, 3) @ 2, ShapeError, "matmul: (2, 3) @ () does not fit"),
    fails(lambda: zeros(2, 4, 3) @ zeros(5, 3, 4), ShapeError,
          "matmul: the shapes (2, 4, 3) and (5, 3, 4) do not broadcast"),
    fails(lambda: F.where([1, 0], 1.0, 2.0), ArgumentError,
          "where: the condition must be boolean, got int64. Write x != 0"),
    fails(lambda: F.where([True, False], CHANNELS, 0.0), ShapeError,
          "where: the shapes (2,) of the condition, (3,) and () do not broadcast."),
    fails(lambda: F.concatenate([]), ShapeError, "concatenate: expected at least one tensor, got none."),
    fails(lambda: F.concatenate([zeros(2, 3), zeros(4, 5)]), ShapeError,
          "concatenate: the shapes [(2, 3), (4, 5)] differ outside axis 0."),
    fails(lambda: F.concatenate([zeros(2), zeros(2, 3)]), ShapeError, "concatenate: the shapes [(2,), (2, 3)] differ"),
    fails(lambda: F.concatenate([CHANNELS], axis=1), ArgumentError,
          "axis 1 does not exist in an array of 1 axes: use -1 to 0."),
    fails(lambda: F.stack([]), ShapeError, "stack: expected at least one tensor, got none."),
    fails(lambda: F.stack([zeros(2), zeros(3)]), ShapeError, "stack: all shapes must be equal, got [(2,), (3,)]."),
    fails(lambda: F.broadcast_to(zeros(3), (3, 2)), ShapeError, "broadcast_to: (3,) does not broadcast to (3, 2)"),
    fails(lambda: zeros(0, 3).max(), ShapeError,
          "max: there are no elements to reduce over axes (0, 1) of a tensor of"),
    fails(lambda: zeros(0, 3).mean(0), ShapeError,
          "mean: there are no elements to reduce over axes (0,) of a tensor of shape"),
    fails(lambda: zeros(1).var(ddof=1), ShapeError, "var: 1 elements leave nothing to divide by with ddof=1."),
]  # fmt: skip

LAYERS = [
    fails(lambda: nn.Conv2d(3, 8, 3, groups=2), ArgumentError,
          "Conv2d: groups 2 must divide in_channels 3 and out_channels 8 ... positive."),
    fails(lambda: nn.Conv2d(0, 8, 3), ArgumentError, "Conv2d: groups 1 must divide in_channels 0"),
    fails(lambda: nn.Conv2d(3, 8, 0), ArgumentError, "Conv2d: kernel_size must be an integer of at least 1"),
    fails(lambda: nn.Conv2d(3, 8, 3, stride=0), ArgumentError, "Conv2d: stride must be an integer of at least 1"),
    fails(lambda: nn.Conv2d(3, 8, 3, padding=-1), ArgumentError, "Conv2d: padding must be an integer of at least 0"),
    fails(lambda: nn.Conv2d(3, 8, 3, dilation=0), ArgumentError, "Conv2d: dilation must be an integer of at least 1"),
    fails(lambda: nn.Conv2d(4, 8, 3)(PICTURES), ShapeError, "conv2d: x has 3 channels but w expects 4"),
    fails(lambda: nn.Linear(0, 4), ArgumentError, "Linear: sizes must be positive, got 0 and 4."),
    fails(lambda: nn.BatchNorm2d(4)(PICTURES), ShapeError,
          "batch_norm: gamma has shape (4,) but x (2, 8, 9, 3) has 3 channels"),
    fails(lambda: nn.Dropout(1.0), ArgumentError, "Dropout: p must be at least 0 and below 1, got 1.0."),
    fails(lambda: nn.MaxPool2d(0), ArgumentError, "MaxPool2d: kernel_size must be an integer of at least 1"),
    fails(lambda: nn.AvgPool2d(2, 0), ArgumentError, "AvgPool2d: stride must be an integer of at least 1"),
    fails(lambda: nn.MaxPool2d(2, padding=-1), ArgumentError, "MaxPool2d: padding must be an integer of at least 0"),
    fails(lambda: nn.init.fans((3,)), ArgumentError,
          "an initialiser needs at least two axes to tell inputs from outputs, got"),
    fails(lambda: nn.init.he_normal((2, 3), minires.default_generator(), "both"), ArgumentError,
          "he_normal: fan must be 'in' or 'out', got 'both'."),
    fails(lambda: minires.use_kernels("fast"), ArgumentError,
          "use_kernels: there are no kernels 'fast'; choose one of reference, numpy"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "error", "sentence"), [*CONV, *POOLS, *PICTURE_SHAPES, *LOSSES, *NORMS, *ARRAYS, *LAYERS]
)
def test_the_sentence(run, error, sentence):
    assert_fails(run, error, sentence)


def test_an_error_leaves_running_statistics_alone():
    layer = nn.BatchNorm2d(3)
    before = layer.state_dict()
    with pytest.raises(ShapeError):
        layer(zeros(1, 3))
    assert all(np.array_equal(before[n], a) for n, a in layer.state_dict().items())


# -- devices ----------------------------------------------------------------------------------------------------------


class OnDevice:
    """What array_module takes for an array on a GPU: it looks at where the class comes from, and at nothing else."""

    shape, dtype = (4, 5), np.dtype("float32")


OnDevice.__module__ = "cupy._core.core"


@pytest.mark.host_only("asks for a GPU that is not there")
def test_arrays_on_two_devices_are_never_copied_in_silence():
    assert_fails(
        lambda: array_module(np.zeros((2, 3)), OnDevice()),
        DeviceError,
        "one of shape (4, 5) and float32 is on cuda and one of shape (2, 3) and float64 on cpu. Nothing is copied",
    )
    assert device_of(OnDevice()) == "cuda"
    assert device_of(np.zeros(3)) == tensor([1.0]).device == "cpu"


@pytest.mark.host_only("asks for a GPU that is not there")
@pytest.mark.skipif(cupy_problem() is None, reason="needs a machine without a usable GPU")
def test_an_array_on_a_device_that_is_not_there_says_what_to_install():
    for arrays in ((OnDevice(),), (OnDevice(), 2.0, None), (OnDevice(), np.float32(2))):
        assert_fails(lambda arrays=arrays: array_module(*arrays), DeviceError, "CuPy")


def test_numbers_and_none_belong_to_any_device():
    assert array_module(None, 2.0) is np
    assert array_module(np.zeros(2), 3, None) is np


@pytest.mark.parametrize(
    ("mean", "var", "training", "sentence"),
    [
        (Tensor(np.zeros(4)), None, True, "give both running_mean and running_var"),
        (np.zeros(4), np.ones(4), False, "must be Tensors"),
        (Tensor(np.zeros(1)), Tensor(np.ones(4)), True, "running_mean has shape (1,) but x"),
        (Tensor(np.zeros(4)), Tensor(np.ones((2, 4))), False, "running_var has shape (2, 4) but x"),
    ],
)
def test_running_statistics_are_checked(rng, mean, var, training, sentence):
    x, gamma, beta = rng.standard_normal((3, 2, 2, 4)), np.ones(4), np.zeros(4)
    with pytest.raises((ShapeError, ArgumentError), match=re.escape(sentence)):
        F.batch_norm(x, gamma, beta, mean, var, training)


def test_options_do_not_widen_float32(rng):
    x = Tensor(rng.standard_normal((4, 3)).astype(np.float32))
    assert F.dropout(x, np.float64(0.5)).dtype == np.float32
    assert F.cross_entropy(x, [0, 1, 2, 0], np.float64(0.1), "none").dtype == np.float32


@pytest.mark.parametrize("call", [lambda x: x.softmax(None), lambda x: F.concatenate([x, x], None)])
def test_one_axis_means_one(call):
    with pytest.raises(ArgumentError, match="expected one axis"):
        call(Tensor(np.zeros((2, 3))))


def test_softmax_of_nothing_is_nothing():
    assert Tensor(np.zeros((3, 0))).softmax().shape == (3, 0)
