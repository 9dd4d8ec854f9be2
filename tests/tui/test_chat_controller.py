"""The chat's controller, without a screen: loading, asking, editing, refusing, leaving."""

from __future__ import annotations

import subprocess
import sys

import pytest

from core.chat.commands import Command
from core.chat.protocol import Notice, Ready
from core.errors import MachineError
from core.lab import Lab
from tests.tui.talks import READY, Puppet, half_loaded, with_model
from tui.screens.chat.controller import SHOWN, ChatController


@pytest.fixture
def puppet(monkeypatch: pytest.MonkeyPatch) -> Puppet:
    found = Puppet()
    monkeypatch.setattr("core.chat.model_process.Child", found.begin)
    return found


@pytest.fixture
def changes() -> list[int]:
    """One item for each time that there was something to draw."""
    return []


@pytest.fixture
def controller(lab: Lab, puppet: Puppet, changes: list[int]) -> ChatController:
    with_model(lab)
    return ChatController(lambda: lab, lambda: changes.append(1))


@pytest.fixture
def loaded(controller: ChatController) -> ChatController:
    controller.load()()
    return controller


def test_it_knows_no_textual() -> None:
    code = "import sys, tui.screens.chat.controller; print('textual' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_loading_goes_from_wanted_to_ready(controller: ChatController, changes: list[int]) -> None:
    assert controller.wanted
    wait = controller.load()
    assert not controller.wanted
    assert controller.view().loading
    wait()
    view = controller.view()
    assert not view.loading
    assert {"compare", "adapter", "set", "chats", "serve", "run"} == view.buttons
    assert view.status.startswith("travel · likeliest words")
    assert changes


def test_progress_is_told_at_each_start(
    controller: ChatController, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    puppet.ready = MachineError("There is not enough memory.")
    controller.load()()
    assert controller.view().problem == {
        "code": "", "title": "There is not enough memory.", "detail": "", "hint": ""
    }  # fmt: skip
    assert "restart" in controller.view().buttons
    puppet.ready = READY
    half_loaded(monkeypatch)
    controller.load()()
    assert controller.view().problem is None
    assert "restart" not in controller.view().buttons


def test_a_model_that_was_left_while_it_loaded_is_closed(controller: ChatController, puppet: Puppet) -> None:
    wait = controller.load()
    assert controller.leave() is None
    wait()
    assert puppet.dead.is_set()
    assert controller.wanted


def test_an_answer_comes_and_ends(loaded: ChatController, puppet: Puppet, changes: list[int]) -> None:
    loaded.ask("Where?")
    assert not loaded.settle()
    puppet.reading(1, 2)
    live = loaded.view().live
    assert live is not None
    assert live.waiting == "reading 1 of 2 tokens"
    before = len(changes)
    puppet.token("He")
    puppet.token("re")
    assert len(changes) == before + 1  # the first word is hurried, the others are drawn at a pace
    view = loaded.view()
    assert view.live is not None
    assert view.live.texts == {"travel": "Here"}
    assert view.live.turn is view.turns[-1]
    assert loaded.leave() is None  # it answers
    puppet.end()
    assert loaded.settle()
    assert loaded.view().live is None
    assert not loaded.view().busy


def test_what_is_to_be_noticed_stays_with_its_turn(loaded: ChatController, puppet: Puppet) -> None:
    loaded.ask("Where?")
    puppet.say(Notice("Mind this."))
    puppet.answer("Here.", dropped_turns=1)
    loaded.settle()
    assert loaded.view().turns[-1].notices == [
        "Mind this.",
        "The context is full: the oldest turn is no longer read.",
    ]


def test_a_refused_question_is_given_back_once(loaded: ChatController, puppet: Puppet) -> None:
    loaded.ask("Where?")
    puppet.refuse("No.", "", "")
    loaded.settle()
    view = loaded.view()
    assert (view.word, view.turns) == ("NOT ASKED", ())
    assert [loaded.take_back(), loaded.take_back()] == ["Where?", ""]


def test_editing_ends_when_something_else_is_done(loaded: ChatController, puppet: Puppet) -> None:
    puppet.will_say("Here.")
    loaded.ask("Where?\nAnd when?")
    loaded.settle()
    assert loaded.edit() == "Where?\nAnd when?"
    assert loaded.view().editing
    assert loaded.leave_editing() == "Where?\nAnd when?"
    assert not loaded.view().editing
    assert loaded.leave_editing() == ""
    puppet.will_say("There.")
    loaded.ask("And then?")
    assert len(loaded.view().turns) == 2


def test_of_a_thousand_turns_the_newest_are_shown(loaded: ChatController, puppet: Puppet) -> None:
    from core.chat import Turn

    assert loaded.chat is not None
    loaded.chat.history.turns = [Turn(str(number)) for number in range(1000)]
    view = loaded.view()
    assert [turn.question for turn in view.turns] == [str(number) for number in range(1000 - SHOWN, 1000)]
    assert "earlier" in view.buttons
    loaded.show_earlier()
    assert len(loaded.view().turns) == 2 * SHOWN
    puppet.will_say("Yes.")
    loaded.ask("More?")
    assert len(loaded.view().turns) == SHOWN


def test_an_adapter_that_does_not_fit_is_told(controller: ChatController, puppet: Puppet) -> None:
    puppet.ready = Ready("llama", 4096, 4096, ["travel"], {"formal": "rank 8, not 16"}, 1.0)
    controller.load()()
    assert controller.view().notes == ("The adapter formal does not fit: rank 8, not 16",)
    controller.switch("formal")
    assert controller.view().problem is not None
    controller.switch(None)
    assert controller.view().problem is None
    assert "base · switched in 12 ms" in controller.view().status


def test_a_question_that_cannot_be_written_down_replaces_nothing(
    loaded: ChatController, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    puppet.will_say("Here.")
    loaded.ask("Where?")
    loaded.settle()
    (before,) = loaded.view().turns

    def full(*_: object) -> None:
        raise MachineError("The disk is full.")

    assert loaded.chat is not None
    monkeypatch.setattr(loaded.chat.history, "add", full)
    with pytest.raises(MachineError):
        loaded.do(Command("again"))
    (after,) = loaded.view().turns
    assert after is before
    assert not loaded.view().busy


def test_closing_ends_a_model_that_is_on_its_way(controller: ChatController, puppet: Puppet) -> None:
    wait = controller.load()
    controller.close()
    wait()
    assert puppet.dead.is_set()
