"""What is measured: the variants that the lab has, the held-out rows, the prompts, and a general text."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.data import Example, load_examples
from core.errors import RequestError
from core.evaluated import TITLES
from core.events import Reporter
from core.files import MANIFEST, folder_bytes, folder_stamp, read_if_whole
from core.finetune.rows import TokenRow, tokenize, tokenize_preferences
from core.folder import LabFolder, merged_folder
from core.language import told
from core.model.auto import Settled
from core.model.folder import model_facts
from core.model.messages import Segment
from core.model.text import ModelText, read_text
from core.model.tokenizer import ModelTokenizer
from core.optimize.genai import end_tokens
from core.resources import general_text
from core.results import numbers_of

LONGEST_GENERAL = 512
"""Tokens of a paragraph of the general text; the rest of a longer one is left out."""
SPEED_PROMPTS, SPEED_TOKENS = 5, 32
"""Beginnings of the general text that are gone on with where the rows ask nothing, and for how many tokens."""


@dataclass(frozen=True)
class Variant:
    """One form of the model.

    Attributes:
        name: ``float``, ``quantized``, ``tuned``, ``onnx`` or ``onnx_tuned``.
        folder: a checkpoint, or the folder of an ONNX model.
        adapter: the PEFT adapter's folder, or its file beside the graph; None without one, or merged.
        bytes: on the disk, of all that it takes.
        stamp: tells it from what stood there before.
    """

    name: str
    folder: Path
    adapter: Path | None
    bytes: int
    stamp: str

    @property
    def onnx(self) -> bool:
        """Whether the chat's runtime runs it; else PyTorch does."""
        return self.name.startswith("onnx")

    @property
    def title(self) -> str:
        """What people call it."""
        return TITLES[self.name]


def variants(lab: LabFolder, adapter: str, source: Path | None) -> list[Variant]:
    """The variants that are there, in the order in which the lab makes them.

    Args:
        source: the float model's folder; None where it is not to be had.
    """
    found = []
    if source is not None:
        found.append(Variant("float", source, None, model_facts(source).weight_bytes, folder_stamp(source)))
    quantized, tuned, onnx = lab.quantized_dir, lab.finetuned_dir(adapter), lab.onnx_dir
    size, stamp = model_facts(quantized).weight_bytes, folder_stamp(quantized)
    found.append(Variant("quantized", quantized, None, size, stamp))
    if (tuned / "adapter_config.json").is_file():
        both = stamp + folder_stamp(tuned)
        found.append(Variant("tuned", quantized, tuned, size + folder_bytes(tuned), both))
    if (onnx / "genai_config.json").is_file():
        stamp, base = folder_stamp(onnx), _graph_bytes(onnx)
        found.append(Variant("onnx", onnx, None, base, stamp))
        merged, beside = merged_folder(onnx, adapter), lab.adapter_file(adapter)
        if merged.is_dir():
            found.append(Variant("onnx_tuned", merged, None, _graph_bytes(merged), stamp))
        elif beside.is_file():
            own = sum(path.stat().st_size for path in beside.parent.glob(f"{adapter}.*"))
            found.append(Variant("onnx_tuned", onnx, beside, base + own, stamp))
    return found


def _graph_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.onnx*") if path.is_file())


@dataclass(frozen=True)
class RowPrompt:
    """What is to be answered.

    Attributes:
        ids: token ids up to where the answer begins.
        most: new tokens at most.
        row: the row that it belongs to; None for one that is asked for its speed alone.
    """

    ids: list[int]
    most: int
    row: int | None


@dataclass(frozen=True)
class HeldOutRow:
    """A held-out record.

    Attributes:
        ids, learnt: as in training: the tokens, and which of them are predicted.
        expected: the answer; empty where the row asks nothing.
        before: what stands before the question, [role, text] each.
        asked: how many of the tokens stand before the last answer; 0 where nothing is asked, or the question was cut.
        rejected: the same record's tokens with the answer that was not preferred; None without one.
    """

    ids: list[int]
    learnt: list[bool]
    file: str
    line: int
    question: str
    expected: str
    before: list[list[str]]
    asked: int = 0
    rejected: TokenRow | None = None


@dataclass(frozen=True)
class EvaluationPlan:
    """All that every variant is given.

    Attributes:
        held_out: how many records are held out; ``rows`` may be a part of them.
        truncated: rows cut at ``data.max_seq_len``.
        general: token rows of the general text.
        ends: ids that end an answer.
        trust: whether code that comes with the model may be run.
    """

    rows: list[HeldOutRow]
    prompts: list[RowPrompt]
    general: list[list[int]]
    ends: list[int]
    held_out: int
    truncated: int
    trust: bool
    tokenizer: ModelTokenizer = field(compare=False)

    def key(self, variant: Variant, versions: dict[str, str], compared_with: str) -> str:
        """What tells the measuring of a variant from any other; what was measured under the same is kept.

        Args:
            compared_with: the stamp of the model from which the divergence is taken.
        """
        said: dict[str, Any] = {
            "form": 3,
            "variant": [variant.name, variant.stamp],
            "compared_with": compared_with,
            "rows": [[row.ids, row.learnt] for row in self.rows],
            "rejected": [row.rejected and [row.rejected.ids, row.rejected.trained] for row in self.rows],
            "prompts": [[each.ids, each.most] for each in self.prompts],
            "general": self.general,
            "ends": self.ends,
            "versions": versions,
        }
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def text(self, ids: Sequence[int]) -> str:
        """The words of an answer."""
        kept = [number for number in ids if number not in self.ends]
        return str(self.tokenizer.tokenizer.decode(kept, skip_special_tokens=True)).strip()


def make_plan(lab: LabFolder, recipe: Settled, report: Reporter, general_tokens: int) -> EvaluationPlan:
    """Read the held-out rows and the general text as the lab's model reads them.

    Args:
        general_tokens: of the general text, at most so many.

    Raises:
        RequestError: no held-out rows, or none with something to predict; a file that cannot be read.
    """
    text = read_text(lab.quantized_dir)
    tokenizer = ModelTokenizer.read(lab.quantized_dir, text.ends, recipe.model.trust_remote_code)
    rows, held_out, truncated = _rows(lab, recipe, text, tokenizer, report)
    general = _general_rows(recipe, lab.root, tokenizer, general_tokens)
    room = (
        model_facts(lab.quantized_dir).max_positions or recipe.data.max_seq_len + recipe.chat.max_new_tokens
    )
    prompts = [
        each
        for each in (_prompt(number, row, tokenizer, recipe, room) for number, row in enumerate(rows))
        if each
    ]
    if not prompts:
        prompts = [RowPrompt(row[:SPEED_TOKENS], SPEED_TOKENS, None) for row in general[:SPEED_PROMPTS]]
    return EvaluationPlan(
        rows,
        prompts,
        general,
        end_tokens(lab.quantized_dir, recipe),
        held_out,
        truncated,
        recipe.model.trust_remote_code,
        tokenizer,
    )


def _rows(
    lab: LabFolder, recipe: Settled, text: ModelText, tokenizer: ModelTokenizer, report: Reporter
) -> tuple[list[HeldOutRow], int, int]:
    # The answers are measured, whatever else a training learns.
    of_pairs = _prefers(lab, recipe)
    of_answers = replace(recipe, data=replace(recipe.data, answer_only=True))
    split = load_examples(of_answers, lab.root, text=text, report=report)
    held_out = len(split.eval)
    if not held_out:
        raise RequestError(
            told("There are no held-out rows to measure on."),
            told("data.eval_fraction is 0.")
            if not recipe.data.eval_fraction
            else told("All records ask one and the same question."),
            told("Set data.eval_fraction in lab.toml, to 0.1 for example, and finetune again."),
            code="evaluate.no-rows",
        )
    rows, truncated = [], 0
    for example in _chosen(split.eval, recipe.evaluate.rows, recipe.data.seed):
        made = tokenize([example], tokenizer, max_len=recipe.data.max_seq_len)
        if not made.rows:
            continue
        truncated += made.truncated
        said = [[message.role, message.content] for message in example.context[:-1]]
        row = made.rows[0]
        before, answer = example.up_to_answer()
        asked = len(tokenizer.encode(before).ids) if answer is not None else 0
        rows.append(
            HeldOutRow(
                row.ids,
                row.trained,
                example.file,
                example.line,
                example.question,
                example.answer,
                said,
                # Of a record that was cut before its last answer, an earlier question would be asked.
                asked if asked < len(row.ids) else 0,
                _rejected(example, tokenizer, recipe.data.max_seq_len) if of_pairs else None,
            )
        )
    if not rows:
        raise RequestError(
            told("There is nothing to measure."),
            told(
                "None of the held-out rows has an answer within {max_seq_len} tokens.",
                max_seq_len=recipe.data.max_seq_len,
            ),
            told("Raise data.max_seq_len."),
            code="evaluate.no-rows",
        )
    return rows, held_out, truncated


def _prefers(lab: LabFolder, recipe: Settled) -> bool:
    """Whether the adapter, or the recipe where there is none, is of preferences."""
    manifest = read_if_whole(lab.finetuned_dir(recipe.finetune.adapter) / MANIFEST)
    trained = numbers_of(manifest) if isinstance(manifest, dict) else {"objective": recipe.finetune.objective}
    return str(trained.get("objective") or "sft") != "sft"


def _rejected(example: Example, tokenizer: ModelTokenizer, max_len: int) -> TokenRow | None:
    """The rejected answer of a pair, as a training on preferences reads it."""
    if not example.rejected:
        return None
    pairs = tokenize_preferences([example], tokenizer, max_len=max_len, pairs=True).rows
    return pairs[0].other if pairs else None


def _chosen(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most so many, drawn by the seed, in the file's order."""
    if most >= len(examples):
        return list(examples)
    return [examples[place] for place in sorted(random.Random(seed).sample(range(len(examples)), most))]


def _prompt(
    number: int, row: HeldOutRow, tokenizer: ModelTokenizer, recipe: Settled, room: int
) -> RowPrompt | None:
    """The tokens before the last answer; None for a row that asks nothing, or leaves no room for an answer."""
    if not row.expected or not row.asked:
        return None
    length = len(tokenizer.encode([Segment(row.expected, False)]).ids)
    most = min(2 * length + 8, recipe.chat.max_new_tokens, room - row.asked)
    return RowPrompt(row.ids[: row.asked], most, number) if most > 0 else None


def _general_rows(recipe: Settled, root: Path, tokenizer: ModelTokenizer, most: int) -> list[list[int]]:
    """The paragraphs of the general text as tokens, as many as there may be."""
    path = general_file(recipe, root)
    try:
        paragraphs = path.read_text(encoding="utf-8").split("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            told("The general text cannot be read."),
            told("evaluate.general_text: {path}: {error}.", path=path, error=error),
            told("Give a file of plain text in UTF-8, its paragraphs apart by an empty line."),
            code="evaluate.general-text",
        ) from None
    found, left = [], most
    for paragraph in paragraphs:
        words = " ".join(paragraph.split())
        ids = tokenizer.encode([Segment(words, False)]).ids[: min(LONGEST_GENERAL, left)] if words else []
        if len(ids) < 2:
            continue
        found.append(ids)
        left -= len(ids)
        if left < 2:
            break
    if not found:
        raise RequestError(
            told("The general text has no words."),
            told("evaluate.general_text: {path}.", path=path),
            told("Give a file of plain text, or leave the key empty to take the one that comes along."),
            code="evaluate.general-text",
        )
    return found


def general_file(recipe: Settled, root: Path) -> Path:
    """The file with the general text: ``evaluate.general_text``, or the one that comes along."""
    if not recipe.evaluate.general_text:
        return general_text()
    path = Path(recipe.evaluate.general_text).expanduser()
    return path if path.is_absolute() else root / path
