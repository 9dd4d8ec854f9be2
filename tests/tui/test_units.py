"""The small parts: words, charts, terminals, keys, the session's commands."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tui
from core.errors import RequestError
from core.lab import Lab
from core.recipe import OPTIONS
from tui import glyphs
from tui.app import OlivePressApp
from tui.help import TOPICS
from tui.keys import EVERY, GLOBAL, key_names, read_settings, save_setting
from tui.labels import label
from tui.session import Session
from tui.steps import steps
from tui.terminal import default_theme, few_colours, plain_glyphs, wants_plain
from tui.widgets.chart import _row, lowest, plot, round_values, smooth, step_axis, thin

TAKEN = {
    "VS Code": {"f1", "f5", "f6", "f10", "f11", "ctrl+p", "ctrl+e", "ctrl+k", "ctrl+j"},
    "tmux and screen": {"ctrl+b", "ctrl+a"},
    "flow control": {"ctrl+s"},
    "bytes of other keys": {"ctrl+m", "ctrl+i", "ctrl+h", "ctrl+enter", "shift+enter"},
}


def test_no_key_is_one_that_terminals_keep_for_themselves() -> None:
    taken = set().union(*TAKEN.values())
    for action in EVERY:
        assert not taken & set(action.keys.split(","))


def test_every_action_that_matters_has_a_key_that_is_no_letter() -> None:
    for action in [each for each in GLOBAL if each.show and each.id != "quit"]:
        assert any(len(key) > 1 for key in action.keys.split(","))


def test_no_key_is_given_twice_in_one_place() -> None:
    keys = [key for action in GLOBAL for key in action.keys.split(",")]
    assert len(keys) == len(set(keys))


def test_names_of_keys() -> None:
    assert key_names("f8,r") == "F8 r"
    assert key_names("question_mark,ctrl+q") == "? Ctrl+Q"


def test_settings_that_are_no_toml_are_told(tmp_path: Path) -> None:
    path = tmp_path / "wizard.toml"
    path.write_text("theme = [")
    assert "was not read" in read_settings(path).problems[0]
    assert read_settings(tmp_path / "none.toml").problems == ()


def test_a_kept_theme_leaves_the_rest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wizard.toml"
    path.write_text('# mine\n[keys]\nhelp = "h"\n')
    save_setting("theme", "olive-light", path)
    assert "# mine" in path.read_text()
    found = read_settings(path)
    assert (found.theme, found.keymap) == ("olive-light", (("help", "h"),))


@pytest.mark.parametrize(
    ("environ", "spoken", "plain"),
    [
        ({"TERM": "dumb"}, False, True),
        ({"TERM": ""}, False, True),
        ({"TERM": "unknown"}, False, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm"}, True, False),
        ({"TERM": "linux"}, True, True),
        ({"TERM": "linux"}, False, False),
        ({"TERM": "xterm", "OLIVEPRESS_PLAIN": "1"}, False, True),
        ({"TERM": "xterm", "OLIVEPRESS_PLAIN": "0"}, False, False),
    ],
)
def test_it_asks_by_lines_where_nothing_can_be_drawn_or_the_user_says_so(
    environ: dict[str, str], spoken: bool, plain: bool, tmp_path: Path
) -> None:
    speakup = tmp_path if spoken else tmp_path / "none"
    assert wants_plain(environ, speakup) is plain


def test_the_settings_can_ask_for_lines(tmp_path: Path) -> None:
    path = tmp_path / "wizard.toml"
    path.write_text("plain = true\n")
    assert read_settings(path).plain
    path.write_text('plain = "yes"\n')
    found = read_settings(path)
    assert not found.plain
    assert "must be true or false" in found.problems[0]


@pytest.mark.parametrize(
    ("environ", "theme"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "olive-dark"),
        ({"TERM": "xterm-256color"}, "olive-dark"),
        ({"TERM": "xterm"}, "ansi-dark"),
        ({"TERM": "linux"}, "ansi-dark"),
        ({"TERM": "screen"}, "ansi-dark"),
        ({"TERM": "tmux-256color", "COLORFGBG": "0;15"}, "olive-light"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": ""}, "ansi-dark"),
    ],
)
def test_the_theme_fits_the_terminal(environ: dict[str, str], theme: str) -> None:
    assert default_theme(environ) == theme
    assert few_colours(environ) is theme.startswith("ansi")


def test_glyphs_have_an_ascii_form(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain_glyphs({"TERM": "linux"})
    monkeypatch.setattr(glyphs, "ascii_only", lambda: True)
    assert all(glyphs.glyph(name).isascii() for name in glyphs._GLYPHS)
    assert glyphs.bar(0.5, 4).plain == "==--"


def test_shares_outside_the_bar_stay_inside() -> None:
    assert len(glyphs.bar(-1, 10)) == len(glyphs.bar(7, 10)) == 10


def test_an_option_has_a_name_for_people() -> None:
    assert label("learning_rate") == "Learning rate"


@pytest.mark.parametrize("height", range(2, 20))
@pytest.mark.parametrize("ascii_look", [False, True])
def test_a_tick_stands_where_the_curve_has_its_value(
    height: int, ascii_look: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.widgets.chart.ascii_only", lambda: ascii_look)
    for tenth in range(11):
        value = 0.8 + 0.18 * tenth
        rows = plot([(0, value), (100, value)], 20, height, 0.8, 2.6, 100)
        drawn = [y for y, row in enumerate(rows) if row.strip()]
        assert drawn == [_row(value, 0.8, 2.6, height)]


def test_a_curve_is_thinned_to_its_columns_and_joined() -> None:
    points = [(float(step), 5.0 - step / 1000) for step in range(1, 5001)]
    assert len(thin(points, 100, 5000)) <= 100
    rows = plot(points, 60, 8, 0.0, 5.0, 5000)
    assert len(rows) == 8
    assert all(len(row) == 60 for row in rows)
    assert all(any(row[x] != " " for row in rows) for x in range(59)), "no gaps"


def test_a_curve_with_what_is_no_number() -> None:
    assert thin([(1, math.nan), (2, math.inf), (3, 1.0)], 10, 3) == [(9, 1.0)]


def test_the_lowest_measurement_is_the_best_and_one_alone_is_none() -> None:
    assert lowest([(0, 3.0)]) is None
    assert lowest([(0, 3.0), (5, math.nan)]) is None
    assert lowest([(0, 3.0), (5, 1.0), (7, math.nan), (10, 1.0), (15, 2.0)]) == (5, 1.0)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300))
def test_a_smoothed_curve_keeps_its_ends_and_its_range(values: list[float]) -> None:
    smoothed = [value for _, value in smooth(list(enumerate(values, 1)))]
    assert len(smoothed) == len(values)
    assert (smoothed[0], smoothed[-1]) == (values[0], values[-1])
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for value in smoothed)


def test_a_smoothed_curve_is_steadier() -> None:
    points = [(float(step), 2.0 + (-1) ** step) for step in range(200)]
    middle = [value for _, value in smooth(points)][20:-20]
    assert all(abs(value - 2.0) < 0.1 for value in middle)


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6), st.integers(1, 20))
def test_ticks_are_few_round_and_within(low: float, width: float, most: int) -> None:
    high = low + width
    values = round_values(low, high, most)
    assert len(values) <= most
    slack = 1e-6 * max(1.0, width)
    assert all(low - slack <= value <= high + slack for value in values)
    assert values == sorted(set(values))


def test_without_points_there_is_no_curve() -> None:
    assert not smooth([])


def test_the_axis_of_steps_has_round_ones_where_they_are() -> None:
    axis = step_axis(73, 100)
    assert len(axis) == 73
    assert axis.endswith(" step 100")
    assert [axis.index(each) for each in ("20", "40", "60", "80")] == [13, 27, 42, 56]
    assert len(step_axis(10, 1_000_000)) == 10


def test_commands_name_the_lab_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Session(tmp_path).command("run", "quantize") == "olivepress run . quantize"
    assert Session(tmp_path / "a b").command("run", "quantize") == "olivepress run 'a b' quantize"
    assert Session(Path("/elsewhere")).command() == "olivepress /elsewhere"
    assert Session(tmp_path).command(absolute=True) == f"olivepress {tmp_path}"


def test_the_first_screen_loads_nothing_heavy() -> None:
    heavy = "torch transformers olive onnxruntime onnxruntime_genai datasets azure pyarrow numpy peft"
    code = (
        "import sys, tui.app, tui.main, tui.screens.check\n"
        f"found = [name for name in {heavy.split()!r} if name in sys.modules]\n"
        "print(found); sys.exit(bool(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_screen_loads_nothing_heavy() -> None:
    heavy = "torch transformers olive onnxruntime onnxruntime_genai datasets pyarrow peft"
    code = (
        "import sys\nfrom tui.steps import steps\n[step.load() for step in steps()]\n"
        f"found = [name for name in {heavy.split()!r} if name in sys.modules]\n"
        "print(found); sys.exit(bool(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_handler_calls_the_one_of_its_base() -> None:
    """Textual itself calls ``on_*`` of every class of a widget: a call by ``super()`` would be a second one."""
    for path in Path(tui.__file__).parent.rglob("*.py"):
        assert not re.search(r"super\(\)\._?on_", path.read_text(encoding="utf-8")), path


def test_what_the_wizard_tells_has_no_marks_of_markdown() -> None:
    """They would be seen as they are."""
    told = [words for topic in TOPICS.values() for words in _texts(asdict(topic))]
    told += [each.help for each in EVERY]
    told += [step.about for step in steps()]
    for option in (option for options in OPTIONS.values() for option in options.values()):
        told += [option.help, option.expected, *(option.words(choice) for choice in option.choices or ())]
    assert len(told) > 200
    for words in told:
        assert not re.search(r"`|\*\*|\]\(|^#", words), words


def _texts(found: object) -> Iterator[str]:
    """Every text in a tree of them, the names as well."""
    if isinstance(found, dict):
        for name, value in found.items():
            yield name
            yield from _texts(value)
    else:
        yield str(found)


def test_without_colours_none_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textual.filter import Monochrome, NoColor

    monkeypatch.setenv("NO_COLOR", "1")
    filters = OlivePressApp(tmp_path).get_line_filters()
    assert any(isinstance(each, NoColor) for each in filters)
    assert not any(isinstance(each, Monochrome) for each in filters)


def test_a_lab_that_was_moved_away_is_not_made_anew_where_it_was(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab")
    session = Session(lab.root)
    session.recipe()
    lab.root.rename(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="no lab here"):
        session.save({"finetune.rank": 8})
    assert not (tmp_path / "lab").exists()
