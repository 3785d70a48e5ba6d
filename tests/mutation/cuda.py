"""Edits of CUDA text, found by its tokens: kernels are laid out by rule, so no parser of C++ is needed.

An edited kernel runs on the emulator (tests/gpu).  Text that the compiler refuses is no edit.  What no test notices is
looked at twice more: if it gives the same machine code in every precision it is equivalent, whatever anybody thinks of
it, and if a sanitizer finds a race or a step past the end of an array it is noticed after all.
What stands between ``#ifndef CUDA_EMU`` and its end is not edited, as the emulator has its own in place of it; nor is
how much shared memory there is.
"""

import contextlib
import os
import re
import tempfile
from collections import Counter
from pathlib import Path

from .edits import Edit

PATHS = "*.cu*"
SAME = "same"  # the machine code does not change
REFUSED = "refused"  # by the compiler

_OTHERS = {
    "+": ("-",), "-": ("+",), "*": ("+",), "/": ("*",), "%": ("/",), "<": ("<=",), "<=": ("<",), ">": (">=",),
    ">=": (">",), "==": ("!=",), "!=": ("==",), "&&": ("||",), "||": ("&&",), "+=": ("=", "-="), "-=": ("=", "+="),
    "*=": ("=",), "/=": ("=", "*="), "?": ("|| true ?", "&& false ?"),
}  # fmt: skip
_NEXT = {"x": "y", "y": "z", "z": "w", "w": "x"}
_OTHER_NAMES = {"min": "max", "max": "min", "fmaxf": "fminf", "fminf": "fmaxf", "row": "column", "column": "row",
                "height": "width", "width": "height"}  # fmt: skip
_OPERATOR = re.compile(r"(?<= )([-+*/%]=?|[<>]=?|[=!]=|&&|\|\||\?)(?=\s)")
_COMPONENT = re.compile(r"(?<!Idx)(?<!Dim)\.([xyzw])\b")
_WHOLE = re.compile(r"(?<![\w.])(\d+)(?![\w.])")
_FLOAT = re.compile(r"(?<![\w.])(\d+\.\d*f)\b")
_WORD = re.compile(r"(?<![\w.])(\w+)(?=\()")
_STEP = re.compile(r"(\b[\w.]+(?:\[\w+\])?)\+\+|\+\+(\w+)")
_TEST = re.compile(r"\b(if|while) \(")
_NOT = re.compile(r"!(?=[\w(])")
_STATEMENT = re.compile(  # an assignment, a call or a step, alone on its lines
    r"^ +((?:[\w.]+(?:\[[^;=]*\])? [-+*/]?= |[\w.]+(?:<[^;>]*>)?\(|[\w.]+\+\+)[^;{}]*;)$", re.MULTILINE
)
_PAIR = re.compile(r"(?<!\w)(\w*)(row|column|height|width)(s?)\b")
_FUNCTION = re.compile(
    r"__(?:device|global)__[^;{}]*?(?:__launch_bounds__\(\w+\)\s*)?(\w+)\s*\([^{};]*?\)\s*(?:const\s*)?\{"
)
_MACHINE = re.compile(r"#ifndef CUDA_EMU\n.*?#endif  // CUDA_EMU\n", re.DOTALL)
_ROOM = re.compile(r"__shared__[^;]*;")  # of which more changes nothing, and less is for the sanitizers
_LONGEST = 90  # characters of a line in a description


def edits_of(root, path, functions=()):
    """All edits of a file of CUDA text, or of some of its functions; `edits.edits_of` has those of Python."""
    source = (Path(root) / path).read_text(encoding="utf-8")
    visible = _blanked(source)
    found, names, bodies = [], Counter(), _bodies(visible)
    for start, stop, replacement, what in sorted(_all(visible), key=lambda e: (e[0], e[1])):
        function = next((name for name, first, last in bodies if first <= start < last), None)
        if function is None or (functions and function not in functions):
            continue
        line = source.count("\n", 0, start) + 1
        text = " ".join(source.splitlines()[line - 1].split("//")[0].split())
        key = f"`{text[:_LONGEST]}`: {what}"
        names[function, key] += 1
        again = f" (#{names[function, key]})" if names[function, key] > 1 else ""
        first, last = (len(source[:at].encode()) for at in (start, stop))
        found.append(Edit(path, function, line, line, line, first, last, replacement, key + again))
    return found


def _blanked(source):
    """The text with spaces for comments, strings, what is for the preprocessor and what is for a card alone."""

    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])

    source = _ROOM.sub(blank, _MACHINE.sub(blank, source))
    source = re.sub(r"//[^\n]*|\"[^\"\n]*\"", blank, source)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, source, flags=re.MULTILINE)


def _bodies(visible):
    """Where the body of each function begins and ends: (name, start, stop)."""
    return [(m[1], m.end(), _closing(visible, m.end() - 1, "{}")) for m in _FUNCTION.finditer(visible)]


def _closing(text, opening, pair):
    """Where the parenthesis is closed that stands at ``opening``."""
    depth = 0
    for match in re.compile(f"[{re.escape(pair)}]").finditer(text, opening):
        depth += 1 if match[0] == pair[0] else -1
        if not depth:
            return match.start()
    return len(text)


def _all(text):
    """(start, stop, what is put there, description)."""
    for m in _OPERATOR.finditer(text):
        for other in _OTHERS.get(m[1], ()):
            yield *m.span(1), other, f"`{m[1]}` -> `{other}` at {_near(text, m)}"
    for m in _COMPONENT.finditer(text):
        yield *m.span(1), _NEXT[m[1]], f"`{m[0]}` -> `.{_NEXT[m[1]]}` at {_near(text, m)}"
    for m in _WHOLE.finditer(text):
        for other in (int(m[1]) + 1, int(m[1]) - 1):
            yield *m.span(), f"({other})", f"`{m[1]}` -> `{other}` at {_near(text, m)}"
    for m in _FLOAT.finditer(text):
        yield *m.span(), f"(2.f * {m[1]} + 1e-3f)", f"`{m[1]}` -> `2 * {m[1]} + 1e-3` at {_near(text, m)}"
    for m in _WORD.finditer(text):
        if m[1] in _OTHER_NAMES:
            yield *m.span(1), _OTHER_NAMES[m[1]], f"`{m[1]}` -> `{_OTHER_NAMES[m[1]]}` at {_near(text, m)}"
    for m in _PAIR.finditer(text):
        other = f"{m[1]}{_OTHER_NAMES[m[2]]}{m[3]}"
        yield *m.span(), other, f"`{m[0]}` -> `{other}` at {_near(text, m)}"
    for m in _STEP.finditer(text):
        yield *m.span(), f"({m[1] or m[2]} += 2)", f"`{m[0]}` -> `+= 2`"
    for m in _TEST.finditer(text):
        close = _closing(text, m.end() - 1, "()")
        inside = text[m.end() : close]
        if m[1] == "if":
            yield m.end(), close, f"!({inside})", f"`if` -> `if not` at {_near(text, m)}"
            yield m.end(), close, "true", f"`if` -> `if (true)` at {_near(text, m)}"
            yield m.end(), close, "false", f"`if` -> `if (false)` at {_near(text, m)}"
        else:
            yield *m.span(1), "if", "`while` -> `if`"
    for m in _NOT.finditer(text):
        if text[m.start() + 1] != "=":
            yield *m.span(), "", f"dropped `!` at {_near(text, m)}"
    for m in _STATEMENT.finditer(text):
        yield *m.span(1), ";", "dropped"


def _near(text, match):
    """A few characters on either side, to tell one place of a line from another."""
    line_start = text.rfind("\n", 0, match.start()) + 1
    line_stop = text.find("\n", match.end())
    return f"`{text[max(line_start, match.start() - 12) : min(line_stop, match.end() + 12)].strip()}`"


# -- running an edited text ------------------------------------------------------------------------------------------


def install(edit, source):
    """Let this process compile the edited text, as fast as it will; False if the compiler refuses it."""
    from minires.kernels.cuda import module
    from tests.gpu import emulator

    # what C++ leaves undefined, an index past the end of an array first of all, is a crash and so is noticed
    undefined = "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"
    emulator._OPTIONS = (*_without_optimisation(), "-O0", *undefined)
    before, edited = module.source, edit.apply(source)
    module.source = lambda precision=None: before(precision).replace(source, edited)
    module.forget()
    part = next(part for part in (None, *module.PRECISIONS) if source in before(part))
    try:
        emulator.compile(module.source(part), ("-std=c++17",))
    except emulator.EmulatorError:
        return False
    return True


def changes_nothing(edit, source):
    """Whether the edited text gives the same machine code in every precision."""
    from minires.kernels.cuda import module

    parts = [module.source(part) for part in (None, *module.PRECISIONS)]
    return all(
        _machine_code(text) == _machine_code(text.replace(source, edit.apply(source)))
        for text in parts if source in text
    )  # fmt: skip


@contextlib.contextmanager
def folder():
    """Somewhere for the libraries of edited text, as long as this lasts."""
    name, before = "MINIRES_EMULATOR_CACHE", os.environ.get("MINIRES_EMULATOR_CACHE")
    with tempfile.TemporaryDirectory(prefix="minires-mutation-") as place:
        os.environ[name] = place
        try:
            yield
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


def under_sanitizers(edit, source):
    """The sanitizer that finds fault with the edited text, or None: for a barrier that is missing, say."""
    from minires.kernels.cuda import module
    from tests.gpu import test_sanitizers

    whole = {part: module.source(part) for part in (None, "fp32", "tf32", "fp16")}
    for part in [part for part, text in whole.items() if source in text]:
        for name in ("thread", "address"):
            status, said = test_sanitizers._run(name, part or "others", source, edit.apply(source))
            if status and re.search("Sanitizer|runtime error", said):
                return f"{name.capitalize()}Sanitizer"
    return None


def _machine_code(text):
    from tests.gpu import emulator

    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        before, emulator._OPTIONS = emulator._OPTIONS, (*_without_optimisation(), "-O2")
        try:
            return emulator._build(text, "", ["-DCUDA_EMU"], library).read_bytes()
        finally:
            emulator._OPTIONS = before


def _without_optimisation():
    """The options of the emulator, but lines of the text leave no trace: they are no difference."""
    from tests.gpu import emulator

    return tuple(option for option in emulator._OPTIONS if option not in ("-g1", "-O0", "-O2"))
