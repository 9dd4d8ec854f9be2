"""A tiny lab, quantized once, that the end-to-end tests copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import Lab
from tests.end_to_end.labs import TINY
from tests.tiny_models import make_tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 100,000 random weights. Do not change it."""
    return make_tiny("llama", tmp_path_factory.mktemp("tiny") / "model", tie=True)


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short training records."""
    file = tmp_path_factory.mktemp("records") / "records.jsonl"
    places = ("Oslo", "Lima", "Cairo", "Kyoto", "Perth", "Lisbon", "Accra", "Quito", "Turin", "Hanoi")
    asked = ("Where is", "What is in", "How is", "Is it safe in")
    rows = [
        {"prompt": f"{ask} {place}?", "response": f"{place} is good."} for ask in asked for place in places
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def quantized_tiny_lab(tiny_model: Path, records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab of the tiny model after quantize. Do not change it: copy it."""
    lab = Lab.create(
        tmp_path_factory.mktemp("tiny-lab") / "lab", model=str(tiny_model), data=records, settings=dict(TINY)
    )
    lab.run("quantize")
    return lab.root
