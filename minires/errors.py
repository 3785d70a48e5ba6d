"""What goes wrong, by kind.  Every message says what was expected, what was found and what to do about it.

Each class also inherits from the built-in exception that a Python user would expect: ``except ValueError`` works too.
"""


class MiniresError(Exception):
    """Base of every error that minires raises on purpose."""


class ShapeError(MiniresError, ValueError):
    """Shapes, channel counts or window sizes that do not fit together."""


class ArgumentError(MiniresError, ValueError):
    """A value outside what a function accepts: a label, a probability, an unknown name."""


class GraphError(MiniresError, RuntimeError):
    """The graph cannot be walked backward as asked: released, changed in place, or never recorded."""


class AnomalyError(MiniresError, FloatingPointError):
    """`detect_anomaly` met the first NaN or infinity."""


class DeviceError(MiniresError, RuntimeError):
    """Arrays on different devices, or a device that is not there."""


class DataError(MiniresError, ValueError):
    """A data set that is missing, truncated, corrupted or not what it claims to be."""


class CheckpointError(MiniresError, ValueError):
    """A checkpoint or state dict that is cut off, of another version, or of another model."""


class DivergedError(MiniresError, FloatingPointError):
    """The training loss became NaN or infinite."""
