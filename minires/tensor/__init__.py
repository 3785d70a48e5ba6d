"""The engine: Tensor, Function, the backward walk, and the switches of recording."""

from .exchange import asnumpy, from_dlpack
from .function import Function
from .modes import detect_anomaly, enable_grad, is_anomaly_detected, is_grad_enabled, no_fusion, no_grad
from .node import Node
from .pending import Pending, fused, later
from .tensor import Tensor, as_tensor, tensor

__all__ = [
    "Function",
    "Node",
    "Pending",
    "Tensor",
    "as_tensor",
    "asnumpy",
    "detect_anomaly",
    "enable_grad",
    "from_dlpack",
    "fused",
    "is_anomaly_detected",
    "is_grad_enabled",
    "later",
    "no_fusion",
    "no_grad",
    "tensor",
]
