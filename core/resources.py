"""The files that come with OlivePress: the sample records and the rehearsal model."""

from __future__ import annotations

from pathlib import Path

from core.language import LANGUAGES

REHEARSAL = "rehearsal"
"""The ``model.source`` that stands for the bundled model."""


def data_dir() -> Path:
    """The bundled ``data`` folder: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    packed = here / "_data"
    return packed if packed.is_dir() else here.parent / "data"


def sample_file(language: str = "en") -> str:
    """The name of the bundled travel questions in a language, which ``data.file`` may have."""
    return "data_sample_travel.jsonl" if language == "en" else f"data_sample_travel.{language}.jsonl"


def first_sample(language: str) -> str:
    """The records of a lab that the wizard makes: in its language if the rehearsal model can learn that, else English.

    It knows Latin letters alone and writes others byte by byte: after a whole finetune on its questions in Persian,
    Russian or Vietnamese it answers none as trained.
    """
    return sample_file(language if language in ("de", "es") else "en")


def sample_data(language: str = "en") -> Path:
    """The bundled travel questions in a language (JSON Lines of ``prompt``, ``response``)."""
    return data_dir() / sample_file(language)


def bundled_data(name: str) -> Path | None:
    """The bundled records that have this name; None where it is not one of theirs."""
    path = data_dir() / name if name in {sample_file(code) for code in LANGUAGES} else None
    return path if path is not None and path.is_file() else None


def general_text() -> Path:
    """The bundled plain text on many things, paragraphs apart by an empty line, to see what a model has forgotten."""
    return data_dir() / "general_text.txt"


def rehearsal_model() -> Path:
    """The bundled model, a Hugging Face folder of the Phi-3 architecture."""
    return data_dir() / "rehearsal_model"
