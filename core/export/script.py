"""The same lab as a short Python program, to be changed and run again."""

from __future__ import annotations

from pprint import pformat
from typing import Any

from core.data import resolve_data_file
from core.export.write import Exported, ExportRequest, free_place
from core.files import write_atomic
from core.model.sources import kind_of, local_place
from core.recipe import OPTIONS, Recipe
from core.stages import default_stages

_PROGRAM = '''\
"""A lab of OlivePress as a program. Made from {lab}."""

from core import Lab

SETTINGS = {settings}


def main() -> None:
    lab = Lab.create("lab-by-script", settings=SETTINGS)  # another time: Lab.open("lab-by-script")
    for stage in {stages!r}:
        result = lab.run(stage)
        print(stage, result.numbers)
    with lab.chat() as chat:
        for piece in chat.stream("What should I see in Paris?"):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
'''


def run(wanted: ExportRequest) -> Exported:
    """Write the program; paths in it are absolute, so that it runs from anywhere."""
    recipe, root = wanted.lab.recipe, wanted.lab.root
    target = free_place(wanted)
    settings = changed(recipe)
    if kind_of(recipe.model.source, root) in ("folder", "gguf"):
        settings["model.source"] = str(local_place(recipe.model.source, root))
    data = resolve_data_file(recipe, root)
    if (root / recipe.data.file).exists():
        settings["data.file"] = str(data)
    text = _PROGRAM.format(
        lab=root.name.replace("\\", "").replace('"""', ""),
        settings=pformat(settings, sort_dicts=False, width=100),
        stages=default_stages(),
    )
    write_atomic(target, text)
    return Exported(
        "script",
        str(target),
        target.stat().st_size,
        next=wanted.form.next.format(out=target, name=target.name),
    )


def changed(recipe: Recipe) -> dict[str, Any]:
    """The settings of a recipe that are not those of a new lab; where it was uploaded to is left out."""
    usual, found = Recipe(), dict[str, Any]()
    for section, options in OPTIONS.items():
        if section == "upload":
            continue
        for name in options:
            value = getattr(getattr(recipe, section), name)
            if value != getattr(getattr(usual, section), name):
                found[f"{section}.{name}"] = value
    return found
