"""A Python file that somebody has just written, loaded."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType

from ..errors import MiniresError


class LoadError(MiniresError, ImportError):
    """A file of functions that cannot be loaded: not there, no Python, or it raises an exception by itself."""


def load(path: Path) -> ModuleType:
    """Run a file and return it as a module, called as the file is; never from a cache, and not kept among the imported.

    Its folder joins the end of ``sys.path``, so that a file beside it can be imported.

    Raises:
        LoadError: it cannot be read, is no Python, or raises an exception: which, and in which line.
    """
    __tracebackhide__ = True
    where = str(Path(path.parent.name, path.name))
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        text = f": {error.text.strip()}" if error.text else ""
        raise LoadError(f"{where}, line {error.lineno}: {error.msg}{text}") from None
    except (ValueError, OSError) as error:
        raise LoadError(f"{where} cannot be read: {error}.") from None
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # a dataclass looks for its module there
    try:
        exec(code, module.__dict__)
    except MemoryError:
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        at = f", line {lines[-1]}" if lines else ""
        raise LoadError(f"{where}{at}: {type(error).__name__} when it is loaded: {error}") from None
    finally:
        if before is None:
            sys.modules.pop(path.stem, None)
        else:
            sys.modules[path.stem] = before  # a file called random.py must not stand in the way of the real one
    return module
