"""The files that come with OlivePress: the sample records and the rehearsal model."""

from __future__ import annotations

from pathlib import Path

REHEARSAL = "rehearsal"
"""The ``model.source`` that stands for the bundled model."""


def data_dir() -> Path:
    """The bundled ``data`` folder: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    packed = here / "_data"
    return packed if packed.is_dir() else here.parent / "data"


def sample_data() -> Path:
    """The bundled travel questions (JSON Lines of ``prompt``, ``response``)."""
    return data_dir() / "data_sample_travel.jsonl"


def general_text() -> Path:
    """The bundled plain text on many things, paragraphs apart by an empty line, to see what a model has forgotten."""
    return data_dir() / "general_text.txt"


def rehearsal_model() -> Path:
    """The bundled model, a Hugging Face folder of the Phi-3 architecture."""
    return data_dir() / "rehearsal_model"
