"""Training records: reading, checking, mapping to prompts and answers, templates and the split."""

from __future__ import annotations

from core.data.examples import load_examples, resolve_data_file
from core.data.types import Example, Finding, Message, Row, Segment, Split

__all__ = ["Example", "Finding", "Message", "Row", "Segment", "Split", "load_examples", "resolve_data_file"]
