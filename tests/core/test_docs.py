"""The pages that are made from the code are as the code is, and links between pages lead somewhere."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import core
import tui
from core.azure.errors import _TABLE
from core.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_the_recipe_page_is_fresh() -> None:
    made = runpy.run_path(str(ROOT / "docs/make_recipe_page.py"))["page"]()
    assert (ROOT / "docs/recipe.md").read_text(encoding="utf-8") == made, (
        "run: python docs/make_recipe_page.py"
    )


def undocumented(module_name: str) -> Iterator[str]:
    """Public methods of a module's public classes of which neither they nor a base class says the meaning."""
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name != "triton":  # which only builds of torch for GPUs bring along
            raise
        return
    for name, cls in vars(module).items():
        if not inspect.isclass(cls) or cls.__module__ != module.__name__ or name.startswith("_"):
            continue
        for member, value in vars(cls).items():
            told = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            method = (
                inspect.isfunction(told) and told.__name__ == member
            )  # no field whose default is a function
            if member.startswith("_") or not (method or isinstance(told, property)):
                continue
            if not inspect.getdoc(getattr(cls, member)):
                yield f"{module.__name__}.{name}.{member}"


def test_every_public_method_says_what_it_means() -> None:
    """Its own docstring, or that of the method which it overrides. Ruff asks for all other docstrings."""
    names = [
        found.name
        for package in (core, tui)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not found.name.endswith("__main__")
    ]
    assert len(names) > 100
    assert not [each for name in names for each in undocumented(name)]


def conditional(node: ast.AST, under: bool = False) -> Iterator[int]:
    """The lines of asserts that are made only if something holds, or only if something failed."""
    for child in ast.iter_child_nodes(node):
        if under and isinstance(child, ast.Assert):
            yield child.lineno
        in_if = isinstance(node, ast.If) and child is not node.test
        yield from conditional(child, under or in_if or isinstance(child, ast.ExceptHandler | ast.If))


def test_no_test_asserts_conditionally() -> None:
    """A test whose condition does not come about would pass and say nothing."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found += [f"{path.relative_to(ROOT)}:{line}" for line in conditional(node)]
    assert found == []


def test_the_lock_has_the_versions_that_were_tried() -> None:
    def pinned(name: str) -> set[str]:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        return {re.sub(r"[-_.]+", "-", line.split(" --hash")[0]).lower() for line in lines if "==" in line}

    torch = {each for each in pinned("constraints.txt") if each.startswith("torch==")}
    assert pinned("constraints.txt") - torch == pinned("requirements.lock"), "run: make lock"


def test_links_lead_somewhere() -> None:
    missing = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "data/README.md"]:
        missing += [
            f"{page.name}: {target}"
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
            if "://" not in target and not (page.parent / target).exists()
        ]
    assert not missing


def codes_in_core() -> set[str]:
    """The codes of all errors: what is given as ``code=``, those of a model's faults, and of Azure's table."""
    found = {"cancelled"} | {code for _, _, code, *_ in _TABLE}
    for path in (ROOT / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            given = [word.value for word in node.keywords if word.arg == "code"]
            if isinstance(node.func, ast.Name) and node.func.id == "Fault":
                given.append(node.args[0])
            for code in given:
                # Behind an "or", or for want of another.
                words = {str(each.value) for each in ast.walk(code) if isinstance(each, ast.Constant)}
                found |= words if isinstance(code, ast.Constant) else {word for word in words if "." in word}
    return found - {""}


def test_every_error_has_a_code() -> None:
    kinds = ("LabError", "RequestError", "StageError", "MachineError", "ChatError", "UnknownNames")
    without = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in kinds
        and not any(word.arg == "code" for word in node.keywords)
    ]
    assert not without, "programs branch on codes"


def test_every_code_of_an_error_is_explained() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    explained = [code for cell in cells for code in re.findall(r"`([a-z.-]+)`", cell)]
    assert len(set(explained)) == len(explained)
    assert set(explained) == codes_in_core(), "docs/troubleshooting.md lists the codes"


def test_the_sites_reference_names_every_command_and_what_core_gives() -> None:
    site = runpy.run_path(str(ROOT / "tools/docs.py"))
    commands, python = site["commands_page"](), site["python_page"]()
    assert {f"## {name}\n" for name in COMMANDS} <= set(re.findall(r"## \w+\n", commands))
    assert "### workshop rescue\n" in commands
    assert "| `--seats N` | how many labs |" in commands
    assert {f"## {name}\n" for name in core.__all__ if callable(getattr(core, name))} <= set(
        re.findall(r"## \w+\n", python)
    )
    pages = {page for pages in site["NAV"].values() for page in pages}
    assert pages - {"commands.md", "python.md"} <= {path.name for path in (ROOT / "docs").glob("*.md")}


def test_a_link_of_the_site_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">1</a><a href="b.html#gone">2</a><a href="c.html">3</a>'
    )
    (tmp_path / "b.html").write_text(
        '<h1 id="here">b</h1><a href="https://example.org/x">4</a><a href="#here">5</a>'
    )
    told = runpy.run_path(str(ROOT / "tools/docs.py"))["broken_links"](tmp_path)
    assert told == ["a.html: b.html#gone", "a.html: c.html"]
