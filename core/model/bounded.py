"""A sandbox for chat templates that bounds their time and memory as well.

A template comes with a model that anybody may have made, and jinja2's own sandbox stops neither nested
loops nor ``"A" * 3_000_000_000``. Here every rendering has an allowance of steps and of bytes, which grows
with the conversation. Loops, macros, calls, filters and operators draw on it before they do their work, by
what the work will take, so that nothing needs a thread, a signal or another process to end it.

Filters that no chat template needs and that blow text up (``center``, ``urlize``, …) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sized, ValuesView
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import Environment, Template, TemplateRuntimeError, nodes
from jinja2.nodes import EvalContext
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from core.language import told, words_of

LONGEST_TEMPLATE, MOST_PARTS = 100_000, 20_000
"""Characters, and parts that the parser finds in them: several times what long templates have."""

STEPS, STEPS_EACH = 120_000, 200
"""Steps for a rendering, and more for each message, key and value of the conversation. A step is a few microseconds."""

ROOM, ROOM_TIMES = 16 << 20, 32
"""Bytes of text and lists that a rendering may make in all, and more for each byte of the conversation."""

DEEPEST = 100
"""Lists within lists: deeper ones overflow the stack of the interpreter's own code."""

WIDEST = 9_999
"""The largest width, precision or number of columns that a text is formatted with."""

BITS = 20_000
"""Of a whole number."""

STRIKES = 3
"""After so many refusals a template is not tried again: a file may have a million rows."""

_LEFT_OUT = ("center", "filesizeformat", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
_FREE = frozenset(  # filters that give back what they get, a part of it or its number, or work lazily
    (
        *("attr", "count", "d", "default", "first", "items", "last", "length", "map"),
        *("reject", "rejectattr", "safe", "select", "selectattr"),
    )
)
_TEXTUAL = frozenset(
    (
        *("capitalize", "e", "escape", "float", "forceescape", "int", "lower", "string", "title", "trim"),
        *("truncate", "upper", "urlencode", "wordcount"),
    )
)
_COMPARING = frozenset(
    (
        *("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in"),
        *("le", "lessthan", "lower", "lt", "ne", "upper"),
    )
)
_ENCODINGS = frozenset({"utf-8", "utf8", "ascii", "latin-1"})
_LISTS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)
_NUMBER = re.compile(r"\d+")


class TooMuch(TemplateRuntimeError):
    """The template would take too much time or memory."""


class _Allowance:
    """What is left to a rendering."""

    __slots__ = ("room", "steps")

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.steps, self.room = 1 << 40, 1 << 60
        elements, size, _ = self.deep(variables)
        self.steps = STEPS + STEPS_EACH * elements + size // 4
        self.room = ROOM + ROOM_TIMES * size

    def step(self, count: int = 1) -> None:
        """Take so many steps."""
        self.steps -= count
        if self.steps < 0:
            raise TooMuch(told("takes too many steps"))

    def need(self, size: int) -> None:
        """Refuse what would take more bytes than are left."""
        if size > self.room:
            raise TooMuch(told("makes too long a text or list"))

    def take(self, size: int) -> None:
        """Take so many bytes."""
        self.need(size)
        self.room -= size

    def deep(self, value: Any) -> tuple[int, int, int]:
        """How many elements a value has with all within it, their bytes as text, and how deep it goes.

        Costs steps as reading it would. A list that holds another twice is that much work and text, too.
        """
        kind = type(value)
        if kind is str:
            size = _bytes(value)
            self.step(1 + (size >> 10))
            return 1, size, 0
        if kind in _SMALL:
            return 1, 8, 0
        elements = size = deepest = 0
        waiting: list[tuple[Any, int]] = [(value, 0)]
        while waiting:
            item, depth = waiting.pop()
            elements += 1
            if not elements & 15:
                self.step(12)
            inner = _inner(item)
            if inner is None:
                if isinstance(item, str | bytes):
                    size += _bytes(item) + 4
                    if len(item) > 1023:
                        self.step(len(item) >> 10)
                else:
                    size += 32 + (item.bit_length() // 3 if isinstance(item, int) else 0)
            elif inner:
                size += 2 + 2 * len(inner)
                deepest = max(deepest, depth + 1)
                if deepest > DEEPEST:
                    raise TooMuch(told("nests lists too deep"))
                waiting += [(each, depth + 1) for each in inner]
        return elements, size, deepest

    def paid(self, result: Any, given: Any = None) -> Any:
        """A result, taken from the room; what comes one by one is counted one by one."""
        if result is given or type(result) in _SMALL:
            return result
        if isinstance(result, str | bytes):
            self.take(_bytes(result))
        elif isinstance(result, list | tuple):
            self.take(40 * len(result))
        elif isinstance(result, dict | set):
            self.take(120 * len(result))
        elif isinstance(result, Iterator) and not isinstance(result, _Counted | LoopContext):
            return _Counted(result, given)
        return result

    def items(self, value: Any) -> list[Any]:
        """The items of something that may come one by one."""
        if isinstance(value, str | bytes):
            self.need(len(value) * (8 if _bytes(value) == len(value) else 88))
        if isinstance(value, Sized):
            self.step(len(value) >> 4)
            self.need(40 * len(value))
        return list(value)


def _inner(value: Any) -> list[Any] | tuple[Any, ...] | None:
    """What a value holds; None where it holds nothing that could be read."""
    kind = type(value)
    if kind is str or kind in _SMALL:
        return None
    if kind is list or kind is tuple:
        return value  # type: ignore[no-any-return]
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, _LISTS):
        return list(value)
    if isinstance(value, Namespace):
        return _inner(value._Namespace__attrs)
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return None


_SMALL = frozenset({bool, type(None), float})
_allowance: ContextVar[_Allowance] = ContextVar("allowance")


def _bytes(text: str | bytes) -> int:
    return len(text) if isinstance(text, bytes) or text.isascii() else 4 * len(text)


class _Counted:
    """What comes one by one, each a step. The lazy filters are read through these."""

    def __init__(self, items: Iterator[Any], given: Any) -> None:
        self.items = items
        self.depth: int = given.depth + 1 if isinstance(given, _Counted) else 0
        if self.depth > DEEPEST:
            raise TooMuch(told("nests filters too deep"))

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> Any:
        _allowance.get().step()
        return next(self.items)


def render(template: Template, variables: Mapping[str, Any]) -> str:
    """Render a template of a :class:`BoundedEnvironment`.

    Raises:
        TooMuch: it would take too much time or memory, or has been refused for that too often.
        Exception: whatever jinja2 or the template itself raises.
    """
    environment = template.environment
    assert isinstance(environment, BoundedEnvironment)
    if environment.strikes >= STRIKES:
        raise TooMuch(environment.said)
    before = _allowance.set(_Allowance(variables))
    try:
        return str(template.render(variables))
    except TooMuch as error:
        environment.strikes += 1
        environment.said = words_of(error)
        raise
    finally:
        _allowance.reset(before)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox whose templates are rendered by :func:`render` with an allowance.

    Attributes:
        strikes: how often a rendering was refused for its time or memory.
        said: why.
    """

    intercepted_binops = frozenset({"+", "-", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        # Without the optimizer nothing is worked out while a template is compiled, where nothing is counted.
        super().__init__(optimized=False, **options)
        self.strikes, self.said = 0, ""
        del self.globals["lipsum"]
        for name in _LEFT_OUT:
            del self.filters[name]
        for name, function in [*self.filters.items()]:
            self.add_filter(name, function)
        self.filters |= _METERS
        for name, test in [*self.tests.items()]:
            if name in _COMPARING:
                self.tests[name] = _metered_test(test)

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Give templates a filter, and count what it takes."""
        self.filters[name] = _metered_filter(name, function)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > LONGEST_TEMPLATE:
            raise TooMuch(
                told("is longer than {longest_template:,} characters", longest_template=LONGEST_TEMPLATE)
            )
        metering = _Metering()
        tree: nodes.Template = metering.visit(super()._parse(source, name, filename))
        if metering.parts > MOST_PARTS:
            raise TooMuch(told("has more than {most_parts:,} parts", most_parts=MOST_PARTS))
        return tree

    # Called by what a template is compiled to

    def call(__self, __context: Context, __obj: Any, *args: Any, **more: Any) -> Any:
        """Call something for a template."""
        owner = getattr(__obj, "__self__", None)
        allowance = _allowance.get()
        allowance.step(1 + len(args) + len(more))
        named = {name: value for name, value in more.items() if name not in ("_loop_vars", "_block_vars")}
        if isinstance(owner, str | bytes):
            args = _before_method(allowance, owner, __obj.__name__, args, named)
        elif isinstance(__obj, Macro | BlockReference):
            return super().call(__context, __obj, *args, **more)  # what it writes is counted as it is written
        elif isinstance(owner, (*_LISTS, dict, int, float, LoopContext)) or isinstance(__obj, type):
            for value in (*args, *named.values()):
                allowance.deep(value)
            if isinstance(owner, list | tuple | dict):
                _before_reading(allowance, owner, __obj.__name__)
            if getattr(__obj, "__name__", "") == "to_bytes" and any(
                isinstance(value, int) and value > BITS for value in (*args, *named.values())
            ):
                raise TooMuch(told("makes too long a text or list"))
        return allowance.paid(super().call(__context, __obj, *args, **more))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Work out ``left operator right``."""
        allowance = _allowance.get()
        allowance.step()
        if type(left) is str and type(right) is str and operator == "+":
            allowance.take(_bytes(left) + _bytes(right))
            return left + right
        _BEFORE[operator](allowance, left, right)
        return allowance.paid(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``."""
        if isinstance(argument, tuple):
            _allowance.get().deep(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format``, refused where it would write too much."""
        function = super().wrap_str_format(value)
        if function is None:
            return None

        @wraps(function)
        def checked(*args: Any, **more: Any) -> str:
            allowance = _allowance.get()
            text = value.__self__
            if re.search(r"\{[^{}]*:[^{}]*\{", text):
                raise TooMuch(told("formats with widths that are not known"))
            given = sum(allowance.deep(item)[1] for item in (*args, *more.values()))
            _before_format(allowance, text, given, text.count("{"))
            return str(allowance.paid(function(*args, **more)))

        del checked.__wrapped__
        return checked


class _Metering(NodeTransformer):
    """Puts the meters below into a template, and counts its parts."""

    def __init__(self) -> None:
        self.parts = 0

    def visit(self, node: nodes.Node, *args: Any, **more: Any) -> Any:
        self.parts += 1
        return super().visit(node, *args, **more)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self._count_body(node)
        if node.test is not None:
            node.test = nodes.And(self._call(node, "step", nodes.Const(1)), node.test)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self._count_body(node)
        return node

    visit_CallBlock = visit_Block = visit_Macro

    def _count_body(self, node: Any) -> None:
        before = self.parts
        self.generic_visit(node)
        step = self._call(node, "step", nodes.Const(self.parts - before))
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        size = sum(4 * len(each.data) for each in node.nodes if isinstance(each, nodes.TemplateData))
        self.generic_visit(node)
        shown = [
            each if isinstance(each, nodes.TemplateData) else self._call(node, "text", each)
            for each in node.nodes
        ]
        node.nodes = [self._call(node, "data", nodes.Const(size)), *shown] if size else shown
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call(node, "concat", *node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        part = node.arg
        ends = [
            each if each is not None else nodes.Const(None) for each in (part.start, part.stop, part.step)
        ]
        return self._call(node, "slice", node.node, *ends)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if len(node.ops) == 1 and node.ops[0].op in ("in", "notin"):
            found = self._call(node, "in", node.expr, node.ops[0].expr)
            return found if node.ops[0].op == "in" else nodes.Not(found, lineno=node.lineno)
        node.expr = self._weighed(node.expr)
        for each in node.ops:
            each.expr = self._weighed(each.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = self._weighed(node.key)
        return node

    def _weighed(self, node: nodes.Expr) -> nodes.Expr:
        return node if isinstance(node, nodes.Const) else self._call(node, "value", node)

    @staticmethod
    def _call(node: nodes.Node, name: str, first: nodes.Expr, *more: nodes.Expr) -> nodes.Expr:
        # A filter is called with nothing around it; no template can write a name with a space.
        return nodes.Filter(first, f"metered {name}", list(more), [], None, None, lineno=node.lineno)


# --- what a template is compiled to calls ------------------------------------------------------------


def _meter_step(count: int) -> bool:
    """The body of a loop or macro begins: as many steps as it has parts."""
    _allowance.get().step(1 + count // 4)
    return True


def _meter_data(size: int) -> str:
    """So much of the template's own text is written."""
    _allowance.get().take(size)
    return ""


def _meter_text(value: Any) -> str:
    """A value as it is written."""
    allowance = _allowance.get()
    if not isinstance(value, str):
        elements, size, _ = allowance.deep(value)
        allowance.need(10 * size if elements > 1 else 0)
    text = value if isinstance(value, str) else str(value)
    allowance.take(_bytes(text))
    return text


def _meter_concat(*values: Any) -> str:
    """``a ~ b``."""
    return "".join(map(_meter_text, values))


def _meter_slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """``value[start:stop:step]``."""
    allowance = _allowance.get()
    if isinstance(value, Sized):
        allowance.step(1 + (len(value) >> (10 if isinstance(value, str) else 5)))
    result = value[start:stop:step]
    if isinstance(result, list | tuple):
        allowance.take(8 * len(result))
        return result
    return allowance.paid(result)


def _meter_value(value: Any) -> Any:
    """A value that is about to be compared or to be a key."""
    _allowance.get().deep(value)
    return value


def _meter_in(value: Any, within: Any) -> bool:
    """``value in within``."""
    _before_search(_allowance.get(), value, within)
    return value in within


_METERS: dict[str, Callable[..., Any]] = {
    "metered step": _meter_step,
    "metered data": _meter_data,
    "metered text": _meter_text,
    "metered concat": _meter_concat,
    "metered slice": _meter_slice,
    "metered value": _meter_value,
    "metered in": _meter_in,
}


# --- what things will take ---------------------------------------------------------------------------


def _before_times(allowance: _Allowance, left: Any, right: Any) -> None:
    for value, count in ((left, right), (right, left)):
        if isinstance(value, str | bytes) and isinstance(count, int):
            allowance.need(_bytes(value) * max(count, 0))
        elif isinstance(value, list | tuple) and isinstance(count, int):
            allowance.need(40 * len(value) * max(count, 0))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > BITS:
        raise TooMuch(told("reckons with too large numbers"))


def _before_power(allowance: _Allowance, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > BITS:
        raise TooMuch(told("reckons with too large numbers"))


def _before_plus(allowance: _Allowance, left: Any, right: Any) -> None:
    if isinstance(left, str | bytes) and isinstance(right, str | bytes):
        allowance.need(_bytes(left) + _bytes(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        allowance.step((len(left) + len(right)) >> 5)
        allowance.need(40 * (len(left) + len(right)))


def _before_minus(allowance: _Allowance, left: Any, right: Any) -> None:
    if not isinstance(left, int | float):
        allowance.deep(left)
        allowance.deep(right)


def _before_percent(allowance: _Allowance, left: Any, right: Any) -> None:
    if isinstance(left, str | bytes):
        text = left if isinstance(left, str) else left.decode("latin-1")
        if re.search(r"%[^a-zA-Z%]*\*", text):
            raise TooMuch(told("formats with widths that are not known"))
        _before_format(allowance, text, allowance.deep(right)[1], text.count("%"))


_BEFORE: dict[str, Callable[[_Allowance, Any, Any], None]] = {
    "*": _before_times,
    "**": _before_power,
    "+": _before_plus,
    "-": _before_minus,
    "%": _before_percent,
}


def _before_format(allowance: _Allowance, text: str, given: int, places: int) -> None:
    allowance.step(1 + (len(text) >> 6))
    widest = max(map(_width, _NUMBER.findall(text)), default=0)
    allowance.need(_bytes(text) + places * (10 * given + widest))


def _width(digits: str) -> int:
    if len(digits) > len(str(WIDEST)):
        raise TooMuch(told("formats with too large a width"))
    return int(digits)


def _before_search(allowance: _Allowance, value: Any, within: Any) -> None:
    if isinstance(within, str | bytes):
        size = min(len(value), 100) if isinstance(value, str | bytes) else 1
        allowance.step(1 + len(within) * max(size, 1) // 2000)
        return
    inside = allowance.deep(value)
    if isinstance(within, range):
        allowance.step(1 if isinstance(value, int) else 1 + len(within) // 16)
    elif isinstance(within, dict):
        allowance.step()
    elif isinstance(within, _LISTS):
        allowance.step(1 + len(within) // 16)
        if inside[0] > 1:
            allowance.deep(within)
        elif isinstance(value, str):
            allowance.step(len(within) * (len(value) >> 10))


def _before_reading(allowance: _Allowance, owner: Any, name: str) -> None:
    if name in ("index", "count"):
        allowance.deep(owner)
    elif name == "copy":
        allowance.step(len(owner) >> 4)


def _before_method(
    allowance: _Allowance, owner: Any, name: str, args: tuple[Any, ...], more: dict[str, Any]
) -> tuple[Any, ...]:
    """Count what a method of a text takes; returns its arguments, those that came one by one as a list."""
    given = (*args, *more.values())
    allowance.step(1 + (len(owner) >> 10))
    if name == "join" and len(args) == 1:
        items = allowance.items(args[0])
        total = sum(allowance.deep(each)[1] for each in items)
        allowance.need(4 * total + _bytes(owner) * len(items))
        return (items,)
    longest = max((allowance.deep(value)[1] for value in given), default=0)
    numbers = [value for value in given if isinstance(value, int)]
    texts = [value for value in given if isinstance(value, str | bytes)]
    if name in ("encode", "decode") and not {str(each).lower() for each in texts[:1]} <= _ENCODINGS:
        raise TooMuch(told("uses an encoding that it should not need"))
    if name in ("translate", "maketrans"):
        allowance.step(len(owner) // 8)
        allowance.need(len(owner) * longest)
    elif name not in _AT_ONCE and texts and not isinstance(owner, type):
        # From behind, and where the letters of a set are taken off, the search is the plain one.
        plain = (name.startswith("r") and name != "replace") or name.endswith("strip")
        length = len(texts[0]) if plain else min(len(texts[0]), 100)
        allowance.step(1 + len(owner) * max(length, 1) // 2000)
    if (makes := _MAKES.get(name)) is not None:
        allowance.need(makes(allowance, owner, numbers, texts))
    return args


def _padded(allowance: _Allowance, owner: Any, numbers: list[int], texts: list[Any]) -> int:
    return 4 * max(numbers, default=0)


def _expanded(allowance: _Allowance, owner: Any, numbers: list[int], texts: list[Any]) -> int:
    tabs = owner.count("\t" if isinstance(owner, str) else b"\t")
    return int(4 * (_bytes(owner) + tabs * max(numbers, default=8)))


def _split(allowance: _Allowance, owner: Any, numbers: list[int], texts: list[Any]) -> int:
    pieces = owner.count(texts[0]) + 1 if texts and texts[0] else _spaces(allowance, owner)
    return int(pieces * 72 + _bytes(owner))


def _replaced(allowance: _Allowance, owner: Any, numbers: list[int], texts: list[Any]) -> int:
    return int(_bytes(owner) + owner.count(texts[0]) * _bytes(texts[1])) if len(texts) >= 2 else 0


_MAKES: dict[str, Callable[[_Allowance, Any, list[int], list[Any]], int]] = {
    **dict.fromkeys(("ljust", "rjust", "center", "zfill"), _padded),
    "expandtabs": _expanded,
    **dict.fromkeys(("split", "rsplit", "splitlines"), _split),
    "replace": _replaced,
}
"""The bytes that methods of a text may make, where they are more than the text itself."""

_AT_ONCE = frozenset(
    (
        *("ljust", "rjust", "center", "zfill", "expandtabs", "encode", "decode"),
        *("startswith", "endswith", "removeprefix", "removesuffix"),
    )
)
"""The methods that search for nothing."""


def _spaces(allowance: _Allowance, text: Any) -> int:
    if len(text) > 1 << 18 or not isinstance(text, str):
        return len(text)
    allowance.step(len(text) >> 6)
    return 1 + sum(1 for _ in re.finditer(r"\s+|[\x1c-\x1e\x85\u2028\u2029]", text))


# --- filters and tests -------------------------------------------------------------------------------


def _metered_test(test: Callable[..., bool]) -> Callable[..., bool]:
    @wraps(test)
    def run(*given: Any) -> bool:
        allowance = _allowance.get()
        allowance.step()
        for value in given:
            if not isinstance(value, Environment | Context | EvalContext):
                allowance.deep(value)
        if len(given) == 2:
            _before_search(allowance, given[0], given[1])
        return test(*given)

    return run


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **more: Any) -> Any:
        allowance = _allowance.get()
        allowance.step(1 + len(args) + len(more))
        first = 1 if args and isinstance(args[0], Environment | Context | EvalContext) else 0
        value, rest = args[first] if len(args) > first else None, args[first + 1 :]
        given = value
        if name not in _FREE:
            for each in (*rest, *more.values()):
                allowance.deep(each)
            value = _before_filter(allowance, name, value, rest, more)
        return allowance.paid(function(*args[:first], value, *rest, **more), given)

    return run


def _before_filter(
    allowance: _Allowance, name: str, value: Any, rest: tuple[Any, ...], more: dict[str, Any]
) -> Any:
    """Count what a filter takes; returns its value, as a list where that came one by one."""
    given = (*rest, *more.values())
    numbers = [abs(each) for each in given if isinstance(each, int)]
    texts = [each for each in given if isinstance(each, str)]
    if name in ("batch", "slice", "indent", "round", "tojson") and max(numbers, default=0) > WIDEST:
        raise TooMuch(told("formats with too large a width"))
    if name == "format":
        _before_percent(allowance, str(value), [*rest, *more.values()])
        return value
    if name == "sum":
        if not all(isinstance(each, int | float | str) for each in given):
            raise TooMuch(told("sums up what are no numbers"))
        return allowance.items(value)
    if isinstance(value, Iterator) or (name in ("join", "list", "batch", "slice") and _is_text(value)):
        value = allowance.items(value)
    elements, size, depth = allowance.deep(value)
    if name == "replace":
        if len(texts) >= 2 and isinstance(value, str):
            allowance.step(1 + len(value) * max(min(len(texts[0]), 100), 1) // 2000)
            allowance.need(_replaced(allowance, value, numbers, texts))
        return value
    written = {
        **dict.fromkeys(_TEXTUAL, 4 * size),
        **dict.fromkeys(("e", "escape", "forceescape", "urlencode"), 12 * size),
        "join": 4 * size + elements * sum(map(_bytes, texts)),
    }
    if name == "indent":
        written[name] = size + (str(value).count("\n") + 1) * max([*numbers, *map(_bytes, texts), 4])
    elif name == "tojson":
        width = max(numbers, default=0) * (depth + 1) + 8 + sum(allowance.deep(each)[1] for each in given)
        written[name] = 6 * size + elements * width
    elif name in ("batch", "slice"):
        written[name] = 40 * (elements + max(numbers, default=0) * 2)
    elif name not in written:
        allowance.step(elements // 4)
    allowance.need(written.get(name, 8 * elements))
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)
