"""Wrong solutions of lesson 07."""

from . import Mistake

DX = "return gamma / std * (dy - dy.mean(axes) - xhat * (dy * xhat).mean(axes))"
STD = "    std = np.sqrt(x.var(axes) + eps)\n    xhat"

MISTAKES = [
    Mistake(
        1, "exchanged", "return dgamma, dbeta", "return dbeta, dgamma", "gradients of gamma and beta are exchanged"
    ),
    Mistake(1, "gamma with the raw x", "(dy * xhat).sum(axes)\n", "(dy * x).sum(axes)\n", "x must be normalised first"),
    Mistake(
        1,
        "gamma with x - mean",
        "(dy * xhat).sum(axes)\n",
        "(dy * (x - x.mean(axes))).sum(axes)\n",
        "divide by the standard deviation",
    ),
    Mistake(
        1, "gamma without eps", "np.sqrt(x.var(axes) + eps)\n    d", "np.sqrt(x.var(axes))\n    d", "eps is left out"
    ),
    Mistake(
        1,
        "gamma with the unbiased variance",
        "np.sqrt(x.var(axes) + eps)\n    d",
        "np.sqrt(x.var(axes, ddof=1) + eps)\n    d",
        "divided by m - 1",
    ),
    Mistake(1, "mean for sum", "dbeta = dy.sum(axes)", "dbeta = dy.mean(axes)", "sum"),
    Mistake(1, "summed over N only", "dbeta = dy.sum(axes)", "dbeta = dy.sum(0)", "sum over N, H and W"),
    Mistake(
        2,
        "mean of dy not subtracted",
        DX,
        "return gamma / std * (dy - xhat * (dy * xhat).mean(axes))",
        "the mean of dy is not subtracted",
    ),
    Mistake(
        2,
        "no variance term",
        DX,
        "return gamma / std * (dy - dy.mean(axes))",
        r"the term xhat mean\(dy xhat\) is missing",
    ),
    Mistake(2, "moments taken as constants", DX, "return gamma / std * dy", "the means of dy and of dy xhat"),
    Mistake(
        2, "N for N*H*W", DX, DX.replace(".mean(axes)", ".sum(axes) / len(x)"), r"m = N\*H\*W = \d+ values, not N = \d+"
    ),
    Mistake(2, "means over N only", DX, DX.replace("mean(axes)", "mean(0)"), r"m = N\*H\*W = \d+ values, not N = \d+"),
    Mistake(2, "unbiased variance", STD, STD.replace("(axes)", "(axes, ddof=1)"), "divided by m - 1"),
    Mistake(2, "eps left out", STD, STD.replace(" + eps", ""), "eps is left out"),
    Mistake(2, "variance for its root", STD, STD.replace("np.sqrt", ""), "the variance stands in place of its root"),
    Mistake(
        2, "divided by the variance", DX, DX.replace("gamma / std", "gamma / std**2"), "divided by its deviation once"
    ),
    Mistake(2, "gamma forgotten", DX, DX.replace("gamma / std", "1 / std"), "the factor gamma is missing"),
    Mistake(2, "zeros", DX, "return 0 * dy", "it is zero everywhere"),
    Mistake(
        3,
        "momentum the other way round",
        "(1 - momentum) * running_mean + momentum * x.mean(axes)",
        "momentum * running_mean + (1 - momentum) * x.mean(axes)",
        "The weights are exchanged",
    ),
    Mistake(3, "biased running variance", "x.var(axes, ddof=1)", "x.var(axes)", "The variance is the biased one"),
    Mistake(
        3, "deviation for variance", "x.var(axes, ddof=1)", "x.std(axes, ddof=1)", "The standard deviation is averaged"
    ),
    Mistake(3, "old value lost", "(1 - momentum) * running_mean + momentum * x", "x", "The old value is lost"),
    Mistake(
        3,
        "changed in place",
        "    mean = (1 - momentum) * running_mean",
        "    running_mean *= 1 - momentum\n    mean = running_mean",
        "changed what it was given",
    ),
    Mistake(
        4,
        "the formula of training",
        '"x": dy * gamma * inverse',
        '"x": gamma * inverse * (dy - dy.mean(all_but_last(x)) - scaled * (dy * scaled).mean(all_but_last(x)))',
        "the means of the training formula have no place here|the formula of training, in evaluation",
    ),
    Mistake(
        4,
        "the batch's own moments",
        "fixed_mean, fixed_var = running",
        "fixed_mean, fixed_var = x.mean(all_but_last(x)), x.var(all_but_last(x))",
        "must not depend on the others in the batch",
    ),
    Mistake(4, "gamma forgotten", '"x": dy * gamma * inverse', '"x": dy * inverse', "the factor gamma is missing"),
    Mistake(4, "gamma with x - mean", "(dy * scaled)", "(dy * (x - fixed_mean))", r"sum of dy \(x - mean\)"),
]
