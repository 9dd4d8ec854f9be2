"""Calibration data for Olive's passes: token rows from the lab's own records.

Olive's command line drops calibration data that it is given, and its default is a download. Here the
rows are tokenized as for training, chosen with a seed, written to a JSON file, and read back by a
dataset component that importing this module registers with Olive. A workflow file elsewhere can use
it too: its data configuration names this file as ``user_script``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.data import Example
from core.errors import RequestError
from core.language import told
from core.model.messages import Segment
from core.model.tokenizer import ModelTokenizer

COMPONENT = "olivepress_calibration"
FEW_ROWS = 16
"""Fewer calibration rows than this are warned about."""


def choose(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """``count`` of the examples (all, if there are fewer), picked by the seed, in the file's order."""
    if count >= len(examples):
        return list(examples)
    picked = sorted(random.Random(seed).sample(range(len(examples)), count))
    return [examples[index] for index in picked]


def token_rows(examples: Sequence[Example], tokenizer: ModelTokenizer, longest: int) -> list[list[int]]:
    """Token ids of each example's whole text, cut at ``longest``; empty ones left out."""
    rows = [tokenizer.encode_row(example.segments).ids[:longest] for example in examples]
    return [row for row in rows if row]


def text_rows(path: Path, tokenizer: ModelTokenizer, count: int, longest: int, seed: int) -> list[list[int]]:
    """Rows of a plain text file: cut into pieces of ``longest`` tokens, ``count`` of them by the seed.

    Each begins as the tokenizer begins a text: what a model has never read teaches nothing about it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            told("The calibration file is not UTF-8 text."),
            told("{path}, byte {start}.", path=path, start=error.start),
            told("Save it as UTF-8."),
            code="quantize.calibration-file",
        ) from None
    begin = list(tokenizer.start)
    ids = tokenizer.encode([Segment(text, False)]).ids[len(begin) :]
    size = max(1, longest - len(begin))
    pieces = [begin + ids[start : start + size] for start in range(0, len(ids), size)]
    if count < len(pieces):
        pieces = [pieces[index] for index in sorted(random.Random(seed).sample(range(len(pieces)), count))]
    return pieces


def write_rows(path: Path, rows: Sequence[Sequence[int]]) -> None:
    """Write token rows where :func:`data_config` will find them."""
    path.write_text(json.dumps({"input_ids": [list(row) for row in rows]}), encoding="utf-8")


def read_rows(path: Path) -> list[list[int]]:
    """Token rows as :func:`write_rows` wrote them."""
    rows: list[list[int]] = json.loads(path.read_text(encoding="utf-8"))["input_ids"]
    return rows


def data_config(path: Path, name: str = "calibration") -> dict[str, Any]:
    """The ``data_config`` that makes a pass calibrate on the rows in ``path``."""
    return {
        "name": name,
        "type": "DataContainer",
        "user_script": str(Path(__file__).resolve()),
        "load_dataset_config": {"type": COMPONENT, "params": {"path": str(path)}},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "dataloader_config": {"type": "default_dataloader", "params": {"batch_size": 1}},
    }


def _register() -> None:
    import torch
    from olive.data.registry import Registry

    class Rows(torch.utils.data.Dataset):
        """Items as Olive's calibration wants them: (model inputs, label)."""

        def __init__(self, rows: list[list[int]]) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
            ids = torch.tensor(self.rows[index], dtype=torch.long)
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 0

    def load(path: str, **_: Any) -> Rows:
        return Rows(read_rows(Path(path)))

    Registry.register_dataset(COMPONENT)(load)


_register()
