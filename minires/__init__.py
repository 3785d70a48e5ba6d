"""minires: a deep-learning engine from scratch on NumPy, centred on the residual network."""

from . import ops  # noqa: F401 - gives the operators of Tensor their meaning
from . import data, functional, models, nn, optim
from .backend import asnumpy, default_generator, manual_seed
from .functional import (
    broadcast_to,
    concatenate,
    exp,
    log,
    log_softmax,
    maximum,
    minimum,
    pad,
    relu,
    sigmoid,
    softmax,
    sqrt,
    stack,
    tanh,
    where,
)
from .gradcheck import gradcheck
from .kernels import use_kernels
from .ops import unbroadcast
from .tensor import Function, Tensor, detect_anomaly, enable_grad, is_grad_enabled, no_grad, tensor

__version__ = "0.1.0"
