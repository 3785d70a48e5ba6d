"""pytest collects the tests once; then this process forks for each edit, and how the child ends is the verdict."""

import ast
import contextlib
import gc
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

from . import cuda
from .patching import Sources, UnimportableError, computed_on_import
from .reach import Record

_MEMORY = 8 << 30  # bytes more than this process has: an edit may ask for any amount
_OUT_OF_TIME = signal.SIGPROF, signal.SIGALRM
_WAITING = 10
_WITHOUT_GPU = 10  # whether there is a GPU is tried on the CPU for so much less time
_EXPECTED = ("killed", "timeout", "crash", cuda.SAME, cuda.REFUSED)
_IMPORT = "import"  # what notices an edit, in place of a test
_FIRST = 10  # tests that have killed something in the function, and go before all others


@dataclass
class Limits:
    """How long to try."""

    total: float = 30.0  # seconds of tests for one edit, as they were recorded
    devices: float = 60.0  # and of tests on the stand-in for a GPU, after those
    one: float = 10.0  # seconds that a test may take in any case
    factor: float = 20.0  # and how many times longer than it was recorded
    jobs: int = 1
    sanitizers: bool = False  # whether CUDA text that no test notices is run under them


@dataclass
class Verdict:
    """What became of an edit."""

    edit: object
    status: str  # killed, timeout, crash, survived, unreached, same machine code, or that the tool failed
    by: str | None = None  # the test that noticed
    tests: int = 0  # how many were run
    seconds: float = 0.0

    def __str__(self):
        return f"{self.status} ({self.tests} tests, {self.seconds:.1f} s): {self.edit}"


@dataclass
class _Child:
    position: int
    tests: list
    said: object  # a file
    began: float = field(default_factory=time.perf_counter)


class Judge:
    """A plugin of pytest that, in place of running the tests, runs them for each edit; ``verdicts`` has the result."""

    def __init__(self, root, edits, paths, limits, folder, report=print):
        self.root, self.edits, self.paths, self.limits = root, edits, paths, limits
        self.folder, self.report = folder, report
        self.verdicts, self.failing, self.seconds = [], set(), 0.0
        self._failed = False

    # -- hooks of pytest --

    def pytest_configure(self, config):
        """Examples of a property are drawn, but a failing one is not made smaller; nobody reads why a test failed."""
        config.option.tbstyle = "native"
        with contextlib.suppress(ImportError):
            from hypothesis import HealthCheck, Phase, settings

            quick = {"phases": (Phase.explicit, Phase.generate), "database": None, "deadline": None}
            settings.register_profile("mutation", suppress_health_check=list(HealthCheck), **quick)
            settings.load_profile("mutation")

    def pytest_runtest_logreport(self, report):
        """Note that the test that runs has failed."""
        self._failed |= report.failed

    def pytest_runtestloop(self, session):
        """Record what the tests reach, then try every edit."""
        began = time.perf_counter()
        warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork beside threads: the children use none of them
        self._items = {item.nodeid: item for item in session.items}
        self._sources = Sources(self.root, self.paths)
        gc.collect()
        gc.freeze()  # a child's collector has nothing to do with what was there before it
        self._record = Record(self.root, self.paths, self.folder)
        unknown = self._record.load(session.items)
        if unknown:
            self.report(f"running {len(unknown)} tests once, to record what they reach", flush=True)
            if self._in_a_child(lambda: self._record.record(self._sources, unknown, self._run)):
                raise RuntimeError("the process that records what the tests reach has failed")
            self._record.load(session.items)
        self.failing = self._record.failing & set(self._items)
        with cuda.folder() if any(map(_is_cuda, self.edits)) else contextlib.nullcontext():
            self._judge()
        self.seconds = time.perf_counter() - began
        return True

    # -- edits --

    def _judge(self):
        """Try all edits; again those that were noticed by a test that fails without any edit, too."""
        verdicts, pending, trusted = {}, list(range(len(self.edits))), set()
        while pending:
            self._try(pending, verdicts)
            noticing = {v.by for v in verdicts.values() if v.by} - {_IMPORT}
            for name in sorted(noticing - trusted):
                (trusted if self._passes(name) else self.failing).add(name)
            pending = [i for i, v in verdicts.items() if v.by in self.failing]
        self.verdicts = [verdicts[i] for i in range(len(self.edits)) if verdicts[i].status != cuda.REFUSED]
        for verdict in self.verdicts:
            if verdict.status == "survived" and _is_cuda(verdict.edit):
                self._look_again(verdict)

    def _look_again(self, verdict):
        """What no test notices may be no change at all; or a race, or a step past the end of an array."""
        source = self._sources.text(verdict.edit.path)
        if cuda.changes_nothing(verdict.edit, source):
            verdict.status = cuda.SAME
        elif self.limits.sanitizers and (by := cuda.under_sanitizers(verdict.edit, source)):
            verdict.status, verdict.by = "killed", by
        self.report(f"after all {verdict}", flush=True)

    def _try(self, positions, verdicts):
        killers = {}  # by function, the tests that have killed something in it, the last first
        waiting, running, number = positions[::-1], {}, 0
        while waiting or running:
            while waiting and len(running) < self.limits.jobs:
                position = waiting.pop()
                edit = self.edits[position]
                tests = self._tests_of(edit, killers.get((edit.path, edit.function), []))
                if tests:
                    pid, child = self._start(position, edit, tests)
                    running[pid] = child
                else:
                    verdicts[position] = Verdict(edit, "unreached")
                    self.report(verdicts[position], flush=True)
            if running:
                pid, state = os.wait()
                verdict = self._verdict(child := running.pop(pid), state)
                verdicts[child.position], number = verdict, number + 1
                if verdict.by is not None:
                    first = killers.setdefault((verdict.edit.path, verdict.edit.function), [])
                    first[:] = [verdict.by, *(name for name in first if name != verdict.by)]
                if verdict.status not in _EXPECTED or number % 100 == 0:
                    self.report(f"{number} of {len(positions)}: {verdict}", flush=True)

    def _passes(self, name):
        """Whether a test passes by itself, in a process of its own, without any edit."""

        def work():
            os._exit(3 if self._run(self._items[name])[1] else 0)

        return self._in_a_child(work) == 0

    def _tests_of(self, edit, first):
        """The tests that execute the statement, the most promising first, up to the limits."""
        reached = self._reaching(edit)
        names = [n for n in reached if n in self._items and n not in self.failing]
        on_host, on_device = ([n for n in names if _on_a_device(n) == there] for there in (False, True))
        limit = self.limits.total
        if _is_cuda(edit):
            on_host = []
        if "gpu." in self._sources.text(edit.path).splitlines()[edit.statement - 1]:
            limit /= _WITHOUT_GPU
        return self._chosen(on_host, first, limit) + self._chosen(on_device, first, self.limits.devices)

    def _reaching(self, edit):
        """The tests that execute an edited statement, or, for what is compiled as a whole, that launch a kernel."""
        if _is_cuda(edit):
            return self._launching
        return self._record.reaching(edit.path, *self._lines_to_reach(edit))

    @cached_property
    def _launching(self):
        folders = {str(Path(e.path).parent) for e in self.edits if _is_cuda(e)}
        return self._record.reaching_any([p for p in self.paths if str(Path(p).parent) in folders])

    def _chosen(self, names, first, limit):
        """As many of these tests as the limit allows, one at least: half of the time for the quickest of all."""
        seconds = self._record.seconds.__getitem__
        quickest = sorted(names, key=seconds)
        chosen = [n for n in first if n in set(names)][:_FIRST] or quickest[:1]
        spent, taken = sum(map(seconds, chosen)), set(chosen)
        for ordered, until in ((quickest, limit / 2), (_in_turn(quickest), limit)):
            for name in ordered:
                if name not in taken and spent + seconds(name) <= until:
                    chosen.append(name)
                    taken.add(name)
                    spent += seconds(name)
        return chosen

    def _lines_to_reach(self, edit):
        """The first and the last of the lines; any of them, if it is not a statement of a function that tests call."""
        tree = ast.parse(self._sources.text(edit.path))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == edit.function:  # an attribute
                return node.lineno, node.end_lineno
        if computed_on_import(tree, edit.function):
            return 0, len(self._sources.text(edit.path))
        return edit.statement, edit.statement

    def _start(self, position, edit, tests):
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `_verdict`
        pid = os.fork()
        if pid:
            return pid, _Child(position, tests, said)
        try:
            _be_quiet()
            if not _is_cuda(edit):
                self._sources.install_edit(edit)
            elif not cuda.install(edit, self._sources.text(edit.path)):
                print(json.dumps({"status": cuda.REFUSED}), file=said, flush=True)
                os._exit(0)
            self._run_until_one_fails(tests, said)
        except UnimportableError:
            print(f'{{"runs": "{_IMPORT}"}}\n{{"failed": true}}', file=said, flush=True)
        except BaseException as error:
            print(json.dumps({"error": repr(error)}), file=said, flush=True)
        finally:
            os._exit(0)

    def _run_until_one_fails(self, tests, said):
        for name, following in zip(tests, [*tests[1:], None], strict=True):
            print(json.dumps({"runs": name}), file=said, flush=True)
            seconds = self.limits.one + self.limits.factor * self._record.seconds[name]
            signal.setitimer(signal.ITIMER_PROF, seconds)  # of the processor, for what never ends
            signal.setitimer(signal.ITIMER_REAL, _WAITING * seconds)  # for what waits and does nothing
            if self._run(self._items[name], self._items.get(following))[1]:
                print('{"failed": true}', file=said, flush=True)
                return

    def _verdict(self, child, state):
        with child.said:
            child.said.seek(0)
            lines = [json.loads(line) for line in child.said]
        edit, ran = self.edits[child.position], [line["runs"] for line in lines if "runs" in line]
        for line in lines:
            if "error" in line:
                return Verdict(edit, f"error {line['error']}")
            if "status" in line:
                return Verdict(edit, line["status"], seconds=time.perf_counter() - child.began)
        number = os.WTERMSIG(state) if os.WIFSIGNALED(state) else 0
        failed = any("failed" in line for line in lines)
        status = "timeout" if number in _OUT_OF_TIME else "crash" if number else "killed" if failed else "survived"
        by = None if status == "survived" else ran[-1]
        return Verdict(edit, status, by, len(ran), time.perf_counter() - child.began)

    # -- tests --

    def _run(self, item, following=None):
        """Run a test: (seconds of the processor, whether it failed)."""
        self._failed, began = False, time.process_time()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return time.process_time() - began, self._failed

    def _in_a_child(self, work):
        pid = os.fork()
        if not pid:
            _be_quiet()
            status = 1
            try:
                work()
                status = 0
            finally:
                os._exit(status)
        return os.waitpid(pid, 0)[1]


def _in_turn(quickest):
    """The quickest of the cases of each test function, then the second of each, and so on."""
    turns, counted = {}, {}
    for name in quickest:
        function = name.split("[")[0]
        turns[name] = counted[function] = counted.get(function, -1) + 1
    return sorted(turns, key=turns.__getitem__)


def _is_cuda(edit):
    return Path(edit.path).suffix in (".cu", ".cuh")


def _on_a_device(name):
    """Whether a test runs on the stand-in for a GPU, or may."""
    return "standin" in name or "tests/gpu/" in name


def _be_quiet():
    """Nothing that this process writes is seen, no signal handler of the parent is left, and memory has a limit."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    for number in (*_OUT_OF_TIME, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def judge(root, edits, paths, tests, limits, folder, report=print):
    """The `Judge` of these edits with these tests (arguments of pytest), after it has done its work."""
    judge = Judge(root, edits, paths, limits, folder, report)
    before = os.getcwd()
    os.chdir(root)
    sys.path.insert(0, str(root))
    try:
        without = [o for name in ("cacheprovider", "faulthandler", "terminal") for o in ("-p", f"no:{name}")]
        options = ["-s", *without, "--assert=plain", "-o", "addopts="]
        os.environ.pop("PYTEST_ADDOPTS", None)  # workers of somebody else's choosing would not be children of ours
        status = pytest.main([*options, *tests], plugins=[judge])
    finally:
        sys.path.remove(str(root))
        os.chdir(before)
    if status not in (0, 5):
        raise SystemExit(f"the tests could not be collected: pytest gave {status!r}")
    return judge
