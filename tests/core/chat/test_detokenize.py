"""Tokens become text in whole characters, whatever the model writes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models

from core.chat.detokenize import ByteDetokenizer, WindowDetokenizer, table_for

TEXT = "naïve 日本語 👩‍👩‍👧 שלום עולם مرحبا\n\tcode {x} <think>hm</think> [/INST] 🇳🇴 e\u0301"


@pytest.fixture(scope="module")
def byte_level(llama_checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_file(str(llama_checkpoint / "tokenizer.json"))


@pytest.fixture(scope="module")
def sentencepiece_like() -> Tokenizer:
    """A vocabulary of words with a mark for the space, and bytes for the rest, as Llama 2 and Phi-3 have it."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁the",
        "sea",
        "▁",
        "é",
        "日",
    ]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: n for n, word in enumerate(dict.fromkeys(words))},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    table = table_for(tokenizer)
    assert table is not None
    detokenizer = ByteDetokenizer(*table)
    return [*(detokenizer.add(token) for token in ids), detokenizer.flush()]


def windowed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = WindowDetokenizer(lambda some: tokenizer.decode(some, skip_special_tokens=False))
    return [*(detokenizer.add(token) for token in ids), detokenizer.flush()]


Way = Callable[[Tokenizer, list[int]], list[str]]


@pytest.mark.parametrize("way", [streamed, windowed])
def test_text_comes_back_in_whole_characters(byte_level: Tokenizer, way: Way) -> None:
    pieces = way(byte_level, byte_level.encode(TEXT, add_special_tokens=False).ids)
    assert "".join(pieces) == TEXT
    assert len(pieces) > 40
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("way", [streamed, windowed])
def test_any_tokens_give_what_the_tokenizer_decodes(byte_level: Tokenizer, way: Way) -> None:
    chance = random.Random(7)
    plain = [n for n in range(byte_level.get_vocab_size()) if n not in byte_level.get_added_tokens_decoder()]
    for _ in range(50):
        ids = chance.choices(plain, k=chance.randint(1, 40))
        assert "".join(way(byte_level, ids)) == byte_level.decode(ids, skip_special_tokens=False)


def test_a_broken_character_is_shown_as_such_and_nothing_after_it_is_lost(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("日", add_special_tokens=False).ids
    assert len(ids) > 1
    text = "".join(streamed(byte_level, [*ids[:-1], *byte_level.encode("sea", add_special_tokens=False).ids]))
    assert text == "\ufffdsea"
    assert "".join(streamed(byte_level, ids[:-1])) == "\ufffd"


def test_special_tokens_are_shown_and_not_eaten(byte_level: Tokenizer) -> None:
    assert "".join(streamed(byte_level, byte_level.encode("<|user|>a<|end|>").ids)) == "<|user|>a<|end|>"


def test_sentencepiece_spaces_and_bytes(sentencepiece_like: Tokenizer) -> None:
    names = ["▁the", "sea", "▁", "<0xE6>", "<0x97>", "<0xA5>", "▁the", "<0xE6>", "sea", "é"]
    ids = [number for name in names if (number := sentencepiece_like.token_to_id(name)) is not None]
    assert len(ids) == len(names)
    pieces = streamed(sentencepiece_like, ids)
    assert pieces[:6] == ["the", "sea", " ", "", "", "日"]
    assert "".join(pieces) == sentencepiece_like.decode(ids, skip_special_tokens=False)


def test_a_decoder_of_another_kind_has_no_table() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.decoder = decoders.Metaspace()
    assert table_for(tokenizer) is None
