"""What goes wrong with a convolution."""

from . import Mistake

MISTAKES = [
    Mistake(
        1, "filter turned around", "(window * w[..., o])", "(window[::-1, ::-1] * w[..., o])", "filter is turned around"
    ),
    Mistake(
        1,
        "stride left out",
        "top, left = i * stride, j * stride\n        window",
        "top, left = i, j\n        window",
        "the stride is left out",
    ),
    Mistake(1, "bias missing", "w[..., o]).sum() + b[o]", "w[..., o]).sum()", "the bias is missing"),
    Mistake(
        1, "bias in every product", "w[..., o]).sum() + b[o]", "w[..., o] + b[o]).sum()", "added with every product"
    ),
    Mistake(
        1,
        "one channel only",
        "(window * w[..., o]).sum()",
        "(window * w[..., o])[..., 0].sum()",
        "only the first channel is seen",
    ),
    Mistake(
        2,
        "overlaps overwritten",
        "left : left + kernel[1]] += parts",
        "left : left + kernel[1]] = parts",
        r"several windows see: they add up, \+= instead of =",
    ),
    Mistake(
        2,
        "border cut off at the far end only",
        "return padded[:, padding : padding + height, padding : padding + width]",
        "return padded[:, :height, :width]",
        "cut off in the wrong place",
    ),
    Mistake(
        2,
        "border cut off at the near end only",
        "return padded[:, padding : padding + height, padding : padding + width]",
        "return padded[:, 2 * padding :, 2 * padding :]",
        "cut off in the wrong place",
    ),
    Mistake(
        2,
        "border left on",
        "return padded[:, padding : padding + height, padding : padding + width]",
        "return padded",
        "the border is not cut off",
    ),
    Mistake(
        2,
        "stride left out",
        "top, left = i * stride, j * stride\n        padded",
        "top, left = i, j\n        padded",
        "the stride is left out",
    ),
    Mistake(
        2,
        "H and W exchanged",
        "n, height, width, channels = x_shape",
        "n, width, height, channels = x_shape",
        "are H and W",
    ),
    Mistake(
        2,
        "KH and KW exchanged",
        "cols.reshape(n, rows, columns, *kernel, channels)",
        "cols.reshape(n, rows, columns, kernel[1], kernel[0], channels).swapaxes(3, 4)",
        "rows and columns of the window are exchanged",
    ),
    Mistake(
        2,
        "OH and OW exchanged",
        "cols.reshape(n, rows, columns, *kernel, channels)",
        "cols.reshape(n, columns, rows, *kernel, channels).swapaxes(1, 2)",
        "rows and columns of windows are exchanged",
    ),
    Mistake(
        2,
        "pixels left over forgotten",
        "(n, height + 2 * padding, width + 2 * padding, channels)",
        "(n, stride * (rows - 1) + kernel[0], stride * (columns - 1) + kernel[1], channels)",
        "the pixels that no window reaches are missing",
    ),
    Mistake(
        3,
        "filter turned around in dx",
        "col2im(rows @ filters.T",
        "col2im(rows @ w[::-1, ::-1].reshape(-1, w.shape[3]).T",
        "the filter is turned around",
    ),
    Mistake(
        3,
        "channels exchanged in dx",
        "col2im(rows @ filters.T",
        "col2im(rows @ w.swapaxes(2, 3).reshape(-1, w.shape[2]).T",
        "channels in and out of the filter are exchanged",
    ),
    Mistake(3, "window turned around in dw", "dw.reshape(w.shape)", "dw.reshape(w.shape)[::-1, ::-1]", "turned around"),
    Mistake(3, "dw averaged", "stride, padding).T @ rows", "stride, padding).T @ rows / len(x)", "averaged"),
    Mistake(3, "db averaged", "rows.sum(axis=0)", "rows.mean(axis=0)", "averaged"),
    Mistake(3, "db over the pixels only", '"b": rows.sum(axis=0)', '"b": dy.sum(axis=(1, 2))', "sum it over axis 0"),
    Mistake(3, "db missing", '"b": rows.sum(axis=0)', '"b": 0 * b', "it is zero everywhere"),
    Mistake(
        3,
        "stride left out in dw",
        "dw = im2col(x, w.shape[:2], stride, padding).T @ rows",
        "dw = im2col(x, w.shape[:2], 1, padding).T @ rows",
        "matmul: ",
    ),
]
