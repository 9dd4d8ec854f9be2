"""``olivepress export``: the lab's stages as one Olive workflow file."""

from __future__ import annotations

import argparse

from core.cli.parser import add_folder


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("export", help="the same stages as an Olive workflow file")
    add_folder(parser)
    parser.add_argument("--olive", metavar="FILE.json", required=True, help="where to write it")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the workflow file, and the package config that it needs beside it."""
    from pathlib import Path

    from core.export import export_olive
    from core.lab import Lab

    for path, what in export_olive(Lab.open(options.folder), Path(options.olive).expanduser()).items():
        print(f"{path}: {what}")
    return 0
