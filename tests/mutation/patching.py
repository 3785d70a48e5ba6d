"""Giving functions that exist already the code of an edited source.

Whoever holds a function, a table of kernels or another module, goes on holding the same object.  What a module computes
with its own functions when it is imported is computed again.
"""

import ast
import gc
import importlib
from pathlib import Path
from types import CodeType, FunctionType

_ANNOTATIONS = "__annotate__"  # from Python 3.14 on a function beside each that has any, in the same line


class UnimportableError(Exception):
    """The edited module cannot be imported."""


class Sources:
    """The files to be edited, imported, and their outermost functions by file and first line."""

    def __init__(self, root, paths):
        self.root = Path(root).resolve()
        self.modules = {path: importlib.import_module(_module_name(path)) for path in paths}
        names = {str(self.root / path): path for path in paths}
        self.functions = {}
        gc.collect()  # without the interpreter's lock the function that was a class's body lives until then
        for function in gc.get_objects():
            if type(function) is FunctionType and function.__code__.co_name != _ANNOTATIONS:
                path = names.get(function.__code__.co_filename)
                if path is not None:
                    self.functions.setdefault((path, function.__code__.co_firstlineno), []).append(function)
        for path, module in self.modules.items():
            if Path(module.__file__).resolve() != self.root / path:
                raise RuntimeError(f"{path} is imported from {module.__file__}, not from {self.root}")

    def text(self, path):
        """The source as it is on the disk."""
        return (self.root / path).read_text(encoding="utf-8")

    def install(self, path, source, first_line=None):
        """Give the function that begins at a line, or all, the code of another source (text or a syntax tree)."""
        code = compile(source, str(self.root / path), "exec", dont_inherit=True)
        for line, new in _outermost(code):
            if first_line is None or line == first_line:
                for function in self.functions.get((path, line), []):
                    function.__code__ = new

    def install_edit(self, edit):
        """Let this process run an edited source."""
        source = edit.apply(self.text(edit.path))
        module = self.modules[edit.path]
        if (edit.path, edit.first_line) in self.functions:
            self.install(edit.path, source, edit.first_line)
            for statement in computed_on_import(ast.parse(self.text(edit.path)), edit.function):
                try:
                    exec(compile(ast.Module([statement], []), edit.path, "exec"), vars(module))
                except Exception as error:
                    raise UnimportableError(edit) from error
        else:  # an attribute of a class
            for node in ast.parse(source).body:
                if isinstance(node, ast.ClassDef) and node.name == edit.function:
                    statement = next(s for s in node.body if s.lineno == edit.statement)
                    space = {}
                    exec(compile(ast.Module([statement], []), edit.path, "exec"), dict(vars(module)), space)
                    for name, value in space.items():
                        setattr(getattr(module, edit.function), name, value)


def computed_on_import(tree, function):
    """The statements in which a module calls this function of its own when it is imported."""
    return [
        s for s in tree.body
        if isinstance(s, ast.Assign)
        and any(isinstance(n, ast.Call) and getattr(n.func, "id", None) == function for n in ast.walk(s.value))
    ]  # fmt: skip


def _module_name(path):
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _outermost(code):
    """The functions of a module and of its classes: (first line, code)."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and constant.co_name != _ANNOTATIONS:
            if constant.co_flags & 2:  # a function: a class's body has no locals of its own
                yield constant.co_firstlineno, constant
            else:
                yield from _outermost(constant)
