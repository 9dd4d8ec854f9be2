"""Training records: reading, checking, mapping to prompts and answers, templates and the split.

What training needs is imported at once (it is light); the rest when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from core.data.examples import load_examples, resolve_data_file
from core.data.types import Example, Finding, Message, Row, Segment, Split

if TYPE_CHECKING:
    from core.data.background import BackgroundSurvey
    from core.data.clean import write_clean
    from core.data.mapping import Proposal, propose_mapping
    from core.data.pages import RowPager
    from core.data.preview import Previewer
    from core.data.report import DataReport
    from core.data.survey import summary

_HOMES = {
    "BackgroundSurvey": "core.data.background",
    "DataReport": "core.data.report",
    "Previewer": "core.data.preview",
    "Proposal": "core.data.mapping",
    "RowPager": "core.data.pages",
    "propose_mapping": "core.data.mapping",
    "summary": "core.data.survey",
    "write_clean": "core.data.clean",
}

__all__ = [
    "BackgroundSurvey",
    "DataReport",
    "Example",
    "Finding",
    "Message",
    "Previewer",
    "Proposal",
    "Row",
    "RowPager",
    "Segment",
    "Split",
    "load_examples",
    "propose_mapping",
    "resolve_data_file",
    "summary",
    "write_clean",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'core.data' has no attribute {name!r}")
