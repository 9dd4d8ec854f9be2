"""The lab that the wizard is open on: its recipe, and how it is made and changed."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import LabError
from core.folder import LabFolder
from core.language import _, asked, in_use
from core.resources import first_sample
from core.text import command

# The rest of core is loaded when it is asked for: the first screen needs none of it.
if TYPE_CHECKING:
    from core.lab import Lab
    from core.recipe import Recipe


class Session:
    """The lab's folder, which may not exist yet: it is made on the first step that writes.

    Attributes:
        root: the lab's folder, absolute.
        broken: why ``lab.toml`` cannot be used, or None.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.folder = LabFolder(self.root)
        self.broken: LabError | None = None
        self._stamp: tuple[int, int] | None = None
        self._recipe: Recipe | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a lab."""
        return self.folder.recipe_path.is_file()

    def stamp(self) -> tuple[int, int] | None:
        """What changes when ``lab.toml`` does; None where there is none."""
        try:
            found = self.folder.recipe_path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def recipe(self) -> Recipe:
        """The recipe as the file has it; while that is wrong, the last good one and ``broken``."""
        from core.recipe import read_recipe

        stamp = self.stamp()
        if stamp is None:
            self._stamp, self.broken = None, None
        elif stamp != self._stamp:
            self._stamp = stamp
            try:
                self._recipe = read_recipe(self.folder.recipe_path)
                self.broken = None
            except LabError as error:
                self.broken = error
        return self._usual()

    def _usual(self) -> Recipe:
        """The last good recipe; that of a new lab where there has been none."""
        return self._recipe if self._recipe is not None else _of_a_new_lab(in_use())

    def lab(self) -> Lab:
        """The lab, made now if there is none: with records in the language that is spoken, if its model can learn them.

        Raises:
            LabError: the recipe is wrong, the folder cannot be written, or the lab that was there is gone.
        """
        from core.lab import Lab as Opened

        # A lab that was moved or deleted meanwhile is not made anew, with other settings, where it was.
        if self.exists or self._recipe is not None:
            return Opened.open(self.root)
        return Opened.create(self.root, settings={"data.file": first_sample(in_use())})

    def save(self, values: dict[str, Any]) -> Recipe:
        """Write these values, ``{"section.key": value}``, to ``lab.toml``; others stay as they are.

        Raises:
            LabError: a value is wrong, or the file cannot be written.
        """
        lab = self.lab()
        before = lab.recipe
        changed = {name: value for name, value in values.items() if value_of(before, name) != value}
        if changed:
            lab.set(changed)
        if "model.source" in changed:
            from core.model.found import remember

            remember(changed["model.source"])
        return self.recipe()

    def command(self, *words: str, absolute: bool = False) -> str:
        """The command line that does the same, with the lab's folder as seen from here (or as an absolute path)."""
        here = Path.cwd()
        place = (
            str(self.root)
            if absolute or not self.root.is_relative_to(here)
            else os.path.relpath(self.root, here)
        )
        return command(*words[:1], place, *words[1:])

    def command_to_open(self) -> str:
        """The command line that opens the wizard here again, from anywhere, in the language that was asked for."""
        code = asked()
        return command(*(("--language", code) if code else ()), self.root)

    def goes_on(self, job: str) -> str:
        """What to know when one leaves while a job runs."""
        return _(
            "{job} goes on by itself.\n  come back:  {open}\n  its log:    {log}\n  stop it:    {stop}",
            job=job,
            open=self.command_to_open(),
            log=self.command("logs", job, "--follow", absolute=True),
            stop=self.command("cancel", job, absolute=True),
        )


@lru_cache
def _of_a_new_lab(language: str) -> Recipe:
    from core.recipe import Recipe as Made

    return Made().with_values({"data.file": first_sample(language)})


def value_of(recipe: Recipe, name: str) -> Any:
    """The value of ``section.key``."""
    section, _, key = name.partition(".")
    return getattr(getattr(recipe, section), key)
