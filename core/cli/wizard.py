"""``olivepress [DIR]`` with no command: the wizard, where there is a terminal for it."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from core.errors import RequestError, joined
from core.language import N_, _, told

WIZARD = "tui.main"
"""The module that shows the wizard. Found by name: core works without it and depends on nothing of it."""

_NO_TERMINAL = N_("""\
olivepress opens a full-screen wizard, and there is no terminal for it here.

Without one, the same steps are commands:
  olivepress new DIR       make a lab
  olivepress check DIR     can this machine run it?
  olivepress run DIR       quantize, finetune, optimize
  olivepress chat DIR      talk to the result
The wizard itself, as questions and answers on lines, works through a pipe too:
  olivepress --plain DIR
`olivepress --help` lists them all.
""")


def open_wizard(folder: str, *, plain: bool = False) -> int:
    """Open the wizard on a lab's folder; return its exit status.

    Args:
        plain: as questions and answers on lines.

    Raises:
        RequestError: the folder's name is a misspelt command, or a file is in the way.
    """
    folder = os.path.expanduser(folder)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise RequestError(
            told("A file is in the way."),
            told("{folder} is not a folder.", folder=folder),
            told("Name a lab's folder."),
            code="lab.file",
        )
    _refuse_misspelt(folder)
    if not (plain or (sys.stdin.isatty() and sys.stdout.isatty())):
        print(_(_NO_TERMINAL), file=sys.stderr, end="")
        return 2
    return int(import_module(WIZARD).run_wizard(folder, plain=plain))


def _refuse_misspelt(folder: str) -> None:
    if os.path.exists(folder):
        return
    import difflib

    from core.cli.commands import COMMANDS
    from core.stages import STAGES
    from core.text import command

    near = difflib.get_close_matches(folder.lower(), (*COMMANDS, *STAGES), n=1, cutoff=0.75)
    if near:
        meant = command(*(("run",) if near[0] not in COMMANDS else ()), near[0])
        raise RequestError(
            told("There is no command {folder}.", folder=repr(folder)),
            hint=joined(
                [
                    told("Did you mean: {command}", command=meant),
                    told("For a new lab: {command}", command=command(f"./{folder}")),
                ]
            ),
            code="usage",
        )
