"""Lesson 10: the three shortcuts.  `minires lessons check 10` says how it goes, `minires gradcheck FILE` more."""

import numpy as np

from minires import functional as F
from minires import nn

INPUTS = {
    "shortcut_a": {"x": (3, 5, 4, 2)},
    "block": {"x": (3, 5, 4, 2), "w1": (2, 7), "w2": (7, 6), "w_s": (2, 6)},
}


def shortcut_a(x, channels=6, stride=2):
    """Option A: every stride-th pixel, the new channels zero ("Option A is a matrix of zeros and ones").

    Args:
        x: pictures (N, H, W, C).
        channels: of the result, at least C.  The old ones come first.

    Returns:
        (N, ceil(H / stride), ceil(W / stride), channels)
    """
    # BEGIN SOLUTION task 1: option A, forward and backward
    kept = x[:, ::stride, ::stride]
    y = np.zeros((*kept.shape[:3], channels), x.dtype)
    y[..., : x.shape[3]] = kept
    return y
    # END SOLUTION


def shortcut_a_backward(dy, x, channels=6, stride=2):
    """The gradient of x, of its shape: the adjoint of `shortcut_a` ("Its backward pass is its adjoint")."""
    # BEGIN SOLUTION task 1: option A, forward and backward
    dx = np.zeros(x.shape, dy.dtype)
    dx[:, ::stride, ::stride] = dy[..., : x.shape[3]]
    return dx
    # END SOLUTION


def branch(x, w1, w2, stride=2):
    """F(x), given: two 1x1 convolutions, the first with the stride, and a ReLU between them.

    x (N, H, W, C), w1 (C, M), w2 (M, O) -> (N, ceil(H / stride), ceil(W / stride), O)
    """
    return np.maximum(x[:, ::stride, ::stride] @ w1, 0) @ w2


def branch_backward(g, x, w1, w2, stride=2):
    """The gradients of `branch`, given: a dict with "x", "w1" and "w2", new arrays; ``g`` is dL/dF."""
    kept = x[:, ::stride, ::stride]
    h = np.maximum(kept @ w1, 0)
    dh = (g @ w2.T) * (h > 0)
    dx = np.zeros_like(x)
    dx[:, ::stride, ::stride] = dh @ w1.T
    return {"x": dx, "w1": np.tensordot(kept, dh, ((0, 1, 2),) * 2), "w2": np.tensordot(h, g, ((0, 1, 2),) * 2)}


def block(x, w1, w2, w_s, stride=2):
    """relu(F(x) + W_s x), given: w_s (C, O) are the weights of a 1x1 convolution, without a batch norm here."""
    return np.maximum(branch(x, w1, w2, stride) + x[:, ::stride, ::stride] @ w_s, 0)


def block_backward(dy, x, w1, w2, w_s, stride=2):
    """The gradients of all four inputs of `block`: a dict with "x", "w1", "w2" and "w_s".

    Use `branch_backward`.  What does the ReLU after the addition do to dy?  And from where does x receive a gradient
    ("The gradient of W_s" and "Two paths, and both come back")?
    """
    # BEGIN SOLUTION task 2: the gradients of a block with a projection
    kept = x[:, ::stride, ::stride]
    g = dy * (branch(x, w1, w2, stride) + kept @ w_s > 0)
    grads = branch_backward(g, x, w1, w2, stride)
    grads["x"][:, ::stride, ::stride] += g @ w_s.T
    grads["w_s"] = kept.reshape(-1, x.shape[3]).T @ g.reshape(-1, dy.shape[3])
    return grads
    # END SOLUTION


class ProjectionBlock(nn.Module):
    """The block of the paper with option B: relu(F(x) + shortcut(x)), on the layers of the engine.

    F is a 3x3 convolution (with the stride), batch norm, ReLU, a 3x3 convolution and batch norm; the shortcut a 1x1
    convolution and batch norm.  No convolution has a bias: the batch norm after it would take it away again.

    Attributes:
        conv1, bn1, conv2, bn2: of the branch.
        conv_s, bn_s: of the shortcut.
    """

    def __init__(self, in_channels, channels, stride=2):
        # BEGIN SOLUTION task 3: a block with option B
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv_s = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        self.bn_s = nn.BatchNorm2d(channels)
        # END SOLUTION

    def forward(self, x):
        """(N, H, W, in_channels) -> (N, ceil(H / stride), ceil(W / stride), channels)."""
        # BEGIN SOLUTION task 3: a block with option B
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.bn_s(self.conv_s(x)))
        # END SOLUTION


def count_parameters(n, option, width=16, in_channels=3, classes=10):
    """How many parameters the CIFAR network with 6n + 2 layers has ("What each option costs, by hand").

    Args:
        n: blocks in each of the three stages, of ``width``, ``2 * width`` and ``4 * width`` channels.
        option: "A", "B" or "C".

    Count: the first convolution (3x3) and its batch norm; the two convolutions and batch norms of each block; what the
    shortcuts have; the classifier with its bias.  No other layer has a bias.
    """
    # BEGIN SOLUTION task 4: count the parameters
    total = 9 * in_channels * width + 2 * width
    before = width
    for after in (width, 2 * width, 4 * width):
        for _ in range(n):
            total += 9 * before * after + 9 * after * after + 4 * after
            if option == "C" or (option == "B" and before != after):
                total += before * after + 2 * after
            before = after
    return total + before * classes + classes
    # END SOLUTION
