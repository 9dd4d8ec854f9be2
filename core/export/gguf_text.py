"""The tokenizer and the chat template of a model, as GGUF has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import RequestError
from core.events import Reporter
from core.language import told
from core.model.folder import ModelFacts
from core.model.gguf import check_gguf, text_files
from core.model.prompt_format import PromptFormat
from core.model.text import read_text
from core.model.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    import gguf

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PRE = {
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST: "qwen2",
}
"""``tokenizer.ggml.pre`` by the expression that cuts text into words."""

_PHI3_TOKENS = frozenset({"<unk>", "<s>", "</s>", "<|endoftext|>"})
"""Without these llama.cpp does not open a model that is called Phi-3."""

_PROBES = (
    "In 1863 it's  OPEN:\n\n  12,345 km — naïve café!?\t{x}",
    "What should I see in São Paulo, in 3 days?",
    " 我想去巴黎 \n\nI'll pay 1,299.50 €; thanks!!",
    "def f(x):\n    return x ** 2  # ok\r\n",
)
"""Texts that tokenizers cut in different ways."""


def write_text(writer: gguf.GGUFWriter, folder: Path, prompts: PromptFormat, facts: ModelFacts) -> None:
    """Put a folder's tokenizer and chat template into a GGUF file.

    Raises:
        RequestError: the tokenizer is of a kind that llama.cpp has not.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise _unknown(folder, told("it has no tokenizer.json"))
    content = json.loads(file.read_bytes())
    model = content["model"]
    if model.get("type") != "BPE":
        raise _unknown(folder, told("it is of the type {type}", type=model.get("type")))
    tokens, kinds = _tokens(content, facts.embedding_rows or facts.vocab_size)
    pre = _pre(content, folder)
    merges = [" ".join(each) if isinstance(each, list) else each for each in model["merges"]]
    if pre:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges(merges)
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(_scores(tokens, model["merges"]))
        writer.add_token_types(kinds)
        writer.add_add_space_prefix(_leading_space(content))
    _say_what_is_stripped(writer, content, tokens, facts, folder)
    text = read_text(folder)
    numbers = prompts.tokenizer.tokenizer
    ends = prompts.end_ids()
    add_end = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, number in zip(add_end, ends, strict=False):
        add(number)
    for add, token in ((writer.add_bos_token_id, text.bos), (writer.add_pad_token_id, text.pad)):
        if token and (number := numbers.token_to_id(token)) is not None:
            add(number)
    writer.add_add_bos_token(bool(prompts.tokenizer.start))
    if text.template:
        writer.add_chat_template(text.template)


def _say_what_is_stripped(
    writer: gguf.GGUFWriter, content: Mapping[str, Any], tokens: list[str], facts: ModelFacts, folder: Path
) -> None:
    """GGUF cannot say that a special token swallows the spaces beside it: llama.cpp knows it of Phi-3, by its name.

    No other name is written, for llama.cpp would look for Phi-3's tokens in a model that is merely called so.
    """
    stripping = [
        each
        for each in content.get("added_tokens", ())
        if each["special"] and (each["rstrip"] or each["lstrip"])
    ]
    if not stripping:
        return
    if facts.model_type != "phi3" or not set(tokens) >= _PHI3_TOKENS:
        raise _unknown(
            folder,
            told("its token {content!r} swallows the spaces beside it", content=stripping[0]["content"]),
        )
    writer.add_name("Phi-3")


def _unknown(folder: Path, what: str) -> RequestError:
    return RequestError(
        told("The tokenizer cannot be written as GGUF."),
        told("{name}: {what}.", name=folder.name, what=what),
        told("Export another form, such as --to merged."),
        code="export.tokenizer",
    )


def _tokens(content: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Every row of the embeddings has a token; those without one of their own are told to be unused."""
    words: dict[int, str] = {number: word for word, number in content["model"]["vocab"].items()}
    added = {each["id"]: each for each in content.get("added_tokens", ())}
    unknown = content["model"].get("unk_token")
    tokens, kinds = [], []
    for number in range(rows):
        each = added.get(number)
        word = each["content"] if each else words.get(number)
        if word is None:
            tokens.append(f"[PAD{number}]")
            kinds.append(_UNUSED)
            continue
        tokens.append(word)
        if each:
            kinds.append(_CONTROL if each["special"] else _USER)
        elif len(word) == 6 and word.startswith("<0x"):
            kinds.append(_BYTE)
        else:
            kinds.append(_UNKNOWN if word == unknown else _NORMAL)
    return tokens, kinds


def _pre(content: Mapping[str, Any], folder: Path) -> str:
    """llama.cpp's name of the way in which text is cut into words; empty for SentencePiece's way."""
    cut = content.get("pre_tokenizer") or {}
    parts = cut.get("pretokenizers", [cut]) if cut.get("type") == "Sequence" else [cut]
    kinds = [each.get("type") for each in parts]
    if "ByteLevel" not in kinds:
        if content["model"].get("byte_fallback"):
            return ""
        raise _unknown(folder, told("it has neither bytes for letters nor SentencePiece's fallback to bytes"))
    if parts[-1].get("add_prefix_space"):
        raise _unknown(folder, told("it puts a space before every text"))
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    pattern = (parts[0].get("pattern") or {}).get("Regex") if kinds == ["Split", "ByteLevel"] else None
    if pattern in _PRE:
        return _PRE[pattern]
    raise _unknown(folder, f"llama.cpp has no name for its way of cutting words ({pattern or kinds})"[:200])


def _scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """The earlier two pieces are joined, the higher the score of what they give."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge if isinstance(merge, list) else merge.split(" ", 1)), rank)
    return [-float(ranks.get(token, len(merges) + at)) for at, token in enumerate(tokens)]


def _leading_space(content: Mapping[str, Any]) -> bool:
    """Whether a text by itself gets a space before it."""
    normal, cut = json.dumps(content.get("normalizer") or {}), content.get("pre_tokenizer") or {}
    if cut.get("type") == "Metaspace":
        return bool(cut.get("prepend_scheme", "always") != "never")
    return '"Prepend"' in normal


def compare_text(file: Path, folder: Path, prompts: PromptFormat, report: Reporter) -> None:
    """See that a GGUF file's tokenizer, read by transformers' reader, cuts texts as the model's own does.

    Raises:
        RequestError: it does not.
    """
    place = folder / "read-again"
    place.mkdir()
    text_files(check_gguf(file), place, report)
    again = ModelTokenizer.read(place)
    for probe in _PROBES:
        own = prompts.tokenizer.tokenizer.encode(probe, add_special_tokens=False).ids
        if again.tokenizer.encode(probe, add_special_tokens=False).ids != own:
            raise _unknown(
                folder, told("GGUF's form of it cuts {probe!r} into other tokens", probe=probe[:24])
            )
