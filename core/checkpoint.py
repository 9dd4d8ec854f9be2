"""The old name of :mod:`core.model.load`, for scripts written before 0.2; it goes with 0.3."""

from core.model.load import load_tokenizer
from core.olive.checkpoint import load_model

__all__ = ["load_model", "load_tokenizer"]
