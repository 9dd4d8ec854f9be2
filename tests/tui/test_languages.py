"""The wizard in every language: switched while it runs, and nothing wider than the smallest terminal."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from rich.cells import cell_len

from core import language
from core.lab import Lab
from core.language import LANGUAGES, _
from core.recipe import on_form
from core.resources import first_sample, sample_file
from core.stages import STAGES
from tests.tui.conftest import opened, screen_text, until
from tui.app import OlivePressApp
from tui.keys import GLOBAL, read_settings
from tui.labels import STATE_WORDS, label
from tui.session import Session
from tui.steps import steps
from tui.widgets.button import Button
from tui.widgets.rail import columns

LETTERS = re.compile("[\u0620-\u064a\u066e-\u06d3]")
"""Letters that are joined, as they are stored and not as they are drawn."""
NAME = 18
"""Cells for the name of a setting."""


@pytest.mark.parametrize("code", LANGUAGES)
def test_names_of_settings_steps_and_states_fit_into_80_columns(code: str) -> None:
    language.use(code)
    keys = {
        name.partition(".")[2] for stage in STAGES.values() for group in on_form(stage.form) for name in group
    }
    assert [label(key) for key in sorted(keys) if cell_len(label(key)) > NAME] == []
    titles = [step.title for step in steps()]
    widths = columns([cell_len(title) for title in titles], 80)
    assert sum(widths) <= 80
    assert [title for title, width in zip(titles, widths, strict=True) if cell_len(title) + 3 > width] == []
    room = {step.name: width - 1 for step, width in zip(steps(), widths, strict=True)}
    words = {name: [*map(_, STATE_WORDS.values()), _("stale")] for name in STAGES if name in room}
    words["chat"] = [_("ready"), _("needs {number}", number=5)]
    words["data"] = [_("to do"), _("{count} found", count=35)]
    words["check"] = [_("to do")]
    narrow = [(name, word) for name, told in words.items() for word in told if cell_len(word) > room[name]]
    assert narrow == []


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_footer_names_every_key_that_it_names_in_english(code: str) -> None:
    language.use(code)
    shown = [action for action in GLOBAL if action.show and action.id != "stop"]
    assert sum(len(action.keys.split(",")[0]) + cell_len(_(action.label)) + 4 for action in shown) <= 81


def shown(app: OlivePressApp, name: str, code: str) -> bool:
    """Whether that step is on the screen, in that language."""
    return app.current.step.name == name and app.current.is_mounted and language.in_use() == code


async def test_the_language_changes_live_and_no_button_is_cut(lab: Lab) -> None:
    cut, unjoined = [], []
    async with opened(lab.root, "quantize") as (app, pilot):
        for code in [*LANGUAGES, "en"]:
            await app.speak(code)
            for name in ("data", "chat", "upload", "quantize"):
                await app.go_to(name)
                await until(pilot, partial(shown, app, name, code))
                cut += [
                    f"{code} {name}: {button.text}"
                    for button in app.current.query(Button)
                    if button.display and button.region.right > 80
                ]
            assert app.current.step.name == "quantize", "where one was"
            unjoined += LETTERS.findall(screen_text(app))
    assert cut == []
    assert unjoined == [], "what is read from the right is drawn in the forms of its letters"
    assert read_settings().language == "en", "it is kept for next time"


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_lab_that_the_wizard_makes_has_a_sample_that_its_model_can_learn(code: str, tmp_path: Path) -> None:
    language.use(code)
    session = Session(tmp_path / "lab")
    shown = session.recipe().data.file
    assert session.lab().recipe.data.file == shown == first_sample(code)
    assert shown == sample_file(code if code in ("de", "es") else "en"), "what the rehearsal model can learn"
    language.use("en")
    assert session.lab().recipe.data.file == session.recipe().data.file == shown  # made once


def test_who_asked_for_a_language_comes_back_in_it(tmp_path: Path) -> None:
    session = Session(tmp_path / "lab")
    assert "--language" not in session.goes_on("finetune-001")
    language.ask("de")
    assert f"olivepress --language de {tmp_path / 'lab'}\n" in session.goes_on("finetune-001")
