"""Wrong solutions of lesson 08."""

from . import Mistake

GAMMA = "norm.gamma.data[...] = np.sqrt(1 + norm.eps)"
METER = "    body.train()\n    x = Tensor"
RATIO = "np.sqrt(np.mean(x.grad**2)) / np.sqrt(np.mean(upstream**2))"
TWIN = "model = network(depth, residual, width, train[0].shape[1], train[1].max() + 1, seed)"

MISTAKES = [
    Mistake(1, "1/n for 2/n", "np.sqrt(2 / inputs)", "np.sqrt(1 / inputs)", "That is 1/n"),
    Mistake(1, "outputs for inputs", "np.sqrt(2 / inputs)", "np.sqrt(2 / outputs)", "each output sums over the inputs"),
    Mistake(
        1, "variance for deviation", "np.sqrt(2 / inputs)", "(2 / inputs)", "the deviation of the weights is the root"
    ),
    Mistake(1, "Glorot's", "np.sqrt(2 / inputs)", "np.sqrt(2 / (inputs + outputs))", "That is Glorot's"),
    Mistake(2, "eps forgotten", GAMMA, "norm.gamma.data[...] = 1", "That is the eps"),
    Mistake(2, "zero weights", "np.eye(len(linear.weight.data))", "0", "Are both matrices the identity"),
    Mistake(2, "beta left as it was", "norm.beta.data[...] = 0", "pass", "and beta 0"),
    Mistake(2, "one layer only", ", (block.fc2, block.bn2)):", ",):", "Are both matrices the identity"),
    Mistake(3, "evaluation mode", METER, METER.replace("train()", "eval()"), "That is evaluation mode"),
    Mistake(3, "whatever mode it is in", METER, "    x = Tensor", "That is evaluation mode"),
    Mistake(3, "mode not restored", "    body.train(mode)\n", "", "came back in the other"),
    Mistake(
        3, "upside down", RATIO, "np.sqrt(np.mean(upstream**2)) / np.sqrt(np.mean(x.grad**2))", "It is upside down"
    ),
    Mistake(3, "mean squares", RATIO, "np.mean(x.grad**2) / np.mean(upstream**2)", "take the root"),
    Mistake(3, "norms for rms", RATIO, "np.linalg.norm(x.grad) / np.linalg.norm(upstream)", r"root of the \*mean\*"),
    Mistake(3, "not divided", RATIO, "np.sqrt(np.mean(x.grad**2))", "is not divided by"),
    Mistake(
        4,
        "test error reported as training error",
        '"training error": error(model, *train)',
        '"training error": error(model, *test)',
        "a test error is no training error",
    ),
    Mistake(
        4, "batch norm in training mode", "    model.eval()\n", "    model.train()\n", "Batch norm is in training mode"
    ),
    Mistake(4, "left in evaluation mode", "    model.train(mode)\n", "", "came back in the other"),
    Mistake(4, "accuracy for error", "guesses != labels", "guesses == labels", "the share of right answers"),
    Mistake(
        4,
        "unequal parameters",
        TWIN,
        TWIN.replace("depth,", "depth if residual else depth - 2,"),
        "Networks of unequal size",
    ),
    Mistake(4, "unequal widths", TWIN, TWIN.replace(" width,", " width + residual,"), "Networks of unequal size"),
    Mistake(4, "other initial weights", TWIN, TWIN.replace("seed)", "seed + residual)"), "different weights"),
    Mistake(4, "both plain", TWIN, TWIN.replace("residual,", "False,"), "the second residual"),
    Mistake(4, "trained on test points", "fit(model, *train)", "fit(model, *test)", "not for training"),
    Mistake(
        4,
        "buffers counted too",
        "sum(p.size for p in model.parameters())",
        "sum(a.size for a in model.state_dict().values())",
        "The running statistics are not learned",
    ),
]
