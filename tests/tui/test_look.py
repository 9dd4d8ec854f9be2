"""What can be told of the look without an eye: contrast, which colours mean what, one mark of focus, nothing cut."""

from __future__ import annotations

import re
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.color import Color
from textual.content import Content
from textual.geometry import Region
from textual.theme import Theme
from textual.widget import Widget

from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import job_in, made
from tui.app import OlivePressApp
from tui.theme import ANSI, DARK, LIGHT, QUIET
from tui.widgets.button import Button
from tui.widgets.form import Form
from tui.widgets.line import Line
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain, bare_paths, hung

TUI = Path(__file__).parents[2] / "tui"
PICTURES = TUI.parent / "docs" / "pictures"
DIALOGS = re.compile("help|leaving|log|recording|chat-evaluation|upload-code|upload-plan")
TEXT, FRAME = 4.5, 3.0
"""The least contrast of WCAG 2 (AA) for text, and for what shows where a control is."""


def contrast(one: Color, other: Color) -> float:
    """The contrast of two colours, 1 to 21, as WCAG 2 has it."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Color) -> float:
    parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour.normalized]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def on(ground: Color, written: str, named: dict[str, str]) -> Color:
    """What ``$name 70%``, or what a name stands for, comes to on a ground."""
    name, _, share = written.strip().partition(" ")
    told = named[name.removeprefix("$")]
    if told.startswith("auto"):
        told, share = ground.get_contrast_text(1).hex, told.partition(" ")[2]
    alpha = float(share.rstrip("%")) / 100 if share else 1.0
    return ground.blend(Color.parse(told), alpha)


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
def test_contrast(theme: Theme) -> None:
    named = theme.to_color_system().generate()
    grounds = {name: Color.parse(named[name]) for name in ("background", "surface", "panel")}
    page = grounds["background"]
    grounds["field"] = on(page, "$foreground 10%", named)
    grounds["field with the focus"] = on(page, "$primary 24%", named)
    words = (
        "$foreground",
        "$text-muted",
        QUIET,
        "$text-primary",
        "$text-success",
        "$text-warning",
        "$text-error",
    )
    pale = [
        f"{text} on {name}: {told:.2f}"
        for name, ground in grounds.items()
        for text in words
        if (told := contrast(on(ground, text, named), ground)) < TEXT
    ]
    pale += [
        f"what is marked: {told:.2f}" for told in [contrast(page, on(page, "$primary", named))] if told < TEXT
    ]
    pale += [
        f"the frame {edge} on {name}: {told:.2f}"
        for name in ("background", "surface")
        for edge in ("$foreground 55%", "$primary", "$success", "$error")
        if (told := contrast(on(grounds[name], edge, named), grounds[name])) < FRAME
    ]
    assert pale == []


def test_no_text_is_paler_than_what_was_measured() -> None:
    least = int(QUIET.removeprefix("$foreground ").rstrip("%"))
    found = []
    for path in (*TUI.rglob("*.py"), *TUI.rglob("*.tcss")):
        for share in re.findall(r"(?<!-)color: \$foreground (\d+)%", path.read_text(encoding="utf-8")):
            found += [f"{path.name}: {share}"] if int(share) < least else []
    assert found == []


_RECT = re.compile(r'<rect fill="([^"]+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"')
_TEXT = re.compile(r'<text class="(\S+)" x="([\d.]+)" y="([\d.]+)" textLength="[\d.]+"[^>]*>([^<]+)</text>')
_RULE = re.compile(r"\.(\S+-r\d+) \{ fill: (#[0-9a-fA-F]{6})")


def pale(svg: str) -> set[tuple[str, str, str, float]]:
    """The pieces of text in a picture that are not seen well enough: words, colour, ground, contrast."""
    fills = dict(_RULE.findall(svg))
    rects = [(fill, *map(float, numbers)) for fill, *numbers in _RECT.findall(svg)]
    found = set()
    for cls, x, y, text in _TEXT.findall(svg):
        at, line = float(x) + 1, float(y) - 5
        behind = [
            fill
            for fill, *box in rects
            if box[0] <= at < box[0] + box[2] and box[1] <= line < box[1] + box[3]
        ]
        if behind and cls in fills and re.search(r"\w", text):
            told = contrast(Color.parse(fills[cls]), Color.parse(behind[-1]))
            found |= {(text, fills[cls], behind[-1], round(told, 2))} if told < TEXT else set()
    return found


def test_contrast_in_the_pictures() -> None:
    """As :func:`test_contrast`, of what is drawn. What lies below a dialog is dimmed, and left out."""
    pictures = [path for path in sorted(PICTURES.glob("*.svg")) if not DIALOGS.match(path.stem)]
    assert len(pictures) > 30
    assert {path.stem: found for path in pictures if (found := pale(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize("theme", ANSI, ids=lambda theme: theme.name)
def test_the_16_colours_are_told_apart(theme: Theme) -> None:
    """What came out well, what warns, what failed and the accent differ, from one another and from usual text."""
    meanings = (theme.primary, theme.success, theme.warning, theme.error, theme.foreground)
    assert len(set(meanings)) == len(meanings)
    ground = "ansi_black" if theme.dark else "ansi_white"
    unseen = {"ansi_black": {"ansi_black", "ansi_blue", "ansi_bright_black"}}.get(
        ground, {"ansi_white", "ansi_yellow", "ansi_bright_yellow", "ansi_bright_white", "ansi_bright_cyan"}
    )
    assert not unseen & set(meanings), "these are hardly seen on such a ground"
    assert "red" in str(theme.error)


# One mark of focus


def drawn(app: OlivePressApp) -> list[list[tuple[str, tuple[object, ...]]]]:
    """Each cell of the screen as it is without colours: its character, whether it is bold, underlined, reversed."""
    rows = []
    for strip in app.screen._compositor.render_strips():
        row: list[tuple[str, tuple[object, ...]]] = []
        for text, style, _ in strip:
            told = (style.bold, style.underline, style.reverse) if style is not None else ()
            row += [(character, told) for character in text]
        rows.append(row)
    return rows


def reversed_outside(app: OlivePressApp, allowed: list[Region]) -> list[str]:
    """Reversed cells that lie in none of these regions, as text by line."""
    found = []
    for y, row in enumerate(drawn(app)):
        text = "".join(
            c
            for x, (c, told) in enumerate(row)
            if told and told[2] and not any(r.contains(x, y) for r in allowed)
        )
        found += [f"{y}: {text}"] if re.search(r"\w", text) else []  # without words it is a scroll bar
    return found


def shows(app: OlivePressApp, name: str) -> bool:
    """Whether that step is on the screen."""
    return app.current.step.name == name and app.current.is_mounted


def focus_is(app: OlivePressApp, widget: Widget) -> bool:
    """Whether that has the focus."""
    return app.focused is widget


async def test_without_colour_what_has_the_focus_is_marked_and_nothing_else(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reversed is where the focus is, and special tokens in a record. Everything that can have it shows it."""
    monkeypatch.setenv("NO_COLOR", "1")
    made(lab, ("quantize",))
    job = job_in(lab, "finetune", "running")
    unmarked, other = [], []
    async with opened(lab.root, "check") as (app, pilot):
        for name in ("check", "data", "quantize", "finetune", "optimize", "upload"):
            await app.go_to(name)
            await until(pilot, partial(shows, app, name))
            screen = app.current
            await until(pilot, lambda: app.focused is not None)
            # The button that stops the check goes with it.
            await until(pilot, lambda: app.current.step.name != "data" or "data" in app.notes, 60)
            for widget in list(screen.focus_chain):
                screen.set_focus(None)
                await until(pilot, lambda: app.focused is None)
                before = drawn(app)
                screen.set_focus(widget)
                await until(pilot, partial(focus_is, app, widget))
                if drawn(app) == before:
                    unmarked.append(f"{name}: {widget}")
                own = [each.region for each in (widget, widget.parent) if isinstance(each, Widget)]
                tokens = [each.region for each in screen.query("#whole")]
                other += [f"{name}, {widget}: {told}" for told in reversed_outside(app, [*own, *tokens])]
            await pilot.press("f2")
            await until(pilot, lambda: app.screen.query(".dialog") and app.screen.query("Scrolled"))
            tokens = [each.region for each in app.current.query("#whole")]
            below = [app.screen.query_one(".dialog").region, *tokens]
            other += [f"below the help of {name}: {told}" for told in reversed_outside(app, below)]
            with_focus = drawn(app)
            app.screen.set_focus(None)
            await until(pilot, lambda: app.focused is None)
            unmarked += [f"the help of {name}"] if drawn(app) == with_focus else []
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is app.current)
    job.let_go()
    assert unmarked == []
    assert other == []


# Nothing cut


class Buttons(App[None]):
    """A row of buttons, some longer than half a line."""

    def compose(self) -> ComposeResult:
        yield FlowingRow(
            *(Button("x" * long, id=f"b{place}") for place, long in enumerate((20, 4, 9, 22, 3, 30, 1)))
        )


async def test_without_colour_what_cannot_be_pressed_is_dim_and_what_is_selected_is_reversed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        run, switch = (app.current.query_one(f"#{name}", Button).rich_style for name in ("run", "search"))
        assert run.dim
        assert not run.bold
        assert not switch.dim
        field = app.current.query_one("#set-finetune-adapter", Line)
        assert field.get_component_rich_style("input--selection").reverse


def cut_off(app: OlivePressApp) -> list[str]:
    """What stands beside settings and is not to be read to its end."""
    lines = screen_text(app).splitlines()
    wrong = []
    for each in app.current.query(".field-help").results(Plain):
        place = each.region
        seen = [line[place.x : place.right] for line in lines[place.y : place.bottom]]
        if place and " ".join(" ".join(seen).split()) != " ".join(each.text.split()):
            wrong.append(each.text)
    return wrong


@pytest.mark.parametrize("step", ["data", "finetune"])
async def test_on_a_high_terminal_what_is_said_beside_the_settings_is_not_cut_off(
    lab: Lab, step: str
) -> None:
    made(lab, ("quantize",))
    async with opened(lab.root, step, size=(200, 60)) as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        assert len([each for each in app.current.query(".field-help") if each.region]) > 8
        assert cut_off(app) == []
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: not app.current.query_one(Form).has_class("-roomy"))
        assert all(each.region.height <= 1 for each in app.current.query(".field-help"))


def is_wide(app: App[None], width: int) -> bool:
    """Whether the row has been laid out at that width."""
    return app.query_one(FlowingRow).size.width == width


async def test_a_row_goes_on_in_the_next_line() -> None:
    app = Buttons()
    async with app.run_test(size=(40, 10)) as pilot:
        for width in (40, 60, 200):
            await pilot.resize_terminal(width, 10)
            await until(pilot, partial(is_wide, app, width))
            regions = [button.region for button in app.query(Button)]
            assert all(region.right <= width for region in regions)
            assert [*sorted(regions, key=lambda each: (each.y, each.x))] == regions, "in their order"
            ends = [
                one.right + 1 + other.width > width for one, other in pairwise(regions) if other.y > one.y
            ]
            assert all(ends), "no line ends before it has to"
            assert app.query_one(FlowingRow).size.height == regions[-1].y + 1
    assert len({region.y for region in regions}) == 1, "at last there was room for all"


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("Looked for at /a/b/c.jsonl.", "Looked for at /a/b/c.jsonl"),
        ("In C:\\models\\x.gguf.\nNext.", "In C:\\models\\x.gguf\nNext."),
        ("See https://a.example/b. Then go on.", "See https://a.example/b. Then go on."),
        ("Either/or, and/or more.", "Either/or, and/or more."),
        ("It is in ../..", "It is in ../.."),
        ("Nothing here.", "Nothing here."),
    ],
)
def test_a_path_at_the_end_of_a_line_has_no_full_stop(told: str, shown: str) -> None:
    assert bare_paths(told) == shown


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (
            "  Bits: for each weight: four is half",
            "  Bits: for each\n    weight: four\n    is half",
        ),
        ("/set  how answers are chosen", "/set  how answers\n      are chosen"),
        ("one two three four five six", "one two three four\nfive six"),
        ("  8 MiB  a name", "  8 MiB  a name"),
        ("one\n\n  two", "one\n\n  two"),
    ],
)
def test_what_does_not_fit_goes_on_further_in(told: str, shown: str) -> None:
    assert hung(Content(told), 18).plain == shown
