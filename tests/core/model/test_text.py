"""The text side of a model folder is what its loaded tokenizer says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.model.load import load_tokenizer
from core.model.text import read_text, tokens_from
from core.resources import rehearsal_model
from tests.tiny_models import save_tokenizer

T = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
TOOL = "{# tools #}" + T


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path)
    return tmp_path


def change(file: Path, **values: Any) -> None:
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({k: v for k, v in {**old, **values}.items() if v is not None}))


def one_template(folder: Path) -> None:
    change(folder / "tokenizer_config.json", chat_template=T)


def named_list(folder: Path) -> None:
    both = [{"name": "tool_use", "template": TOOL}, {"name": "default", "template": T}]
    change(folder / "tokenizer_config.json", chat_template=both)


def own_file(folder: Path) -> None:
    change(folder / "tokenizer_config.json", chat_template="not this")
    (folder / "chat_template.jinja").write_text(T)


def own_file_and_more(folder: Path) -> None:
    own_file(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(TOOL)


@pytest.mark.parametrize("write", [one_template, named_list, own_file, own_file_and_more])
def test_the_default_template_is_the_one_used_wherever_it_stands(folder: Path, write: Any) -> None:
    (folder / "chat_template.jinja").unlink()
    write(folder)
    text = read_text(folder)
    loaded = load_tokenizer(folder)
    assert text.template == loaded.get_chat_template() or text.template == loaded.chat_template["default"]
    assert text.template == T
    several = loaded.chat_template if isinstance(loaded.chat_template, dict) else text.templates
    assert text.templates == several


def test_a_processors_template_is_read_where_there_is_no_other(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    change(folder / "chat_template.json", chat_template=T)
    assert read_text(folder).template == T


def test_no_template_is_none(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    text = read_text(folder)
    assert (text.template, text.templates) == ("", {})


def test_a_change_of_the_files_is_seen(folder: Path) -> None:
    before = read_text(folder)
    (folder / "chat_template.jinja").write_text(T + "changed")
    assert read_text(folder).template == T + "changed" != before.template


def test_special_tokens_of_the_rehearsal_model() -> None:
    text, loaded = read_text(rehearsal_model()), load_tokenizer(rehearsal_model())
    assert (text.bos, text.eos, text.pad) == (loaded.bos_token, loaded.eos_token, loaded.pad_token)
    assert text.ids == {"<s>": 1, "<|endoftext|>": 3}
    assert text.ends == (3, 10)
    assert text.size == len(loaded)
    assert {"<|user|>", "<|end|>", "<s>"} <= set(text.special)
    assert not text.adds_start


def starts(folder: Path) -> bool:
    loaded = load_tokenizer(folder)
    return bool(loaded("Chicago")["input_ids"][0] == loaded.bos_token_id)


def template_processor(token: str) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [0], "tokens": [token]}},
    }


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


@pytest.mark.parametrize(
    ("processor", "add_bos", "expected"),
    [
        (template_processor("<|endoftext|>"), None, True),
        (template_processor("<|endoftext|>"), False, True),
        ({"type": "Sequence", "processors": [BYTES, template_processor("<|endoftext|>")]}, None, True),
        (BYTES, True, False),
        (None, None, False),
    ],
)
def test_who_adds_the_start_token(
    folder: Path, processor: dict[str, Any] | None, add_bos: bool | None, expected: bool
) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, "post_processor": processor}))
    change(folder / "tokenizer_config.json", add_bos_token=add_bos)
    assert starts(folder) is expected
    assert read_text(folder).adds_start is expected


def test_tokens_that_are_added_on_loading_count(folder: Path) -> None:
    """A padding token that is named and in no vocabulary gets the next id."""
    before = read_text(folder)
    change(folder / "tokenizer_config.json", pad_token="[PAD]")
    text, loaded = read_text(folder), load_tokenizer(folder)
    assert text.size == before.size + 1 == len(loaded)
    assert text.ids["[PAD]"] == loaded.pad_token_id
    assert tokens_from(folder, before.size) == [(before.size, "[PAD]")]


def test_all_end_tokens_from_all_files(folder: Path) -> None:
    change(folder / "config.json", eos_token_id=2)
    change(folder / "generation_config.json", eos_token_id=[4, 2])
    assert read_text(folder).ends == (0, 4, 2)


def test_what_is_named_as_an_object_or_only_in_the_old_map(folder: Path) -> None:
    change(
        folder / "tokenizer_config.json", eos_token={"content": "<|end|>", "lstrip": False}, bos_token=None
    )
    change(folder / "special_tokens_map.json", bos_token={"content": "<|system|>"})
    text = read_text(folder)
    assert (text.eos, text.bos) == ("<|end|>", "<|system|>")


def test_a_sentencepiece_model_is_counted_without_its_library(folder: Path) -> None:
    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    pieces = ["<unk>", "<s>", "</s>", "▁Chicago"]
    model = b"".join(field(1, field(1, piece.encode()) + b"\x15\x00\x00\x00\x00") for piece in pieces)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    (folder / "tokenizer.model").write_bytes(model + field(2, b"\x18\x01"))
    assert read_text(folder).size == 4
    assert tokens_from(folder, 3) == [(3, "▁Chicago")]
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")  # tiktoken's form
    assert read_text(folder).size == 0


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{", b"null"])
def test_damaged_files_are_left_empty(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    read_text(folder)


def test_the_bundled_folder_is_not_changed_by_reading(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(rehearsal_model(), tmp_path / "m"))
    before = sorted((p.name, p.stat().st_mtime_ns) for p in copy.iterdir())
    read_text(copy)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in copy.iterdir()) == before
