"""The definitions, in plain loops: slow, short, and what every other set of kernels is held against."""

from .conv import channel_sum, conv2d, conv2d_backward, conv2d_moments, conv2d_norm_backward
from .descent import sgd
from .norm import batch_norm, batch_norm_backward, moments
from .pointwise import add, cross_entropy, cross_entropy_dx, relu, relu_dx
from .pool import avg_pool2d, avg_pool2d_dx, max_pool2d, max_pool2d_dx
from .product import matmul

__all__ = [
    "add",
    "avg_pool2d",
    "avg_pool2d_dx",
    "batch_norm",
    "batch_norm_backward",
    "channel_sum",
    "conv2d",
    "conv2d_backward",
    "conv2d_moments",
    "conv2d_norm_backward",
    "cross_entropy",
    "cross_entropy_dx",
    "matmul",
    "max_pool2d",
    "max_pool2d_dx",
    "moments",
    "relu",
    "relu_dx",
    "sgd",
]
