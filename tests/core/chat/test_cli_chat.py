"""``olivepress chat``: one shot, comparison, and the line chat on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import Lab
from core.chat.transcript import list_chats
from core.files import folder_stamp
from core.model.messages import Segment

ANSWER_KEYS = {
    "answer", "adapter", "prompt_tokens", "new_tokens", "time_to_first_token_s", "tokens_per_s", "stop",
}  # fmt: skip


@pytest.fixture
def lab(llama: Path, tmp_path: Path) -> Path:
    """A lab whose optimized model is the tiny Llama with one adapter."""
    made = Lab.create(tmp_path / "lab", settings={"chat.max_new_tokens": 12, "data.eval_fraction": 0.1})
    for name in ("two.onnx_adapter", "two.json"):
        (llama / "adapters" / name).unlink()
    made.folder.onnx_dir.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(llama, made.folder.onnx_dir)
    return made.folder.root


def run(lab: Path, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "core.cli", "chat", str(lab), *words]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_prompt_gives_one_object_with_the_fields_of_the_contract(lab: Path) -> None:
    status, out, _ = run(lab, "--prompt", "Where?", "--json")
    assert status == 0
    (line,) = out.splitlines()
    answer = json.loads(line)
    assert set(answer) >= ANSWER_KEYS
    assert answer["adapter"] == "one"  # the lab's only one
    assert answer["new_tokens"] <= 12
    assert "notices" not in answer
    other = json.loads(run(lab, "--prompt", "Where<|end|>", "--json", "--no-adapter")[1])
    assert other["adapter"] is None
    assert ["<|end|>" in notice for notice in other["notices"]] == [True]


def test_an_adapter_older_than_the_last_finetune_does_not_answer_without_a_word(lab: Path) -> None:
    folder = Lab.open(lab).folder
    trained = folder.finetuned_dir("one")
    trained.mkdir(parents=True)
    (trained / "adapter_config.json").write_text("{}")
    note_path = folder.adapter_file("one").with_name("one.json")
    note = json.loads(note_path.read_text())
    note_path.write_text(json.dumps({**note, "source": folder_stamp(trained)}))
    _, out, err = run(lab, "--prompt", "Where?", "--json")
    assert "stale" not in json.loads(out)
    assert "older" not in err
    (trained / "adapter_config.json").write_text('{"r": 8}')
    status, out, err = run(lab, "--prompt", "Where?", "--json")
    assert status == 0
    assert json.loads(out)["stale"] == "This adapter is older than your last finetune."
    assert "This adapter is older than your last finetune. Make it anew: olivepress run" in err
    _, out, err = run(lab, "--prompt", "Where?", "--json", "--no-adapter")
    assert "stale" not in json.loads(out)
    assert "older" not in err


def test_a_question_comes_from_standard_input(lab: Path) -> None:
    status, out, err = run(lab, "--set", "max_new_tokens=40", stdin="Où?\n".encode())
    assert status == 0
    assert out.strip()
    assert "tokens, first after" in err
    assert not list((lab / "chats").glob("*.jsonl"))


def test_compare_gives_base_and_tuned(lab: Path) -> None:
    status, out, _ = run(lab, "--compare", "--prompt", "Where?", "--json")
    assert status == 0
    both = json.loads(out)
    assert set(both) == {"base", "tuned"}
    assert (both["base"]["adapter"], both["tuned"]["adapter"]) == (None, "one")
    assert set(both["base"]) >= ANSWER_KEYS
    assert both["base"]["answer"] != both["tuned"]["answer"]
    again, text, told = run(lab, "--compare", "--prompt", "Where?")
    assert again == 0, told
    assert re.search(r"--- base\n(?s:.+)\n--- one\n", text)


def test_the_models_escape_codes_do_not_reach_the_terminal(lab: Path) -> None:
    outputs = [
        run(lab, "--prompt", f"Q{n}", "--set", "temperature=3", "--set", "max_new_tokens=150")[1]
        for n in range(3)
    ]
    assert len("".join(outputs)) > 100
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "".join(outputs))


@pytest.mark.parametrize(
    ("words", "stdin", "told"),
    [
        (["--prompt", " "], b"", "empty"),
        ([], b"", "empty"),
        ([], b"\xff\xfe", "not UTF-8"),
        (["--prompt", "x", "--adapter", "three"], b"", "The model has: one"),
        (["--prompt", "x", "--set", "temperature=hot"], b"", "a number"),
        (["--prompt", "x", "--set", "heat=1"], b"", "no setting heat"),
        (["--prompt", "x", "--compare", "--no-adapter"], b"", "compare"),
        (["--prompt", "word " * 3000], b"", "longer than the context"),
    ],
)
def test_wrong_requests_exit_2_and_say_why(lab: Path, words: list[str], stdin: bytes, told: str) -> None:
    status, out, err = run(lab, *words, stdin=stdin)
    assert (status, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_without_a_model_it_says_which_steps_make_it(tmp_path: Path) -> None:
    Lab.create(tmp_path / "lab")
    status, out, err = run(tmp_path / "lab", "--prompt", "Hi", "--json")
    assert status == 2
    assert json.loads(out)["error"]["title"] in err
    assert "quantize finetune optimize" in err


def test_the_loss_is_that_of_pytorch(llama_checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from core.chat import ChatSession
    from tests.core.chat.conftest import build

    exact = build(llama_checkpoint, tmp_path / "fp32", "fp32", seeds=())
    asked, answered = "<|user|>\nWhere is it?<|end|>\n<|assistant|>\n", "By the sea. " * 40 + "<|end|>"
    with ChatSession(exact) as session:
        loss, tokens = session.score([Segment(asked, False), Segment(answered, True)])
    tokenizer = AutoTokenizer.from_pretrained(llama_checkpoint)
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, answered))
    ids = torch.tensor([first + second])
    labels = torch.tensor([[-100] * len(first) + second])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(llama_checkpoint)(ids, labels=labels).loss
    assert tokens == len(second) > 128
    assert loss == pytest.approx(float(expected), abs=2e-3)


class Terminal:
    """A program on a pseudo-terminal of the dumb kind."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.text = ""
        self._changed = threading.Condition()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "dumb"
            os.chdir(folder)
            os.execv(command[0], command)
        # Wide enough that the line editor never scrolls what is typed: test folders have long names.
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 1000, 0, 0))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                data = b""
            with self._changed:
                self.text += data.decode("utf-8", "replace")
                self._changed.notify_all()
            if not data:
                return

    def until(self, wanted: str | Callable[[str], bool], after: int = 0) -> int:
        """Wait until a text has come; returns the place behind it."""
        found = wanted if callable(wanted) else lambda text: wanted in text
        with self._changed:
            assert self._changed.wait_for(lambda: found(self.text[after:]), 60), self.text
            return len(self.text) if callable(wanted) else self.text.index(wanted, after) + len(wanted)

    def interrupt_until(self, wanted: str, after: int) -> int:
        """Press Ctrl-C until a text comes.

        Once is not enough at a prompt that has just been written: CPython does not hear the signal between
        writing it and waiting for a line. A person's second press is heard.
        """
        for _ in range(60):
            self.type("\x03")
            with self._changed:
                if self._changed.wait_for(lambda: wanted in self.text[after:], 1):
                    break
        return self.until(wanted, after)

    def type(self, text: str) -> int:
        place = len(self.text)
        os.write(self._fd, text.encode())
        return place


@pytest.fixture
def terminal(lab: Path) -> Iterator[Terminal]:
    words = [sys.executable, "-m", "core.cli", "chat", str(lab)]
    made = Terminal(words, lab.parent)
    yield made
    try:
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_a_conversation_by_lines(terminal: Terminal, lab: Path) -> None:
    terminal.until("one> ")
    recipe = lab / "lab.toml"
    before = recipe.read_bytes()
    half = [{"type": "chat"}, {"type": "user", "text": "Half?"}, {"type": "assistant", "answer": "so \ud83d"}]
    (lab / "chats").mkdir(exist_ok=True)
    (lab / "chats" / "half.jsonl").write_text("\n".join(map(json.dumps, half)))
    for typed, answer in (
        ("Where?\n", "read "),
        ("/base\n", "base answers from now on"),
        ("And?\n", "read "),
        ("/set max_new_t\t3\n", "max_new_tokens = 3"),
        ("/set warmth 3\n", "no setting"),
        ("/regen\n", "3 tokens"),
        ("/edit Then?\n", "3 tokens"),
        ("/compare Which?\n", "--- one"),
        ("/adapter\n", "* none: the base"),
        ("/name My trip\n", "base> "),
        ("/list\n", "My trip"),
        ("/flub\n", "There is no command /flub"),
        ("/save page.md\n", "Wrote page.md"),
        ("/save page.md\n", "Overwrite it? [y/N] "),
        ("\n", "Nothing was written."),
        (f"/save {recipe}\n", "Overwrite it? [y/N] "),
        ("n\n", "Nothing was written."),
        ("/save page.md\n", "Overwrite it? [y/N] "),
        ("y\n", "Wrote page.md"),
        ("/save ..\n", "Overwrite it? [y/N] "),
        ("y\n", "cannot be written"),
        ("/save ~nobody-of-that-name/x\n", "cannot be written"),
        ("/save\n", ".md"),
        ("/open half\n", "so \\ud83d"),
        ("/compare\n", "base and tuned answer from now on"),
        ("\n", "base> "),
        ("/help\n", "/again"),
        ("/chats\n", "My trip"),
        ("/again\n", "3 tokens"),
    ):
        place = terminal.type(typed)
        place = terminal.until(answer, place + len(typed))
        if not answer.endswith(("> ", "] ")):
            terminal.until("> ", place)
    terminal.type("/quit\n")
    assert os.waitpid(terminal.pid, 0)[1] == 0
    (chat,) = [chat for chat in list_chats(lab / "chats") if chat.name == "My trip"]
    assert [turn.question for turn in chat.turns] == ["Where?", "Then?", "Which?"]
    assert recipe.read_bytes() == before
    assert (lab.parent / "page.md").is_file()


def test_ctrl_c_stops_the_answer_and_not_the_chat(lab: Path, long_llama: Path) -> None:
    onnx = Lab.open(lab).folder.onnx_dir
    shutil.rmtree(onnx)
    shutil.copytree(long_llama, onnx)
    settings = ["--set", "max_new_tokens=12000"]
    text = (lab / "lab.toml").read_text()
    (lab / "lab.toml").write_text(text.replace("[chat]", "[chat]\ncontext_tokens = 16384"))
    terminal = Terminal(
        [sys.executable, "-m", "core.cli", "chat", str(lab), "--no-adapter", *settings], lab.parent
    )
    place = terminal.until("base> ")
    place = terminal.type("Where does it end?\n")
    place = terminal.until(lambda text: len(text) > 30, place)
    terminal.type("\x03")
    terminal.until("base> ", place)
    assert "stopped]" in terminal.text
    place = terminal.interrupt_until("/quit ends the chat", len(terminal.text))
    terminal.until("base> ", place)
    terminal.type("\x04")
    assert os.waitpid(terminal.pid, 0)[1] == 0
