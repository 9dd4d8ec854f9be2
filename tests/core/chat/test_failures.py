"""What goes wrong is told, and nothing is lost; the process is as private as it should be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from core.chat import ChatError, ChatSession
from core.chat.protocol import Token
from core.chat.transcript import read_chat
from core.errors import MachineError, RequestError
from tests.core.chat.conftest import LONG, Reference


def test_a_killed_worker_is_told_and_nothing_is_lost(endless: ChatSession) -> None:
    endless.set(max_new_tokens=6)
    first = endless.ask("Before?")
    endless.set(max_new_tokens=12_000)
    response = endless.begin(LONG)
    next(event for event in response if isinstance(event, Token))
    os.kill(endless.pid, signal.SIGKILL)
    with pytest.raises(ChatError, match="SIGKILL") as caught:
        response.result()
    assert caught.value.died
    assert caught.value.exit_status == 3
    assert not endless.alive
    with pytest.raises(ChatError, match="gone"):
        endless.ask("Anyone?")
    assert endless.turns[0].answer == first
    partial = endless.turns[1].answer
    assert partial is not None
    assert (partial.stop, bool(partial.answer)) == ("failed", True)
    path = endless.transcript_path
    assert path is not None
    assert read_chat(path).turns == endless.turns

    endless.restart()
    endless.set(max_new_tokens=6)
    again = endless.begin_again().result()[""]
    assert again.new_tokens == 6
    assert again.prompt_tokens > first.prompt_tokens  # the conversation was read anew
    assert endless.turns[0].answer == first


def test_a_worker_that_dies_while_it_loads_is_told(built_llama: Path) -> None:
    session = ChatSession(built_llama)
    os.kill(session.pid, signal.SIGKILL)
    with pytest.raises(ChatError, match="process is gone"):
        session.wait_ready(30)
    with pytest.raises(ChatError, match="process is gone"):
        session.ask("Hello?")
    session.restart()
    session.set(max_new_tokens=2)
    assert session.ask("Hello?").new_tokens == 2
    session.close()
    assert not session.alive


def test_a_damaged_model_is_told_with_the_step_that_makes_it(llama: Path) -> None:
    (llama / "model.onnx").write_bytes(b"not a graph")
    with ChatSession(llama) as session, pytest.raises(RequestError, match="optimize"):
        session.ask("Hello?")


def test_a_folder_without_a_model_is_refused_at_once(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(RequestError, match="no model"):
        ChatSession(tmp_path / "none")
    (llama / "model.onnx").unlink()
    with pytest.raises(RequestError, match=r"model\.onnx is missing"):
        ChatSession(llama)


def test_the_worker_ends_with_its_parent_and_leaves_no_file(built_llama: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from core.chat import ChatSession\n"
        "s = ChatSession(Path(sys.argv[1])); s.wait_ready(); print(s.pid, flush=True); os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(built_llama)],
        capture_output=True,
        timeout=60,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 9, done.stderr
    assert list(tmp_path.iterdir()) == []
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    wait = threading.Event()
    for _ in range(1000):
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            break
        wait.wait(0.01)
    else:
        pytest.fail("the worker lives on")


def test_closing_frees_the_process_and_stops_an_answer(endless: ChatSession) -> None:
    response = endless.begin(LONG)
    next(event for event in response if isinstance(event, Token))
    pid = endless.pid
    endless.close()
    with pytest.raises(ChatError, match="closed"):
        response.result()
    assert not Path(f"/proc/{pid}").exists()


def test_words_printed_by_native_code_stay_out_of_the_protocol(
    built_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The runtime writes this log to file descriptor 1 or 2 as it likes.
    monkeypatch.setenv("ORTGENAI_LOG", "1")
    monkeypatch.setenv("ORTGENAI_ORT_VERBOSE_LOGGING", "1")
    with ChatSession(built_llama) as session:
        assert session.begin_alone("Hi", (None,), max_new_tokens=3).result()[""].new_tokens == 3


def test_loading_is_told_and_events_come_without_waiting(built_llama: Path) -> None:
    heard: list[Any] = []
    over = threading.Event()
    with ChatSession(built_llama, on_load=heard.append) as session:
        session.set(max_new_tokens=5)
        events: list[Any] = []

        def on_event(event: Any) -> None:
            events.append(event)
            if event.type == "finished":
                over.set()

        response = session.begin("Asked before the model is there?", on_event)
        assert over.wait(60)
        assert response.over
        assert response.drain() == events
        assert response.drain() == []
        assert session.ready is not None
    assert heard[-1] == session.ready


def test_the_caller_loads_no_native_library(built_llama: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from core.chat import ChatSession\n"
        "with ChatSession(Path(sys.argv[1])) as s:\n"
        "    s.set(max_new_tokens=2); s.ask('Hi')\n"
        "bad = {'torch', 'transformers', 'onnxruntime', 'onnxruntime_genai', 'numpy', 'tokenizers', 'jinja2'}\n"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(built_llama)], capture_output=True, timeout=60, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_tokenizer_without_a_chat_template_uses_the_recipes(llama: Path, reference: Reference) -> None:
    shutil.rmtree(llama / "chat_template.jinja", ignore_errors=True)
    (llama / "chat_template.jinja").unlink(missing_ok=True)
    template = "<|user|>\n{prompt}<|end|>\n<|assistant|>\n{response}<|end|>"
    with ChatSession(llama, template=template) as session:
        session.set(max_new_tokens=8)
        assert any("the recipe's template" in note for note in session.wait_ready().notes)
        first = session.ask("Hi")
        assert first.answer == reference.greedy([{"role": "user", "content": "Hi"}], 8)
        assert session.ask("And?").prompt_tokens < 20
    with ChatSession(llama) as session:
        assert any("a plain template" in note for note in session.wait_ready().notes)


def test_another_python_can_run_the_model(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\ntouch "{tmp_path}/used"\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("OLIVEPRESS_CHAT_PYTHON", str(other))
    with ChatSession(llama) as session:
        assert session.wait_ready(60).adapters == ["one", "two"]
    assert (tmp_path / "used").exists()


def test_a_python_that_is_not_there_is_told(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEPRESS_CHAT_PYTHON", "/nowhere/python")
    with pytest.raises(RequestError) as caught:
        ChatSession(llama)
    assert "/nowhere/python: No such file" in caught.value.detail
    assert "OLIVEPRESS_CHAT_PYTHON" in caught.value.hint


def test_a_python_that_lacks_a_package_is_told(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "python"
    hide = "import sys; sys.modules['onnxruntime_genai'] = None; sys.argv = ['worker']; import runpy; "
    run = "runpy.run_module('core.chat.worker', run_name='__main__')"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -c "{hide}{run}"\n')
    other.chmod(0o755)
    monkeypatch.setenv("OLIVEPRESS_CHAT_PYTHON", str(other))
    with ChatSession(llama) as session, pytest.raises(MachineError, match="lacks a package") as caught:
        session.wait_ready(60)
    assert "onnxruntime_genai" in caught.value.detail
    assert "pip install onnxruntime_genai" in caught.value.hint
