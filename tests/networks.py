"""Networks whose every parameter matters."""

import numpy as np


def shuffled(model, rng):
    """The model in float64 with random parameters and statistics: gamma = 1 and beta = 0 would hide mistakes."""
    model.astype(np.float64)
    for name, parameter in model.named_parameters():
        if not name.endswith("weight"):
            parameter.data = rng.standard_normal(parameter.shape)
    for name, buffer in model.named_buffers():
        buffer.data = rng.uniform(0.5, 2.0, buffer.shape) if "var" in name else rng.standard_normal(buffer.shape)
    return model
