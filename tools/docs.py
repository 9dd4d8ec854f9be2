"""Build docs/ into a site, with reference pages made from the code, and check every link in it: ``make docs``.

The site is in ``.cache/docs/site``. It is a folder of files: any web server shows it, and so does a browser.
"""

from __future__ import annotations

import argparse
import inspect
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import core
from core.cli.commands import COMMANDS
from core.cli.parser import actions_of, command_parser

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / ".cache" / "docs"
NAV = {
    "Begin": ("README.md", "tutorial.md", "wizard.md", "remote.md", "offline.md", "workshop.md"),
    "The steps": (
        "check.md", "data.md", "quantize.md", "finetune.md", "optimize.md", "chat.md",
        "azure.md", "export.md", "serve.md",
    ),
    "Reference": ("recipe.md", "commands.md", "python.md", "scripting.md", "troubleshooting.md"),
    "How it works": ("architecture.md", "awq.md", "glossary.md"),
    "Figures": ("benchmarks.md", "real-models.md", "reliability.md"),
}  # fmt: skip
"""The pages by section. A page that is not named stands under the last."""


def main() -> int:
    """Build, check, and say where it is; 1 if a link leads nowhere or a page is missing."""
    source, site = BUILD / "src", BUILD / "site"
    shutil.rmtree(BUILD, ignore_errors=True)
    source.mkdir(parents=True)
    for path in (ROOT / "docs").iterdir():
        if path.suffix == ".md":
            shutil.copy(path, source / path.name)
        elif path.is_dir() and not path.name.startswith("_"):
            shutil.copytree(path, source / path.name)
    (source / "README.md").rename(source / "index.md")
    for page in source.glob("*.md"):
        text = page.read_text(encoding="utf-8").replace("](README.md", "](index.md")
        page.write_text(text, encoding="utf-8")
    (source / "commands.md").write_text(commands_page(), encoding="utf-8")
    (source / "python.md").write_text(python_page(), encoding="utf-8")
    (BUILD / "zensical.toml").write_text(settings(source), encoding="utf-8")
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(BUILD / "zensical.toml")],
        cwd=BUILD, check=False,
    )  # fmt: skip
    if built.returncode:
        print("zensical did not build the site; is it installed? (pip install -e .[docs])", file=sys.stderr)
        return 1
    broken = broken_links(site)
    print("\n".join(broken) or f"{len(list(site.rglob('*.html')))} pages, every link leads somewhere: {site}")
    return 1 if broken else 0


def settings(source: Path) -> str:
    """What zensical is told."""
    there = {page.name for page in source.glob("*.md")}
    named = [page.replace("README.md", "index.md") for pages in NAV.values() for page in pages]
    lines = ["[project]", 'site_name = "OlivePress"', 'docs_dir = "src"', 'site_dir = "site"',
             "use_directory_urls = false", "nav = ["]  # fmt: skip
    for place, (section, pages) in enumerate(NAV.items()):
        found = [page.replace("README.md", "index.md") for page in pages]
        if place == len(NAV) - 1:
            found += sorted(there - set(named))
        listed = ", ".join(f'"{page}"' for page in found if page in there)
        lines.append(f'  {{ "{section}" = [{listed}] }},')
    lines += [
        "]",
        "[project.theme]",
        "font = false",
        'features = ["navigation.sections", "content.code.copy"]',
    ]
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its words and options, from the parsers."""
    parts = ["# Commands", "`olivepress [DIR]` opens the wizard; these do the same things, one by one."]
    for name in COMMANDS:
        parser = command_parser(name)
        parts += [f"## {name}", _about(name, parser)]
        if inner := actions_of(parser):
            for word, action in inner.items():
                parts += [f"### {name} {word}", _about(word, action), _table(action)]
        else:
            parts.append(_table(parser))
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(name: str, parser: argparse.ArgumentParser) -> str:
    return _text(parser.description or "")


def _table(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
        value = " ".join(value) if isinstance(value, tuple) else value
        value = "" if action.nargs == 0 else value or action.dest.upper()
        word = " ".join(filter(None, (", ".join(action.option_strings), value)))
        rows.append(f"| `{word.replace('|', chr(92) + '|')}` | {_text(action.help or '')} |")
    return "\n".join(["| word | what it is |", "| --- | --- |", *rows]) if rows else ""


def _text(text: str) -> str:
    return text.replace("%%", "%").replace("|", "\\|").replace("<", "&lt;")


def python_page() -> str:
    """What ``from core import …`` gives: each name with its signature and its docstring."""
    parts = ["# Python", "What `from core import …` gives. [scripting.md](scripting.md) has examples."]
    for name in sorted(core.__all__):
        value = getattr(core, name)
        if inspect.isclass(value):
            parts += [f"## {name}", _doc(value)]
            for member, what in vars(value).items():
                if member.startswith("_"):
                    continue
                told = what.__func__ if isinstance(what, classmethod | staticmethod) else what
                if inspect.isfunction(told):
                    parts += [
                        f"### {name}.{member}",
                        f"```python\n{member}{_signature(told)}\n```",
                        _doc(told),
                    ]
                elif isinstance(told, property):
                    parts += [f"### {name}.{member}", _doc(told)]
        elif callable(value):
            parts += [f"## {name}", f"```python\n{name}{_signature(value)}\n```", _doc(value)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _signature(value: object) -> str:
    return str(inspect.signature(value)).replace("'", "")  # type: ignore[arg-type]  # functions alone come here


def _doc(value: object) -> str:
    text = inspect.getdoc(value) or ""
    head, _, rest = text.partition("\n\n")
    return head + (f"\n\n```text\n{rest}\n```" if rest else "")


class _Page(HTMLParser):
    """The links of a page, and the places in it that links can lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = {""}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.places.update(str(told[key]) for key in ("id", "name") if told.get(key))
        self.links += [str(told[key]) for key in ("href", "src") if told.get(key)]


def broken_links(site: Path) -> list[str]:
    """The links between pages that lead nowhere, a line each."""
    pages = {}
    for path in site.rglob("*.html"):
        page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
        pages[path.resolve()] = page
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            place = unquote(parts.fragment)
            good = target.exists() and (
                target not in pages or place in pages[target].places or place.startswith("__")
            )
            if not good:
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
