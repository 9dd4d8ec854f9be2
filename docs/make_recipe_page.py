"""Write docs/recipe.md from the options' own declarations: ``python docs/make_recipe_page.py``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from core.data.records import count
from core.events import Reporter
from core.model.auto import BATCH_TOKENS, GROUP_SIZES, STEPS, Facts, resolve
from core.recipe import OPTIONS, Recipe, recipe_text

HEAD = """\
# lab.toml, the recipe

Made by `docs/make_recipe_page.py` from the code; do not edit. An unknown key, a wrong type or an impossible
value is refused with file, line, key and what would be right, before anything is started.

```toml
{example}```
"""


AUTO_HEAD = """\
## What "auto" is

What depends on the model or the records is `"auto"` in a new lab. It is resolved from the model's own files and from
the number and length of the records, when a stage begins; `olivepress check`, the forms, `report.md` and `--json` show
each value with its reason. The same files give the same values on every machine. A value that you write is never
changed; where it does not fit the model, `check` and `run` say which would, before any work. The rules stand in
`core/model/auto.py`. For the {rows} training records of the bundled travel file ({tokens:.0f} tokens on average):
"""

NOTES = """\

`data.template` is plain text for a base model without a chat template. `quantize.group_size` is the largest of {sizes}
that divides the inputs of every matrix to be rounded; here all have 576. `data.max_seq_len` is never more than the
model's window. Long records make smaller batches: {batch:,} tokens in a step at most. From 10,000 records the rank is
32 and the batch 16, from 100,000 they are 64 and 32; there are {least} to {most:,} steps.
"""

MODELS = {"4 M parameters": 4e6, "135 M": 135e6, "1 B": 1e9, "8 B": 8e9}


def auto_part() -> str:
    """What the rules give for models of some sizes."""
    with tempfile.TemporaryDirectory() as folder:
        travel = count(Recipe(), Path(folder), Reporter())
    columns = [
        resolve(Recipe(), Facts(int(size), ((576, 1, ""),), 8192), travel).chosen for size in MODELS.values()
    ]
    rows = ["| key | " + " | ".join(MODELS) + " |", "| --- |" + " --- |" * len(MODELS)]
    rows += [
        f"| `{chosen[0].option}` | {' | '.join(each.words for each in chosen)} |"
        for chosen in zip(*columns, strict=True)
    ]
    sizes = ", ".join(map(str, GROUP_SIZES))
    notes = NOTES.format(sizes=sizes, batch=BATCH_TOKENS, least=STEPS[0], most=STEPS[1])
    return "\n".join([AUTO_HEAD.format(rows=travel.rows, tokens=travel.tokens), *rows, notes])


def page() -> str:
    """The page's text."""
    parts = [HEAD.format(example=recipe_text(Recipe()))]
    parts.append(auto_part())
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
