"""A small bench for the pass: run it in this process, measure its result against the float model."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.events import Reporter


@dataclass
class Made:
    """A quantized checkpoint, its KL divergence from the float model, and what the pass told."""

    path: Path
    kl: float
    told: dict[str, Any]


def some_rows(count: int, seed: int, vocab: int = 384) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[numbers.randrange(6, vocab) for _ in range(numbers.randrange(8, 40))] for _ in range(count)]


def quantized(
    source: Path,
    out: Path,
    kind: str = "OlivePressAwq",
    report: Reporter | None = None,
    rows: int = 24,
    **config: Any,
) -> Made:
    """Run a pass on the model in ``source`` and measure what it made."""
    import torch

    from core.olive.checkpoint import load_model
    from core.olive.run import run_workflow, workflow
    from core.quantize.calibration import data_config, write_rows
    from core.quantize.quality import compare, of_model, reference

    out.mkdir(parents=True, exist_ok=True)
    report = report or Reporter()
    options = {
        "type": kind,
        "group_size": 32,
        "lm_head": True,
        "overrides": {"lm_head": {"bits": 8}},
        **config,
    }
    if kind != "rtn":
        write_rows(out / "rows.json", some_rows(rows, 1))
        options["data_config"] = data_config(out / "rows.json")
    made = run_workflow(
        workflow(source, {"q": options}),
        work=out,
        report=report,
    )
    held = some_rows(8, 2)
    expected = reference(of_model(load_model(source, dtype=torch.float32)), held, report)
    model = load_model(made.model_path, dtype=torch.float32)
    kl = compare(expected, of_model(model), held, report).kl
    return Made(made.model_path, kl, made.attributes.get("olivepress_quantize", {}))


@pytest.fixture
def quantize() -> Callable[..., Made]:
    return quantized
