"""Every failure has an action: what helps is data, a command in the terminal and a button in the wizard."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cli.commands import COMMANDS
from core.errors import Do, Help, LabError, RequestError, StageError, Use, error_from
from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import FakeJob, job_in, made
from tui.actions import advice_of, helps_of, in_words
from tui.screens.dialogs import AskScreen, ErrorScreen
from tui.widgets.button import Button
from tui.widgets.log_pane import LogLines

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(
    rf"olivepress (?:{'|'.join(COMMANDS)})\b|(?<![\w-])--(?:no-check|force|accept|keep|detach)(?![\w-])"
)
TEXT = st.text(max_size=20)
HELP = st.one_of(
    st.builds(Do, st.sampled_from(sorted(COMMANDS)), st.lists(TEXT, max_size=3).map(tuple), TEXT),
    st.builds(Use, TEXT, st.none() | TEXT | st.integers() | st.booleans()),
)


# --- the data ---------------------------------------------------------------------------------------


@given(st.lists(TEXT | HELP, max_size=5))
def test_an_advice_comes_back_from_json_as_it_was(parts: list[str | Help]) -> None:
    error = RequestError("A title.", "A detail.", parts)
    back = error_from(json.loads(json.dumps(error.as_dict())), 2)
    assert back.hint == error.hint
    assert in_words(back.advice) == in_words(error.advice)


@given(
    st.sampled_from(sorted(COMMANDS)), st.lists(st.sampled_from(["quantize", "upload-003", "x"]), max_size=2)
)
def test_no_command_is_a_command_in_the_wizard(name: str, words: list[str]) -> None:
    part = Do(name, tuple(words), "/a/lab")
    assert str(part).startswith(f"olivepress {name} /a/lab")
    told = [in_words((part,)), *(text for text, _ in helps_of((part,)))]
    assert not any("olivepress" in text or "/a/lab" in text for text in told)


def said_to_people(path: Path) -> Iterator[tuple[int, str]]:
    """The strings of a module that are part of an error, a check or a log line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name.endswith(("Error", "Check", "Cancelled", "Fault", "Problem")) or name in ("log", "Finding"):
            data = {
                id(each)
                for inside in ast.walk(node)
                if isinstance(inside, ast.Call) and ast.unparse(inside.func) in ("Do", "Do.of", "lab_command")
                for each in ast.walk(inside)
            }
            for inside in ast.walk(node):
                if (
                    isinstance(inside, ast.Constant)
                    and isinstance(inside.value, str)
                    and id(inside) not in data
                ):
                    yield inside.lineno, inside.value


def test_no_error_has_a_command_among_its_words() -> None:
    wrong, seen = [], 0
    for path in sorted((ROOT / "core").rglob("*.py")):
        if path.is_relative_to(ROOT / "core" / "cli"):
            continue  # said on the command line alone
        for line, text in said_to_people(path):
            seen += 1
            if COMMAND.search(text):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {text}")
    assert not wrong, "a command in a hint is data: core.errors.Do"
    assert seen > 1000


def test_the_wizard_says_no_command_of_its_own() -> None:
    """But for the line that is there to say it, and for what is printed once the wizard has ended."""
    wrong = []
    for path in sorted((ROOT / "tui").rglob("*.py")):
        if path.name in (
            "terminal.py",
            "actions.py",
            "plain.py",
        ):  # said without a wizard; where commands become words
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if id(node) not in bare and COMMAND.search(text):
                wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {text}")
    assert not wrong


def test_what_stands_on_the_buttons() -> None:
    for part, text in (
        (Use("quantize.group_size", 64), "Use 64 and run"),
        (Use("optimize.precision", "fp32"), "Precision fp32 and run"),
        (Use("model.trust_remote_code", True), "Say yes to trust model code and run"),
        (Use("finetune.learning_rate"), "Change learning rate"),
        (Do.of("run", "/lab", "finetune", "optimize"), "Run Finetune"),
        (Do.of("run", "/lab", "finetune", "--no-check"), "Run all the same"),
        (Do("login", ("--tenant", "ID")), "Sign in"),
        (Do.of("workspaces", "/lab"), "Choose a workspace"),
        (Do.of("cancel", "/lab", "finetune-007"), "Stop finetune-007"),
        (Do.of("data", "DIR"), "To 2 Data"),
    ):
        assert [told for told, _ in helps_of((part,), "quantize")] == [text]


# --- by keys ----------------------------------------------------------------------------------------

SIZE = RequestError(
    "The group size 128 does not divide the model's weights.",
    "model.layers.0.mlp.down_proj has 1376 inputs.",
    ("Set ", Use("quantize.group_size", 32), "; 16 would do as well."),
    code="model.group-size",
)


def failed(lab: Lab, stage: str, error: LabError) -> FakeJob:
    """A job that ended so, now: nothing in the lab has changed since."""
    from datetime import UTC, datetime

    from core.files import write_json

    job = FakeJob(lab, stage).run()
    at = datetime.now(UTC).isoformat()
    job.event("state", at, state="failed", error=error.as_dict())
    end = {"v": 1, "state": "failed", "exit_status": error.exit_status, "error": error.as_dict(), "ended": at}
    write_json(job.folder / "done.json", {**end, "result": None, "reused": False})
    job.let_go()
    return job


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that were started."""
    found: list[str] = []
    monkeypatch.setattr(Lab, "start", lambda self, stage, **more: found.append(stage))
    return found


async def test_use_64_and_run(lab: Lab, started: list[str]) -> None:
    lab.set({"quantize.group_size": 128})
    failed(lab, "quantize", SIZE)
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "[ Use 32 and run ]" in screen_text(app))
        assert "Try again" not in screen_text(app), "the same again cannot succeed"
        await until(pilot, lambda: isinstance(app.focused, Button) and app.focused.text == "Use 32 and run")
        await pilot.press("f8", "r")
        await pilot.pause()
        assert not started, "nor do its keys do it"
        await pilot.press("enter")
        await until(pilot, lambda: started == ["quantize"])
        assert lab.recipe.quantize.group_size == 32


async def test_what_cannot_succeed_can_be_run_once_something_is_other(lab: Lab, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"a": 1}\n', encoding="utf-8")
    lab.set({"data.file": str(data)})
    made(lab, ("quantize",))
    failed(lab, "finetune", RequestError("A row has no answer.", "", ("See ", Do.of("data", "DIR"), ".")))
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "FAILED" in screen_text(app))
        assert "[ To 2 Data ]" in screen_text(app)
        assert "See step 2 (Data)." in screen_text(app)
        assert "Try again" not in screen_text(app)
        data.write_text('{"prompt": "a", "response": "b"}\n', encoding="utf-8")
        await until(pilot, lambda: "Try again" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.current.step.name == "data")


async def test_a_setting_that_only_a_person_can_tell_is_shown(lab: Lab) -> None:
    made(lab, ("quantize",))
    failed(
        lab,
        "finetune",
        StageError("The training went astray.", "", ("Lower ", Use("finetune.learning_rate"))),
    )
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "[ Change learning rate ]" in screen_text(app))
        assert "Try again" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.focused is not None and app.focused.id == "set-finetune-learning_rate")


async def test_a_refusal_brings_the_way_to_what_refuses(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "finetune-001 is running" in screen_text(app))
        await pilot.press("f8")
        await until(pilot, lambda: isinstance(app.screen, ErrorScreen))
        await until(pilot, lambda: "[ Show finetune-001 ]" in screen_text(app))
        said = " ".join(screen_text(app).split())
        assert "[ Stop finetune-001 ]" in said
        assert "l in step 4 (Finetune)" in said
        await pilot.click("#help-0")
        await until(pilot, lambda: isinstance(app.focused, LogLines))
        assert app.current.step.name == "finetune"
        await pilot.press("l", "3", "f8")
        await until(pilot, lambda: isinstance(app.screen, ErrorScreen))
        await pilot.click("#help-1")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "Stop finetune-001?" in screen_text(app)
    job.let_go()


async def test_what_a_check_refuses_can_be_run_all_the_same(
    lab: Lab, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def require(lab: Lab, stages: list[str]) -> None:
        raise RequestError(
            "No.", "", ("To run it all the same: ", Do.of("run", lab.root, *stages, "--no-check"))
        )

    monkeypatch.setattr("core.check.require", require)
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        await pilot.press("f8")
        await until(pilot, lambda: "[ Run all the same ]" in screen_text(app))
        assert not started
        await pilot.click("#help-0")
        await until(pilot, lambda: started == ["quantize"])


async def test_the_marked_check_has_its_action(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.check import Check

    found = [Check("azure", "FAIL", "Nobody is signed in.", (Do("login"),)), Check("disk", "OK", "Enough.")]

    def checks(root: object, stages: object = None, on_check: Any = None) -> list[Check]:
        return found

    monkeypatch.setattr("core.check.run_checks", checks)
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "[ Sign in ]" in screen_text(app))
        assert "What to do: s in step 7 (Upload)" in screen_text(app)
        app.set_focus(app.current.list)  # type: ignore[attr-defined]
        await pilot.press("down")
        await until(pilot, lambda: "[ Sign in ]" not in screen_text(app))


def test_older_errors_have_their_words() -> None:
    assert in_words(advice_of({"hint": "Ask for it."})) == "Ask for it."


async def test_what_is_mended_elsewhere_can_be_tried_again(lab: Lab) -> None:
    failed(lab, "quantize", RequestError("The hub has no such model.", code="hub.name"))
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "Try again" in screen_text(app))
