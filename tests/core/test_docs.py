"""The pages that are made from the code are as the code is, and links between pages lead somewhere."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_recipe_page_is_fresh() -> None:
    made = runpy.run_path(str(ROOT / "docs/make_recipe_page.py"))["page"]()
    assert (ROOT / "docs/recipe.md").read_text(encoding="utf-8") == made, (
        "run: python docs/make_recipe_page.py"
    )


def test_links_lead_somewhere() -> None:
    missing = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "data/README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert not missing


def codes_in_core() -> set[str]:
    """The codes of all errors: what is given as ``code=``, those of a model's faults, and of Azure's table."""
    found = {"cancelled"}
    for path in (ROOT / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            given = [word.value for word in node.keywords if word.arg == "code"]
            if isinstance(node.func, ast.Name) and node.func.id == "_Saying":
                given.append(node.args[-1])
            if isinstance(node.func, ast.Name) and node.func.id == "Fault":
                given.append(node.args[0])
            found |= {str(each.value) for each in given if isinstance(each, ast.Constant) and each.value}
    return found


def test_every_code_of_an_error_is_explained() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    explained = [code for cell in cells for code in re.findall(r"`([a-z.-]+)`", cell)]
    assert len(set(explained)) == len(explained)
    assert set(explained) == codes_in_core(), "docs/troubleshooting.md lists the codes"
