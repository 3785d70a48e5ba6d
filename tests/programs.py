"""Programs in an interpreter of their own: for what happens when one starts, forks or ends."""

import os
import subprocess
import sys
from pathlib import Path

import minires


def run_program(program, *options, **environment):
    """Run Python source with the package under test; a variable that is None is taken out of the environment."""
    changed = {**os.environ, "PYTHONPATH": str(Path(minires.__file__).parents[1]), **environment}
    return subprocess.run(
        [sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=100,
        env={name: value for name, value in changed.items() if value is not None},
    )  # fmt: skip
