"""JSON files of any layout: which values are the records, on which line each is, and what is not read."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.files import data_files
from core.data.json_layout import layout
from core.data.reader import RowIndex, RowReader
from core.data.survey import summary
from core.recipe import Recipe

ROWS = [{"question": f"Where is {n}?", "answer": f"By the river {n}."} for n in range(5)]
TALK = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "Yes."}]


def write(folder: Path, value: Any, *, indent: int | None = None, name: str = "a.json") -> Path:
    (folder / name).write_text(json.dumps(value, indent=indent), encoding="utf-8")
    return folder / name


def read(path: Path) -> list[Any]:
    return [row.fields or row.problem for row in RowReader(path)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_train_and_test_lists_are_the_two_parts(tmp_path: Path, indent: int | None, packed: bool) -> None:
    text = json.dumps({"version": 2, "test": ROWS[:1], "train": ROWS[1:4], "dev": ROWS[4:]}, indent=indent)
    path = tmp_path / ("a.json.gz" if packed else "a.json")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    rows = list(RowReader(path))
    assert [(row.fields, row.held_out) for row in rows] == [
        (ROWS[0], True),
        *((row, False) for row in ROWS[1:4]),
        (ROWS[4], True),
    ]
    assert [row.file for row in rows] == [f"{path.name}[{key}]" for key in ("test", *["train"] * 3, "dev")]
    assert [row.number for row in rows] == [1, 1, 2, 3, 1]
    with RowIndex(path) as pager:
        assert pager.rows(0, 10) == rows
        assert pager.rows(2, 2) == rows[2:4]
    report = summary(tmp_path, Recipe().with_values({"data.file": path.name}))
    assert (report.train, report.eval, report.ok) == (3, 2, True)


@pytest.mark.parametrize("key", ["data", "rows", "train", "questions and answers"])
def test_a_list_in_an_object_is_read(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, {"version": "1.0", "info": {"list": [1]}, key: ROWS, "tags": ["a"]}, indent=1)
    assert read(path) == ROWS
    assert [each.held_out for each in data_files(path)] == [False]


def test_a_second_list_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"notes": [{"by": "Ada"}], "data": ROWS})
    report = summary(tmp_path, Recipe().with_values({"data.file": "a.json"}))
    assert report.usable == 5
    (found,) = report.not_used
    assert (found.what, found.name, found.matters) == ("list", "notes", True)
    assert "'notes'" in next(iter(report.findings)).message


@pytest.mark.parametrize(
    "record",
    [
        {"messages": TALK},
        {"system": "x", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"prompt": "Rain?", "tools": [{"name": "f"}], "response": "Yes."},
        {"prompt": TALK[:1], "completion": TALK[1:]},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_single_record_is_a_record(tmp_path: Path, record: Any, indent: int | None, name: str) -> None:
    assert read(write(tmp_path, record, indent=indent, name=name)) == [record]


def test_a_conversation_that_begins_on_the_first_line(tmp_path: Path) -> None:
    turns = ",\n  ".join(map(json.dumps, TALK))
    (tmp_path / "a.json").write_text(f'{{"messages": [\n  {turns}\n]}}\n')
    assert read(tmp_path / "a.json") == [{"messages": TALK}]


def test_records_of_json_lines_with_a_list_in_them_stay_records(tmp_path: Path) -> None:
    rows = [{"data": [{"x": 1}]}, {"data": [{"x": 2}]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "a.jsonl") == rows
    (tmp_path / "b.jsonl").write_text(json.dumps({"turns": [{"x": 1}]}))
    assert read(tmp_path / "b.jsonl") == [{"turns": [{"x": 1}]}]


@pytest.mark.parametrize(
    "value",
    [{"question": ["a?", "b?"], "answer": ["c", "d"]}, {"question": {"0": "a?"}, "answer": {"0": "c"}}],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_columns_are_refused_as_such(tmp_path: Path, value: Any, indent: int | None) -> None:
    (row,) = RowReader(write(tmp_path, value, indent=indent))
    assert row.problem is not None
    assert "'question', 'answer'" in row.problem.message


def test_rows_on_one_line_are_told_apart(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"question": "Where?", "answer": ""}, *ROWS[2:], ROWS[0]]
    write(tmp_path, rows)
    report = summary(tmp_path, Recipe().with_values({"data.file": "a.json"}))
    assert [(each.line, each.row, each.kind) for each in report.findings] == [
        (1, 3, "empty-field"),
        (1, 7, "duplicate"),
    ]
    assert "row 1" in list(report.findings)[1].message


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "a", "question": "q", "answer": "b"}',
        '{"question": "q", "answer" : "a", "answer": "b"}',
        '{"question": "q", "answer": "b", "meta": {"x": 1, "x": 2}}',
    ],
)
@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_a_key_that_stands_twice_is_told(tmp_path: Path, text: str, form: str) -> None:
    (tmp_path / "a.json").write_text(form.replace("{}", text))
    (row,) = RowReader(tmp_path / "a.json")
    assert row.fields is not None
    assert row.fields["answer"] == "b"
    assert row.note is not None
    assert (row.note.kind, row.problem) == ("key-twice", None)
    with RowIndex(tmp_path / "a.json") as pager:
        assert pager.rows(0, 1) == [row]


def test_text_that_looks_like_keys_is_none(tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": '{"a": 1, "a": 2}', "answer": 'say "a": or "a" :'}])
    (row,) = RowReader(path)
    assert row.note is None


keys = st.text(max_size=6)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=8))
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(keys.filter(lambda key: key != "data"), nested, min_size=1, max_size=4)


@settings(deadline=None, max_examples=150)
@given(st.lists(records, min_size=2, max_size=4), st.sampled_from([None, 0, 1, 4]), st.booleans())
def test_every_layout_gives_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, ascii_only: bool
) -> None:
    folder = tmp_path_factory.mktemp("layout")
    first = json.dumps({"role": "x", "content": ""})
    (folder / "wrapped.json").write_text(
        json.dumps({"v": first, "data": rows}, indent=indent, ensure_ascii=ascii_only)
    )
    (folder / "array.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only))
    (folder / "spread.json").write_text(
        "\n".join(json.dumps(row, indent=indent, ensure_ascii=ascii_only) for row in rows)
    )
    (folder / "lines.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows))
    for name in ("array.json", "spread.json", "lines.jsonl"):
        found = list(RowReader(folder / name))
        assert [row.fields for row in found] == rows, name
        assert [row.number for row in found] == list(range(1, len(rows) + 1))
        with RowIndex(folder / name) as pager:
            assert pager.rows(0, 9) == found
    turns = {"role", "from", "speaker"} & rows[0].keys()  # as a value of an object, that is a list of turns
    assert turns or [row.fields for row in RowReader(folder / "wrapped.json")] == rows


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(keys, nested, max_size=4), st.sampled_from([None, 1]))
def test_the_scan_finds_every_list_where_it_is(value: dict[str, Any], indent: int | None) -> None:
    data = json.dumps(value, indent=indent).encode()
    found = layout(io.BytesIO(data))
    for part in (*found.train, *found.held_out):
        assert json.loads(data[part.start : part.end]) == value[json.loads(f'"{part.key}"')]
        assert data[: part.start].count(b"\n") + 1 == part.line


def test_lists_inside_of_one_more_object_are_refused_as_such(tmp_path: Path) -> None:
    (found,) = read(write(tmp_path, {"data": {"train": ROWS, "test": ROWS[:1]}}))
    assert "one object of columns or of records by name ('data')" in found.message


def test_lines_cut_out_of_an_array_keep_their_commas(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + ",\n" for row in ROWS), encoding="utf-8")
    assert read(path) == ROWS
    with RowIndex(path) as pager:
        assert [row.fields for row in pager.rows(0, 9)] == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_comment_is_called_one(tmp_path: Path, name: str) -> None:
    lines = ["// my rows", *map(json.dumps, ROWS)]
    if name == "a.json":
        lines = ["[", "// my rows", ",\n".join(map(json.dumps, ROWS)), "]"]
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    comment, *rows = read(tmp_path / name)
    assert (comment.kind, "comment" in comment.message, rows) == ("broken-json", True, ROWS)


def test_a_file_that_ends_inside_a_letter_is_read_alike_in_order_and_by_pages(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"a": "b"}, \xc2')
    rows = list(RowReader(tmp_path / "a.json"))
    assert rows[1].problem is not None
    with RowIndex(tmp_path / "a.json") as index:
        assert index.rows(0, 9) == rows
