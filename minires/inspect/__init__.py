"""Looking into networks: what they cost, where their gradients go, how strongly their layers answer."""

from .flow import BlockFlow, GradientFlow, LayerFlow, ReluFlow, gradient_flow
from .graph import Drawing, DrawnEdge, DrawnNode, draw_graph
from .responses import Responses, responses
from .summary import Row, Summary, saved_bytes, summary

__all__ = [
    "BlockFlow",
    "Drawing",
    "DrawnEdge",
    "DrawnNode",
    "GradientFlow",
    "LayerFlow",
    "ReluFlow",
    "Responses",
    "Row",
    "Summary",
    "draw_graph",
    "gradient_flow",
    "responses",
    "saved_bytes",
    "summary",
]
