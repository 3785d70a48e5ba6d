"""The definitions, in plain loops: slow, short, and what every other set of kernels is held against."""

from .conv import channel_sum, conv2d, conv2d_dw, conv2d_dx
from .norm import batch_norm, batch_norm_backward
from .pointwise import cross_entropy, cross_entropy_dx, relu, relu_dx
from .pool import avg_pool2d, avg_pool2d_dx, max_pool2d, max_pool2d_dx

__all__ = [
    "avg_pool2d",
    "avg_pool2d_dx",
    "batch_norm",
    "batch_norm_backward",
    "channel_sum",
    "conv2d",
    "conv2d_dw",
    "conv2d_dx",
    "cross_entropy",
    "cross_entropy_dx",
    "max_pool2d",
    "max_pool2d_dx",
    "relu",
    "relu_dx",
]
