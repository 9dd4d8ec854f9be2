"""The text side of a model folder: its chat templates, its special tokens, and who adds the start token.

Read from the tokenizer's own files; no tokenizer is built. ``core.model.folder.ModelFacts.text`` gives it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.files import small_bytes
from core.model.protobuf import fields

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
"""One of these holds a tokenizer's vocabulary."""

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
TEXT_FILES = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    TEMPLATE_FILE,
    "chat_template.json",
    "generation_config.json",
)
"""Every file of a model folder that the text side stands in, beside :data:`TEMPLATE_FOLDER` and ``config.json``."""

END_TOKENS = frozenset(
    {
        "<|end|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endofturn|>", "<|end_of_turn|>", "<end_of_turn>",
        "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>", "<end_of_utterance>",
    }
)  # fmt: skip
"""Special tokens that only ever end a turn or a text, in the models that have them; llama.cpp goes by names too."""

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LIKE_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>", re.DOTALL)


@dataclass(frozen=True)
class AddedToken:
    """A token beside the vocabulary proper, found in text as a whole; ``special``: it means more than its letters."""

    text: str
    id: int
    special: bool


@dataclass(frozen=True)
class ModelText:
    """What the tokenizer's files say.

    Attributes:
        folder: where they lie; None where they are not on this machine.
        template: the chat template that is used (jinja2); empty where there is none.
        templates: all of them by name; ``template`` is that called ``default``.
        bos: the start token; empty for none.
        eos: the end token; empty for none.
        pad: the token to fill up with; empty for none.
        ids: of ``bos``, ``eos`` and ``pad``, those that are known.
        ends: every token that ends an answer by ``generation_config.json``, ``config.json`` or the tokenizer, the
            tokenizer's own first: ids, or the text where the id is not known.
        adds_start: whether the tokenizer puts ``bos`` before every text by itself.
        special: the tokens that mean more than their letters, longest first.
        added: the tokens beside the vocabulary proper, by id.
        size: one more than the largest id that the tokenizer gives; 0 where it is not known.
    """

    folder: Path | None = None
    template: str = ""
    templates: Mapping[str, str] = field(default_factory=dict)
    bos: str = ""
    eos: str = ""
    pad: str = ""
    ids: Mapping[str, int] = field(default_factory=dict)
    ends: tuple[int | str, ...] = ()
    adds_start: bool = False
    special: tuple[str, ...] = ()
    added: tuple[AddedToken, ...] = ()
    size: int = 0

    @property
    def tokenizer_file(self) -> Path | None:
        """``tokenizer.json``, if there is one."""
        file = self.folder / "tokenizer.json" if self.folder else None
        return file if file and file.is_file() else None

    @property
    def special_pattern(self) -> re.Pattern[str] | None:
        """Finds special tokens in text; None where they are not known."""
        return re.compile("|".join(map(re.escape, self.special))) if self.special else None


def read_text(folder: Path) -> ModelText:
    """The text side of a model folder. What is missing or damaged there is left empty.

    The answer is kept until one of the files changes.
    """
    return _read(folder, _stamp(folder))


def tokens_from(folder: Path, first: int) -> list[tuple[int, str]]:
    """The tokens with ids of ``first`` and more, in order of their ids."""
    words, added = _vocabulary(folder, *_tokenizer_files(folder))
    found = {number: text for text, number in words.items() if number >= first}
    found |= {token.id: token.text for token in added if token.id >= first}
    return sorted(found.items())


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    names = [*TEXT_FILES, "config.json", *(f"{TEMPLATE_FOLDER}/{p.name}" for p in _more_templates(folder))]
    stamps = []
    for name in names:
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        stamps.append((name, stat.st_size, stat.st_mtime_ns))
    return tuple(stamps)


@lru_cache(maxsize=16)
def _read(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> ModelText:
    content, config = _tokenizer_files(folder)
    words, added = _vocabulary(folder, content, config)
    numbers = {**words, **{token.text: token.id for token in added}}
    names = {number: text for text, number in numbers.items()}
    model, generation = _object(folder / "config.json"), _object(folder / "generation_config.json")
    map_ = _object(folder / "special_tokens_map.json")

    def named(kind: str) -> str:
        for source in (config, map_):
            if f"{kind}_token" in source:
                return token_text(source[f"{kind}_token"])
        # Where no file names it, transformers takes its class's own; the configuration's id tells which.
        for source in (generation, model):
            value = source.get(f"{kind}_token_id")
            if isinstance(value, int):
                return names.get(value, "")
        return ""

    bos, eos, pad = named("bos"), named("eos"), named("pad")
    ends: list[int | str] = [numbers.get(eos, eos)] if eos else []
    for source in (generation, model):
        value = source.get("eos_token_id")
        ends += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)]
    templates = _templates(folder, config)
    only = next(iter(templates.values())) if len(templates) == 1 else ""
    return ModelText(
        folder=folder,
        template=templates.get("default", only),
        templates=templates,
        bos=bos,
        eos=eos,
        pad=pad,
        ids={text: numbers[text] for text in (bos, eos, pad) if text in numbers},
        ends=tuple(dict.fromkeys(ends)),
        adds_start=bool(bos) and _adds_start(content, config, bos),
        special=special_tokens(
            [*((token.text, token.special) for token in added), *((text, True) for text in (bos, eos, pad))]
        ),
        added=added,
        size=max(numbers.values(), default=-1) + 1,
    )


def _tokenizer_files(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return _object(folder / "tokenizer.json"), _object(folder / "tokenizer_config.json")


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(small_bytes(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def token_text(value: Any) -> str:
    """A special token as it stands in JSON: a text, or an object with ``content``; else the empty text."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name, from wherever they may stand; what transformers prefers comes last and wins."""
    found: dict[str, str] = {}
    for value in (_object(folder / "chat_template.json").get("chat_template"), config.get("chat_template")):
        if isinstance(value, str):
            found["default"] = value
        elif isinstance(value, dict):
            found |= {str(name): text for name, text in value.items() if isinstance(text, str)}
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, dict) and isinstance(each.get("template"), str):
                    found[str(each.get("name") or "default")] = each["template"]
    for file in _more_templates(folder):
        text = _text(file)
        found |= {file.stem: text} if text is not None else {}
    text = _text(folder / TEMPLATE_FILE)
    return {**found, "default": text} if text is not None else found


def _more_templates(folder: Path) -> list[Path]:
    return sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))


def _text(file: Path) -> str | None:
    try:
        text = small_bytes(file).decode("utf-8")
    except (OSError, ValueError):
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as transformers reads it


def _vocabulary(
    folder: Path, content: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[dict[str, int], tuple[AddedToken, ...]]:
    """The vocabulary proper, and the tokens beside it, with those that transformers adds when it loads the folder."""
    words = _words(content, folder)
    added: dict[str, AddedToken] = {}
    for text, number, special in _added_tokens(folder, content, config):
        if text and isinstance(number, int) and number >= 0:
            added[text] = AddedToken(text, number, special)
    if words or added:
        # Tokens that are named and have no id get the next ones.
        free = max([*words.values(), *(token.id for token in added.values())]) + 1
        for text in _named_tokens(folder, config):
            known = added[text].id if text in added else words.get(text)
            added[text] = AddedToken(text, free if known is None else known, True)
            free += known is None
    return words, tuple(sorted(added.values(), key=lambda token: token.id))


def _added_tokens(
    folder: Path, content: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, Any, bool]]:
    """The tokens beside the vocabulary, wherever they stand: text, id, whether special; what comes last holds."""
    yield from ((text, number, False) for text, number in _object(folder / "added_tokens.json").items())
    decoder, listed = config.get("added_tokens_decoder"), content.get("added_tokens")
    for number, each in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(each, dict) and str(number).isdecimal() and len(str(number)) < 10:
            yield token_text(each), int(number), bool(each.get("special"))
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict):
            yield token_text(each), each.get("id"), bool(each.get("special"))


def _named_tokens(folder: Path, config: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for source in (config, _object(folder / "special_tokens_map.json")):
        found += [token_text(source.get(name)) for name in _NAMED]
        for name in ("extra_special_tokens", "additional_special_tokens"):
            more = source.get(name)
            more = list(more.values()) if isinstance(more, dict) else more
            found += [token_text(each) for each in more] if isinstance(more, list) else []
    return [text for text in dict.fromkeys(found) if text]


def _words(content: Mapping[str, Any], folder: Path) -> dict[str, int]:
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if vocab is None and not content:
        vocab = _object(folder / "vocab.json") or _pieces(folder)
    if isinstance(vocab, dict):
        return {text: number for text, number in vocab.items() if isinstance(number, int)}
    if isinstance(vocab, list):  # Unigram: pairs of text and score
        return {str(each[0]) if isinstance(each, list) else str(each): at for at, each in enumerate(vocab)}
    return {}


def _pieces(folder: Path) -> dict[str, int]:
    """The pieces of a SentencePiece model: the messages in field 1, each with its text in field 1 of its own."""
    for name in ("tokenizer.model", "spiece.model"):
        try:
            data = small_bytes(folder / name)
            pieces = [(start, end) for number, start, end in fields(data) if number == 1]
            texts = [
                next((data[a:b] for number, a, b in fields(data, *piece) if number == 1), b"")
                for piece in pieces
            ]
        except (OSError, ValueError):
            continue  # not there, or in another form: a byte list (tiktoken)
        return {text.decode("utf-8", "replace"): at for at, text in enumerate(texts)}
    return {}


def _adds_start(content: Mapping[str, Any], config: Mapping[str, Any], bos: str) -> bool:
    """Whether ``bos`` comes before each text: by ``tokenizer.json``'s post-processor where there is that file.

    Transformers ignores ``add_bos_token`` beside a ``tokenizer.json``; without one it decides.
    """
    if not content:
        return bool(config.get("add_bos_token"))
    return _starts_with(content.get("post_processor"), bos)


def _starts_with(processor: Any, bos: str) -> bool:
    if not isinstance(processor, dict):
        return False
    parts = processor.get("processors")
    if isinstance(parts, list):
        return any(_starts_with(each, bos) for each in parts)
    single = processor.get("single")
    first = single[0] if isinstance(single, list) and single else None
    if isinstance(first, dict) and isinstance(first.get("SpecialToken"), dict):
        return bool(first["SpecialToken"].get("id") == bos)
    cls = processor.get("cls")  # BertProcessing, RobertaProcessing
    return isinstance(cls, list) and bool(cls) and cls[0] == bos


def special_tokens(tokens: Iterable[tuple[str, bool]]) -> tuple[str, ...]:
    """The texts among some added tokens that mean more than their letters, longest first.

    Args:
        tokens: each with whether it is said to be special; some that look like it are not, and are all the same.
    """
    found = {text for text, special in tokens if len(text) > 1 and (special or _LIKE_SPECIAL.fullmatch(text))}
    return tuple(sorted(found, key=lambda text: (-len(text), text)))
