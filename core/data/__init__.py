"""Training records: reading, checking, mapping to prompts and answers, templates and the split.

Each name is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.data.background import BackgroundSurvey
    from core.data.clean import write_clean
    from core.data.examples import load_examples, resolve_data_file
    from core.data.mapping import Proposal, propose_mapping
    from core.data.pager import RowPager
    from core.data.preview import Previewer
    from core.data.report import DataReport
    from core.data.survey import summary
    from core.data.types import Example, Finding, Message, Row, Segment, Split

_HOMES = {
    "BackgroundSurvey": "background",
    "DataReport": "report",
    "Example": "types",
    "Finding": "types",
    "Message": "types",
    "Previewer": "preview",
    "Proposal": "mapping",
    "Row": "types",
    "RowPager": "pager",
    "Segment": "types",
    "Split": "types",
    "load_examples": "examples",
    "propose_mapping": "mapping",
    "resolve_data_file": "examples",
    "summary": "survey",
    "write_clean": "clean",
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
        return getattr(import_module(f"core.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'core.data' has no attribute {name!r}")
