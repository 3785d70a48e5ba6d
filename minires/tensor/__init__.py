"""The engine: Tensor, Function, the backward walk, and the switches of recording."""

from .function import Function
from .graph import Node
from .modes import detect_anomaly, enable_grad, is_grad_enabled, no_fusion, no_grad
from .pending import Pending, fused, later
from .tensor import Tensor, as_tensor, tensor

__all__ = [
    "Function",
    "Node",
    "Pending",
    "Tensor",
    "as_tensor",
    "detect_anomaly",
    "enable_grad",
    "fused",
    "is_grad_enabled",
    "later",
    "no_fusion",
    "no_grad",
    "tensor",
]
