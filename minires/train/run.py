"""A finished (or interrupted) run, read back from its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..backend import check_device
from ..data import eval_transform
from ..errors import CheckpointError
from ..nn import Module
from ..tensor import Tensor, no_grad
from .build import model_for
from .checkpoint import load_checkpoint, without_prefix
from .config import Config
from .folder import CHECKPOINT
from .room import batch_that_fits


class Run:
    """The model of a run with the weights of its checkpoint, and how its pictures are prepared.

    Args:
        folder: what `Trainer` wrote, or the checkpoint file itself.
        device: where the network computes, ``"cpu"`` or ``"cuda"``, whichever it was trained on.

    Attributes:
        config: the recipe.
        model: the network, in evaluation mode.
        classes: their names.
        image_shape: (H, W, C) of the pictures it takes.
        iteration: optimiser steps it was trained for.
        transform: bytes (N, H, W, C) to what the network takes.

    Raises:
        CheckpointError: there is no run, or its checkpoint cannot be used.
        DeviceError: there is no usable GPU.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        folder, self.device = Path(folder), check_device(device)
        path = folder / CHECKPOINT if folder.is_dir() else folder
        arrays, meta = load_checkpoint(path)
        try:
            self.config = Config.from_dict(meta["config"])
            self.classes = tuple(meta["model"]["classes"])
            self.image_shape = tuple(meta["model"]["image_shape"])
            self.iteration = meta["iteration"]
            self.transform = eval_transform(arrays["mean"])
        except KeyError as error:
            raise CheckpointError(f"{path} has no entry {error}: it is not the checkpoint of a run.") from None
        self.model: Module = model_for(self.config, self.image_shape, len(self.classes))
        self.model.load_state_dict(without_prefix("model", arrays))
        self.model.to(device).eval()

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Pictures (N, H, W, C) of bytes -> softmax probabilities (N, K)."""
        fits = batch_that_fits(self.model, self.image_shape, len(images), training=False)
        with no_grad(), fits:
            pictures = Tensor(self.transform(images, np.random.default_rng())).to(self.device)
            return self.model(pictures).softmax().numpy()
