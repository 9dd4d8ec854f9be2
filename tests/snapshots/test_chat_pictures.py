"""Pictures of the chat in its states, as in ``test_snapshots.py``. Its model is a stand-in: ``tests/tui/talks.py``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.widgets import TextArea

from core.chat.protocol import Ready
from core.data import load_examples
from core.errors import MachineError, StageError
from core.lab import Lab
from tests.snapshots.conftest import Compare
from tests.snapshots.test_snapshots import IDS, LOW, SIZES, at, pinned
from tests.tui.conftest import screen_text, until
from tests.tui.labs import FakeJob, with_evaluation
from tests.tui.nasty import NASTY
from tests.tui.talks import Puppet, half_loaded, with_model, write_chat
from tui.app import OlivePressApp
from tui.screens.chat.evaluation import EvaluationScreen
from tui.screens.chat.screen import ChatScreen

__all__ = ["pinned"]

MARKDOWN = """\
Three things, all **within a walk**:

- the *old bridge*, before nine
- the market in the Rue Haute
- the river at dusk

```python
for town in ("Bruges", "Ghent"):
    print(town)
```
"""
LONG_WORDS = "In Bruges, see the old bridge, the market and the river. Go early: by noon the boats are full."
BASE_WORDS = (
    "Bruges is a city in Belgium. It is known for many things. There are many things to see in Bruges, and "
    "many people go to Bruges each year to see them."
)
UNFIT = {"formal": "lora_A of layer 7 has rank 8 where the model takes 16"}
TALK: list[tuple[str, str]] = [
    ("What should I see in Bruges?", LONG_WORDS),
    ("And what should I pack for a week in October?", MARKDOWN),
]
HOSTILE_ADAPTER = "[@click=app.quit]t\x1b[31mr\u202eavel 日本"
HOSTILE = "\n\n".join(text for text in NASTY if len(text) < 1000)

Do = Callable[[Any, ChatScreen, Puppet], Awaitable[None]]


async def say(pilot: Any, screen: ChatScreen, text: str, *, wait: bool = True) -> None:
    """Send a line; wait until it is answered."""
    screen.field.focus()
    screen.field.text = text
    await pilot.press("enter")
    await until(pilot, lambda: screen.field.text == "")
    if wait:
        await until(pilot, lambda: not screen.view.busy)


async def talk(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    for question, answer in TALK:
        puppet.will_say(answer)
        await say(pilot, screen, question)


async def nothing(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    pass


async def reading(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await say(pilot, screen, TALK[0][0], wait=False)
    puppet.reading(512, 2048)
    await until(pilot, lambda: "512 of 2048" in screen_text(pilot.app))


async def streaming(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    puppet.will_say(LONG_WORDS)
    await say(pilot, screen, TALK[0][0])
    await say(pilot, screen, TALK[1][0], wait=False)
    puppet.token(MARKDOWN[:118])
    await until(pilot, lambda: "the market" in screen_text(pilot.app))


async def stopped(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await streaming(pilot, screen, puppet)
    await pilot.press("f9")
    await until(pilot, lambda: not screen.view.busy)


async def compared(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    screen.controller.compare_with((None, "travel"))
    puppet.will_say(BASE_WORDS, MARKDOWN)
    await say(pilot, screen, TALK[0][0])


ALIKE = (
    "In Bruges, see the old bridge and the market. There are many boats, and many people.",
    "In Bruges, see the *old bridge*, the market and the river. Go early: by noon the boats are full.",
)
CIRCLES = (
    "Bruges is a city in Belgium. " + "There are many things to see there, and many people see them. " * 4
)


async def differing(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    screen.controller.compare_with((None, "travel"))
    puppet.will_say(*ALIKE)
    await say(pilot, screen, TALK[0][0])


async def circles(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await say(pilot, screen, TALK[0][0], wait=False)
    puppet.token(CIRCLES)
    await until(pilot, lambda: "repeats itself" in screen_text(pilot.app))


async def commands(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await talk(pilot, screen, puppet)
    await pilot.press("/")
    await until(pilot, lambda: screen.field.completing)


async def lines(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await talk(pilot, screen, puppet)
    screen.field.put("Make a table of these towns:\nAvila\nBruges\nCusco\nDelft\nEvora")


async def begin(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await until(pilot, lambda: screen.field.offers.display)
    await pilot.press("up")


async def editing(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await talk(pilot, screen, puppet)
    await pilot.press("up")
    await until(pilot, lambda: "Editing" in screen_text(pilot.app))


async def dropped(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    for number in range(1, 5):
        puppet.will_say(f"Answer {number}.")
        await say(pilot, screen, f"Question {number}?")
    puppet.will_say(LONG_WORDS, dropped_turns=3, context_tokens=3020)
    await say(pilot, screen, TALK[0][0])


async def died(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await streaming(pilot, screen, puppet)
    puppet.die()
    await until(pilot, lambda: "SIGKILL" in screen_text(pilot.app))


async def refused(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    puppet.will_say(LONG_WORDS)
    await say(pilot, screen, TALK[0][0])
    await say(pilot, screen, "/adapter formal")
    await until(pilot, lambda: screen.problem.has_class("-shown"))


async def too_long(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await say(pilot, screen, "word " * 200, wait=False)
    puppet.refuse(
        "The question is longer than the context.",
        "It has 4501 tokens, and the context has room for 4096 with the answer.",
        "Ask something shorter, or set chat.context_tokens.",
    )
    await until(pilot, lambda: screen.problem.has_class("-shown"))


async def nasty(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    assert screen.controller.chat is not None
    screen.controller.chat.rename(NASTY[3] + NASTY[7])
    puppet.will_say(HOSTILE)
    await say(pilot, screen, " ".join(NASTY[:4]))


async def nasty_compared(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    screen.controller.compare_with((None, HOSTILE_ADAPTER))
    puppet.will_say(NASTY[9], "\n\n".join((NASTY[0], NASTY[2], NASTY[7], NASTY[9])))
    await say(pilot, screen, NASTY[4] + NASTY[9])


async def nasty_problem(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
    await say(pilot, screen, "Why?", wait=False)
    puppet.refuse(NASTY[1], "\n".join(NASTY[:9]), NASTY[3], StageError)
    await until(pilot, lambda: screen.problem.has_class("-shown"))


STATES: dict[str, Do] = {
    "ready": nothing,
    "conversation": talk,
    "reading": reading,
    "streaming": streaming,
    "stopped": stopped,
    "compared": compared,
    "differing": differing,
    "circles": circles,
    "commands": commands,
    "lines": lines,
    "begin": begin,
    "editing": editing,
    "dropped": dropped,
    "died": died,
    "refused": refused,
    "too-long": too_long,
    "nasty": nasty,
    "nasty-compared": nasty_compared,
    "nasty-problem": nasty_problem,
}


SMALL = ("reading", "circles", "lines", "editing", "too-long", "nasty-problem")
"""States of which one size tells all."""


@pytest.fixture
def puppet(monkeypatch: pytest.MonkeyPatch) -> Puppet:
    """The model's process, with a cursor that does not blink and a date that stays."""
    found = Puppet()
    monkeypatch.setattr("core.chat.model_process.Child", found.begin)
    monkeypatch.setattr("core.chat.transcript.now", lambda: "2026-11-20T10:00:00.000Z")
    monkeypatch.setattr(TextArea, "_toggle_cursor_blink_visible", lambda self: None)
    return found


def picture(snap_compare: Compare, lab: Lab, puppet: Puppet, size: tuple[int, int], do: Do) -> None:
    """Compare the chat after ``do``."""

    async def steps(pilot: Any) -> None:
        screen = pilot.app.current
        assert isinstance(screen, ChatScreen)
        if isinstance(puppet.ready, Ready):
            await until(
                pilot,
                lambda: screen.controller.chat and screen.controller.chat.ready and not screen.view.loading,
            )
            await until(pilot, lambda: screen.focused is screen.field)
        await do(pilot, screen, puppet)

    assert snap_compare(OlivePressApp(lab.root, "chat"), size, steps)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_empty(snap_compare: Compare, pinned: Lab, puppet: Puppet, size: tuple[int, int]) -> None:
    puppet.ready = None

    async def do(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
        await until(pilot, lambda: "makes it" in screen_text(pilot.app))

    picture(snap_compare, pinned, puppet, size, do)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_loading(
    snap_compare: Compare,
    pinned: Lab,
    puppet: Puppet,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
) -> None:
    puppet.ready = None
    half_loaded(monkeypatch)

    async def do(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
        await until(pilot, lambda: "2.1 GiB" in screen_text(pilot.app) and screen.focused is screen.field)

    picture(snap_compare, with_model(pinned), puppet, size, do)


def test_not_loaded(snap_compare: Compare, pinned: Lab, puppet: Puppet) -> None:
    puppet.ready = MachineError(
        "There is not enough memory for the model.",
        "It needs 2.6 GB, and 1.1 GB are free.",
        "Close other programs, or quantize to fewer bits.",
    )

    async def do(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
        await until(pilot, lambda: "2.6 GB" in screen_text(pilot.app))

    picture(snap_compare, with_model(pinned), puppet, (80, 24), do)


@pytest.mark.parametrize(
    ("state", "size"), [*at(*(state for state in STATES if state not in SMALL)), *at(*SMALL, sizes=LOW)]
)
def test_chat(snap_compare: Compare, pinned: Lab, puppet: Puppet, state: str, size: tuple[int, int]) -> None:
    adapters: tuple[str, ...] = ("formal", "travel")
    if state == "refused":
        puppet.ready = Ready("llama", 4096, 131072, ["travel"], UNFIT, 2.0)
    elif state.startswith("nasty"):
        adapters = (HOSTILE_ADAPTER, "travel") if state == "nasty-compared" else ("travel",)
    elif state == "begin":
        pinned.set({"data.eval_fraction": 0.5})
        load_examples(pinned.recipe, pinned.root)  # the rows are split, as by a training
    picture(snap_compare, with_model(pinned, adapters), puppet, size, STATES[state])


@pytest.mark.parametrize(("dialog", "size"), [*at("set", "chats"), *at("who", "help", sizes=LOW)])
def test_dialogs(
    snap_compare: Compare, pinned: Lab, puppet: Puppet, dialog: str, size: tuple[int, int]
) -> None:
    with_model(pinned)
    write_chat(pinned, "2026-11-18-100000.jsonl", "Packing", ["What to pack?", "And in winter?"], 18)
    write_chat(
        pinned, "2026-11-17-100000.jsonl", "", ["Where is the old bridge of Cusco, and is it far?"], 17
    )
    write_chat(pinned, "2026-11-16-100000.jsonl", NASTY[3] + NASTY[7] + NASTY[9], [NASTY[0]], 16)
    puppet.ready = Ready("llama", 4096, 131072, ["travel"], UNFIT, 2.0)
    line = {"who": "/adapter", "set": "/set", "chats": "/chats", "help": "/help"}[dialog]

    async def do(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
        await talk(pilot, screen, puppet)
        await say(pilot, screen, line)
        await until(pilot, lambda: pilot.app.screen is not screen)

    picture(snap_compare, pinned, puppet, size, do)


@pytest.mark.parametrize(("state", "size"), [*at("figures", "question"), *at("running", "nasty", sizes=LOW)])
def test_evaluation(
    snap_compare: Compare, pinned: Lab, puppet: Puppet, state: str, size: tuple[int, int]
) -> None:
    with_model(pinned)
    if state == "running":
        FakeJob(pinned, "evaluate").run().progress("with adapter", 38, 96, 130)
    else:
        words = "\n".join(NASTY[:4]) if state == "nasty" else "In Bruges, see the old bridge."
        with_evaluation(pinned, [("What should I see in Bruges?", words, BASE_WORDS, LONG_WORDS)] * 2)

    async def do(pilot: Any, screen: ChatScreen, puppet: Puppet) -> None:
        await pilot.press("f8")
        await until(pilot, lambda: isinstance(pilot.app.screen, EvaluationScreen))
        if state in ("question", "nasty"):
            await pilot.press("n")
            await until(pilot, lambda: "Question 1 of 2" in screen_text(pilot.app))
        elif state == "running":
            await until(pilot, lambda: "38 of 96" in screen_text(pilot.app))

    picture(snap_compare, pinned, puppet, size, do)


def test_sixty_by_twenty(snap_compare: Compare, pinned: Lab, puppet: Puppet) -> None:
    picture(snap_compare, with_model(pinned), puppet, (60, 20), compared)
