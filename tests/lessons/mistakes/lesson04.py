"""What goes wrong with a cross-entropy and a step with momentum."""

from . import Mistake

MISTAKES = [
    Mistake(
        1,
        "the maximum not subtracted",
        "largest = z.max(axis=1, keepdims=True)",
        "largest = 0 * z[:, :1]",
        r"exp\(\) overflowed",
    ),
    Mistake(
        1,
        "logarithm of a softmax",
        "return (log_sum - z[np.arange(len(z)), labels]).mean()",
        "return -np.log(softmax(z)[np.arange(len(z)), labels]).mean()",
        r"rounded to 0 before its logarithm",
    ),
    Mistake(
        1,
        "one maximum for the whole batch",
        "largest = z.max(axis=1, keepdims=True)",
        "largest = z.max() + 0 * z[:, :1]",
        r"exp\(\) overflowed, or a probability was rounded",
    ),
    Mistake(1, "sum for mean", "labels]).mean()", "labels]).sum()", "the sum over the batch: the loss is its mean"),
    Mistake(1, "sign", "return (log_sum - z", "return -(log_sum - z", "the sign is wrong"),
    Mistake(1, "score of the label forgotten", " - z[np.arange(len(z)), labels]).mean()", ").mean()", "not subtracted"),
    Mistake(
        1,
        "sum over the batch",
        "largest[:, 0] + np.log(np.exp(z - largest).sum(axis=1))",
        "np.log(np.exp(z).sum(axis=0))[labels]",
        "the sum in LSE runs over the batch",
    ),
    Mistake(1, "scores changed in place", "np.exp(z - largest)", "np.exp(np.subtract(z, largest, out=z))", "in place"),
    Mistake(2, "not divided by N", "dy * grad / len(z)", "dy * grad", "N = 5 times too large: a division by it"),
    Mistake(2, "divided by N twice", "/ len(z)}", "/ len(z) ** 2}", "N = 5 times too small: divided by it once too"),
    Mistake(2, "divided by K", "/ len(z)}", "/ z.shape[1]}", "1.4 times too small"),
    Mistake(2, "sign", "dy * grad /", "-dy * grad /", "the sign is wrong"),
    Mistake(
        2,
        "softmax over the batch",
        "grad = softmax(z)",
        "grad = softmax(z.T).T",
        "must sum to zero along axis 1",
    ),
    Mistake(2, "upstream ignored", "dy * grad /", "grad /", "not linear in dy"),
    Mistake(2, "one-hot forgotten", "labels] -= 1", "labels] -= 0", "must sum to zero along axis 1"),
    Mistake(
        2,
        "softmax that overflows",
        "grad = softmax(z)",
        "grad = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)",
        r"exp\(\) overflowed",
    ),
    Mistake(
        3,
        "Caffe's convention",
        "v = momentum * v + g\n    return w - lr * v, v",
        "v = momentum * v + lr * g\n    return w - v, v",
        "Caffe's convention",
    ),
    Mistake(3, "running mean", "momentum * v + g", "momentum * v + (1 - momentum) * g", "a running mean"),
    Mistake(3, "uphill", "return w - lr * v", "return w + lr * v", "goes uphill"),
    Mistake(
        3, "velocity not kept", "v = momentum * v + g\n    return w - lr * v, v", "return w - lr * g, v", "never used"
    ),
    Mistake(3, "Nesterov", "return w - lr * v, v", "return w - lr * (g + momentum * v), v", "Nesterov"),
    Mistake(
        3, "old velocity", "return w - lr * v, v", "return w - lr * (v - g) / (momentum or 1), v", "the old velocity"
    ),
    Mistake(3, "decay of the wrong sign", "g + weight_decay * w", "g - weight_decay * w", "the weights grow"),
    Mistake(3, "decay twice", "g + weight_decay * w", "g + 2 * weight_decay * w", "twice too large"),
    Mistake(3, "decay forgotten", "g = g + weight_decay * w", "g = g + 0 * w", "the weight decay is missing"),
    Mistake(
        3,
        "decay beside the velocity",
        "g = g + weight_decay * w\n    v = momentum * v + g\n    return w - lr * v, v",
        "v = momentum * v + g\n    return w - lr * v - lr * weight_decay * w, v",
        "by-passes the velocity",
    ),
    Mistake(3, "in place", "v = momentum * v + g", "v *= momentum\n    v += g", "v was changed in place"),
]
