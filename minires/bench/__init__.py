"""Measurements: kernels, training steps, inference, the engine's overhead, memory, and the ladder of optimisations.

``minires bench`` is their command.  Neither PyTorch nor matplotlib is imported before it is asked for.
"""
