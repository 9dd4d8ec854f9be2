"""Write docs/recipe.md from the options' own declarations: ``python docs/make_recipe_page.py``."""

from __future__ import annotations

import json
from pathlib import Path

from core.recipe import OPTIONS, Recipe, recipe_text

HEAD = """\
# lab.toml, the recipe

Made by `docs/make_recipe_page.py` from the code; do not edit. An unknown key, a wrong type or an impossible
value is refused with file, line, key and what would be right, before anything is started.

```toml
{example}```
"""


def page() -> str:
    """The page's text."""
    parts = [HEAD.format(example=recipe_text(Recipe()))]
    for section, group in OPTIONS.items():
        parts.append(f"## [{section}]\n")
        parts.append("| key | default | what it is | must be |\n| --- | --- | --- | --- |")
        for key, declared in group.items():
            default = json.dumps(declared.default)
            parts.append(
                f"| `{key}` | `{default}` | {declared.help} | {declared.expected} |".replace(
                    "{field}", "`{field}`"
                )
            )
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    (Path(__file__).parent / "recipe.md").write_text(page(), encoding="utf-8")
