"""The place in the file where a row is wrong: shown with its surroundings, and harmless whatever stands there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.csv_records import wrong_quote
from core.data.findings import OFTEN, Findings
from core.data.pager import RowPager
from core.data.survey import DataReport, summary
from core.data.types import Finding, Quote, quote
from core.recipe import Recipe
from core.text import clean, told_apart, visible

GOOD = {"prompt": "Where is the bridge?", "response": "Over the river."}
ROW = json.dumps(GOOD)


def looked_at(root: Path, content: bytes, name: str = "rows.jsonl") -> DataReport:
    (root / name).write_bytes(content)
    return summary(root, Recipe().with_values({"data.file": name}))


BROKEN = {
    "no comma": (
        "rows.jsonl",
        ROW.replace('", "', '" "').encode(),
        '{"prompt": "Where is the bridge?" >>>"response":',
    ),
    "cut": ("rows.jsonl", ROW[:-6].encode(), '>>>"Over the ri'),
    "raw tab": (
        "rows.jsonl",
        ROW.replace("is the", "is\tthe").encode(),
        '{"prompt": "Where is>>>\\tthe bridge?"',
    ),
    "Latin-1": ("rows.jsonl", ROW.replace("bridge", "café").encode("latin-1"), "Where is the caf>>>\\xe9?"),
    "words": ("rows.jsonl", b"Where is the bridge?", ">>>Where is the bridge?"),
    "in an array": (
        "rows.json",
        f'[\n{ROW},\n{{"prompt": "a"\n"response": "b"}}\n]'.encode(),
        '>>>"response": "b"}',
    ),
    "Latin-1 in an array": (
        "rows.json",
        f'[{ROW},\n{{"prompt": "é"}}]'.encode("latin-1"),
        '{"prompt": ">>>\\xe9"}',
    ),
    "two quotes": ("rows.csv", b'prompt,response\n"He said "no" to it","x"\n', '"He said ">>>no" to it","x"'),
    "open quote": ("rows.csv", b'prompt,response\n"a?","b\n', '"a?",>>>"b'),
    "more columns": ("rows.csv", b"prompt,response\nc?,d,e\n", "c?,d>>>,e"),
    "Latin-1 in CSV": ("rows.csv", "prompt,response\na café,b\n".encode("latin-1"), "a caf>>>\\xe9,b"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_the_place_is_marked_in_what_stands_there(how: str, tmp_path: Path) -> None:
    name, content, shown = BROKEN[how]
    found = next(iter(looked_at(tmp_path, content, name).findings))
    assert found.quote is not None
    assert shown in str(found.quote)
    # The row that a screen shows has the same, through the process that reads the file.
    with RowPager(tmp_path / name) as pager:
        row = next(each for each in pager.rows(0, 5) if each.problem is not None)
    assert row.problem is not None
    assert row.problem.quote == found.quote
    assert row.line == found.line


def test_a_control_character_in_a_good_row_is_shown_where_it_stands(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "a \x1b[31mred\u202e one?", "response": "yes"})
    found = next(iter(looked_at(tmp_path, f"{ROW}\n{row}\n".encode()).findings))
    assert (found.line, found.kind) == (2, "control-characters")
    assert str(found.quote) == "a >>>\\x1b[31mred\\u202e one?"


@given(st.text(), st.integers(0, 200))
def test_a_quote_is_harmless_and_short(text: str, place: int) -> None:
    found = str(quote(text, min(place, len(text))))
    assert clean(found, keep_newlines=False) == found
    assert found.encode()
    assert len(found) < 1_000


@given(
    st.text(st.characters(codec=None, categories=None) | st.sampled_from("\x1b\x00\u202e\ufeff\udce1\r\n\t"))
)
def test_what_is_visible_is_harmless_and_hides_nothing(text: str) -> None:
    seen = visible(text)
    assert clean(seen) == seen
    assert seen == "".join(piece for piece, _ in told_apart(text))
    assert seen.count("\\x1b") >= text.count("\x1b")
    assert "\n" not in visible(text, on_one_line=True)


def test_findings_keep_their_quotes_beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.data.findings.IN_MEMORY", 1)
    findings = Findings()
    each = Finding("f", 1, "broken-json", "m", "x", 1, Quote("a", "b"))
    for _ in range(3):
        findings.add(each)
    findings.add(Finding("f", 1, "duplicate", "m", "x", 1))
    assert list(findings) == [each, each, each, Finding("f", 1, "duplicate", "m", "x", 1)]


@pytest.mark.parametrize(
    ("line", "place"),
    [('"a","b', 4), ('"say "no"",x', 6), ("a,b", 0), ('"a ""b"" c",d', 0), ('x, "y', 3)],
)
def test_the_quote_that_is_wrong_is_found(line: str, place: int) -> None:
    assert wrong_quote(line, ",") == place


@pytest.mark.parametrize(
    ("content", "name", "title", "why"),
    [
        (b"", "a.jsonl", "The data file has no records.", "the file is empty"),
        (b"\n \n", "a.jsonl", "The data file has no records.", "blank lines"),
        (b"[]", "a.json", "The data file has no records.", "an empty list"),
        (b"prompt,response\n", "a.csv", "The data file has no records.", "names of columns"),
        (b'{"prompt": "caf\xe9"}\n', "a.jsonl", "No record of the data file can be read.", "Latin-1"),
        (b"prompt,response\ncaf\xe9,b\n", "a.csv", "No record of the data file can be read.", "Latin-1"),
        ('{"a": 1}\n'.encode("utf-16"), "a.jsonl", "No record of the data file can be read.", "UTF-16"),
    ],
)
def test_a_file_without_a_usable_record_is_told_by_its_true_reason(
    content: bytes, name: str, title: str, why: str, tmp_path: Path
) -> None:
    from core.data.preview import Previewer

    (tmp_path / name).write_bytes(content)
    problem = Previewer(tmp_path, Recipe().with_values({"data.file": name})).problem
    assert problem is not None
    assert problem.title == title
    assert why in problem.detail


def test_a_record_that_stands_there_again_and_again_is_told(tmp_path: Path) -> None:
    rows = [ROW] * 12 + [
        json.dumps({"prompt": f"What of town number {each}?", "response": f"It has {each} towers."})
        for each in range(90)
    ]
    report = looked_at(tmp_path, "\n".join(rows).encode())
    (often,) = [each for each in report.findings if each.kind == "seen-often"]
    assert (often.line, often.row, often.level) == (1, 0, "warning")
    assert "12 times" in often.message
    assert 12 * report.epochs > OFTEN
    assert report.ok
    # A clean copy keeps one of them.
    from core.data.clean import clean_path, write_clean

    out = clean_path(tmp_path, tmp_path / "rows.jsonl")
    assert out == tmp_path / "rows.clean.jsonl"
    write_clean(report, out)
    assert out.read_text().count(ROW) == 1
    assert clean_path(tmp_path, tmp_path / "rows.jsonl") == tmp_path / "rows.clean-2.jsonl"
