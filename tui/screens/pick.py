"""A file picker: folders and data files, by keyboard or mouse, or a path that is typed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input

from core.formats import human_bytes
from core.text import clean
from tui.glyphs import glyph
from tui.screens.dialogs import Dialog
from tui.widgets.line import Line
from tui.widgets.plain_list import PlainList
from tui.widgets.safe import Plain

_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz")
_MOST = 5000


@dataclass(frozen=True)
class Entry:
    """A line of the picker."""

    path: Path
    name: str
    folder: bool
    bytes: int = 0


class PickScreen(Dialog[Path | None]):
    """Gives the path that was picked, or None."""

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#entries"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", show=False),
        Binding("backspace,left", "up", "Up", show=False),
    ]

    class Read(Message):
        """A folder was read."""

        def __init__(self, folder: Path, entries: list[Entry], problem: str) -> None:
            super().__init__()
            self.folder, self.entries, self.problem = folder, entries, problem

    def __init__(self, start: Path, endings: tuple[str, ...] = _ENDINGS) -> None:
        super().__init__()
        self._folder = start
        self._endings = endings
        self._entries: list[Entry] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -pick"):
            yield Plain("Pick a file  (Enter opens, Backspace goes up, Esc closes)", classes="dialog-title")
            yield Line(compact=True, id="typed", placeholder="or type a path and press Enter")
            yield Plain("", id="where")
            yield PlainList(id="entries")

    def on_mount(self) -> None:
        """Read the first folder."""
        self._read(self._folder)

    @work(thread=True, exit_on_error=False, exclusive=True, group="pick")
    def _read(self, folder: Path) -> None:
        entries, problem = list_folder(folder, self._endings)
        self.post_message(self.Read(folder, entries, problem))

    def on_pick_screen_read(self, event: Read) -> None:
        """Show what is in it."""
        event.stop()
        if not self.is_current:
            return
        if event.problem:
            self.query_one("#where", Plain).show(event.problem)
            return
        self._folder, self._entries = event.folder, event.entries
        self.query_one("#where", Plain).show(str(event.folder))
        entries = self.query_one(PlainList)
        entries.index = 0
        entries.show(len(self._entries), self._line, "No folders and no data files here.")

    def _line(self, index: int) -> Content:
        entry = self._entries[index]
        if entry.folder:
            return Content.styled(clean(entry.name, keep_newlines=False) + "/", "bold")
        return Content.assemble(
            clean(entry.name, keep_newlines=False), (f"  {human_bytes(entry.bytes)}", "$foreground 60%")
        )

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """Open a folder, or give back a file."""
        event.stop()
        entry = self._entries[event.index]
        if entry.folder:
            self._read(entry.path)
        else:
            self.dismiss(entry.path)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """A typed path: a folder is opened, a file is given back."""
        event.stop()
        path = Path(event.value).expanduser()
        path = path if path.is_absolute() else self._folder / path
        if path.is_dir():
            self._read(path.resolve())
        elif path.is_file():
            self.dismiss(path)
        else:
            self.query_one("#where", Plain).show(
                f"There is no {path} {glyph('dot')} type another, or pick below."
            )

    def action_up(self) -> None:
        """The folder above."""
        self._read(self._folder.parent)

    def action_close(self) -> None:
        """Nothing was picked."""
        self.dismiss(None)


def list_folder(folder: Path, endings: tuple[str, ...]) -> tuple[list[Entry], str]:
    """What can be picked in a folder, folders first, and why it could not be read."""
    entries = [Entry(folder.parent, "..", True)] if folder.parent != folder else []
    try:
        with os.scandir(folder) as found:
            for item in found:
                if item.name.startswith("."):
                    continue
                if item.is_dir():
                    entries.append(Entry(Path(item.path), item.name, True))
                elif item.name.lower().endswith(endings):
                    entries.append(Entry(Path(item.path), item.name, False, item.stat().st_size))
                if len(entries) >= _MOST:
                    break
    except OSError as error:
        return [], f"{folder} cannot be read: {error.strerror}"
    entries.sort(key=lambda entry: (entry.name != "..", not entry.folder, entry.name.lower()))
    return entries, ""
