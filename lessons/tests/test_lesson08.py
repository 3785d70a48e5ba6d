"""Lesson 08: initial weights, a network made deeper without changing it, the gradient meter, and a fair comparison."""

import numpy as np
import pytest

from minires import Tensor, nn, no_grad
from minires import functional as F

pytestmark = pytest.mark.lesson08


def expect(right, otherwise):
    """Fail with this sentence and nothing else."""
    __tracebackhide__ = True
    if not right:
        raise AssertionError(otherwise)


def rms(array):
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(array))))


# -- task 1 -----------------------------------------------------------------------------------------------------------


@pytest.mark.task1
def test_he_weights(mine, rng, sizes):
    inputs, outputs = sizes(I=300, O=500)
    w = mine.he_weights(inputs, outputs, rng)
    expect(np.shape(w) == (inputs, outputs), f"the weights should have shape {(inputs, outputs)}, not {np.shape(w)}.")
    variance = np.var(w)
    told = f"the variance should be 2/n = {2 / inputs:.5f} with n = {inputs} inputs; yours is {variance:.5f}. "
    for other, words in (
        (1 / inputs, "That is 1/n: the ReLU throws half of the square away, hence the 2."),
        (2 / outputs, "That is 2 / outputs: forward, each output sums over the inputs."),
        (4 / inputs**2, "That is (2/n)^2: the deviation of the weights is the root, sqrt(2/n)."),
        (2 / (inputs + outputs), "That is Glorot's, for layers without a ReLU."),
        (1.0, "That is 1: nothing is scaled."),
    ):
        if abs(variance / other - 1) < 0.05:
            told += words
            break
    expect(abs(variance * inputs / 2 - 1) < 0.05, told)
    expect(abs(np.mean(w)) < 0.1 * np.std(w), f"the mean of the weights should be near 0; yours is {np.mean(w):.2g}.")


@pytest.mark.task1
def test_he_weights_keep_the_signal(mine, rng, sizes):
    n, width = sizes(N=64, W=256)
    x = rng.standard_normal((n, width))
    before = np.mean(x**2)
    for _ in range(12):
        x = np.maximum(x @ mine.he_weights(width, width, rng), 0)
    ratio = np.mean(x**2) / before
    expect(
        1 / 3 < ratio < 3,
        f"through 12 layers with ReLU the mean square should stay about as it is; yours is multiplied by {ratio:.1e}. "
        f"1/2 for each layer would be {2.0**-12:.1e}: variance 1/n for 2/n.",
    )


# -- task 2 -----------------------------------------------------------------------------------------------------------


def trained(mine, rng, depth, width, inputs):
    """A plain network as if trained: no statistic is 0 or 1 any more.  float64, in evaluation mode."""
    model = mine.network(depth, False, width, inputs, 4, seed=1).astype(np.float64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name in ("gamma", "running_var"):
                getattr(module, name).data[...] = rng.uniform(0.5, 2, module.gamma.shape)
            for name in ("beta", "running_mean"):
                getattr(module, name).data[...] = 0.3 * rng.standard_normal(module.gamma.shape)
    return model.eval()


@pytest.mark.task2
def test_a_block_that_is_the_identity(mine, rng, sizes):
    n, width = sizes(N=5, W=6)
    block = mine.Block(width, residual=False, generator=rng).astype(np.float64).eval()
    block.bn1.beta.data[...] = block.bn2.beta.data[...] = 0.1  # whatever was there must not matter
    mine.make_identity(block)
    x = rng.uniform(0, 3, (n, width)) * (rng.random((n, width)) > 0.3)
    with no_grad():
        off = np.abs(block(Tensor(x)).numpy() - x).max()
    told = "Are both matrices the identity, and beta 0?"
    if off < 1e-3:
        told = "That is the eps in sqrt(running_var + eps): gamma must be its root, sqrt(1 + eps), not 1."
    expect(
        off < 1e-12, f"in evaluation mode the block should give back what it is given; it is off by {off:.1e}. {told}"
    )
    statistics = [(norm.running_mean.numpy(), norm.running_var.numpy()) for norm in (block.bn1, block.bn2)]
    expect(
        all((mean == 0).all() and (var == 1).all() for mean, var in statistics),
        "the running statistics of the new block should stay 0 and 1; set gamma and beta instead.",
    )


@pytest.mark.task2
def test_a_deeper_network_with_the_same_loss(mine, rng, sizes):
    n, width, inputs = sizes(N=7, W=6, I=3)
    shallow = trained(mine, rng, 8, width, inputs)
    deep = mine.deepen(shallow, 24).eval()
    x, labels = rng.standard_normal((n, inputs)), rng.integers(0, 4, n)
    with no_grad():
        losses = [F.cross_entropy(model(Tensor(x)), labels).item() for model in (shallow, deep)]
    expect(
        abs(losses[0] - losses[1]) < 1e-12,
        f"24 identity blocks should leave the loss as it was, {losses[0]:.12f}; it became {losses[1]:.12f}. "
        "Is each block the identity to the last digits, eps of the batch norm included?",
    )


# -- task 3 -----------------------------------------------------------------------------------------------------------


def measured(body, x, upstream, training):
    """The ratio in one mode or the other."""
    body.train(training)
    x = Tensor(x, requires_grad=True)
    body(x).backward(upstream)
    return rms(x.grad) / rms(upstream)


@pytest.mark.task3
@pytest.mark.parametrize("residual", [False, True])
def test_gradient_ratio(mine, rng, sizes, residual):
    n, width = sizes(N=32, W=16)
    body = nn.Sequential(*(mine.Block(width, residual, rng) for _ in range(6))).astype(np.float64)
    x, upstream = rng.standard_normal((2, n, width))
    upstream *= 3
    fresh = body.state_dict()
    in_evaluation, right = (measured(body, x, upstream, training) for training in (False, True))
    for mode in (False, True):
        body.load_state_dict(fresh)  # running statistics of 0 and 1, with which evaluation is another network
        body.train(mode)
        mine_ = float(mine.gradient_ratio(body, x, upstream))
        told = f"the ratio should be {right:.4g}; yours is {mine_:.4g}. "
        for other, words in (
            (1 / right, "It is upside down: input over output."),
            (right**2, "It is the ratio of the mean squares: take the root."),
            (right * rms(upstream), "The gradient at the output is not divided by."),
            (in_evaluation, "That is evaluation mode: batch norm must use the moments of the batch, as in training."),
        ):
            if abs(mine_ / other - 1) < 0.02 and abs(mine_ / right - 1) > 1e-6:
                told += words
                break
        expect(abs(mine_ / right - 1) < 1e-6, told)
        expect(
            body.training is mode and all(block.training is mode for block in body),
            f"the module was in {'training' if mode else 'evaluation'} mode and came back in the other. Keep "
            "body.training and restore it.",
        )


@pytest.mark.task3
def test_gradient_ratio_of_more_numbers_out_than_in(mine, rng, sizes):
    n, inputs, outputs = sizes(N=9, I=4, O=11)
    body = nn.Linear(inputs, outputs, generator=rng).astype(np.float64)
    x, upstream = rng.standard_normal((n, inputs)), rng.standard_normal((n, outputs))
    right = rms(upstream @ body.weight.numpy().T) / rms(upstream)
    mine_ = float(mine.gradient_ratio(body, x, upstream))
    expect(
        abs(mine_ / right - 1) < 1e-9,
        f"from {inputs} numbers to {outputs} the ratio should be {right:.4g}; yours is {mine_:.4g}. rms is the root of "
        f"the *mean* of the squares; with sums it would be {right * np.sqrt(inputs / outputs):.4g}.",
    )


# -- task 4 -----------------------------------------------------------------------------------------------------------


def wrong_share(model, x, labels, training=False):
    """The error in one mode or the other; the running statistics are put back."""
    state, mode = model.state_dict(), model.training
    model.train(training)
    with no_grad():
        guesses = model(Tensor(x)).numpy().argmax(1)
    model.load_state_dict(state)
    model.train(mode)
    return float(np.mean(guesses != labels))


def points(rng, n, inputs, shift=0.0):
    """Points of four classes, and labels that have something to do with them."""
    x = rng.standard_normal((n, inputs)) + shift
    labels = np.argmax(x[:, :3], axis=1)
    labels[:4] = np.arange(4)
    return x.astype(np.float32), labels


@pytest.mark.task4
def test_error(mine, rng, sizes):
    n, width, inputs = sizes(N=61, W=8, I=3)
    x, labels = points(rng, n, inputs, shift=1.0)
    model = trained(mine, rng, 6, width, inputs).astype(np.float32)
    right, in_training = (wrong_share(model, x, labels, training) for training in (False, True))
    for mode in (True, False):
        model.train(mode)
        before = model.state_dict()
        mine_ = mine.error(model, x, labels)
        told = f"the error should be {right:.4f}; yours is {mine_:.4f}. "
        if abs(mine_ - right) > 1e-9:
            for other, words in (
                (1 - right, "That is the share of right answers."),
                (100 * right, "It is a share between 0 and 1, not a percentage."),
                (in_training, "Batch norm is in training mode: the error is measured in evaluation mode."),
            ):
                told += words if abs(mine_ - other) < 1e-9 else ""
        expect(abs(mine_ - right) < 1e-9, told)
        expect(
            all(np.array_equal(before[name], now) for name, now in model.state_dict().items()),
            "measuring the error changed the running statistics: that is training mode; call model.eval() first.",
        )
        expect(
            all(module.training is mode for module in model.modules()),
            f"the model was in {'training' if mode else 'evaluation'} mode and came back in the other: training would "
            "go on in the wrong one. Keep model.training and restore it.",
        )


class Fit:
    """In place of training: moves the running statistics, and remembers what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, model, x, labels):
        self.seen.append((model, {name: p.numpy().copy() for name, p in model.named_parameters()}, x, labels))
        model.train()
        with no_grad():
            for _ in range(5):
                model(Tensor(x))


@pytest.mark.task4
def test_compare(mine, rng, sizes):
    n, m, width, inputs = sizes(N=67, M=45, W=8, I=3)
    train, test, fit = points(rng, n, inputs), points(rng, m, inputs, shift=0.7), Fit()
    table = mine.compare(6, width, train, test, fit, seed=3)
    expect(
        isinstance(table, dict) and list(table) == ["plain", "residual"],
        'compare should return {"plain": row, "residual": row}, in this order.',
    )
    columns = {"parameters", "training error", "test error"}
    expect(all(set(row) == columns for row in table.values()), f"each row should have {', '.join(sorted(columns))}.")
    expect(len(fit.seen) == 2, f"each network should be trained once with fit(); it was called {len(fit.seen)} times.")
    counts = [sum(p.size for p in seen[0].parameters()) for seen in fit.seen]
    expect(
        counts[0] == counts[1],
        f"the twins have {counts[0]} and {counts[1]} parameters. Networks of unequal size compare size, not the "
        "addition: give both the same depth and width.",
    )
    expect(
        [table[name]["parameters"] for name in table] == counts,
        f"the table says {[table[name]['parameters'] for name in table]} parameters; count p.size of all of "
        f"model.parameters(), which gives {counts}. (The running statistics are not learned.)",
    )
    expect(
        [any(getattr(b, "residual", False) for b in seen[0]) for seen in fit.seen] == [False, True],
        "the first network should be plain and the second residual.",
    )
    first, second = (seen[1] for seen in fit.seen)
    expect(
        all(np.array_equal(first[name], second[name]) for name in first),
        "the twins start from different weights: make both with the same seed, so that only the addition differs.",
    )
    expect(
        all(seen[2] is train[0] and seen[3] is train[1] for seen in fit.seen),
        "fit was given something else than the training points: the test points are not for training.",
    )
    for name, (model, *_) in zip(table, fit.seen, strict=True):
        true = {"training error": wrong_share(model, *train), "test error": wrong_share(model, *test)}
        other = {"training error": true["test error"], "test error": true["training error"]}
        for column in true:
            given = table[name][column]
            told = f"{name}: the {column} should be {true[column]:.4f}; yours is {given:.4f}. "
            in_training = [wrong_share(model, *some, training=True) for some in (train, test)]
            if abs(given - other[column]) < 1e-9:
                told += "That is the error on the other points: a test error is no training error, and degradation is "
                told += "a statement about the training error."
            elif min(abs(given - share) for share in in_training) < 1e-9:
                told += "Batch norm is in training mode: the error is measured in evaluation mode."
            expect(abs(given - true[column]) < 1e-9, told)


# -- given ------------------------------------------------------------------------------------------------------------


def test_twins_have_the_same_parameters(mine):
    plain, residual = (mine.network(20, kind, 8, 3, 4, seed=0) for kind in (False, True))
    shapes = [[(name, p.shape) for name, p in model.named_parameters()] for model in (plain, residual)]
    assert shapes[0] == shapes[1]
    assert len(list(plain)) == 3 + 9 + 1
