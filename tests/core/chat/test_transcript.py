"""Transcripts: written as things happen, read back as they stood, whatever happened to the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.chat.protocol import Done, Error
from core.chat.response import Answer, Turn
from core.chat.transcript import History, as_markdown, find_chat, list_chats, read_chat
from core.errors import MachineError, RequestError

KEYS = ["answer", "text", "lanes", "main", "attempt", "to", "turns", "name", "adapter", "stop", "tokens_per_s",
        "time_to_first_token_s", "new_tokens", "context_full", "created", "model", "system"]  # fmt: skip


def done(text: str, adapter: str = "") -> Done:
    return Done(adapter, text, 10, 20, 3, 0.01, 30.0, "end")


def talk(history: History, question: str, answer: str, adapter: str = "") -> Turn:
    turn = Turn(question, (adapter,), adapter)
    history.add(turn)
    history.hear(turn, done(answer, adapter), {}, [])
    return turn


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History("models/onnx", "Be kind.", tmp_path)


def test_what_was_said_is_read_back(history: History) -> None:
    talk(history, "Where? 日本\u2028 \x1b[31m", "There.\n\nשלום \ud83d", "travel")
    turn = Turn("Both?", ("", "travel"), "travel")
    history.add(turn)
    history.hear(turn, done("base", ""), {}, [])
    history.hear(turn, done("tuned", "travel"), {}, [])
    history.rename("  My\n trip ")
    assert history.path is not None
    chat = read_chat(history.path)
    assert chat.turns == history.turns
    assert (chat.name, chat.system, chat.model) == ("My trip", "Be kind.", "models/onnx")
    assert all(json.loads(line) for line in history.path.read_text().splitlines())


def test_the_file_is_made_with_the_first_question_and_grows_with_each_message(
    history: History, tmp_path: Path
) -> None:
    assert list(tmp_path.iterdir()) == []
    history.add(Turn("Hello?"))
    assert history.path is not None
    assert [json.loads(line)["type"] for line in history.path.read_text().splitlines()] == ["chat", "user"]


def test_two_chats_begun_at_once_get_two_files(tmp_path: Path) -> None:
    paths = set()
    for _ in range(5):
        history = History("m", "", tmp_path)
        talk(history, "Q", "A")
        paths.add(history.path)
    assert len(paths) == 5


def test_a_line_cut_short_by_a_crash_loses_itself_only(history: History, tmp_path: Path) -> None:
    talk(history, "First?", "Yes.")
    assert history.path is not None
    with history.path.open("ab") as stream:
        stream.write(b'{"type":"user","text":"half a li')
    again = History("m", "", tmp_path)
    again.reopen(history.path.stem)
    talk(again, "Second?", "Also.")
    chat = read_chat(history.path)
    assert [turn.question for turn in chat.turns] == ["First?", "Second?"]
    assert chat.turns[1].answer == again.last


def test_a_refused_question_leaves_the_conversation_as_it_was(history: History) -> None:
    talk(history, "First?", "Yes.")
    kept = talk(history, "Second?", "No.")
    removed = history.rewind(1)
    new = Turn("far too long")
    history.add(new)
    history.hear(new, Error(RequestError("too long")), {"": ""}, removed)
    assert history.turns[1] is kept
    assert history.path is not None
    assert read_chat(history.path).turns == history.turns


def test_adapters_go_on_from_their_own_answers(history: History) -> None:
    turn = Turn("Both?", ("", "travel"), "travel")
    history.add(turn)
    history.hear(turn, done("base said", ""), {}, [])
    history.hear(turn, done("tuned said", "travel"), {}, [])
    talk(history, "Only tuned?", "Tuned again.", "travel")
    base = [item["content"] for item in history.messages("", "Next?")]
    tuned = [item["content"] for item in history.messages("travel", "Next?")]
    assert base == ["Be kind.", "Both?", "base said", "Only tuned?", "Tuned again.", "Next?"]
    assert tuned == ["Be kind.", "Both?", "tuned said", "Only tuned?", "Tuned again.", "Next?"]


def test_a_question_without_an_answer_is_kept_but_not_read(history: History) -> None:
    history.add(Turn("Lost?"))
    talk(history, "Second?", "Yes.")
    assert [item["content"] for item in history.messages("", "Third?")][1:] == ["Second?", "Yes.", "Third?"]
    assert len(history.turns) == 2


def test_chats_are_listed_newest_first_and_found_by_number_name_and_file(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "mid", "new")):
        history = History("m", "", tmp_path)
        talk(history, f"{name} question?", "A")
        history.rename(name)
        assert history.path is not None
        os.utime(history.path, (1000 + number, 1000 + number))
    (tmp_path / "note.jsonl").write_text("not a chat\n")
    (tmp_path / "evaluation-travel.json").write_text("{}")
    assert [chat.name for chat in list_chats(tmp_path)] == ["new", "mid", "old"]
    assert find_chat(tmp_path, "1").name == "new"
    assert find_chat(tmp_path, "mid").name == "mid"
    assert find_chat(tmp_path, find_chat(tmp_path, "3").path.name).name == "old"
    with pytest.raises(RequestError, match="no chat"):
        find_chat(tmp_path, "../../etc/passwd")
    with pytest.raises(RequestError, match="no chat"):
        find_chat(tmp_path, "9" * 5000)


def test_a_title_is_one_clean_line(history: History) -> None:
    talk(history, "What\nis \x1b[31mthis " + "very " * 40, "A")
    assert history.path is not None
    title = read_chat(history.path).title
    assert len(title) <= 60
    assert title.isprintable()


def test_markdown_has_questions_answers_and_figures(history: History) -> None:
    talk(history, "Where?", "There is **one**.\x1b[2J", "travel")
    history.add(Turn("Then?"))
    assert history.path is not None
    page = as_markdown(read_chat(history.path))
    assert page.startswith("# Where?\n")
    assert "### travel\n\nThere is **one**.\n\n*3 tokens, first after 10 ms, 30.0 tokens/s" in page
    assert "(no answer)" in page
    assert "\x1b" not in page


def test_records_of_a_newer_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines: list[object] = [{"type": "chat", "v": 9, "mood": "good"}, {"type": "gesture"}, [1]]
    lines += [
        {"type": "user", "text": "Hi"},
        {"type": "assistant", "answer": "Yes", "adapter": None, "x": "red"},
        {"type": "assistant"},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert read_chat(path).turns == [Turn("Hi", answers={"": Answer("Yes", None)})]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=8,
)
RECORD = st.fixed_dictionaries(
    {"type": st.sampled_from(["chat", "user", "assistant", "rewind", "drop", "name", "adapter"])},
    optional=dict.fromkeys(KEYS, JSON),
)
LINE = RECORD.map(lambda record: json.dumps(record).encode()) | st.binary(max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=st.lists(LINE, max_size=8), cut=st.integers(0, 40))
def test_whatever_is_in_a_transcript_it_is_read_or_refused(
    tmp_path: Path, lines: list[bytes], cut: int
) -> None:
    path = tmp_path / "chat.jsonl"
    whole = b'{"type": "chat", "v": 1}\n' + b"\n".join(lines)
    path.write_bytes(whole[: len(whole) - cut])
    for chat in list_chats(tmp_path):
        assert as_markdown(chat).encode()
        assert "\n" not in chat.title
        again = History("m", "", tmp_path)
        again.reopen(path.name)
        again.messages("", "Next?")
        again.rewind(0)


def test_deep_nesting_and_folders_are_no_chats(tmp_path: Path) -> None:
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    assert list_chats(tmp_path) == []


def test_a_transcript_that_was_deleted_begins_anew(history: History) -> None:
    talk(history, "First?", "Yes.")
    assert history.path is not None
    history.path.unlink()
    talk(history, "Second?", "Also.")
    assert [turn.question for turn in read_chat(history.path).turns] == ["Second?"]


def test_a_folder_that_cannot_be_written_is_told_before_asking(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = History("m", "", tmp_path / "file" / "chats")
    with pytest.raises(MachineError):
        history.add(Turn("Hi"))
    assert history.turns == []
