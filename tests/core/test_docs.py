"""The pages that are made from the code are as the code is, and links between pages lead somewhere."""

from __future__ import annotations

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
