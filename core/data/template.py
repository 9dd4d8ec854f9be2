"""The templates, by the name under which scripts know them."""

from core.model.template import ChatTemplate, Template, TemplateError

__all__ = ["ChatTemplate", "Template", "TemplateError"]
