"""What the cases share: inputs, and right formulas.  The forward ones take complex numbers as well."""

import numpy as np

WINDOWS = np.lib.stride_tricks.sliding_window_view


def normal(rng, **shapes):
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def logistic(z):
    return 1 / (1 + np.exp(-z))


def softmax(z, axis=-1):
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def softmax_back(dy, p, axis=-1):
    return p * (dy - (dy * p).sum(axis, keepdims=True))


# -- norms: g is dy gamma ---------------------------------------------------------------------------------------------


def normed(x, over, eps=1e-5):
    """Return xhat and 1 / std."""
    centred = x - x.mean(over, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(over, keepdims=True) + eps)
    return centred * rstd, rstd


def normed_back(g, xhat, rstd, over):
    return rstd * (g - g.mean(over, keepdims=True) - xhat * (g * xhat).mean(over, keepdims=True))


# -- convolution: x (N, C, H, W), w (O, C, KH, KW) --------------------------------------------------------------------


def padded(x, by):
    return np.pad(x, ((0, 0), (0, 0), (by, by), (by, by)))


def conv(x, w, stride=1, padding=0):
    windows = WINDOWS(padded(x, padding), w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, w)


def conv_dx(dy, w, shape, stride=1, padding=0, crop=None):
    """Of an x of this shape; crop is where the padding ends, if it is cut off elsewhere."""
    crop = padding if crop is None else crop
    (n, c, height, width), (rows, columns) = shape, dy.shape[2:]
    dx = np.zeros((n, c, height + 2 * padding, width + 2 * padding))
    for i, j in np.ndindex(*w.shape[2:]):
        seen = dx[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
        seen += np.einsum("nohw,oc->nchw", dy, w[:, :, i, j])
    return dx[:, :, crop : crop + height, crop : crop + width]


def conv_dw(dy, x, w, stride=1, padding=0):
    windows = WINDOWS(padded(x, padding), w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nohw,nchwij->ocij", dy, windows)


# -- the same with x (N, H, W, C), w (KH, KW, C, O) -------------------------------------------------------------------


def nchw(x):
    return x.transpose(0, 3, 1, 2)


def nhwc(x):
    return x.transpose(0, 2, 3, 1)


def oihw(w):
    return w.transpose(3, 2, 0, 1)


def conv_last(x, w, stride=1, padding=0):
    """With the channels last."""
    return nhwc(conv(nchw(x), oihw(w), stride, padding))


def conv_last_dx(dy, w, shape, stride=1, padding=0, crop=None):
    n, height, width, c = shape
    return nhwc(conv_dx(nchw(dy), oihw(w), (n, c, height, width), stride, padding, crop))


def conv_last_dw(dy, x, w, stride=1, padding=0):
    return conv_dw(nchw(dy), nchw(x), oihw(w), stride, padding).transpose(2, 3, 1, 0)


# -- attention --------------------------------------------------------------------------------------------------------


def attention_weights(q, k):
    return softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))


def attention(q, k, v):
    return attention_weights(q, k) @ v


def attention_back(dy, q, k, v):
    """Return dq, dk, dv, and the gradient of q @ k.T."""
    p = attention_weights(q, k)
    ds = softmax_back(dy @ v.swapaxes(-1, -2), p) / np.sqrt(q.shape[-1])
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy, ds


# -- recurrent networks -----------------------------------------------------------------------------------------------


def states(z, wh):
    """h[0] = 0 and h[t + 1] = tanh(z[:, t] + h[t] @ wh), in a list."""
    h = [np.zeros((len(z), len(wh)))]
    for t in range(z.shape[1]):
        h.append(np.tanh(z[:, t] + h[-1] @ wh))
    return h
