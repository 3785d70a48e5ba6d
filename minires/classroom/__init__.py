"""The classroom: what lessons draw with, a student's folder made from the solutions, and their work graded.

The student's code runs in processes of its own, but not in a prison: see `minires.classroom.process`.
"""

from .figures import FAST, save

__all__ = ["FAST", "save"]
