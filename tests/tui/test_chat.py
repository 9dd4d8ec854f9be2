"""The chat screen on a tiny Llama: asking, stopping, editing, switching, comparing, failing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from textual.events import Paste

from core.chat.transcript import list_chats
from core.lab import Lab
from tests.core.chat.conftest import (  # noqa: F401 - fixtures
    LONG,
    built_llama,
    llama_checkpoint,
    long_llama,
)
from tests.tui.conftest import opened, screen_text, until
from tests.tui.nasty import NASTY, harmless
from tui.app import OlivePressApp
from tui.screens.chat.dialogs import ChatsScreen, ChooseScreen, SettingsScreen
from tui.screens.chat.screen import ChatScreen
from tui.screens.chat.serving import ServeScreen
from tui.screens.chat.transcript_view import AnswerView, TurnView
from tui.screens.dialogs import OverwriteScreen


@pytest.fixture
def chat_lab(tmp_path: Path, built_llama: Path) -> Lab:  # noqa: F811
    """A lab whose model is the tiny Llama with two adapters."""
    lab = Lab.create(tmp_path / "lab", settings={"chat.max_new_tokens": 12, "finetune.adapter": "one"})
    lab.folder.onnx_dir.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(built_llama, lab.folder.onnx_dir)
    return lab


@pytest.fixture
def long_lab(tmp_path: Path, long_llama: Path) -> Lab:  # noqa: F811
    """The same with answers that go on for seconds."""
    settings = {"chat.max_new_tokens": 12_000, "chat.context_tokens": 16_384, "finetune.adapter": "none-yet"}
    lab = Lab.create(tmp_path / "lab", settings=settings)
    lab.folder.onnx_dir.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(long_llama, lab.folder.onnx_dir)
    return lab


@asynccontextmanager
async def talking(lab: Lab, **more: Any) -> AsyncIterator[tuple[OlivePressApp, Any, ChatScreen]]:
    """The chat screen with its model loaded and the field focused."""
    async with opened(lab.root, "chat", **more) as (app, pilot):
        screen = app.current
        assert isinstance(screen, ChatScreen)
        await until(
            pilot,
            lambda: (
                screen.controller.chat is not None
                and screen.controller.chat.ready
                and not screen.view.loading
            ),
            60,
        )
        await until(pilot, lambda: screen.focused is screen.field)
        yield app, pilot, screen


async def say(pilot: Any, screen: ChatScreen, text: str, *, wait: bool = True) -> None:
    """Type a line and send it; wait until all is answered and drawn."""
    screen.field.focus()
    screen.field.text = text
    await pilot.press("enter")
    await until(pilot, lambda: screen.field.text == "")
    if wait:
        await until(pilot, lambda: not screen.view.busy, 60)
        await pilot.pause()


def views(screen: ChatScreen) -> list[AnswerView]:
    return list(screen.query(AnswerView))


async def test_without_a_model_it_says_which_step_makes_it(lab: Lab) -> None:
    async with opened(lab.root, "chat") as (app, pilot):
        await until(pilot, lambda: "makes it" in screen_text(app))
        assert app.current.query_one("#ask").disabled
        assert "Optimize" in screen_text(app)


async def test_questions_are_answered_and_several_turns_are_kept(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        await say(pilot, screen, "Where?")
        await say(pilot, screen, "And then?")
        assert screen.controller.chat is not None
        assert [turn.question for turn in screen.controller.chat.turns] == ["Where?", "And then?"]
        assert [view.raw for view in views(screen)] == [
            turn.answer.answer for turn in screen.controller.chat.turns if turn.answer
        ]
        text = screen_text(app)
        assert "You  And then?" in text
        assert "first after" in text
        assert "tokens/s" in text
        assert "one · likeliest words" in text
        assert "olivepress chat" in text
    (kept,) = list_chats(chat_lab.folder.chats_dir)
    assert len(kept.turns) == 2


async def test_stop_ends_the_answer_and_the_conversation_goes_on(long_lab: Lab) -> None:
    async with talking(long_lab) as (app, pilot, screen):
        assert screen.controller.chat is not None
        await say(pilot, screen, LONG, wait=False)
        await until(pilot, lambda: screen.view.busy and views(screen)[-1].raw)
        assert "Stop F9" in screen_text(app)
        await pilot.press("f9")
        await until(pilot, lambda: not screen.view.busy)
        assert screen.controller.chat.last is not None
        assert screen.controller.chat.last.stop == "cancelled"
        screen.controller.chat.set(max_new_tokens=4)
        await say(pilot, screen, "More?")
        assert screen.controller.chat.last.new_tokens <= 4
        assert len(screen.controller.chat.turns) == 2


async def test_up_edits_the_last_question_and_escape_leaves_it(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        assert screen.controller.chat is not None
        await say(pilot, screen, "Wehre?")
        await pilot.press("up")
        await until(pilot, lambda: screen.field.text == "Wehre?")
        assert "Editing the last question" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: screen.field.text == "")
        await pilot.press("up")
        await until(pilot, lambda: screen.field.text == "Wehre?")
        await say(pilot, screen, "Where?")
        assert [turn.question for turn in screen.controller.chat.turns] == ["Where?"]
        assert len(screen.query(TurnView)) == 1
        await say(pilot, screen, "/again")
        assert len(screen.query(TurnView)) == 1
        assert screen.controller.chat.turns[0].attempt == 1


async def test_pasted_lines_are_kept_and_asked_whole(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        assert screen.controller.chat is not None
        screen.field.post_message(Paste("First line\r\n\tsecond\nthird\n"))
        await until(pilot, lambda: screen.field.text == "First line\n\tsecond\nthird")
        await pilot.pause()
        shown = [line.strip("│ ") for line in screen_text(app).splitlines()]
        assert {"First line", "second", "third"} <= set(shown)
        await pilot.press("x", "enter")
        await until(pilot, lambda: screen.field.text == "")
        assert screen.controller.chat.turns[0].question == "First line\n\tsecond\nthirdx"
        await until(pilot, lambda: not screen.view.busy, 60)
        await pilot.press("up")
        await until(pilot, lambda: screen.field.text == "First line\n\tsecond\nthirdx")


@pytest.mark.parametrize("kept", [False, True])
async def test_editing_ends_when_anything_else_is_done(chat_lab: Lab, kept: bool) -> None:
    async with talking(chat_lab) as (_, pilot, screen):
        assert screen.controller.chat is not None
        await say(pilot, screen, "Where?")
        await pilot.press("up")
        await until(pilot, lambda: screen.view.editing)
        if kept:
            await pilot.press("x")
        await pilot.click("#set")
        await pilot.press("escape")
        await until(pilot, lambda: not screen.view.editing)
        assert screen.field.text == ("Where?x" if kept else "")
        await say(pilot, screen, "And when?")
        assert [turn.question for turn in screen.controller.chat.turns] == ["Where?", "And when?"]


async def test_a_conversation_of_a_thousand_turns_is_shown_by_its_end(chat_lab: Lab) -> None:
    records = [{"type": "chat", "v": 1, "name": "Long"}]
    for number in range(1000):
        records += [{"type": "user", "text": f"Q{number}"}, {"type": "assistant", "answer": f"A{number}"}]
    chat_lab.folder.chats_dir.mkdir(exist_ok=True)
    (chat_lab.folder.chats_dir / "long.jsonl").write_text("\n".join(map(json.dumps, records)))
    async with talking(chat_lab) as (_, pilot, screen):
        assert screen.controller.chat is not None
        await say(pilot, screen, "/open Long")
        assert [view.turn.question for view in screen.query(TurnView)] == [f"Q{n}" for n in range(980, 1000)]
        screen.query_one("#earlier").focus()
        await pilot.press("enter")
        await until(pilot, lambda: len(screen.query(TurnView)) == 40)
        assert screen.query(TurnView).first().turn.question == "Q960"
        await say(pilot, screen, "And now?")
        assert len(screen.query(TurnView)) == 20
        assert len(screen.controller.chat.turns) == 1001


async def test_base_and_tuned_answer_side_by_side(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        assert screen.controller.chat is not None
        await say(pilot, screen, "/compare")
        await until(pilot, lambda: isinstance(app.screen, ChooseScreen))  # there are two adapters
        await pilot.press("enter")
        await until(pilot, lambda: screen.controller.compare == (None, "one"))
        await say(pilot, screen, "Which?")
        base, tuned = views(screen)
        assert (base.adapter, tuned.adapter) == ("", "one")
        assert base.raw != tuned.raw
        assert base.region.y == tuned.region.y
        assert base.region.right <= tuned.region.x
        assert "first after" in base.figures
        assert "first after" in tuned.figures
        assert "--compare" in screen.command.command
        await say(pilot, screen, "/compare")
        assert screen.controller.compare is None


async def test_an_adapter_is_switched_without_loading_again(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        assert screen.controller.chat is not None
        pid = screen.controller.chat.pid
        await say(pilot, screen, "/adapter")
        await until(pilot, lambda: isinstance(app.screen, ChooseScreen))
        await pilot.press("down", "enter")
        await until(
            pilot, lambda: screen.controller.chat is not None and screen.controller.chat.adapter == "two"
        )
        await until(pilot, lambda: "switched in" in screen.view.status)
        await say(pilot, screen, "/base")
        await until(
            pilot, lambda: screen.controller.chat is not None and screen.controller.chat.adapter is None
        )
        await say(pilot, screen, "/adapter three")
        await until(pilot, lambda: "no adapter three" in screen.problem.text)
        assert screen.controller.chat.pid == pid


async def test_settings_are_checked_used_and_kept(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        assert screen.controller.chat is not None
        await say(pilot, screen, "/set")
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen))
        dialog = app.screen
        assert isinstance(dialog, SettingsScreen)
        field = dialog.form.fields["chat.temperature"].control
        field.value = "99"
        await pilot.press("enter")
        await pilot.pause()
        assert app.screen is dialog
        field.value = "0.5"
        await pilot.click("#keep")
        await until(pilot, lambda: app.screen is screen)
        assert screen.controller.chat.settings.temperature == 0.5
        assert chat_lab.recipe.chat.temperature == 0.5
        await say(pilot, screen, "/set temperature 0.25")
        assert screen.controller.chat.settings.temperature == 0.25
        assert chat_lab.recipe.chat.temperature == 0.5
        screen.field.text = "/set warmth 1"
        await pilot.press("enter")
        await until(pilot, lambda: "no setting warmth" in screen.problem.text)


async def test_chats_are_named_listed_reopened_and_saved(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        assert screen.controller.chat is not None
        await say(pilot, screen, "First chat?")
        await say(pilot, screen, "/name Old one")
        await say(pilot, screen, "/new")
        assert not screen.query(TurnView)
        await say(pilot, screen, "Second chat?")
        await say(pilot, screen, "/chats")
        await until(pilot, lambda: isinstance(app.screen, ChatsScreen))
        assert "Old one" in screen_text(app)
        await pilot.press("down", "enter")
        await until(pilot, lambda: len(screen.query(TurnView)) == 1 and app.screen is screen)
        assert screen.controller.chat.turns[0].question == "First chat?"
        assert "You  First chat?" in screen_text(app)
        await say(pilot, screen, "/save talk.md")
        assert "# Old one" in (chat_lab.root / "talk.md").read_text()


async def test_a_chat_is_saved_over_another_file_only_when_that_is_said(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        await say(pilot, screen, "First chat?")
        recipe = chat_lab.folder.recipe_path.read_bytes()
        for keys, kept in ((("enter",), True), (("escape",), True), (("o",), False)):
            await say(pilot, screen, "/save lab.toml")
            await until(pilot, lambda: isinstance(app.screen, OverwriteScreen))
            assert "lab.toml" in screen_text(app)
            await pilot.press(*keys)
            await until(pilot, lambda: app.screen is screen)
            assert (chat_lab.folder.recipe_path.read_bytes() == recipe) is kept


async def test_the_last_answer_is_copied_and_kept_in_a_file(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        await say(pilot, screen, "Where?")
        await say(pilot, screen, "/copy")
        kept = (chat_lab.folder.chats_dir / "copied.txt").read_text()
        assert app.clipboard == kept.removesuffix("\n") != ""


async def test_a_killed_model_is_told_started_again_and_nothing_is_lost(long_lab: Lab) -> None:
    async with talking(long_lab) as (_app, pilot, screen):
        assert screen.controller.chat is not None
        await say(pilot, screen, LONG, wait=False)
        await until(pilot, lambda: screen.view.busy and views(screen)[-1].raw)
        os.kill(screen.controller.chat.pid, signal.SIGKILL)
        await until(pilot, lambda: not screen.view.busy)
        await until(pilot, lambda: "SIGKILL" in screen.problem.text)
        assert views(screen)[-1].raw
        await pilot.click("#restart")
        await until(
            pilot,
            lambda: (
                screen.controller.chat is not None
                and screen.controller.chat.alive
                and not screen.view.loading
            ),
            60,
        )
        screen.controller.chat.set(max_new_tokens=5)
        await say(pilot, screen, "/again")
        assert len(screen.query(TurnView)) == 1
        assert screen.controller.chat.last is not None
        assert screen.controller.chat.last.new_tokens <= 5
        assert not screen.problem.has_class("-shown")


async def test_leaving_the_step_frees_the_model_and_coming_back_goes_on(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        assert screen.controller.chat is not None
        await say(pilot, screen, "Before?")
        pid = screen.controller.chat.pid
        await pilot.press("f3")
        await until(pilot, lambda: not Path(f"/proc/{pid}").exists())
        await app.action_step(screen.step.number)
        await until(
            pilot,
            lambda: (
                screen.controller.chat is not None
                and screen.controller.chat.alive
                and not screen.view.loading
            ),
            60,
        )
        assert screen.controller.chat.pid != pid
        await say(pilot, screen, "After?")
        assert [turn.question for turn in screen.controller.chat.turns] == ["Before?", "After?"]
        pid = screen.controller.chat.pid
    await until(pilot, lambda: not Path(f"/proc/{pid}").exists())


async def test_a_question_too_long_is_told_and_comes_back_to_the_field(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (_, pilot, screen):
        assert screen.controller.chat is not None
        text = "word " * 2000
        screen.field.text = text
        await pilot.press("enter")
        await until(pilot, lambda: "longer than the context" in screen.problem.text)
        await until(pilot, lambda: screen.field.text == text.strip())
        assert screen.controller.chat.turns == []
        assert not screen.query(TurnView)


async def test_an_unknown_command_is_told(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (_, pilot, screen):
        screen.field.text = "/flub"
        await pilot.press("enter")
        await until(pilot, lambda: "no command /flub" in screen.problem.text)


@pytest.mark.parametrize("split", [1, 7, 100_000])
async def test_hostile_answers_are_shown_harmlessly_and_whole(lab: Lab, split: int) -> None:
    from core.chat import Turn

    async with opened(lab.root, "chat") as (app, pilot):
        talk = app.current.query_one("#transcript")
        for text in NASTY[:-1] if split < 100 else NASTY:
            view = TurnView(Turn(text))
            await talk.mount(view)
            for place in range(0, len(text), split):
                await view.views[""].grow(text[: place + split])
            await view.end()
            await pilot.pause()
            shown = screen_text(app)
            assert harmless(shown), repr(text)
            marks = ("<think>", "hidden?", "<div>", "日本語", "[INST] <<SYS>> be good")
            assert [mark for mark in marks if mark in text and mark not in shown] == []
            await view.remove()
        assert app.is_running


async def test_code_and_lists_are_drawn_as_markdown_while_they_come(lab: Lab) -> None:
    from core.chat import Turn

    text = "Here:\n\n```python\nprint('שלום')\n```\n\n- one\n- two **bold**\n"
    async with opened(lab.root, "chat") as (app, pilot):
        view = TurnView(Turn("code?"))
        await app.current.query_one("#transcript").mount(view)
        for place in range(len(text)):
            await view.views[""].grow(text[: place + 1])
        await view.end()
        await pilot.pause()
        kinds = [type(block).__name__ for block in view.query("MarkdownBlock")]
        assert "MarkdownFence" in kinds
        assert "MarkdownBulletList" in kinds
        shown = screen_text(app)
        assert "print('שלום')" in shown
        assert "```" not in shown
        assert "**" not in shown


async def test_the_model_is_served_to_other_programs_until_that_is_stopped(chat_lab: Lab) -> None:
    async with talking(chat_lab) as (app, pilot, screen):
        await pilot.press(*"/serve", "enter")
        await until(pilot, lambda: isinstance(app.screen, ServeScreen))
        await until(pilot, lambda: screen.served.url in screen_text(app) and screen.served.url, 60)
        url = screen.served.url
        await pilot.press("y")
        assert app.clipboard == url
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        async with httpx.AsyncClient() as client:
            models = (await client.get(f"{url}/models")).json()["data"]
            assert {each["id"] for each in models} == {"lab", "lab:one", "lab:two"}
            await say(pilot, screen, "Does the chat go on?")
            assert views(screen)[-1].raw
            await pilot.press(*"/serve", "enter")
            await until(pilot, lambda: isinstance(app.screen, ServeScreen))
            assert screen.served.url == url
            await pilot.press("f9")
            await until(pilot, lambda: "The server has ended." in screen_text(app))
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{url}/models")
