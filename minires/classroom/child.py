"""What runs in the process beside the student's code: pytest with a reporter, or a student's checker on the mutants.

``python -m minires.classroom.child PLAN``, where PLAN is a JSON file.  The results are lines of JSON in the file that
it names, each written as soon as it is known: what comes after a crash is missing, what came before is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from .limits import Clock, Writer, limit


def main(plan_file: str) -> None:
    """Carry out a plan, then leave without waiting for any thread that the student's code may have started."""
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    write = Writer(plan["results"])
    with open(plan["where"], "w", encoding="utf-8") as where:
        clock = Clock(plan["limits"]["seconds"], where)
        if "checker" in plan:
            from . import checker

            limit(**plan["limits"], times=len(plan.get("runs", [1])))
            clock.start()
            checker.examine(**plan["checker"], write=write)
        else:
            from . import plugin

            limit(**plan["limits"], times=len(plan.get("runs", [1])))
            for run in plan["runs"]:
                plugin.grade(run, write, clock, Path(plan_file).parent)
        clock.stop()
        write(event="end")
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
