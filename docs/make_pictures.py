"""Make the pictures of the wizard in ``docs/pictures``, and the page that shows them all, ``docs/screens.md``.

    python docs/make_pictures.py [NAME ...]
    python docs/make_pictures.py --every FOLDER [-k WORDS]

They are the scenes of ``tests/snapshots``, drawn by the real program at other sizes and in other colours; only the
figures of the jobs and the words of the model are written by hand. With names, only those scenes are drawn.

``--every`` is for looking at: every scene in every look of ``EVERY`` into a folder of your own, nothing of it for the
docs; ``-k`` chooses tests as it does for pytest. With ``OLIVEPRESS_ASCII=1`` they are those of a Linux console.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PICTURES = ROOT / "docs" / "pictures"
PAGE = ROOT / "docs" / "screens.md"
TESTS = "tests/snapshots"


@dataclass(frozen=True)
class Scene:
    """What there is a picture of.

    Attributes:
        name: the file's name.
        words: what stands below it.
        test: the test of ``tests/snapshots`` that sets it up.
        more: the further looks of it, beside 80x24 in the dark theme.
    """

    name: str
    words: str
    test: str
    more: tuple[str, ...] = ()


LOOKS = {
    "": ((80, 24), "olive-dark", "80x24"),
    "-120": ((120, 40), "olive-light", "120x40, the light theme"),
    "-200": ((200, 60), "olive-dark", "200x60: what stood below stands beside"),
    "-16": ((80, 24), "ansi-dark", "the terminal's own 16 colours; failed stays red"),
}
ALL = ("-120", "-200", "-16")
COLOURED = {
    "80-dark": ((80, 24), "olive-dark"),
    "80-light": ((80, 24), "olive-light"),
    "120-dark": ((120, 40), "olive-dark"),
    "120-light": ((120, 40), "olive-light"),
    "200-dark": ((200, 60), "olive-dark"),
    "200-light": ((200, 60), "olive-light"),
    "80-16": ((80, 24), "ansi-dark"),
}
PLAIN = {"80-linux": ((80, 24), "ansi-dark"), "80-none": ((80, 24), "ansi-light")}
"""Sixteen colours, and none, with the glyphs of the Linux console."""
SNAPSHOTS, DATA, CHAT, UPLOAD = (
    f"{TESTS}/test_{name}.py::test_"
    for name in ("snapshots", "data_pictures", "chat_pictures", "upload_pictures")
)
SCENES = {
    "1 Check": [Scene("check", "Done, with one warning", f"{SNAPSHOTS}empty[check-80x24]", ALL)],
    "2 Data": [
        Scene("data", "All rows can be used", f"{DATA}data[done-80x24]", ALL),
        Scene("data-findings", "Rows that cannot", f"{DATA}data[findings-80x24]"),
        Scene("data-proposal", "Fields that are not clear: a proposal", f"{DATA}data[proposal-80x24]"),
        Scene("data-missing", "No such file", f"{DATA}data[missing-80x24]"),
    ],
    "3 Quantize": [
        Scene("quantize", "Before the run", f"{SNAPSHOTS}empty[quantize-80x24]", ("-120",)),
        Scene("quantize-done", "The result", f"{SNAPSHOTS}states[quantize-succeeded-80x24]"),
    ],
    "4 Finetune": [
        Scene("finetune-running", "While it runs", f"{SNAPSHOTS}states[finetune-running-80x24]", ALL),
        Scene("finetune-stopped", "Stopped", f"{SNAPSHOTS}states[finetune-cancelled-80x24]"),
        Scene("finetune-failed", "Failed", f"{SNAPSHOTS}states[finetune-failed-80x24]", ("-120", "-16")),
        Scene("finetune-done", "The result", f"{SNAPSHOTS}states[finetune-succeeded-80x24]"),
    ],
    "5 Optimize": [
        Scene("optimize-done", "The result", f"{SNAPSHOTS}states[optimize-succeeded-80x24]", ("-120", "-200"))
    ],
    "6 Chat": [
        Scene("chat", "A conversation", f"{CHAT}chat[conversation-80x24]", ("-120", "-200")),
        Scene("chat-compare", "Base and tuned side by side", f"{CHAT}chat[differing-80x24]", ("-120",)),
        Scene("chat-commands", "Commands", f"{CHAT}chat[commands-80x24]"),
        Scene("chat-evaluation", "The evaluation", f"{CHAT}evaluation[figures-80x24]"),
    ],
    "7 Upload": [
        Scene("upload", "Before anyone has signed in", f"{UPLOAD}empty[nobody-80x24]", ("-120", "-16")),
        Scene("upload-code", "Signing in", f"{UPLOAD}signing_in[code-80x24]"),
        Scene("upload-plan", "What would go", f"{UPLOAD}dry_run[plan-80x24]"),
        Scene("upload-done", "The result", f"{UPLOAD}states[succeeded-80x24]"),
    ],
    "Dialogs": [
        Scene("help", "F2 on a screen", f"{SNAPSHOTS}help"),
        Scene("leaving", "Leaving while a job runs", f"{SNAPSHOTS}leaving"),
        Scene("log", "The log, large", f"{SNAPSHOTS}log_large"),
    ],
}


class Artist:
    """Stands where the comparison of pictures would (``tests/snapshots/conftest.py``)."""

    def __init__(self, file: Path, size: tuple[int, int], theme: str) -> None:
        self.file, self.size, self.theme = file, size, theme

    def draw(self, app: Any, steps: Callable[[Any], Awaitable[None]]) -> None:
        """Draw what the app shows after these steps, once it stands still."""
        from tests.snapshots.conftest import drawn

        async def drawing() -> str:
            app.theme = self.theme
            async with app.run_test(size=self.size) as pilot:
                await steps(pilot)
                await drawn(pilot, None)
                return str(app.export_screenshot(title="olivepress"))

        self.file.write_text(small(asyncio.run(drawing())), encoding="utf-8")
        print(self.file.relative_to(ROOT))


class Everything:
    """Draws each scene in every look, one after another in the same app: what is drawn has to follow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def draw(self, app: Any, steps: Callable[[Any], Awaitable[None]]) -> None:
        """Draw what the app shows after these steps in every look."""
        from textual.filter import NoColor
        from textual.widgets import Input

        from tests.snapshots.conftest import drawn

        # With the file it stands in: two of them have tests of one name.
        file, _, test = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)").rpartition("::")
        place = Path(file).stem.removeprefix("test_").removesuffix("_pictures")
        scene = f"{place} {test.removeprefix('test_').removesuffix('-80x24]')}".lower()
        scene = re.sub(r"[^a-z0-9]+", "-", scene).strip("-")
        looks = PLAIN if os.environ.get("OLIVEPRESS_ASCII") else COLOURED

        async def drawing() -> None:
            app.theme = next(iter(looks.values()))[1]
            async with app.run_test(size=(80, 24)) as pilot:
                await steps(pilot)
                for line in app.screen.query(Input):
                    line.cursor_blink = False  # a large picture takes longer than a blink
                for look, (size, theme) in looks.items():
                    await pilot.resize_terminal(*size)
                    app.theme = theme
                    if look.endswith("none"):
                        app.no_color = True
                        app.get_line_filters = lambda: [NoColor()]
                    await drawn(pilot, None)
                    picture = self.folder / f"{scene}.{look}.svg"
                    picture.write_text(small(str(app.export_screenshot(title=look))), encoding="utf-8")

        asyncio.run(drawing())


def small(text: str) -> str:
    """A picture that fetches nothing, with the reader's own fixed-width font, and no longer than it has to be."""
    text = re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)
    text = text.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono").replace(
        "&#160;", "\u00a0"
    )
    text = re.sub(r'<clipPath id="[^"]*line.*?</clipPath>\s*', "", text, flags=re.DOTALL)
    text = re.sub(r' clip-path="[^"]*line[^"]*"', "", text)
    text = re.sub(r"<text[^>]*>[\u00a0\n]*</text>", "", text)
    text = _merged(text).replace("<style>", "<style>rect { shape-rendering: crispEdges }", 1)
    text = re.sub(r"<text([^>]*)>(\u00a0*)([^<]*?)(\u00a0*)</text>", _trimmed, text)
    number = re.search(r"terminal-(\d+)-", text)
    return text.replace(number[0], "t-") if number else text


_CELL = 12.2


def _trimmed(found: re.Match[str]) -> str:
    """A text without the blanks around it, which some programs that draw pictures leave out, in its place."""
    before, after = len(found[2]), len(found[4])
    attributes = re.sub(r'(?<= x=")[\d.]+', lambda at: f"{float(at[0]) + before * _CELL:g}", found[1])
    attributes = re.sub(
        r'(?<=textLength=")[\d.]+', lambda at: f"{float(at[0]) - (before + after) * _CELL:g}", attributes
    )
    return f"<text{attributes}>{found[3]}</text>"


_CELLS = re.compile(
    r'<rect fill="(?P<fill>[^"]+)" x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)" width="(?P<w>[\d.]+)" '
    r'height="24.65" shape-rendering="crispEdges"/>'
)


def _merged(text: str) -> str:
    """Backgrounds of neighbouring cells as one: there is one for each piece of each line."""
    rows: dict[float, list[list[Any]]] = {}
    for cell in _CELLS.finditer(text):
        x, y, wide = (float(cell[name]) for name in ("x", "y", "w"))
        row = rows.setdefault(y, [])
        if row and row[-1][0] == cell["fill"] and abs(row[-1][1] + row[-1][2] - x) < 0.1:
            row[-1][2] += wide
        else:
            row.append([cell["fill"], x, wide])
    blocks: list[list[Any]] = []  # fill, x, width, y, height
    growing: dict[tuple[Any, ...], list[Any]] = {}
    for y, row in sorted(rows.items()):
        above, growing = growing, {}
        for fill, x, wide in row:
            key = (fill, round(x, 1), round(wide, 1))
            block = above.get(key)
            if block is None:
                block = [*key, y, 0.0]
                blocks.append(block)
            block[4] = y + 24.65 - block[3]
            growing[key] = block
    drawn = "".join(
        f'<rect fill="{fill}" x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:.4g}"/>'
        for fill, x, wide, y, high in blocks
    )
    first = _CELLS.search(text)
    return text if first is None else text[: first.start()] + drawn + _CELLS.sub("", text[first.start() :])


def page() -> str:
    """The page that shows them."""
    lines = [
        "# The screens",
        "",
        "Every screen as it is drawn, made by `python docs/make_pictures.py` from the scenes of `tests/snapshots`. "
        "What each is about: [wizard.md](wizard.md).",
        "",
        "One colour, the accent, is where the focus is, what to press and what is alive. Green is good, amber warns, "
        "red failed, grey rests; each also has a word or a sign. From 32 lines on there are frames, from 150 columns "
        "on what stood below stands beside, and what F2 tells is on the screen where there is room.",
    ]
    for title, scenes in SCENES.items():
        lines += ["", f"## {title}"]
        for scene in scenes:
            for look in ("", *scene.more):
                words = scene.words if not look else f"{scene.words}: {LOOKS[look][2]}"
                lines += ["", f"{words}:", "", f"![{title}: {words}](pictures/{scene.name}{look}.svg)"]
    return "\n".join(lines) + "\n"


def drawn_by(artist: object, *tests: str) -> int:
    """Run tests whose pictures this artist draws in place of comparing them. Gives pytest's exit status."""
    import pytest

    class Hired:
        """A plugin: the artist is asked in place of the comparison."""

        def pytest_configure(self, config: pytest.Config) -> None:
            config.pluginmanager.register(artist, "artist")

    options = ["-q", "-s", "--no-header", "--no-summary", "-p", "no:cacheprovider", "--snapshot-warn-unused"]
    return int(pytest.main([*options, *tests], plugins=[Hired()]))


def main() -> int:
    """Make them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenes (default: all)")
    parser.add_argument("--every", type=Path, metavar="FOLDER", help="every scene in every look, to look at")
    parser.add_argument("-k", dest="words", default="", metavar="WORDS", help="which, with --every")
    given = parser.parse_args()
    wanted = given.names
    os.chdir(ROOT)
    if given.every:
        given.every.mkdir(parents=True, exist_ok=True)
        few = f"not 120x40 and ({given.words})" if given.words else "not 120x40"
        return drawn_by(Everything(given.every.resolve()), TESTS, "-k", few)
    PICTURES.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    for scene in (each for scenes in SCENES.values() for each in scenes):
        for look in ("", *scene.more) if not wanted or scene.name in wanted else ():
            size, theme, _ = LOOKS[look]
            artist = Artist(PICTURES / f"{scene.name}{look}.svg", size, theme)

            if drawn_by(artist, scene.test):
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
