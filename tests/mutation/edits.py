"""All edits of a file: which places of which functions, and the source as it is then."""

import ast
import re
import textwrap
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from . import operators

# what decides only how work is cut, or which of two ways to one result is taken: thresholds, and functions of them
KNOBS = {
    "_SMALL", "_LEAST", "_LEAST_WORK", "_LEAST_ROWS", "_CHUNK", "_TILE_BYTES", "_NARROW", "_LARGE_FILTERS", "_WINDOWS",
    "_KEPT", "_NEAR", "_MOST_PARTS", "_WANTED", "_LEAST_WINDOWS", "_MOST_BLOCKS", "_BLOCKS", "_PARTS", "LONG", "SMALL",
    "_MEMORY", "_FEW", "_MANY", "_SHORT", "CALL", "SLIM", "DIRECT", "_TURNED",
    "least_rows", "_least", "least", "_bytes_per_row", "one", "large", "limit",
}  # fmt: skip
ERRORS = {"_explained", "arithmetic"}  # functions that only say what is wrong
_LONGEST = 90  # characters of source in a description
_GRADIENTS = ("backward", "_dx", "gradients", "_dw")


@dataclass(frozen=True)
class Edit:
    """One place of one function, and what it is replaced by."""

    path: str  # from the root of the repository
    function: str  # Class.method of the outermost function, or the class for what stands in its body
    first_line: int  # of that function, decorators included
    line: int
    statement: int  # the line of the innermost statement around it
    start: int  # the bytes of the file that are replaced
    stop: int
    replacement: str
    what: str

    @property
    def key(self):
        """What stays the same when lines above it come and go."""
        return f"{self.path} {self.function} :: {self.what}"

    def __str__(self):
        return f"{self.path}:{self.line} {self.function}: {self.what}"

    def apply(self, source):
        """The edited source."""
        raw = source.encode()
        return (raw[: self.start] + self.replacement.encode() + raw[self.stop :]).decode()


def edits_of(root, path, functions=()):
    """The edits of a file that give a source that compiles, in the order of the file; no two give the same.

    functions are names, of functions, classes or Class.method, that alone are wanted; all if there are none.
    """
    finder = _Finder(path, (Path(root) / path).read_text(encoding="utf-8"))
    finder.visit(finder.tree)
    seen, names, result = set(), Counter(), []
    for edit, scope in finder.found:
        if functions and not {edit.function, *edit.function.split(".")}.intersection(functions):
            continue
        try:
            edited = finder.parsed(scope, edit)
        except SyntaxError:
            continue
        if edited not in seen and edited != finder.parsed(scope):
            seen.add(edited)
            names[edit.key] += 1
            again = f" (#{names[edit.key]})" if names[edit.key] > 1 else ""
            result.append(replace(edit, what=edit.what + again))
    return result


def _short(match):
    source = match[1]
    if len(source) > _LONGEST:
        source = f"{source[: _LONGEST // 2]}...{source[-_LONGEST // 2 :]}"
    return f"`{source}`"


class _Finder(ast.NodeVisitor):
    def __init__(self, path, source):
        self.path, self.raw, self.tree = path, source.encode(), ast.parse(source)
        self.lines = [0]
        for line in self.raw.split(b"\n"):
            self.lines.append(self.lines[-1] + len(line) + 1)
        self.classes, self.function, self.parents, self.statements = [], None, [], []
        self.found = []

    # -- where we are --

    def visit_ClassDef(self, node):
        self.classes.append(node)
        for child in node.body:
            if isinstance(child, ast.Assign) and self.function is None:  # `fresh = True, False`
                for constant in ast.walk(child.value):
                    if isinstance(constant, ast.Constant) and constant.value is False:
                        self._of_the_class(child, constant)
            elif not isinstance(child, ast.AnnAssign):
                self.visit(child)
        self.classes.pop()

    def visit_FunctionDef(self, node):
        if node.name in KNOBS | ERRORS:
            return
        outermost, before = self.function is None, self.function
        if outermost:
            self.function = node
        for child in node.body:
            self.visit(child)
        self.function = before

    def generic_visit(self, node):
        if self.function is None and not isinstance(node, ast.Module):
            return
        if isinstance(node, ast.Raise | ast.ExceptHandler | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.If) and all(isinstance(s, ast.Raise) for s in node.body):
            for child in node.orelse:
                self.visit(child)
            return
        if self._is_a_knob(node) or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in KNOBS):
            return
        is_statement = isinstance(node, ast.stmt)
        if is_statement:
            self.statements.append(node)
            if not self._is_a_knob(getattr(node, "test", None)):
                for part, text, what in operators.of_statement(node, self.text, self._is_gradient()):
                    self._add(part, text, what)
        else:
            self._edit(node)
        self.parents.append(node)
        if isinstance(node, ast.AnnAssign):
            children = [node.value] if node.value else []
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("in_pieces", "share", "tiles"):
            children = node.args[:2]  # what follows says how much is worth a thread, or is in a tile
        else:
            children = ast.iter_child_nodes(node)
        for child in children:
            self.visit(child)
        self.parents.pop()
        if is_statement:
            self.statements.pop()

    # -- edits --

    def _edit(self, node):
        if isinstance(node, ast.Compare | ast.BinOp) and self._mentions_a_knob(node):
            return
        parent = self.parents[-1] if self.parents else None
        for text, what in operators.replacements(node, self.text, parent):
            self._add(node, text, what)

    def _mentions_a_knob(self, node):
        return any(getattr(n, "id", getattr(n, "attr", None)) in KNOBS for n in ast.walk(node))

    def _is_a_knob(self, test):
        return isinstance(test, ast.Compare) and self._mentions_a_knob(test)

    def _is_gradient(self):
        return self.function is not None and self.function.name.endswith(_GRADIENTS)

    def _add(self, node, text, what):
        first = min([self.function.lineno, *(d.lineno for d in self.function.decorator_list)])
        name = ".".join([*(c.name for c in self.classes), self.function.name])
        self._keep(node, text, what, name, first, self.function)

    def _of_the_class(self, statement, constant):
        what = f"`{self.text(statement)}`: `False` -> `True`"
        self.statements.append(statement)
        self._keep(constant, "True", what, self.classes[-1].name, self.classes[-1].lineno, statement)
        self.statements.pop()

    def _keep(self, node, text, what, function, first_line, scope):
        start, stop = self._span(node)
        statement = self.statements[-1].lineno
        what = re.sub("`([^`]*)`", _short, " ".join(what.split()))
        line = getattr(node, "lineno", statement)
        self.found.append((Edit(self.path, function, first_line, line, statement, start, stop, text, what), scope))

    # -- source --

    def parsed(self, scope, edit=None):
        """A function or a statement, edited if an edit is given, as a text that ignores how it is laid out."""
        start, stop = self.lines[scope.lineno - 1], self._span(scope)[1]
        raw = self.raw[start:stop]
        if edit is not None:
            raw = raw[: edit.start - start] + edit.replacement.encode() + raw[edit.stop - start :]
        return ast.dump(ast.parse(textwrap.dedent(raw.decode())))

    def _span(self, node):
        if isinstance(node, ast.comprehension):  # which has no place of its own
            start, stop = self._span(node.target)[0], self._span((node.ifs or [node.iter])[-1])[1]
            return self.raw.rindex(b"for", 0, start), stop + self._closing(node, stop)
        return (self.lines[node.lineno - 1] + node.col_offset, self.lines[node.end_lineno - 1] + node.end_col_offset)

    def _closing(self, node, stop):
        """Parentheses around the last part of a comprehension, which its span does not have."""
        opened = self.raw[self._span(node.target)[0] : stop]
        return max(0, opened.count(b"(") - opened.count(b")"))

    def text(self, node):
        start, stop = self._span(node)
        return self.raw[start:stop].decode()
