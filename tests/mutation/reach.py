"""Which tests execute which statements, and how long they take: recorded once, and kept.

The code of all files to be edited is replaced by code that notes the line of each statement before it is executed; in
whatever thread that is.  The record stands in ``.pytest_cache`` (which git ignores), by what the sources were and, for
each test, its text: what has changed is run again, the others are not.
"""

import ast
import hashlib
import inspect
import json
from pathlib import Path

_VERSION = "1"
_NOTE = "__note_that_this_line_is_executed__"


class Record:
    """For each test: seconds, and the statements it executes as (path, line)."""

    def __init__(self, root, paths, folder):
        self.root, self.paths, self.folder = Path(root), list(paths), Path(folder)
        self.seconds, self.lines, self.failing = {}, {}, set()
        self._keys = {}

    def load(self, items):
        """Take what is known of these tests from the disk; the tests of which nothing is known, or that have failed."""
        self.failing.clear()
        unknown = []
        for file, group in _by_file(items).items():
            kept = self.folder / f"{self._key(file)}.json"
            known = json.loads(kept.read_text()) if kept.exists() else {"tests": {}, "sets": []}
            sets = [{(self.paths[p], line) for p, line in one} for one in known["sets"]]
            for item in group:
                seconds, number, failed, digest = known["tests"].get(item.nodeid, (0, 0, False, None))
                if digest == _digest_of(item):
                    self._take(item.nodeid, seconds, sets[number], failed)
                if digest != _digest_of(item) or failed:
                    unknown.append(item)
        return unknown

    def _take(self, name, seconds, lines, failed):
        self.seconds[name], self.lines[name] = seconds, lines
        if failed:
            self.failing.add(name)

    def record(self, sources, items, run):
        """Run tests and write down what they execute; in a process that ends afterwards.

        run(item) gives the seconds that it took and whether it failed.
        """
        executed = set()
        for path in self.paths:
            vars(sources.modules[path])[_NOTE] = lambda line, path=path: executed.add((path, line))
            sources.install(path, _noting(ast.parse(sources.text(path))))
        for file, group in _by_file(items).items():
            kept = self.folder / f"{self._key(file)}.json"
            known = json.loads(kept.read_text()) if kept.exists() else {"tests": {}, "sets": []}
            numbers = {tuple(map(tuple, one)): i for i, one in enumerate(known["sets"])}
            for item in group:
                executed.clear()
                seconds, failed = run(item)
                lines = tuple(sorted((self.paths.index(p), line) for p, line in executed))
                known["tests"][item.nodeid] = seconds, numbers.setdefault(lines, len(numbers)), failed, _digest_of(item)
            known["sets"] = list(numbers)
            self.folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(known))

    def reaching(self, path, first, last):
        """The tests that execute a statement that begins in one of these lines."""
        wanted = {(path, line) for line in range(first, last + 1)}
        return [test for test, lines in self.lines.items() if not wanted.isdisjoint(lines)]

    def reaching_any(self, paths):
        """The tests that execute a statement of one of these files."""
        return [test for test, lines in self.lines.items() if any(path in paths for path, _ in lines)]

    def _key(self, file):
        """The name of what is known about a file of tests: the sources that are edited, and where they are tested."""
        if file not in self._keys:
            digest = hashlib.sha256(_VERSION.encode() + file.encode())
            for path in self.paths:
                digest.update(path.encode() + (self.root / path).read_bytes())
            self._keys[file] = digest.hexdigest()[:24]
        return self._keys[file]


def _digest_of(item):
    """Of the text of the test, not of what it uses: a record that is a little old only chooses a little worse."""
    return hashlib.sha256(inspect.getsource(item.function).encode()).hexdigest()[:16]


def _by_file(items):
    groups = {}
    for item in items:
        groups.setdefault(item.nodeid.split("::")[0], []).append(item)
    return groups


class _Noting(ast.NodeTransformer):
    def __init__(self):
        self.depth = 0

    def visit_FunctionDef(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node

    def generic_visit(self, node):
        super().generic_visit(node)
        if self.depth or isinstance(node, ast.FunctionDef):
            for field in ("body", "orelse", "finalbody"):
                statements = getattr(node, field, None)
                if isinstance(statements, list) and statements and isinstance(statements[0], ast.stmt):
                    setattr(node, field, [s for statement in statements for s in (_note(statement), statement)])
        return node


def _note(statement):
    call = ast.Call(ast.Name(_NOTE, ast.Load()), [ast.Constant(statement.lineno)], [])
    return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), statement))


def _noting(tree):
    """The tree with a call before each statement inside functions."""
    return ast.fix_missing_locations(_Noting().visit(tree))
