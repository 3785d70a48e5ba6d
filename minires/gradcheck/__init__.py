"""Gradient checking by central differences."""

from .check import gradcheck
from .report import GradientError, InputReport, Report

__all__ = ["GradientError", "InputReport", "Report", "gradcheck"]
