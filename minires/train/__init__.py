"""Training runs: configuration, loop, evaluation and checkpoints."""

from .checkpoint import load_checkpoint, save_checkpoint
from .config import Config, recipe
from .evaluate import Metrics, evaluate
from .run import Run
from .sets import Sets, load_sets
from .stop import Interrupted
from .trainer import Trainer

__all__ = [
    "Config",
    "Interrupted",
    "Metrics",
    "Run",
    "Sets",
    "Trainer",
    "evaluate",
    "load_checkpoint",
    "load_sets",
    "recipe",
    "save_checkpoint",
]
