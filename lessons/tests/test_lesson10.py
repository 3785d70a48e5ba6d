"""Lesson 10: option A and its adjoint, a block with a projection, and what the options cost."""

import numpy as np
import pytest

import minires
from minires import Tensor, models
from minires import functional as F

pytestmark = pytest.mark.lesson10


def compare(what, yours, right, usual):
    """Fail unless both agree; where yours is what a usual mistake gives, say which."""
    __tracebackhide__ = True
    yours = np.asarray(yours)
    if yours.shape != right.shape:
        pytest.fail(f"{what}: expected shape {right.shape}, yours has {yours.shape}.")
    if np.allclose(yours, right, rtol=1e-9, atol=1e-11):
        return
    same = [
        name for name, wrong in usual.items() if wrong.shape == yours.shape and np.allclose(yours, wrong, atol=1e-9)
    ]
    at = tuple(int(i) for i in np.unravel_index(np.abs(yours - right).argmax(), right.shape))
    values = f"expected {right[at]:+.6g}, yours {yours[at]:+.6g} at {at}" if at else f"expected {right}, yours {yours}"
    pytest.fail(f"{what}: {values}: {same[0] if same else 'none of the usual mistakes gives this'}.")


def require(held, otherwise):
    """Fail with a sentence, and nothing else, unless it held."""
    __tracebackhide__ = True
    if not held:
        pytest.fail(otherwise)


# -- task 1 -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[2, 3], ids=["stride 2", "stride 3"])
def stride(request):
    return request.param


@pytest.fixture
def pictures(sizes, rng):
    return rng.standard_normal(sizes(N=2, H=7, W=5, C=3))


@pytest.fixture
def channels(sizes, pictures):
    return pictures.shape[3] + sizes(NEW=4)[0]


@pytest.mark.task1
def test_shortcut_a_forward(mine, pictures, channels, stride):
    c = pictures.shape[3]
    right = F.subsample_pad(pictures, stride, channels).numpy()
    split = (channels - c) // 2
    usual = {
        "the new channels come first: the old ones keep their numbers, 0 to C - 1": np.roll(right, channels - c, 3),
        "the zeros are split to both sides: here they all come after the old channels": np.roll(right, split, 3),
        "the first pixels are taken, or others than every stride-th from 0 on": shifted(pictures, stride, channels),
    }
    compare("shortcut_a", mine.shortcut_a(pictures, channels, stride), right, usual)


def shifted(x, stride, channels):
    """Every stride-th pixel from 1 on, where that gives the right number of them."""
    return F.subsample_pad(np.roll(x, (-1, -1), (1, 2)), stride, channels).numpy()


@pytest.mark.task1
def test_shortcut_a_without_a_change_is_the_identity(mine, pictures):
    y = mine.shortcut_a(pictures, pictures.shape[3], 1)
    require(np.array_equal(y, pictures), "with stride 1 and no new channels, option A must give back x as it is.")


@pytest.mark.task1
def test_shortcut_a_backward(mine, pictures, channels, stride, rng):
    right, dy = right_dx(pictures, channels, stride, rng)
    c = pictures.shape[3]
    nearest = dy[..., :c].repeat(stride, 1).repeat(stride, 2)[:, : pictures.shape[1], : pictures.shape[2]]
    usual = {
        "the last channels of dy are taken: x went into the first ones, 0 to C - 1": scattered(
            dy[..., -c:], right, stride
        ),
        "every pixel gets a copy (nearest-neighbour upsampling): those not taken had no effect, so 0": nearest,
        "the gradient is shared among the pixels: only one of them was taken, it gets all": nearest / stride**2,
        "the wrong pixels get it: it belongs to 0, stride, 2 stride, ...": np.roll(right, (1, 1), (1, 2)),
    }
    compare("shortcut_a_backward", mine.shortcut_a_backward(dy, pictures, channels, stride), right, usual)


def right_dx(x, channels, stride, rng):
    t = Tensor(x, requires_grad=True)
    y = F.subsample_pad(t, stride, channels)
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    return t.grad, dy


def scattered(kept, like, stride):
    """Zeros like the other array, with ``kept`` on every stride-th pixel."""
    dx = np.zeros_like(like)
    dx[:, ::stride, ::stride] = kept
    return dx


@pytest.mark.task1
def test_shortcut_a_backward_is_the_adjoint(mine, pictures, channels, stride, rng):
    """<A x, y> = <x, A' y>, without any difference."""
    ax = F.subsample_pad(pictures, stride, channels).numpy()
    y = rng.standard_normal(ax.shape)
    left, right = np.vdot(ax, y), np.vdot(pictures, mine.shortcut_a_backward(y, pictures, channels, stride))
    agree = abs(left - right) < 1e-12 * np.abs(ax).sum()
    require(agree, f"<Ax, y> = {left:.6g} but <x, A'y> = {right:.6g}: what you wrote is not the adjoint of option A.")


# -- task 2 -----------------------------------------------------------------------------------------------------------


def weights(rng, sizes, square=False):
    n, h, w, c, m, o = sizes(N=2, H=7, W=5, C=3, M=4, O=6)
    if square:  # a matrix that should have been transposed then fits as it is
        c = m = o = sizes(C=3)[0]
    given = {"x": rng.standard_normal((n, h, w, c)), "w1": rng.standard_normal((c, m))}
    return {**given, "w2": rng.standard_normal((m, o)), "w_s": rng.standard_normal((c, o))}


@pytest.mark.task2
@pytest.mark.parametrize("square", [False, True], ids=["oblong", "square"])
@pytest.mark.parametrize("name", ["x", "w_s"])
def test_block_gradients_by_name(mine, sizes, rng, square, name, stride):
    """The two that the shortcut adds, against the engine."""
    inputs = weights(rng, sizes, square)
    tensors = {k: Tensor(v if v.ndim == 4 else v[None, None], requires_grad=True) for k, v in inputs.items()}
    f = F.conv2d(F.relu(F.conv2d(tensors["x"], tensors["w1"], stride=stride)), tensors["w2"])
    y = F.relu(f + F.conv2d(tensors["x"], tensors["w_s"], stride=stride))
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    right = tensors[name].grad.reshape(inputs[name].shape)
    grads = mine.block_backward(dy, **inputs, stride=stride)
    require(isinstance(grads, dict), f"block_backward must return a dict, yours returns {type(grads).__name__}.")
    require(name in grads, f"block_backward returns no {name!r}: expected x, w1, w2 and w_s, yours {', '.join(grads)}.")
    g = dy * (y.numpy() > 0)
    compare(f"the gradient of {name}", grads[name], right, wrong_gradients(mine, name, dy, g, inputs, stride))


def wrong_gradients(mine, name, dy, g, inputs, stride):
    x, w_s = inputs["x"], inputs["w_s"]
    unmasked = "the ReLU after the addition is left out for the shortcut: both paths get dy (y > 0), not dy"
    if name == "w_s":
        kept = x[:, ::stride, ::stride]
        right, raw = (np.tensordot(kept, d, ((0, 1, 2),) * 2) for d in (g, dy))
        pixels = kept[..., 0].size
        return {
            unmasked: raw,
            "it is averaged over the pixels: all of them share W_s, so their gradients add up": right / pixels,
            "it is averaged over the pictures: they all share W_s, so their gradients add up": right / len(x),
            "it is transposed: X'G, not G'X": right.T,
        }
    given = {k: inputs[k] for k in ("x", "w1", "w2")}
    through_f, f_raw = (mine.branch_backward(d, **given, stride=stride)["x"] for d in (g, dy))
    square = w_s.shape[0] == w_s.shape[1]
    through_s, s_raw = scattered(g @ w_s.T, x, stride), scattered(dy @ w_s.T, x, stride)
    not_transposed = scattered(g @ (w_s if square else w_s.T), x, stride)
    spread = (g @ w_s.T).repeat(stride, 1).repeat(stride, 2)[:, : x.shape[1], : x.shape[2]]
    only_s = through_f.copy()
    only_s[:, ::stride, ::stride] = g @ w_s.T
    return {
        "what comes back through the projection is not added to dx: x is used on both paths": through_f,
        "only what comes back through the projection is there: add it to that of the branch, += instead of =": only_s,
        "the projection's part is counted twice": through_f + 2 * through_s,
        "W_s is not transposed: g W_s', not g W_s": through_f + not_transposed,
        "the projection's part goes to every pixel: only those that were taken get one": through_f + spread,
        unmasked: through_f + s_raw,
        "the ReLU after the addition is left out: both paths get dy (y > 0), not dy": f_raw + s_raw,
    }


@pytest.mark.task2
@pytest.mark.parametrize("square", [False, True], ids=["oblong", "square"])
def test_block_gradients(mine, sizes, rng, gradcheck, square):
    gradcheck(mine.block, mine.block_backward, weights(rng, sizes, square))


@pytest.mark.task2
def test_block_backward_changes_no_input(mine, sizes, rng):
    inputs = weights(rng, sizes)
    dy = rng.standard_normal(mine.block(**inputs).shape)
    before = {k: v.copy() for k, v in {**inputs, "dy": dy}.items()}
    mine.block_backward(dy, **inputs)
    for name, value in {**inputs, "dy": dy}.items():
        require(np.array_equal(value, before[name]), f"block_backward changed {name} in place: work on a new array.")


# -- task 3 -----------------------------------------------------------------------------------------------------------

TWINS = {"conv_s": "shortcut.conv", "bn_s": "shortcut.bn"}


def my_block(mine, c, o, stride=2):
    made = mine.ProjectionBlock(c, o, stride)
    for name in ("conv1", "bn1", "conv2", "bn2", "conv_s", "bn_s"):
        why = " The paper has a batch norm after each convolution, that of the shortcut too." if name == "bn_s" else ""
        require(hasattr(made, name), f"ProjectionBlock has no {name}.{why}")
    return made


@pytest.mark.task3
def test_both_paths_have_the_stride(mine, sizes, rng):
    n, h, w, c, o = sizes(N=2, H=7, W=6, C=3, O=5)
    made = my_block(mine, c, o)
    for name, layer in (("conv1", made.conv1), ("conv_s", made.conv_s)):
        halves = tuple(np.broadcast_to(layer.stride, 2)) == (2, 2)
        require(halves, f"{name} has the stride {layer.stride}: both paths must halve the picture, (2, 2).")
    for height, width in ((h, w), (2, 2)):  # 1x1 + 2x2 would broadcast without a word
        y = made(Tensor(rng.standard_normal((n, height, width, c)).astype("float32")))
        right = (n, (height + 1) // 2, (width + 1) // 2, o)
        require(y.shape == right, f"pictures of {height} x {width} must give {right}, yours give {y.shape}.")


@pytest.mark.task3
def test_parameters_of_the_block(mine, sizes):
    c, o = sizes(C=3, O=5)
    found = {name: p.size for name, p in my_block(mine, c, o).named_parameters()}
    right = 9 * c * o + 9 * o * o + 4 * o + c * o + 2 * o
    biases = [name for name in found if name.endswith("bias")]
    require(not biases, f"{', '.join(biases)}: a batch norm takes away what a bias adds before it; give bias=False.")
    listed = ", ".join(f"{name} {size}" for name, size in found.items())
    require(
        sum(found.values()) == right,
        f"a block from {c} to {o} channels has 9ab + 9b^2 + 4b + ab + 2b = {right} parameters, yours "
        f"{sum(found.values())}: {listed}.",
    )


@pytest.mark.task3
def test_block_computes_what_the_engine_s_does(mine, sizes, rng):
    n, h, w, c, o = sizes(N=3, H=7, W=6, C=2, O=5)
    made = my_block(mine, c, o).astype("float64")
    twin = models.BasicBlock(c, o, 2, models.ProjectionShortcut(c, o, 2)).astype("float64")
    theirs = dict(twin.named_parameters())
    for name, p in made.named_parameters():
        layer, kind = name.rsplit(".", 1)
        p.data[...] = rng.standard_normal(p.shape)
        theirs[f"{TWINS.get(layer, layer)}.{kind}"].data[...] = p.data
    x = rng.standard_normal((n, h, w, c))
    with minires.no_fusion():
        mine_y, right = made(Tensor(x)).numpy(), twin(Tensor(x)).numpy()
        f = twin.bn2(twin.conv2(F.relu(twin.bn1(twin.conv1(Tensor(x))))))
        s, bare = twin.shortcut(Tensor(x)), twin.shortcut.conv(Tensor(x))
        usual = {
            "the ReLU after the addition is missing": f + s,
            "the ReLU comes before the addition: it belongs after it (section 3.2)": F.relu(f) + s,
            "there is a ReLU on the shortcut: nothing but W_s and its batch norm belongs there": F.relu(f + F.relu(s)),
            "bn_s is not used: the shortcut is bn_s(conv_s(x))": F.relu(f + bare),
            "the shortcut is left out": F.relu(f),
            "the ReLU between the two convolutions is missing": F.relu(
                twin.bn2(twin.conv2(twin.bn1(twin.conv1(Tensor(x))))) + s
            ),
        }
    compare("the block's output", mine_y, right, {text: y.numpy() for text, y in usual.items()})


# -- task 4 -----------------------------------------------------------------------------------------------------------


@pytest.mark.task4
@pytest.mark.parametrize("option", ["A", "B", "C"])
def test_count(mine, sizes, option):
    n, w, c, k = sizes(BLOCKS=2, WIDTH=5, C=3, CLASSES=7)
    right = sum(p.size for p in models.cifar_resnet(6 * n + 2, option, width=w, in_channels=c, classes=k).parameters())
    norms, shortcuts = 2 * w + n * 4 * 7 * w, {"A": 0, "B": 2, "C": 3 * n}[option]
    changes = {"A": 0, "B": w * 2 * w + 2 * w * 4 * w, "C": 0}[option]
    s_norms = {"A": 0, "B": 2 * 6 * w, "C": 2 * n * 7 * w}[option]
    usual = {
        "the batch norms are not counted: gamma and beta, 2 for each channel": right - norms - s_norms,
        "the batch norms of the shortcuts are not counted: 2 for each channel": right - s_norms,
        "the batch norms of the blocks are not counted: 4 for each channel of a block": right - n * 4 * 7 * w,
        "that of the first convolution is not counted": right - 2 * w,
        "only gamma or only beta is counted": right - (norms + s_norms) // 2,
        "the classifier's bias is not counted": right - k,
        "the first convolution is not counted, or without its 9 positions": right - 8 * c * w,
        "the two projections have 3x3 windows: they are 1x1": right + 8 * changes,
        "each stage has a projection: the first keeps shape and channels, so B has only two": right + w * w + 2 * w,
        "option A has no parameters of its own": right + w * 2 * w + 2 * w * 4 * w + 12 * w,
    }
    yours = mine.count_parameters(n, option, w, c, k)
    found = next((text for text, value in usual.items() if value == yours != right), "none of the usual mistakes")
    require(
        yours == right,
        f"option {option}, n = {n}, width {w}, {c} channels, {k} classes, {shortcuts} projections: expected {right:,}, "
        f"yours {yours:,}: {found}.",
    )


@pytest.mark.task4
def test_count_of_the_paper_s_networks(mine):
    right = {(3, "A"): 269_722, (3, "B"): 272_474, (3, "C"): 283_962, (9, "A"): 853_018, (18, "A"): 1_727_962}
    for (n, option), number in right.items():
        yours = mine.count_parameters(n, option)
        require(yours == number, f"ResNet-{6 * n + 2}, option {option}: expected {number:,}, yours {yours:,}.")
