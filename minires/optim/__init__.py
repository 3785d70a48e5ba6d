"""Optimisers and learning-rate schedules."""

from .algorithms import SGD, Adam
from .optimizer import Optimizer
from .schedule import ConstantLR, CosineLR, MultiStepLR, Schedule, WarmUp

__all__ = ["SGD", "Adam", "ConstantLR", "CosineLR", "MultiStepLR", "Optimizer", "Schedule", "WarmUp"]
