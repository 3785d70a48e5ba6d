"""What can be done to a node of the syntax tree: for each kind of node some replacements, as text.

Each function takes a node and ``text``, which gives the source of a node, and yields pairs of the text to put in place
of the node and a description.  What is edited goes on to compute something, mostly of the same type and shape: anything
else would be noticed by every test.
"""

import ast

_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
          ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|"}  # fmt: skip
_FLIPPED = {"+": "-", "-": "+", "&": "|", "|": "&"}
_NEUTRAL_LEFT = {"+", "-", "*", "&", "|"}  # what is left without the left operand means something
_ONE_WAY = {"-", "/", "//", "%", "**", "@"}  # a op b is not b op a
_COMPARED = {
    ast.Lt: ("<", "<=", ">="), ast.LtE: ("<=", "<", ">"), ast.Gt: (">", ">=", "<="), ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
}  # fmt: skip
_BUILT_IN = {"max": "min", "min": "max", "any": "all", "all": "any"}
_OF_ARRAYS = {**_BUILT_IN, "sum": "mean", "mean": "sum", "argmax": "argmin", "argmin": "argmax"}
_OF_NUMPY = {
    **_OF_ARRAYS, "maximum": "minimum", "minimum": "maximum", "exp": "expm1", "log": "log1p", "add": "subtract",
    "subtract": "add", "greater": "greater_equal", "zeros": "ones", "ones": "zeros", "zeros_like": "ones_like",
    "ones_like": "zeros_like", "multiply": "divide", "divide": "multiply",
}  # fmt: skip
_MODULES = ("np", "xp", "cupy()", "array_module(")
_OF_ONE = {
    "abs",
    "exp",
    "log",
    "sqrt",
    "square",
    "ascontiguousarray",
    "contiguous",
    "floating",
    "tuple",
    "sorted",
    "reversed",
    "_flat",
}  # f(x) -> x
_METHODS = {"swapaxes", "transpose", "copy", "astype", "squeeze", "view"}  # x.f(...) -> x
_TWO_OPERANDS = {"subtract", "divide", "matmul", "product", "divmod", "greater"}
_EXCHANGED = {"where": (1, 2), "moveaxis": (1, 2), "swapaxes": None, "transpose": (0, 1)}
_LEFT_OUT = {"order", "where", "axis", "residual", "relu", "keep_g"}  # keyword arguments


def replacements(node, text, parent):
    """All replacements of a node."""
    for kind, function in _BY_KIND:
        if isinstance(node, kind):
            yield from function(node, text, parent)


def _of_binary(node, text, parent):
    sign = _SIGNS.get(type(node.op))
    if sign is None:
        return
    left, right, whole = text(node.left), text(node.right), text(node)
    rest = whole[whole.find(left) + len(left) :].lstrip(") \n")  # the sign, and the right operand with its parentheses
    head = whole[: whole.rfind(right)].rstrip("( \n")
    if sign != "@":
        yield f"({left})", f"`{whole}`: dropped `{rest}`"
    if sign in _NEUTRAL_LEFT:
        yield f"({'-' if sign == '-' else ''}({right}))", f"`{whole}`: dropped `{head.removesuffix(sign).rstrip()}`"
    if sign in _FLIPPED:
        yield f"(({left}) {_FLIPPED[sign]} ({right}))", f"`{whole}`: `{sign}` -> `{_FLIPPED[sign]}`"
    elif sign in _ONE_WAY:
        yield f"(({right}) {sign} ({left}))", f"`{whole}`: operands exchanged"


def _of_unary(node, text, parent):
    operand, where = text(node.operand), _within(parent, text)
    if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant) and not _is_reshape(parent):
        yield f"(-{operand} - 1)", f"`-{operand}` -> `-{operand} - 1`{where}"
    if isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield f"({operand})", f"`{text(node)}` -> `{operand}`{where}"


def _is_reshape(parent):
    """To NumPy any negative length is the one that is left over."""
    return isinstance(parent, ast.Call) and _called(parent)[0] == "reshape"


def _of_compare(node, text, parent):
    if len(node.ops) != 1:
        return
    sign, *others = _COMPARED[type(node.ops[0])]
    left, right = text(node.left), text(node.comparators[0])
    for other in others:
        yield f"(({left}) {other} ({right}))", f"`{text(node)}`: `{sign}` -> `{other}`"


def _of_bool(node, text, parent):
    word, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    parts = [f"({text(v)})" for v in node.values]
    yield f"({f' {other} '.join(parts)})", f"`{text(node)}`: `{word}` -> `{other}`"
    for i, value in enumerate(node.values):
        rest = f" {word} ".join(parts[:i] + parts[i + 1 :])
        yield f"({rest})", f"`{text(node)}`: dropped `{text(value)}`"


def _of_choice(node, text, parent):
    yield f"({text(node.body)})", f"`{text(node)}`: always `{text(node.body)}`"
    yield f"({text(node.orelse)})", f"`{text(node)}`: always `{text(node.orelse)}`"


def _of_constant(node, text, parent):
    value, written = node.value, text(node)
    if isinstance(value, bool):
        yield str(not value), f"`{written}` -> `{not value}`{_within(parent, text)}"
    elif isinstance(value, float):
        yield f"(2 * {written} + 1e-3)", f"`{written}` -> `2 * {written} + 1e-3`{_within(parent, text)}"
    elif isinstance(value, int) and not (isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub)):
        index = isinstance(parent, ast.Subscript)
        for other in {0: [1], 1: [0]}.get(value, [value - 1, value + 1]) if index else [value + 1, value - 1]:
            yield f"({other})", f"`{written}` -> `{other}`{_within(parent, text)}"


def _within(parent, text):
    return f" in `{text(parent)}`" if isinstance(parent, ast.expr | ast.keyword) else ""


def _of_slice(node, text, parent):
    whole = text(node)
    parts = {name: getattr(node, name) and text(getattr(node, name)) for name in ("lower", "upper", "step")}

    def written(**changed):
        low, high, step = ({**parts, **changed}[name] or "" for name in ("lower", "upper", "step"))
        return f"{low}:{high}" + (f":{step}" if step else "")

    for name, part in parts.items():
        if part:
            yield written(**{name: ""}), f"`[{whole}]`: dropped {'the step' if name == 'step' else f'the {name} bound'}"
            if name != "step" and not isinstance(getattr(node, name), ast.Constant):
                yield written(**{name: f"({part}) + 1"}), f"`[{whole}]`: the {name} bound 1 higher"


def _of_call(node, text, parent):
    name, owner = _called(node)
    written = text(node)
    arguments = [text(a) for a in node.args]
    if _may_be_renamed(name, owner, text):
        yield _renamed(node, text, _OF_NUMPY[name]), f"`{written}`: {name} -> {_OF_NUMPY[name]}"
    if name in _OF_ONE and len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
        yield f"({arguments[0]})", f"`{written}`: dropped {name}()"
    if name in _METHODS and owner is not None and not text(owner).startswith(_MODULES):
        yield f"({text(node.func.value)})", f"`{written}`: dropped .{name}()"
    pair = (0, 1) if name in _TWO_OPERANDS else _EXCHANGED.get(name)
    if pair and len(node.args) > pair[1]:
        yield _with_exchanged(node, text, *pair), f"`{written}`: arguments {pair[0] + 1} and {pair[1] + 1} exchanged"
    if name == "transpose" and len(node.args) > 2:
        last = len(node.args) - 1
        yield _with_exchanged(node, text, last - 1, last), f"`{written}`: the last two arguments exchanged"
    for keyword in node.keywords:
        if keyword.arg in _LEFT_OUT:
            kept = arguments + [text(k) for k in node.keywords if k is not keyword]
            yield f"{text(node.func)}({', '.join(kept)})", f"`{written}`: dropped {keyword.arg}="


def _called(node):
    """The name of what is called, and what it is an attribute of."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr, node.func.value
    return getattr(node.func, "id", None), None


def _may_be_renamed(name, owner, text):
    if owner is None:
        return name in _BUILT_IN
    return name in (_OF_NUMPY if text(owner).startswith(_MODULES) else _OF_ARRAYS)


def _renamed(node, text, name):
    function = f"{text(node.func.value)}.{name}" if isinstance(node.func, ast.Attribute) else name
    return f"{function}({', '.join(text(a) for a in [*node.args, *node.keywords])})"


def _with_exchanged(node, text, a, b):
    arguments = [*node.args, *node.keywords]
    arguments[a], arguments[b] = arguments[b], arguments[a]
    return f"{text(node.func)}({', '.join(map(text, arguments))})"


def _of_attribute(node, text, parent):
    if node.attr == "T":
        yield f"({text(node.value)})", f"`{text(node)}`: dropped .T"


def _of_tuple(node, text, parent):
    parts = [text(e) for e in node.elts]
    if len(parts) > 1 and parts[0] != parts[1] and isinstance(node.ctx, ast.Load):
        yield f"({', '.join([parts[1], parts[0], *parts[2:]])})", f"`{text(node)}`: the first two exchanged"


def _of_comprehension(node, text, parent):
    for condition in node.ifs:
        kept = " ".join(f"if ({text(c)})" for c in node.ifs if c is not condition)
        yield (f"for {text(node.target)} in {text(node.iter)} {kept}".rstrip(),
               f"`{text(node)}`: dropped `if {text(condition)}`")  # fmt: skip


_BY_KIND = [
    (ast.BinOp, _of_binary), (ast.UnaryOp, _of_unary), (ast.Compare, _of_compare), (ast.BoolOp, _of_bool),
    (ast.IfExp, _of_choice), (ast.Constant, _of_constant), (ast.Slice, _of_slice), (ast.Call, _of_call),
    (ast.Attribute, _of_attribute), (ast.Tuple, _of_tuple), (ast.comprehension, _of_comprehension),
]  # fmt: skip


def of_statement(node, text, is_gradient):
    """Replacements of parts of a statement: triples of the part, the text to put in its place, and a description."""
    if isinstance(node, ast.AugAssign):
        sign, target, value = _SIGNS[type(node.op)], text(node.target), text(node.value)
        for other in ["=", *([_FLIPPED[sign] + "="] if sign in _FLIPPED else [])]:
            yield node, f"{target} {other} {value}", f"`{text(node)}`: `{sign}=` -> `{other}`"
    if isinstance(node, ast.AugAssign | ast.Expr) or (
        isinstance(node, ast.Assign) and any(isinstance(t, ast.Subscript) for t in node.targets)
    ):
        nothing = "__class__" if "super()" in text(node) else "pass"  # a method that has its class goes on having it
        yield node, nothing, f"dropped `{text(node)}`"
    if isinstance(node, ast.If | ast.While):
        word = "if" if isinstance(node, ast.If) else "while"
        for value in ["True", "False"][word == "while" :]:
            yield node.test, value, f"`{word} {text(node.test)}` -> `{word} {value}`"
    if isinstance(node, ast.For):
        loop = f"`for {text(node.target)} in {text(node.iter)}`"
        yield node.iter, f"[*{text(node.iter)}][1:]", f"{loop}: left out the first"
        yield node.iter, f"[*{text(node.iter)}][:-1]", f"{loop}: left out the last"
    if isinstance(node, ast.Return) and is_gradient and node.value is not None:
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        for i, part in enumerate(parts):
            if not isinstance(part, ast.Constant | ast.Starred):
                which = f" number {i + 1}" if len(parts) > 1 else ""
                zero = f"(None if (_x := {text(part)}) is None else 0 * _x)"
                yield part, zero, f"returns 0 for gradient{which}, `{text(part)}`"
