"""Every operation, as a Function: importing this module gives the operators of Tensor their meaning."""

from . import activation, arithmetic, conv, loss, norm, pool, reduce, shape
from .broadcast import unbroadcast

__all__ = ["activation", "arithmetic", "conv", "loss", "norm", "pool", "reduce", "shape", "unbroadcast"]
