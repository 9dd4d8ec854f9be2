"""The old name of :mod:`core.model.sources`, for scripts written before 0.2; it goes with 0.3."""

from core.model.sources import ModelSource, kind_of, resolve_model

__all__ = ["ModelSource", "kind_of", "resolve_model"]
