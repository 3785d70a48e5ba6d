"""Lesson 08: depth and degradation.  `minires lessons check 08` says how it goes.

Here you may use minires: the networks are made of its layers.
"""

import numpy as np

from minires import Tensor, nn, no_grad
from minires import functional as F


class Block(nn.Module):
    """Two linear layers, each with its batch norm: relu(F(x) + x), or relu(F(x)) for the plain twin.  Given."""

    def __init__(self, width, residual, generator=None):
        self.fc1 = nn.Linear(width, width, bias=False, generator=generator)
        self.bn1 = nn.BatchNorm2d(width)
        self.fc2 = nn.Linear(width, width, bias=False, generator=generator)
        self.bn2 = nn.BatchNorm2d(width)
        self.residual = residual

    def forward(self, x):
        """(N, width) -> (N, width), never negative."""
        h = F.relu(self.bn1(self.fc1(x)))
        h = self.bn2(self.fc2(h))
        return F.relu(h + x if self.residual else h)


def network(depth, residual, width, inputs, classes, seed):
    """A classifier of ``depth`` linear layers, (depth - 2) / 2 blocks between the first and the last.  Given."""
    generator = np.random.default_rng(seed)
    stem = [nn.Linear(inputs, width, bias=False, generator=generator), nn.BatchNorm2d(width), nn.ReLU()]
    blocks = [Block(width, residual, generator) for _ in range((depth - 2) // 2)]
    return nn.Sequential(*stem, *blocks, nn.Linear(width, classes, generator=generator))


def he_weights(inputs, outputs, generator):
    """Normal weights (inputs, outputs) of mean 0 for a layer with a ReLU behind it: section 2 of the lesson.

    The variance is to keep the mean square of what flows *forward*.  generator: a `numpy.random.Generator`.
    """
    # BEGIN SOLUTION task 1: He's initial weights
    return generator.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
    # END SOLUTION


def make_identity(block):
    """Set the parameters of a fresh plain `Block` so that in evaluation mode it gives back what it is given.

    That is meant for inputs that are not negative, as behind a ReLU, and to the last digits of float64: section 4 of
    the lesson.  The running statistics are 0 and 1, leave them so.  Set ``parameter.data[...]``; return nothing.
    """
    # BEGIN SOLUTION task 2: a block that is the identity
    for linear, norm in ((block.fc1, block.bn1), (block.fc2, block.bn2)):
        linear.weight.data[...] = np.eye(len(linear.weight.data))
        norm.gamma.data[...] = np.sqrt(1 + norm.eps)
        norm.beta.data[...] = 0
    # END SOLUTION


def deepen(model, count):
    """A network with ``count`` identity blocks put in after the stem of `model`; the rest is shared.  Given."""
    stem, rest = list(model)[:3], list(model)[3:]
    dtype = model[0].weight.dtype
    added = [Block(model[0].weight.shape[1], residual=False).astype(dtype) for _ in range(count)]
    for block in added:
        make_identity(block)
    return nn.Sequential(*stem, *added, *rest)


def gradient_ratio(body, x, upstream):
    """The rms of the gradient at the input of ``body``, divided by the rms of the gradient at its output.

    body: a Module, in whatever mode; measure with batch norm in training mode, as in a training step, and leave the
    module in the mode it was in (``body.training``).  x: the input, an array.  upstream: the gradient at the output,
    an array.  rms(g) is the root of the mean of all squares.  Section 3 of the lesson.
    """
    # BEGIN SOLUTION task 3: the meter
    mode = body.training
    body.train()
    x = Tensor(x, requires_grad=True)
    body(x).backward(upstream)
    body.train(mode)
    return np.sqrt(np.mean(x.grad**2)) / np.sqrt(np.mean(upstream**2))
    # END SOLUTION


def error(model, x, labels):
    """The share of x (N, inputs) whose largest score is not at its label, in evaluation mode.

    The module is left in the mode it was in, and its running statistics as they were.
    """
    # BEGIN SOLUTION task 4: a fair comparison
    mode = model.training
    model.eval()
    with no_grad():
        guesses = model(Tensor(x)).numpy().argmax(1)
    model.train(mode)
    return float(np.mean(guesses != labels))
    # END SOLUTION


def compare(depth, width, train, test, fit, seed=0):
    """Train a plain network and its residual twin alike, and report both.

    train, test: pairs (x, labels).  fit: trains a model in place, ``fit(model, x, labels)``.  Both networks come from
    `network`, with the same seed, so that only the addition differs; the number of classes is ``labels.max() + 1``.

    Returns:
        {"plain": row, "residual": row}, each row {"parameters": how many numbers the network learns,
        "training error": ..., "test error": ...}, the errors measured with `error` after training.
    """
    # BEGIN SOLUTION task 4: a fair comparison
    rows = {}
    for name, residual in (("plain", False), ("residual", True)):
        model = network(depth, residual, width, train[0].shape[1], train[1].max() + 1, seed)
        fit(model, *train)
        rows[name] = {
            "parameters": sum(p.size for p in model.parameters()),
            "training error": error(model, *train),
            "test error": error(model, *test),
        }
    return rows
    # END SOLUTION
