"""Gradient checking by differences of the forward pass, with hints at what is wrong."""

from .check import gradcheck
from .pair import gradcheck_fn
from .report import GradientError, InputReport, Report

__all__ = ["GradientError", "InputReport", "Report", "gradcheck", "gradcheck_fn"]
