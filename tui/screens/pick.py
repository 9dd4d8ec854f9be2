"""Two pickers: of a file, by typing as in a shell; and of a model, from what lies on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
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

from core.language import N_, _
from core.model.found import FoundModel, found_models, is_model
from core.model.sources import local_place
from core.text import clean
from tui.figures import human_bytes
from tui.glyphs import glyph
from tui.screens.dialogs import Dialog
from tui.theme import QUIET
from tui.widgets.line import Line
from tui.widgets.plain_list import PlainList
from tui.widgets.safe import Plain

_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz")
_MOST = 5000
PLACES = (N_("recent"), N_("hub cache"), N_("near by"))
"""Where a model was found, to be translated where it is shown."""

_KEYS: list[BindingType] = [
    Binding("escape", "close", N_("Close"), show=False),
    Binding("up", "move(-1)", show=False),
    Binding("down", "move(1)", show=False),
    Binding("pageup", "move(-10)", show=False),
    Binding("pagedown", "move(10)", show=False),
]


class Typed(Line):
    """Where a picker is typed into: it has the focus all the time, and the arrows go through the list below."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("backspace", "back", show=False),
        Binding("tab", "screen.complete", show=False),
    ]

    def complete(self, words: str, fitting: Sequence[Entry], marked: Entry) -> None:
        """Complete the words at the end as far as all that begins with them agrees; else to the marked entry."""
        begun = [each for each in fitting if each.name.startswith(words) and each.name != ".."]
        common = _common([each.name for each in begun])
        if len(begun) == 1 or len(common) <= len(words):
            whole = begun[0] if len(begun) == 1 else marked
            if whole.name == "..":
                return
            common = whole.name + ("/" if whole.folder else "")
        self.value = self.value[: len(self.value) - len(words)] + common
        self.cursor_position = len(self.value)

    def action_back(self) -> None:
        """Take a letter away; where there is none, go a folder up."""
        if self.value:
            self.action_delete_left()
        else:
            self.post_message(Up())


@dataclass(frozen=True)
class Entry:
    """A line of the picker."""

    path: Path
    name: str
    folder: bool
    bytes: int = 0


class Up(Message):
    """Backspace in the empty line."""


class Read(Message):
    """A folder was read."""

    def __init__(self, folder: Path, entries: list[Entry], problem: str) -> None:
        super().__init__()
        self.folder, self.entries, self.problem = folder, entries, problem


class PickScreen(Dialog[Path | None]):
    """Gives the path that was picked, or None.

    What is typed filters the folder that is shown; with a ``/`` it goes into one, so that whole paths can be typed,
    and Tab completes them.
    """

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#typed"
    BINDINGS: ClassVar[list[BindingType]] = _KEYS

    def __init__(self, start: Path, endings: tuple[str, ...] = _ENDINGS) -> None:
        super().__init__()
        self._base = start
        self._endings = endings
        self._shown: Path | None = None
        self._entries: list[Entry] = []
        self._fitting: list[Entry] = []
        self._typed = Typed(
            compact=True, id="typed", placeholder=_("type to filter, or a path; Tab completes it")
        )
        self._list = PlainList(id="entries")
        self._list.can_focus = False
        self._where = Plain("", id="where")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -pick"):
            yield Plain(
                _("Pick a file  (Enter opens, Backspace goes up, Esc closes)"), classes="dialog-title"
            )
            yield self._typed
            yield self._where
            yield self._list

    def on_mount(self) -> None:
        """Read the first folder."""
        self._look()

    @property
    def _place(self) -> tuple[Path, str]:
        """The folder that what is typed leads to, and the words behind it, which filter."""
        return place_of(self._typed.value, self._base)

    def _look(self) -> None:
        """Show what fits; a folder that is not shown yet is read first."""
        folder, _ = self._place
        if folder == self._shown:
            self._filter()
        else:
            self._read(folder)

    @work(thread=True, exit_on_error=False, exclusive=True, group="pick")
    def _read(self, folder: Path) -> None:
        entries, problem = list_folder(folder, self._endings)
        self.post_message(Read(folder, entries, problem))

    def on_read(self, event: Read) -> None:
        """Show what is in it."""
        event.stop()
        if not self.is_current or event.folder != self._place[0]:
            return
        if event.problem:
            self._entries, self._shown = [], None
            self._where.show(event.problem)
            self._filter()
            return
        self._shown, self._entries = event.folder, event.entries
        self._where.show(str(event.folder))
        self._filter()

    def _filter(self) -> None:
        _folder, words = self._place
        wanted = words.lower()
        fitting = [
            each
            for each in self._entries
            if wanted in each.name.lower() and (words.startswith(".") or not each.name.startswith("."))
        ]
        # What begins with it first; the folder above only where nothing is looked for.
        fitting.sort(key=lambda each: not each.name.lower().startswith(wanted))
        if not words and self._shown is not None and self._shown.parent != self._shown:
            fitting.insert(0, Entry(self._shown.parent, "..", True))
        self._fitting = fitting
        self._list.index = 1 if not words and len(fitting) > 1 and fitting[0].name == ".." else 0
        self._list.show(
            len(fitting), self._line, _("Nothing here fits.") if words else _("No data files here.")
        )

    def _line(self, index: int) -> Content:
        entry = self._fitting[index]
        if entry.folder:
            return Content.styled(clean(entry.name, keep_newlines=False) + "/", "bold")
        return Content.assemble(
            clean(entry.name, keep_newlines=False), (f"  {human_bytes(entry.bytes)}", QUIET)
        )

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter with each letter."""
        event.stop()
        self._look()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """A path that was typed whole, or else the marked line."""
        event.stop()
        folder, words = self._place
        typed = folder / words if words else folder
        if words and typed.is_file():
            self.dismiss(typed)
        elif self._fitting and folder == self._shown:
            self._open(self._fitting[self._list.index])
        else:
            self._where.show(
                _("There is no {typed} {dot} type another, or pick below.", typed=typed, dot=glyph("dot"))
            )

    def _open(self, entry: Entry) -> None:
        if entry.folder:
            self._base = entry.path
            self._typed.value = ""
            self._look()
        else:
            self.dismiss(entry.path)

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """A click on the marked line."""
        event.stop()
        self._open(self._fitting[event.index])

    def action_complete(self) -> None:
        """Complete what is typed as far as all that begins with it agree; else to the marked line."""
        folder, words = self._place
        if folder == self._shown and self._fitting:
            self._typed.complete(words, self._fitting, self._fitting[self._list.index])

    def on_up(self, event: Up) -> None:
        """The folder above."""
        event.stop()
        self._base = self._place[0].resolve().parent
        self._look()

    def enter(self) -> str:
        """Open the marked line."""
        return _("Open")

    def action_move(self, by: int) -> None:
        """Mark a line above or below."""
        self._list.go(self._list.index + by)

    def action_close(self) -> None:
        """Nothing was picked."""
        self.dismiss(None)


class PickModelScreen(Dialog[str | None]):
    """Gives what ``model.source`` is to be, or None: a model that was found here, or what was typed.

    A path that is typed is gone along as in :class:`PickScreen`; one that leads nowhere is not taken.
    """

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#typed"
    BINDINGS: ClassVar[list[BindingType]] = _KEYS

    class Found(Message):
        """What there is."""

        def __init__(self, models: list[FoundModel]) -> None:
            super().__init__()
            self.models = models

    def __init__(self, lab_root: Path, current: str = "") -> None:
        super().__init__()
        self._root = lab_root
        self._current = current
        self._models: Sequence[FoundModel] | None = None
        self._shown: Path | None = None
        self._entries: list[Entry] = []
        self._problem = ""
        self._entered = False
        self._fitting: list[FoundModel | Entry] = []
        self._typed = Typed(
            compact=True,
            id="typed",
            placeholder=_("type to filter, or a hub id such as Qwen/Qwen3-0.6B, or a path"),
        )
        self._list = PlainList(id="entries", empty=_("Looking …"))
        self._list.can_focus = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -pick"):
            yield Plain(_("Pick a model  (Enter takes it, Esc closes)"), classes="dialog-title")
            yield self._typed
            yield self._list

    def on_mount(self) -> None:
        """Look around in a thread: a cache may be large, and a disk slow."""
        self._find()

    @work(thread=True, exit_on_error=False, group="models")
    def _find(self) -> None:
        self.post_message(self.Found(found_models(self._root)))

    def on_pick_model_screen_found(self, event: Found) -> None:
        """Show them, the present one marked."""
        event.stop()
        self._models = event.models
        self._look()
        sources = [each.source for each in self._fitting if isinstance(each, FoundModel)]
        if self._current in sources:
            self._list.go(sources.index(self._current))
        self._take_entered()

    @property
    def _path(self) -> tuple[Path, str] | None:
        """Where a path that is typed leads, and the words behind it; None where no path is typed."""
        typed = self._typed.value.strip()
        return place_of(typed, self._root) if typed.startswith(("/", "~/", "./", "../")) else None

    @property
    def _waiting(self) -> bool:
        """Whether what is typed is still looked for."""
        return self._models is None or (self._path is not None and self._path[0] != self._shown)

    def _look(self) -> None:
        """Show what fits; a folder that is not shown yet is read first."""
        if self._path is not None and self._path[0] != self._shown:
            self._read(self._path[0])
        self._filter()

    @work(thread=True, exit_on_error=False, exclusive=True, group="pick")
    def _read(self, folder: Path) -> None:
        entries, problem = list_folder(folder, (".gguf",))
        if is_model(folder):
            entries.insert(0, Entry(folder, "", True))  # the path is typed to its end, with a slash
        self.post_message(Read(folder, entries, problem))

    def on_read(self, event: Read) -> None:
        """Show what is in the folder that is typed."""
        event.stop()
        if self._path is not None and self._path[0] == event.folder:
            self._shown, self._entries, self._problem = event.folder, event.entries, event.problem
            self._filter()
            self._take_entered()

    def _filter(self) -> None:
        typed = self._typed.value.strip()
        words = typed.lower().split()
        found = [
            model
            for model in self._models or ()
            if all(word in f"{model.name} {model.source} {model.place}".lower() for word in words)
        ]
        none = _("Nothing here fits.")
        if self._path is not None:
            none = self._problem or none
            self._fitting = [*found, *self._below(found, self._path[1])]
        else:
            if typed and typed not in (model.source for model in found):
                # A hub id is meant as it stands, though something that was found has a longer one.
                as_typed = FoundModel(typed, _("as typed"), typed, None)
                found.insert(0 if "/" in typed else len(found), as_typed)
            self._fitting = [*found]
        self._list.index = 0
        self._list.show(len(self._fitting), self._line, _("Looking …") if self._waiting else none)

    def _below(self, found: Sequence[FoundModel], words: str) -> list[Entry]:
        """What in the folder that is typed begins with the words behind it, but for models that were found."""
        if self._waiting:
            return []
        known = {local_place(model.source, self._root) for model in found}
        wanted = words.lower()
        below = [
            each
            for each in self._entries
            if each.name.lower().startswith(wanted)
            and (words.startswith(".") or not each.name.startswith("."))
            and each.path.resolve() not in known
        ]
        # One that is typed to its end stands before those with longer names.
        return sorted(below, key=lambda each: each.name.lower() != wanted)

    def _line(self, index: int) -> Content:
        model = self._fitting[index]
        if isinstance(model, Entry):
            name = clean(model.name or model.path.name, keep_newlines=False)
            return Content.styled(name + ("/" if model.folder else ""), "bold")
        name = clean(model.name, keep_newlines=False)
        size = human_bytes(model.bytes) if model.bytes else ""
        where = clean(model.source, keep_newlines=False) if model.source != model.name else ""
        return Content.assemble(
            (f"{_(model.place):<10} ", QUIET),
            f"{name}  ",
            (f"{size}  {where}".rstrip(), QUIET),
        )

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter with each letter."""
        event.stop()
        self._entered = False
        self._look()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The marked one; where it is still looked for, once it was found."""
        event.stop()
        self._entered = True
        self._take_entered()

    def _take_entered(self) -> None:
        if self._entered and not self._waiting:
            self._entered = False
            if self._fitting:
                self._take(self._fitting[self._list.index])

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """A click on the marked line."""
        event.stop()
        self._take(self._fitting[event.index])

    def _take(self, marked: FoundModel | Entry) -> None:
        """A model is taken; a folder that is none is gone into."""
        if isinstance(marked, FoundModel):
            self.dismiss(marked.source)
            return
        typed = self._typed.value.strip()
        path = (typed[: typed.rindex("/") + 1] + marked.name).rstrip("/")
        if not marked.folder or is_model(marked.path):
            self.dismiss(path)
        else:
            self._typed.value = path + "/"
            self._typed.cursor_position = len(self._typed.value)

    def action_complete(self) -> None:
        """Tab completes a path that is typed."""
        path = self._path
        below = [each for each in self._below((), path[1]) if each.name] if path is not None else []
        if path is not None and below:
            self._typed.complete(path[1], below, below[0])

    def enter(self) -> str:
        """Take the marked line."""
        return _("Choose")

    def action_move(self, by: int) -> None:
        """Mark a line above or below."""
        self._list.go(self._list.index + by)

    def action_close(self) -> None:
        """Nothing was picked."""
        self.dismiss(None)


def place_of(typed: str, base: Path) -> tuple[Path, str]:
    """The folder that a path leads to as far as it is typed, and the words behind it, which filter."""
    head, _slash, tail = typed.rpartition("/")
    if typed.startswith("/"):
        head = head or "/"
    try:
        folder = Path(head).expanduser()
    except RuntimeError:  # the home of a user whom nobody knows
        folder = Path(head)
    return (folder if folder.is_absolute() else base / folder), tail


def _common(names: Sequence[str]) -> str:
    """The letters that all names begin with."""
    first, last = min(names, default=""), max(names, default="")
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return first[:same]


def list_folder(folder: Path, endings: tuple[str, ...]) -> tuple[list[Entry], str]:
    """What can be picked in a folder, folders first, and why it could not be read."""
    entries = []
    try:
        with os.scandir(folder) as found:
            for item in found:
                if item.is_dir():
                    entries.append(Entry(Path(item.path), item.name, True))
                elif item.name.lower().endswith(endings) and item.is_file():
                    entries.append(Entry(Path(item.path), item.name, False, item.stat().st_size))
                if len(entries) >= _MOST:
                    break
    except (OSError, ValueError) as error:
        return [], _(
            "{path} cannot be read: {strerror}",
            path=folder,
            strerror=getattr(error, "strerror", None) or error,
        )
    entries.sort(key=lambda entry: (not entry.folder, entry.name.lower()))
    return entries, ""
