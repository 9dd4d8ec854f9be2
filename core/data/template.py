"""The old name of :mod:`core.model.template`, for scripts written before 0.2; it goes with 0.3."""

from core.model.template import ChatTemplate, Template, TemplateError

__all__ = ["ChatTemplate", "Template", "TemplateError"]
