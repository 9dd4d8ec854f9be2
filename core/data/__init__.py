"""Training records: reading, checking, mapping to prompts and answers, templates and the split.

Each name is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.data.background import BackgroundSurvey as BackgroundSurvey
    from core.data.clean import write_clean as write_clean
    from core.data.examples import load_examples as load_examples
    from core.data.examples import resolve_data_file as resolve_data_file
    from core.data.mapping import Proposal as Proposal
    from core.data.mapping import propose_mapping as propose_mapping
    from core.data.pager import RowPager as RowPager
    from core.data.preview import Previewer as Previewer
    from core.data.survey import DataReport as DataReport
    from core.data.survey import summary as summary
    from core.data.types import Example as Example
    from core.data.types import Finding as Finding
    from core.data.types import Message as Message
    from core.data.types import Row as Row
    from core.data.types import Segment as Segment
    from core.data.types import Split as Split

_HOMES = {
    "BackgroundSurvey": "background",
    "DataReport": "survey",
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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"core.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'core.data' has no attribute {name!r}")
