"""The box for questions, by keys: lines, commands while they are typed, questions to begin with, and editing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual.events import Paste

from core.data import load_examples
from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tests.tui.nasty import NASTY, harmless
from tests.tui.talks import Puppet, with_model, write_chat
from tui.app import OlivePressApp
from tui.screens.chat.dialogs import ChatsScreen, SettingsScreen
from tui.screens.chat.question import LONGEST_PASTE
from tui.screens.chat.screen import ChatScreen

TOWNS = ("Avila", "Bruges", "Cusco", "Delft", "Evora", "Fes", "Ghent", "Hue", "Ipoh", "Jaipur", "Kyoto")


@pytest.fixture
def puppet(monkeypatch: pytest.MonkeyPatch) -> Puppet:
    found = Puppet()
    monkeypatch.setattr("core.chat.model_process.Child", found.begin)
    return found


@asynccontextmanager
async def talking(lab: Lab, **more: Any) -> AsyncIterator[tuple[OlivePressApp, Any, ChatScreen]]:
    async with opened(with_model(lab).root, "chat", **more) as (app, pilot):
        screen = app.current
        assert isinstance(screen, ChatScreen)
        await until(
            pilot, lambda: screen.controller.chat and screen.controller.chat.ready and not screen.view.loading
        )
        await until(pilot, lambda: screen.focused is screen.field)
        yield app, pilot, screen


def asked(screen: ChatScreen) -> list[str]:
    assert screen.controller.chat is not None
    return [turn.question for turn in screen.controller.chat.turns]


async def answered(pilot: Any, screen: ChatScreen, many: int) -> None:
    await until(pilot, lambda: len(asked(screen)) == many and not screen.view.busy)


# Lines


@pytest.mark.parametrize("key", ["ctrl+j", "shift+enter", "alt+enter"])
async def test_a_key_begins_a_line_and_enter_sends_them_all(lab: Lab, puppet: Puppet, key: str) -> None:
    async with talking(lab) as (_, pilot, screen):
        puppet.will_say("Here.")
        await pilot.press("a", key, "b", "enter")
        await answered(pilot, screen, 1)
        assert asked(screen) == ["a\nb"]
        assert screen.field.text == ""


async def test_the_box_grows_with_its_lines_to_a_limit_and_shrinks_again(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (_, pilot, screen):
        heights = [screen.field.size.height]
        for _ in range(8):
            await pilot.press("ctrl+j", "x")
            await pilot.pause()
            heights.append(screen.field.size.height)
        assert heights == [1, 2, 3, 4, 4, 4, 4, 4, 4]
        assert screen.transcript.size.height >= 5
        await pilot.press("ctrl+a", "ctrl+u")
        screen.field.put("")
        await until(pilot, lambda: screen.field.size.height == 1)


async def test_a_paste_goes_where_the_cursor_is_and_one_that_is_too_long_nowhere(
    lab: Lab, puppet: Puppet
) -> None:
    async with talking(lab) as (app, pilot, screen):
        await pilot.press("a", "z", "left")
        screen.field.post_message(Paste("one\r\ntwo\rthree\n"))
        await until(pilot, lambda: screen.field.text == "aone\ntwo\nthreez")
        screen.field.post_message(Paste("x" * (LONGEST_PASTE + 1)))
        await until(
            pilot, lambda: any("too much for a question" in each.message for each in app._notifications)
        )
        assert screen.field.text == "aone\ntwo\nthreez"
        await pilot.press("b")
        assert screen.field.text == "aone\ntwo\nthreebz"


async def test_hostile_text_in_the_box_is_drawn_harmlessly_and_asked_as_it_is(
    lab: Lab, puppet: Puppet
) -> None:
    async with talking(lab) as (app, pilot, screen):
        for text in NASTY[:-1]:
            screen.field.put("")
            screen.field.post_message(Paste(text))
            await pilot.pause()
            await pilot.pause()
            assert harmless(screen_text(app)), repr(text)
        screen.field.put("a\x1b[31mb")
        puppet.will_say("Here.")
        await pilot.press("enter")
        await answered(pilot, screen, 1)
        assert asked(screen) == ["a\x1b[31mb"]


async def test_letters_are_text_and_the_function_keys_are_keys(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (app, pilot, screen):
        await pilot.press("q", "7", "r", "question_mark")
        assert screen.field.text == "q7r?"
        await pilot.press("f7")
        await until(pilot, lambda: app.screen is not screen)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        assert screen.field.text == "q7r?"


# Commands


async def test_commands_are_offered_as_they_are_typed_and_tab_takes_one(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (app, pilot, screen):
        await pilot.press("/", "c")
        await until(pilot, lambda: "/compare [TEXT]" in screen_text(app))
        assert "/chats" in screen_text(app)
        assert "/again" not in screen_text(app)
        await pilot.press("down", "tab")
        await until(pilot, lambda: screen.field.text == "/chats")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ChatsScreen))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        assert screen.field.text == ""
        assert not screen.field.completing


async def test_enter_does_the_marked_command_or_asks_for_its_words(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (app, pilot, screen):
        await pilot.press(*"/op", "enter")
        await until(pilot, lambda: screen.field.text == "/open ")
        await pilot.press("ctrl+u", *"/se", "enter")
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press(*"/adapter f", "enter")
        await until(
            pilot, lambda: screen.controller.chat is not None and screen.controller.chat.adapter == "formal"
        )
        await pilot.press(*"/set temp", "tab", *"0.5", "enter")
        await until(
            pilot,
            lambda: screen.controller.chat is not None and screen.controller.chat.settings.temperature == 0.5,
        )


async def test_escape_closes_what_is_offered_and_then_leaves_the_box(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (app, pilot, screen):
        await pilot.press("/", "c")
        await until(pilot, lambda: screen.field.completing)
        await pilot.press("escape")
        assert not screen.field.completing
        assert screen.field.text == "/c"
        assert screen.focused is screen.field
        await pilot.press("enter")
        await until(pilot, lambda: "There is no command /c" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: screen.focused is None)


async def test_keys_that_come_in_one_go_do_what_was_typed_and_nothing_else(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (app, pilot, screen):
        from textual.events import Key

        for key in ("slash", "c", "h", "a", "t", "s", "enter"):
            screen.field.post_message(Key(key, {"slash": "/", "enter": "\r"}.get(key, key)))
        await until(pilot, lambda: isinstance(app.screen, ChatsScreen))


async def test_an_earlier_chat_is_completed_by_its_name_and_drawn_harmlessly(
    lab: Lab, puppet: Puppet
) -> None:
    write_chat(lab, "2026-11-18-100000.jsonl", "Packing", ["What to pack?"], 18)
    write_chat(lab, "2026-11-17-100000.jsonl", NASTY[3] + NASTY[7], ["Where?"], 17)
    async with talking(lab) as (app, pilot, screen):
        await pilot.press(*"/open ")
        await until(pilot, lambda: "Packing" in screen_text(app))
        assert harmless(screen_text(app))
        await pilot.press("p", "enter")
        await until(pilot, lambda: asked(screen) == ["What to pack?"])


# Questions to begin with


@pytest.fixture
def split_lab(lab: Lab) -> Lab:
    """A lab whose rows are split, as after a training; half of them are held out."""
    rows = [{"prompt": f"What is {town} known for?", "response": f"{town} has a bridge."} for town in TOWNS]
    (lab.root / "towns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lab.set({"data.file": "towns.jsonl", "data.eval_fraction": 0.5})
    return lab


async def test_one_key_puts_a_held_out_question_into_the_box(split_lab: Lab, puppet: Puppet) -> None:
    held_out = [each.question for each in load_examples(split_lab.recipe, split_lab.root).eval][:3]
    async with talking(split_lab) as (app, pilot, screen):
        await until(pilot, lambda: all(each in screen_text(app) for each in held_out))
        await pilot.press("up")
        assert screen.field.text == held_out[2]
        await pilot.press("up", "up", "up")
        assert screen.field.text == held_out[0]
        await pilot.press("down")
        assert screen.field.text == held_out[1]
        puppet.will_say("A bridge.")
        await pilot.press("x", "enter")
        await answered(pilot, screen, 1)
        assert asked(screen) == [held_out[1] + "x"]
        await until(pilot, lambda: held_out[0] not in screen_text(app))
        await pilot.press("up")
        await until(pilot, lambda: screen.view.editing)
        assert screen.field.text == held_out[1] + "x"


async def test_a_held_out_question_is_taken_with_a_click_and_left_with_the_arrows(
    split_lab: Lab, puppet: Puppet
) -> None:
    held_out = [each.question for each in load_examples(split_lab.recipe, split_lab.root).eval][:3]
    async with talking(split_lab) as (_, pilot, screen):
        await until(pilot, lambda: screen.field.offers.display)
        await pilot.click("#ask-offers", offset=(6, 2))
        await until(pilot, lambda: screen.field.text == held_out[1])
        await pilot.press("down", "down")
        assert screen.field.text == ""
        assert screen.focused is screen.field
        await pilot.press("down")
        assert screen.focused is not screen.field


# Editing


@pytest.mark.parametrize(
    ("keys", "done"),
    [
        (("ctrl+u", *"/compare", "enter"), "compare"),
        (("ctrl+u", *"/adapter formal", "enter"), "adapter"),
        (("ctrl+u", *"/new", "enter"), "new"),
        (("f8",), "evaluate"),
        (("f3",), "leave"),
    ],
)
async def test_editing_ends_when_something_else_is_done_by_keys(
    lab: Lab, puppet: Puppet, keys: tuple[str, ...], done: str
) -> None:
    async with talking(lab) as (app, pilot, screen):
        chat = screen.controller.chat
        assert chat is not None
        puppet.will_say("Here.")
        await pilot.press(*"Where", "enter")
        await answered(pilot, screen, 1)
        await pilot.press("up")
        await until(pilot, lambda: screen.view.editing)
        await pilot.press(*keys)
        happened = {
            "compare": lambda: app.screen is not screen,  # with which? there are two adapters
            "adapter": lambda: chat.adapter == "formal",
            "new": lambda: not chat.turns,
            "evaluate": lambda: app.screen is not screen,
            "leave": lambda: app.current is not screen,
        }
        await until(pilot, happened[done])
        assert not screen.view.editing or done == "leave"
        assert not screen.controller.editing
        assert screen.field.text == ""


async def test_compare_commands_and_adapters_work_from_the_box_that_was_being_edited(
    lab: Lab, puppet: Puppet
) -> None:
    async with talking(lab) as (app, pilot, screen):
        puppet.will_say("Here.")
        await pilot.press(*"Where", "enter")
        await answered(pilot, screen, 1)
        await pilot.press("up")
        await until(pilot, lambda: screen.view.editing)
        await pilot.press("down")  # out of the box, to what can be done
        while screen.focused is not screen.query_one("#compare"):
            await pilot.press("right")
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is not screen)
        await pilot.press("enter")
        await until(pilot, lambda: screen.controller.compare == (None, "travel"))
        assert not screen.controller.editing
        puppet.will_say("From the base.", "From the tuned.")
        screen.field.focus()
        await pilot.press(*"And when", "enter")
        await answered(pilot, screen, 2)
        assert asked(screen) == ["Where", "And when"]
