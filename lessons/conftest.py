"""What the graders in tests/ are given: markers, options and fixtures."""

from minires.classroom.fixtures import *  # noqa: F403
