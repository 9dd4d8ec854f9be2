"""The wizard's actions and their keys, once: bindings, footer, help screen and user keymap come from here.

The default keys reach the program in VS Code's terminal, tmux and screen: F2 to F4 and F7 to F9,
letters and digits. VS Code keeps F1, F3 (hence the comma), F5, F6, F10, F11, Ctrl+P and Ctrl+Q; tmux and screen keep
Ctrl+B and Ctrl+A; XON/XOFF flow control takes Ctrl+S and Ctrl+Q. A letter is text while a field has
the focus (Esc leaves the field), so each action that matters has an F key as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from textual.binding import Binding
from textual.keys import key_to_character

from core.language import LANGUAGES, N_, WHO_ORDERS, _
from core.user_dirs import config_dir
from tui.steps import steps

if TYPE_CHECKING:
    from textual.screen import Screen


class Action(NamedTuple):
    """Something a person can do.

    Attributes:
        id: its name in the keymap file.
        keys: default keys, comma separated, the one to show first.
        action: the Textual action.
        label: one or two words for the footer.
        help: a line for the help screen.
        show: whether it stands in the footer.
    """

    id: str
    keys: str
    action: str
    label: str
    help: str
    show: bool = False

    def binding(self) -> Binding:
        """The Textual binding, with this action's id so that a keymap can move it."""
        return Binding(self.keys, self.action, self.label, id=self.id, show=self.show, tooltip=self.help)


GLOBAL: tuple[Action, ...] = (
    Action(
        "help",
        "f2,question_mark",
        "app.help",
        N_("Help"),
        N_("what this screen is about, and this list of keys"),
        True,
    ),
    Action(
        "guide",
        "i",
        "app.guide",
        N_("Guide"),
        N_("what stands behind this step, and a question to think about"),
    ),
    Action("back", "f3,comma", "app.back", N_("Back"), N_("the step before"), True),
    Action(
        "next", "f4,full_stop", "app.next", N_("Next"), N_("the step after, or the one that is missing"), True
    ),
    Action(
        "commands", "f7,colon", "app.command_palette", N_("Commands"), N_("search all commands by name"), True
    ),
    Action("run", "f8,r", "screen.run", N_("Run"), N_("start this step"), True),
    Action("stop", "f9,x", "screen.stop", N_("Stop"), N_("stop what runs in this step"), True),
    Action(
        "settings", "e", "screen.settings", N_("Settings"), N_("show this step's settings, or its last run")
    ),
    Action("log", "l", "screen.log", N_("Log"), N_("show the log large, or small again")),
    Action(
        "copy", "y", "screen.copy_command", N_("Copy command"), N_("copy the command line that does the same")
    ),
    Action("report", "c", "screen.copy_report", N_("Copy"), N_("copy what this screen found, as text")),
    Action("take", "k", "app.take", N_("Take it with you"), N_("what was made, and how to use it elsewhere")),
    Action("theme", "t", "app.next_theme", N_("Theme"), N_("dark, light, or your terminal's 16 colours")),
    Action(
        "leave",
        "escape",
        "screen.leave_field",
        N_("Leave field"),
        N_("leave a field, so that letters are keys again"),
    ),
    Action("quit", "q,ctrl+q", "app.ask_quit", N_("Quit"), N_("leave; a running job goes on"), True),
)

JUMPS: tuple[Action, ...] = tuple(
    Action(f"step{number}", str(number), f"app.step({number})", f"Step {number}", f"go to step {number}")
    for number in range(1, len(steps()) + 1)
)

LOG: tuple[Action, ...] = (
    Action("log.follow", "f,space", "follow", N_("Follow"), N_("follow the end of the log, or hold still")),
    Action("log.search", "slash", "search", N_("Search"), N_("search the log")),
    Action("log.next", "n", "found(1)", N_("Next match"), N_("next place found")),
    Action("log.previous", "N,p", "found(-1)", N_("Previous"), N_("previous place found")),
    Action("log.wrap", "w", "wrap", N_("Wrap"), N_("fold long lines, or cut them")),
    Action("log.open", "enter", "open", N_("Open"), N_("open a folded traceback, or fold it again")),
    Action("log.error", "exclamation_mark,g", "first_error", N_("First error"), N_("go to the first error")),
    Action("log.path", "o", "copy_path", N_("Copy path"), N_("copy the path of the log file")),
)

DATA: tuple[Action, ...] = (
    Action("data.goto", "g", "goto", N_("Go to row"), N_("go to a row by its number")),
    Action("data.findings", "f", "findings", N_("Findings"), N_("list the findings, or the rows again")),
    Action(
        "data.accept",
        "a",
        "accept",
        N_("Use the proposal"),
        N_("use the fields and template that are proposed"),
    ),
    Action(
        "data.clean",
        "w",
        "clean",
        N_("Clean copy"),
        N_("write a copy of the file without rows that have findings"),
    ),
    Action("data.browse", "o", "browse", N_("Browse"), N_("pick the data file")),
)

STAGE: tuple[Action, ...] = (
    Action(
        "stage.model", "m", "pick_model", N_("Pick a model"), N_("pick one of the models on this machine")
    ),
    Action(
        "stage.search",
        "s",
        "search_settings",
        N_("Search"),
        N_("find the settings that are best within limits"),
    ),
    Action(
        "stage.where",
        "a",
        "where",
        N_("Another machine"),
        N_("run this step on another machine, or on this one"),
    ),
    Action(
        "stage.undo", "u", "undo", N_("Undo"), N_("take another model, or settings that a search found, back")
    ),
)

EVERY: tuple[Action, ...] = GLOBAL + JUMPS + LOG + DATA + STAGE


def is_text(screen: Screen[Any], key: str) -> bool:
    """Whether a key is typed as text where the focus is, in place of doing what it does elsewhere."""
    focused = screen.focused
    return focused is not None and focused.check_consume_key(key, key_to_character(key))


_NAMES = {
    "question_mark": "?",
    "comma": ",",
    "full_stop": ".",
    "colon": ":",
    "slash": "/",
    "exclamation_mark": "!",
    "escape": "Esc",
    "enter": "Enter",
    "space": "Space",
}


def key_names(keys: str) -> str:
    """Keys as people name them: ``f8,r`` gives ``F8 r``."""
    return " ".join(key_name(key.strip()) for key in keys.split(","))


def key_name(key: str) -> str:
    """One key as people name it."""
    if key in _NAMES:
        return _NAMES[key]
    if key.startswith("ctrl+"):
        return "Ctrl+" + key[5:].upper()
    return key.upper() if len(key) > 1 and key[0] == "f" and key[1:].isdigit() else key


class UserSettings(NamedTuple):
    """What stands in ``wizard.toml``, and what was wrong with it.

    Attributes:
        theme: the theme's name, or empty for the default.
        keymap: keys by action id.
        plain: whether to ask by lines in place of drawing screens.
        guide: whether a step's guide opens by itself at the first visit, on a wide terminal.
        language: the code of the language to speak; empty: English.
        right_to_left: who joins and orders letters that are read from the right: ``WHO_ORDERS``.
        bell: whether the terminal's bell rings when a job ends.
        problems: lines for people; unknown settings are told, not lost.
    """

    theme: str = ""
    keymap: tuple[tuple[str, str], ...] = ()
    plain: bool = False
    guide: bool = True
    bell: bool = False
    language: str = ""
    right_to_left: str = "auto"
    problems: tuple[str, ...] = ()


_SWITCHES = {"plain": False, "guide": True, "bell": False}
_SETTINGS = ("theme", "language", "right_to_left", *_SWITCHES, "keys")


def read_settings(path: Path | None = None) -> UserSettings:
    """The user's settings. A missing file is no settings; a wrong one is told in ``problems``.

    The file::

        theme = "olive-light"
        language = "de"
        plain = true
        guide = false
        bell = true
        [keys]
        run = "f8,g"
    """
    path = path or config_dir() / "wizard.toml"
    if not path.exists():
        return UserSettings()
    import tomllib

    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return UserSettings(problems=(_("{path} was not read: {error}", path=path, error=error),))
    known = {action.id for action in EVERY}
    keymap: list[tuple[str, str]] = []
    problems: list[str] = []
    keys = data.get("keys", {})
    if not isinstance(keys, dict):
        problems.append(_("{path}: [keys] must be a table.", path=path))
        keys = {}
    for name, value in _flat(keys):
        if name not in known:
            problems.append(_("{path}: there is no action {name!r} to give a key to.", path=path, name=name))
        elif not isinstance(value, str) or not value.strip():
            problems.append(
                _('{path}: the keys of {name} must be text, such as "f8,r".', path=path, name=name)
            )
        else:
            keymap.append((name, value))
    problems += [
        _("{path}: there is no setting {name!r}.", path=path, name=name)
        for name in data
        if name not in _SETTINGS
    ]
    theme = data.get("theme", "")
    if not isinstance(theme, str):
        problems.append(_("{path}: theme must be text.", path=path))
        theme = ""
    language = data.get("language", "")
    if not isinstance(language, str) or (language and language not in LANGUAGES):
        problems.append(_("{path}: language must be one of {codes}.", path=path, codes=", ".join(LANGUAGES)))
        language = ""
    who = data.get("right_to_left", "auto")
    if who not in WHO_ORDERS:
        problems.append(
            _("{path}: right_to_left must be one of {names}.", path=path, names=", ".join(WHO_ORDERS))
        )
        who = "auto"
    switches = {name: data.get(name, default) for name, default in _SWITCHES.items()}
    for name, value in switches.items():
        if not isinstance(value, bool):
            problems.append(_("{path}: {name} must be true or false.", path=path, name=name))
            switches[name] = _SWITCHES[name]
    return UserSettings(
        theme, tuple(keymap), **switches, language=language, right_to_left=who, problems=tuple(problems)
    )


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """TOML reads ``log.search = "s"`` as a table in a table; this gives the dotted names back."""
    pairs: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, value))
    return pairs


def save_setting(name: str, value: str, path: Path | None = None) -> None:
    """Keep a setting for next time, leaving the rest of the file as it is."""
    import tomlkit

    from core.files import write_atomic

    path = path or config_dir() / "wizard.toml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    document = tomlkit.parse(text)
    document[name] = value
    write_atomic(path, tomlkit.dumps(document))
