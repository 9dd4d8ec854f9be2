"""What the tests of the languages ask of the code: which texts are not marked, and how wide a text may be."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

MARKS = {"_", "N_", "Nn_", "ngettext", "pgettext", "told", "told_n"}
"""What marks a text."""

_STYLE = re.compile(r"(?:\s|bold|dim|red|bar|first|reverse|italic|underline|not|on|\$[\w-]+|\d+%|\{\})*\Z")
_PROSE = re.compile(r"[A-Za-z]{2,}[,;:.)…?!]* [A-Za-z({]|[})]:? [a-z]{3,}|\A[A-Z][a-z]+[.…:!?]?\Z")
_UNSHOWN = {"CSS", "DEFAULT_CSS", "AUTO_FOCUS", "SCOPED_CSS", "SCRIPTS"}
_ERRORS = {"RuntimeError", "TypeError", "NotImplementedError", "TypeVar"}


def unmarked(path: Path, told: frozenset[str] = frozenset()) -> list[str]:
    """English texts of a module that are not marked, each with its line; those in ``told`` are none."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in MARKS:
                marked(node)
                return
            if name in _ERRORS or name == "compile":
                return
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(getattr(target, "id", "") in _UNSHOWN for target in targets) or node.value is None:
                return
            visit(node.value)
            return
        text = _text(node)
        if text is not None:
            if (
                _PROSE.search(text.strip())
                and not text.startswith("<")
                and not _STYLE.match(text)
                and text.strip() not in told
            ):
                found.append(f"{path.name}:{node.lineno}: {text!r}")  # type: ignore[attr-defined]
            if isinstance(node, ast.JoinedStr):
                for part in node.values:
                    if isinstance(part, ast.FormattedValue):
                        visit(part.value)
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    def marked(call: ast.Call) -> None:
        put_together = [each for each in call.args if isinstance(each, ast.JoinedStr)]
        found.extend(f"{path.name}:{each.lineno}: its values are to be named" for each in put_together)
        for each in call.keywords:
            visit(each.value)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def shadowed(path: Path) -> Iterator[str]:
    """Functions that give ``_`` or ``told`` another meaning and translate by it as well."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        nodes = list(ast.walk(function))
        for mark in ("_", "told"):
            names = [node for node in nodes if isinstance(node, ast.Name) and node.id == mark]
            arguments = any(isinstance(node, ast.arg) and node.arg == mark for node in nodes)
            stored = arguments or any(isinstance(name.ctx, ast.Store) for name in names)
            called = any(
                isinstance(node, ast.Call) and getattr(node.func, "id", "") == mark for node in nodes
            )
            if stored and called:
                yield f"{path.name}:{function.lineno}"


_NUMBERS = re.compile(r"0?[1-9]?,?(?:\.\d)?[a-zA-Z%]?")


def unmatched(path: Path) -> Iterator[str]:
    """Texts with places that are given no value, values that have no place, and places that none can fill."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if not isinstance(node, ast.Call) or name not in ("_", "told", "ngettext", "told_n"):
            continue
        plural = name in ("ngettext", "told_n")
        marked = [each.value for each in node.args[: 2 if plural else 1] if isinstance(each, ast.Constant)]
        texts = [each for each in marked if isinstance(each, str)]
        given = {each.arg for each in node.keywords}
        if None in given or len(texts) != (2 if plural else 1) or not (given or plural):
            continue
        for text in texts:
            parts = [part for part in string.Formatter().parse(text) if part[1] is not None]
            odd = {part[1] for part in parts} - given - ({"n"} if plural else set())
            odd |= {
                part[2] for part in parts if name.startswith("told") and not _NUMBERS.fullmatch(part[2] or "")
            }
            if not plural:
                odd |= given - {part[1] for part in parts}
            if odd:
                yield f"{path.name}:{node.lineno}: {odd}"


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "{}"
            for part in node.values
        )
    return None


def literals(path: Path) -> Iterator[tuple[str, str]]:
    """Every text that is given to a mark, and where: Babel finds none within an f-string."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in MARKS:
            given = node.args[1:2] if getattr(node.func, "id", "") == "pgettext" else node.args[:1]
            for each in given:
                if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value:
                    yield f"{path.name}:{node.lineno}", each.value
