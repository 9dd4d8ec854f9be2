"""The one protocol for child processes: what is answered, and what happens when either end misbehaves."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Cancelled, LabError, MachineError, RequestError, StageError
from core.process import Child, ended

MODULE = "tests.core.answering"
LIMIT = 1 << 20
CLOSED, DEADLINE = "process.closed", "process.deadline"
DIED, TOO_LONG = "process.died", "process.too-long"


def started(*arguments: str, **options: Any) -> Child:
    return Child(MODULE, *arguments, what="The tester", hint="Start it again.", **options)


@pytest.fixture
def child() -> Iterator[Child]:
    with started("0.05", longest_line=LIMIT) as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[Child]:
    with started("0.05", longest_line=LIMIT) as running:
        yield running


def begun(child: Child, do: str) -> tuple[Any, dict[str, Any]]:
    """A call that is being worked on, and its first event."""
    events: queue.Queue[dict[str, Any]] = queue.Queue()
    call = child.start({"do": do}, events.put)
    return call, events.get(timeout=20)


def test_an_answer_and_its_events_in_order(shared: Child) -> None:
    heard: list[dict[str, Any]] = []
    assert shared.ask({"do": "count", "to": 500}, heard.append) == {"counted": 500}
    assert heard == [{"number": number} for number in range(500)]


@given(text=st.text())
def test_any_text_passes(shared: Child, text: str) -> None:
    assert shared.ask({"do": "echo", "text": text}) == {"echo": text}


def test_a_lone_surrogate_passes(shared: Child) -> None:
    assert shared.ask({"do": "echo", "text": "\udcff"}) == {"echo": "\udcff"}


def test_a_reporter_tells_as_a_job_does(shared: Child) -> None:
    heard: list[dict[str, Any]] = []
    assert shared.ask({"do": "report"}, heard.append) == {}
    assert heard == [
        {"type": "progress", "phase": "Reading", "done": 1, "total": 2},
        {"type": "metric", "name": "loss", "value": 0.5, "step": 3},
        {"type": "log", "level": "info", "text": "https://***@host"},
    ]


def test_an_error_arrives_whole(shared: Child) -> None:
    with pytest.raises(RequestError) as caught:
        shared.ask({"do": "refuse"})
    assert caught.value.as_dict() == {
        "code": "test.no",
        "title": "No.",
        "detail": "The reason.",
        "hint": "The way out.",
    }


@pytest.mark.parametrize(
    ("do", "code", "kind"),
    [
        ("fault", "process.fault", StageError),
        ("memory", "machine.memory", MachineError),
        ("no JSON", "process.fault", StageError),
        ("nonsense", "process.fault", StageError),
    ],
)
def test_what_fails_fails_alone(shared: Child, do: str, code: str, kind: type[LabError]) -> None:
    with pytest.raises(kind) as caught:
        shared.ask({"do": do})
    assert caught.value.code == code
    assert shared.ask({"do": "echo", "text": "still here"}) == {"echo": "still here"}


def test_a_traceback_goes_to_the_log(child: Child) -> None:
    with pytest.raises(StageError, match="KeyError: 'what nobody thought of'"):
        child.ask({"do": "fault"})
    assert child.log_tail(1) == ["KeyError: 'what nobody thought of'"]


def test_what_is_printed_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "made" / "log.txt"
    with started(log=log) as child:
        assert child.ask({"do": "print"}) == {}
    assert log.read_text() == "printed by Python\nprinted by native code\n"


def test_a_log_without_a_name_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with started() as child:
        child.ask({"do": "print"})
        assert child.log_tail(2) == ["printed by Python", "printed by native code"]
        assert list(tmp_path.iterdir()) == []


def test_lines_that_are_no_messages_are_passed_over(shared: Child) -> None:
    assert shared.ask({"do": "garbage"}) == {}


def test_many_at_once(child: Child) -> None:
    answers: queue.Queue[tuple[str, Any]] = queue.Queue()

    def ask(name: str) -> None:
        for number in range(50):
            text = f"{name} {number}"
            answers.put((text, child.ask({"do": "echo", "text": text})["echo"]))

    threads = [threading.Thread(target=ask, args=(str(each),)) for each in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [answers.get_nowait() for _ in range(400)]
    assert all(asked == answered for asked, answered in found)
    assert len({asked for asked, _ in found}) == 400


# Cancelling and time


def test_cancelling_one_ends_it_and_no_other(child: Child) -> None:
    first, _ = begun(child, "until cancelled")
    second = child.start({"do": "echo", "text": "next"})
    first.cancel()
    with pytest.raises(Cancelled):
        first.result()
    assert second.result() == {"echo": "next"}


def test_cancelled_before_its_turn(child: Child) -> None:
    first, _ = begun(child, "until cancelled")
    second = child.start({"do": "until cancelled"})
    second.cancel()
    first.cancel()
    with pytest.raises(Cancelled):
        second.result()


def test_cancelling_what_is_over_does_nothing(child: Child) -> None:
    over = child.start({"do": "echo", "text": ""})
    over.result()
    over.cancel()
    assert child.ask({"do": "echo", "text": "next"}) == {"echo": "next"}


def test_a_deadline_is_told_though_the_child_hangs(child: Child) -> None:
    with pytest.raises(StageError, match=r"No answer in 0\.05 s") as caught:
        child.ask({"do": "hang"}, deadline_s=0.05)
    assert caught.value.code == DEADLINE


def test_a_deadline_cancels(child: Child) -> None:
    with pytest.raises(StageError) as caught:
        child.ask({"do": "until cancelled"}, deadline_s=0.05)
    assert caught.value.code == DEADLINE
    assert child.ask({"do": "echo", "text": "free again"}) == {"echo": "free again"}


def test_a_listener_that_fails_is_told_to_its_own_caller(child: Child) -> None:
    def listener(event: dict[str, Any]) -> None:
        raise ZeroDivisionError(event)

    with pytest.raises(ZeroDivisionError):
        child.ask({"do": "until cancelled"}, listener)
    assert child.ask({"do": "echo", "text": "next"}) == {"echo": "next"}


async def test_from_asyncio(child: Child) -> None:
    heard: list[int] = []
    here = threading.get_ident()
    seen: set[int] = set()

    def listener(event: dict[str, Any]) -> None:
        seen.add(threading.get_ident())
        heard.append(event["number"])

    assert await child.ask_async({"do": "count", "to": 20}, listener) == {"counted": 20}
    assert heard == list(range(20))
    assert seen == {here}


async def test_a_cancelled_task_cancels_its_request(child: Child) -> None:
    begun = asyncio.Event()
    task = asyncio.ensure_future(child.ask_async({"do": "until cancelled"}, lambda _: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await child.ask_async({"do": "echo", "text": "free again"}) == {"echo": "free again"}


# Ends


def test_death_is_told_to_all_that_wait_and_to_those_who_come_later() -> None:
    with started() as child:
        calls = [child.start({"do": "die"}), *(child.start({"do": "echo", "text": ""}) for _ in range(3))]
        for call in [*calls, child.start({"do": "echo", "text": ""})]:
            with pytest.raises(StageError) as caught:
                call.result()
            said = caught.value.as_dict()
            assert said.pop("told"), "what it was made from, for a reader of another language"
            assert said == {
                "code": DIED,
                "title": "The tester is gone.",
                "detail": "It was ended by the signal SIGKILL, which is what Linux does when memory runs out. "
                "The last lines of its log: the last words",
                "hint": "Start it again.",
            }
        assert child.exit_status == -signal.SIGKILL
        assert child.dead.is_set()


@pytest.mark.parametrize(("do", "status"), [("exit", 7), ("half a line", 3)])
def test_an_exit_status_is_told(do: str, status: int) -> None:
    with (
        started() as child,
        pytest.raises(StageError, match=f"It ended with the exit status {status}") as caught,
    ):
        child.ask({"do": do})
    assert caught.value.code == DIED


def test_killed_from_outside_while_it_works(child: Child) -> None:
    call, _ = begun(child, "until cancelled")
    os.kill(child.pid, signal.SIGTERM)
    with pytest.raises(StageError, match="SIGTERM"):
        call.result()


def test_an_endless_line_ends_the_child(child: Child) -> None:
    with pytest.raises(StageError, match=f"more than {LIMIT} bytes") as caught:
        child.ask({"do": "endless line"})
    assert caught.value.code == TOO_LONG
    assert not psutil.pid_exists(child.pid)


def test_an_answer_that_is_too_long_fails_alone(child: Child) -> None:
    with pytest.raises(RequestError) as caught:
        child.ask({"do": "long", "size": LIMIT})
    assert caught.value.code == TOO_LONG
    assert len(child.ask({"do": "long", "size": LIMIT - 100})["text"]) == LIMIT - 100


def test_a_request_that_is_too_long_is_not_sent(child: Child) -> None:
    with pytest.raises(RequestError) as caught:
        child.ask({"do": "echo", "text": "x" * LIMIT})
    assert caught.value.code == TOO_LONG
    assert child.ask({"do": "echo", "text": "next"}) == {"echo": "next"}


def test_sending_to_a_child_that_does_not_read_does_not_block(child: Child) -> None:
    call, _ = begun(child, "hang")
    calls = [child.start({"do": "echo", "text": "x" * (LIMIT - 100)}) for _ in range(4)]
    child.close(grace_s=0.05)
    for each in [call, *calls]:
        with pytest.raises(StageError) as caught:
            each.result()
        assert caught.value.code == CLOSED


def test_closing_while_it_works_lets_it_end(child: Child) -> None:
    call, _ = begun(child, "until cancelled")
    child.close(grace_s=20)
    assert child.exit_status == 0
    with pytest.raises(StageError) as caught:
        call.result()
    assert caught.value.code == CLOSED


def test_closing_kills_what_hangs_and_what_it_started(child: Child) -> None:
    _, event = begun(child, "hang with a child")
    os.kill(child.pid, signal.SIGSTOP)
    child.close(grace_s=0.05)
    assert child.exit_status == -signal.SIGKILL
    left = [psutil.Process(event["pid"])] if psutil.pid_exists(event["pid"]) else []
    _, alive = psutil.wait_procs(left, timeout=10)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_closing_twice_and_from_a_listener(child: Child) -> None:
    call = child.start({"do": "until cancelled"}, lambda _: child.close())
    with pytest.raises(LabError):
        call.result()
    child.close()
    assert child.exit_status == 0
    with pytest.raises(StageError) as caught:
        child.ask({"do": "echo", "text": ""})
    assert caught.value.code == CLOSED


def test_a_child_that_closes_its_output_is_ended(child: Child) -> None:
    with pytest.raises(StageError) as caught:
        child.ask({"do": "close output"})
    assert caught.value.code == DIED


def test_a_child_ends_with_its_parent() -> None:
    code = (
        "import sys, threading; from core.process import Child\n"
        f"child = Child({MODULE!r}, '0.05')\n"
        "child.start({'do': 'hang'}, lambda event: print(child.pid, flush=True))\n"
        "threading.Event().wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs([process], timeout=20)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_what_cannot_be_started() -> None:
    with pytest.raises(MachineError, match="The tester cannot be started") as caught:
        started(python="/nowhere/python")
    assert caught.value.code == "process.start"


def test_a_module_that_is_not_there() -> None:
    with Child("core.not_there") as child, pytest.raises(StageError, match="No module named") as caught:
        child.ask({})
    assert caught.value.code == DIED


def test_ends_in_words() -> None:
    assert ended(-15) == "It was ended by the signal SIGTERM."
    assert ended(2) == "It ended with the exit status 2."
    assert ended(-1000) == "It ended with the exit status -1000."
