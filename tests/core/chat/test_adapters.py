"""Adapters: switched in a loaded model, compared, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.chat import ChatSession
from core.chat.protocol import Token
from core.errors import RequestError
from core.folder import merged_folder
from tests.core.chat.conftest import Reference, build


def test_adapters_are_switched_in_a_loaded_model(chat: ChatSession, reference: Reference) -> None:
    base = chat.ask("Where?").answer
    pid = chat.pid
    chat.set_adapter("one")
    assert chat.adapter == "one"
    chat.new()
    tuned = chat.ask("Where?")
    assert (tuned.adapter, chat.pid) == ("one", pid)
    question = [{"role": "user", "content": "Where?"}]
    assert base == reference.greedy(question, 16)
    assert tuned.answer == reference.greedy(question, 16, "one")
    assert tuned.answer != base
    chat.set_adapter("two")
    chat.set_adapter(None)
    chat.new()
    assert chat.ask("Where?").answer == base


def test_a_cache_of_another_adapter_is_not_used(chat: ChatSession, reference: Reference) -> None:
    first = chat.ask("Where?")
    chat.set_adapter("one")
    second = chat.ask("And?")
    messages = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": first.answer},
        {"role": "user", "content": "And?"},
    ]
    assert second.prompt_tokens == len(reference.prompt_ids(messages))
    assert second.answer == reference.greedy(messages, 16, "one")


def test_compare_answers_as_each_would_alone_from_one_process(
    chat: ChatSession, reference: Reference
) -> None:
    events = list(chat.begin_compare("Where?", (None, "one")))
    adapters = [event.adapter for event in events if isinstance(event, Token)]
    assert "one" in adapters[: adapters.index("") + 16]
    base, tuned = (chat.turns[-1].answers[adapter] for adapter in ("", "one"))
    question = [{"role": "user", "content": "Where?"}]
    assert base.answer == reference.greedy(question, 16)
    assert tuned.answer == reference.greedy(question, 16, "one")
    for answer in (base, tuned):
        assert answer.new_tokens == 16
        assert answer.time_to_first_token_s > 0
        assert answer.tokens_per_s > 0
    # Each goes on from its own words, and from the cache.
    base, tuned = chat.compare("And?", (None, "one"))
    assert base.prompt_tokens < 25
    assert tuned.prompt_tokens < 25


def test_compare_of_two_adapters_and_of_nothing(chat: ChatSession) -> None:
    first, second = chat.compare("Where?", ("one", "two"))
    assert (first.adapter, second.adapter) == ("one", "two")
    assert first.answer != second.answer
    with pytest.raises(RequestError, match="nothing to compare"):
        chat.compare("Where?", ("one", "one"))


def test_an_unknown_adapter_is_refused_and_the_chat_goes_on(chat: ChatSession) -> None:
    with pytest.raises(RequestError, match="one, two"):
        chat.set_adapter("three")
    assert chat.adapter is None
    assert chat.ask("Still there?").new_tokens == 16


@pytest.mark.parametrize("fault", ["shape", "name", "base", "file"])
def test_an_adapter_that_does_not_fit_is_refused_before_generation(llama: Path, fault: str) -> None:
    import numpy as np
    import onnxruntime

    path = llama / "adapters" / "one.onnx_adapter"
    if fault == "base":
        note = path.with_name("one.json")
        note.write_text(json.dumps({**json.loads(note.read_text()), "base_sha256": "0" * 64}))
    elif fault == "file":
        path.write_bytes(b"no adapter at all" * 9)
    else:
        values = dict(onnxruntime.AdapterFormat.read_adapter(str(path)).get_parameters())
        name = next(key for key in sorted(values) if key.endswith("lora_A"))
        if fault == "shape":
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((7, 2), np.float32))
        else:
            values["model.layers.9.nothing"] = values.pop(name)
        file = onnxruntime.AdapterFormat()
        file.set_parameters(values)
        path.unlink()
        file.export_adapter(str(path))
    told = {
        "shape": r"\[7, 2\]",
        "name": "model.layers.9.nothing",
        "base": "another build",
        "file": "one.onnx_adapter",
    }
    with ChatSession(llama, adapter="one") as session:
        ready = session.wait_ready()
        assert ready.adapters == ["two"]
        assert list(ready.refused) == ["one"]
        with pytest.raises(RequestError, match=told[fault]):
            session.ask("Hello?")
        assert session.turns == []
        session.set_adapter("two")
        assert session.begin_alone("Hello?", ("two",), max_new_tokens=3).result()["two"].new_tokens == 3


def test_adapters_inside_the_graph_switch_and_one_that_came_later_is_refused(
    llama_checkpoint: Path, tmp_path: Path
) -> None:
    import torch

    from core.optimize.adapters import read_layout
    from core.optimize.adding import add_adapter

    folder = build(llama_checkpoint, tmp_path / "onnx", seeds=(1,), accuracy_level=4)
    with ChatSession(folder) as session:
        assert session.wait_ready().adapters == ["one"]
        for _ in range(2):  # the switch of one conversation does not reach the other
            both = session.begin_alone("Hello?", ("", "one"), max_new_tokens=8).result()
            assert both[""].answer != both["one"].answer
        layout = read_layout(folder)
        tensors = {
            key: torch.randn([2 if size is None else size for size in shape])
            for key, shape in layout.inputs().items()
        }
        add_adapter(folder, "late", tensors, {})
        with pytest.raises(RequestError, match="came after") as caught:
            session.set_adapter("late")
        assert caught.value.code == "adapter.newer"
    with ChatSession(folder, adapter="late") as session:
        assert session.wait_ready().adapters == ["late", "one"]
        again = session.begin_alone("Hello?", ("", "one", "late"), max_new_tokens=8).result()
        assert (again[""].answer, again["one"].answer) == (both[""].answer, both["one"].answer)
        assert again["late"].answer != again["one"].answer


def test_a_merged_adapter_is_a_model_of_its_own(llama: Path, tmp_path: Path) -> None:
    from tests.tiny_models import make_tiny

    other = build(make_tiny("qwen2", tmp_path / "qwen2"), tmp_path / "other", seeds=())
    merged = merged_folder(llama, "food")
    merged.parent.mkdir()
    other.rename(merged)
    with ChatSession(llama) as session, ChatSession(merged) as alone:
        assert session.wait_ready().adapters == ["food", "one", "two"]
        answers = session.begin_alone("Hello?", ("", "food", "one"), max_new_tokens=8).result()
        assert len({answer.answer for answer in answers.values()}) == 3
        own = alone.begin_alone("Hello?", ("",), max_new_tokens=8).result()[""]
        assert answers["food"].answer == own.answer
    (merged / "model.onnx").unlink()
    with ChatSession(llama) as session:
        assert session.wait_ready().adapters == ["one", "two"]
