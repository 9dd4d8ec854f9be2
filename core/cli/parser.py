"""The commands and their options."""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import find_spec

from core.cli.commands import COMMANDS
from core.version import __version__

_MODULES = {"logs": "status", "cancel": "status", "logout": "login", "workspaces": "login", "fetch": "models"}

_EPILOG = """\
With no command, `olivepress [DIR]` opens the wizard on a lab's folder.
Exit statuses: 0 done, 2 wrong request, 3 a stage failed, 4 this machine cannot do it, 130 cancelled.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command. Each command's module adds its own by ``add(commands)``."""
    parser = argparse.ArgumentParser(
        prog="olivepress",
        description="Take a language model through a whole lab: "
        "check, data, quantize, finetune, optimize, chat, upload.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"olivepress {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in dict.fromkeys(_MODULES.get(name, name) for name in COMMANDS):
        if find_spec(f"core.cli.{module}") is not None:
            import_module(f"core.cli.{module}").add(commands)
    return parser


def add_folder(parser: argparse.ArgumentParser) -> None:
    """The optional first word: the lab's folder."""
    parser.add_argument(
        "folder", nargs="?", default=".", metavar="DIR", help="the lab's folder (default: here)"
    )


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON object") -> None:
    """``--json``."""
    parser.add_argument(
        "--json", action="store_true", help=f"print {what} and nothing else on standard output"
    )
