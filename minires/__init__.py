"""minires: a deep-learning engine from scratch on NumPy, centred on the residual network."""

from . import cuda, data, functional, inspect, models, nn, optim, train
from .backend import default_generator, empty_cache, get_num_threads, manual_seed, set_num_threads
from .errors import MiniresError
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
from .gradcheck import GradientError, gradcheck, gradcheck_fn
from .kernels import use_kernels
from .ops import unbroadcast
from .tensor import (
    Function,
    Tensor,
    asnumpy,
    detect_anomaly,
    enable_grad,
    from_dlpack,
    fused,
    is_grad_enabled,
    no_fusion,
    no_grad,
    tensor,
)

__version__ = "0.1.0"

__all__ = [
    "Function",
    "GradientError",
    "MiniresError",
    "Tensor",
    "asnumpy",
    "broadcast_to",
    "concatenate",
    "cuda",
    "data",
    "default_generator",
    "detect_anomaly",
    "empty_cache",
    "enable_grad",
    "exp",
    "from_dlpack",
    "functional",
    "fused",
    "get_num_threads",
    "gradcheck",
    "gradcheck_fn",
    "inspect",
    "is_grad_enabled",
    "log",
    "log_softmax",
    "manual_seed",
    "maximum",
    "minimum",
    "models",
    "nn",
    "no_fusion",
    "no_grad",
    "optim",
    "pad",
    "relu",
    "set_num_threads",
    "sigmoid",
    "softmax",
    "sqrt",
    "stack",
    "tanh",
    "tensor",
    "train",
    "unbroadcast",
    "use_kernels",
    "where",
]
