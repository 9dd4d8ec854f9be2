"""Reading rows: every form gives the same rows, with the right lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from core.data.readers import iter_rows
from core.errors import RequestError

ROWS = [
    {"prompt": "Where is Huế?", "response": 'In "central" Việt Nam,\non the Perfume River.'},
    {"prompt": "کجا بروم؟", "response": "شیراز می‌ارزد."},
    {"prompt": "And Kyōto?", "response": "In Japan."},
]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


def read(path: Path) -> list[tuple[int, object]]:
    return [(row.line, row.fields or row.problem) for row in iter_rows(path)]


def as_csv(delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["prompt", "response"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue()


FORMS = {
    "lines.jsonl": ("\n".join(LINES), [1, 2, 3]),
    "bom_crlf_blank.jsonl": ("\ufeff" + "\r\n\r\n".join(LINES) + "\r\n \r\n", [1, 3, 5]),
    "lines.json": ("\n".join(LINES), [1, 2, 3]),
    "array.json": (json.dumps(ROWS, ensure_ascii=False, indent=1), [2, 6, 10]),
    "one_line.json": (json.dumps(ROWS), [1, 1, 1]),
    "array_in_lines.jsonl": ("[\n" + ",\n".join(LINES) + "\n]", [2, 3, 4]),
    "wrapped.json": (json.dumps({"data": ROWS, "version": 2}, indent=2), [3, 7, 11]),
    "spread.json": ("\n".join(json.dumps(row, indent=2) for row in ROWS), [1, 5, 9]),
    "old_mac.jsonl": ("\r".join(LINES), [1, 2, 3]),
    "comma.csv": (as_csv(), [2, 4, 5]),
    "bom.csv": ("\ufeff" + as_csv(";"), [2, 4, 5]),
    "tabs.tsv": (as_csv("\t"), [2, 4, 5]),
    "excel.csv": ("sep=;\r\n" + as_csv(";") + ";\r\n", [3, 5, 6]),
    "no_suffix": ("\n".join(LINES), [1, 2, 3]),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_forms_give_the_same_rows(tmp_path: Path, name: str, packed: bool) -> None:
    text, lines = FORMS[name]
    data = text.encode()
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert [line for line, _ in read(path)] == lines
    got = [json.loads(json.dumps(fields).replace("\\r\\n", "\\n")) for _, fields in read(path)]
    assert got == ROWS


def test_parquet_gives_row_numbers(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=2)
    assert read(tmp_path / "a.parquet") == list(enumerate(ROWS, 1))


def test_gzip_of_several_members_is_one_file(tmp_path: Path) -> None:
    parts = [gzip.compress((line + "\n").encode()) for line in LINES]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(parts))
    assert [fields for _, fields in read(tmp_path / "a.jsonl.gz")] == ROWS


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.jsonl").write_text(LINES[1])
    (tmp_path / "data" / "a.csv").write_text("prompt,response\nx,y\n")
    (tmp_path / "data" / ".hidden.jsonl").write_text("broken")
    (tmp_path / "data" / "README.md").write_text("# words")
    (tmp_path / "data" / "a.jsonl.left-out.jsonl").write_text("broken")
    found = [(row.file, row.line, row.fields) for row in iter_rows(tmp_path)]
    assert found == [("data/a.csv", 2, {"prompt": "x", "response": "y"}), ("data/b.jsonl", 1, ROWS[1])]


def test_files_named_as_a_test_part_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINES[0])
    (tmp_path / "test-00000.jsonl").write_text(LINES[1])
    (tmp_path / "contest.jsonl").write_text(LINES[2])
    sides = {row.file: row.held_out for row in iter_rows(tmp_path)}
    assert sides == {"train.jsonl": False, "test-00000.jsonl": True, "contest.jsonl": False}


def test_a_folder_of_test_files_only_is_training_data(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(LINES[0])
    assert [row.held_out for row in iter_rows(tmp_path)] == [False]


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(RequestError, match=r"\.parquet"):
        list(iter_rows(tmp_path))


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf \n\n")
    assert read(tmp_path / "a.jsonl") == []


def test_a_long_element_across_chunks_is_whole(tmp_path: Path) -> None:
    rows = [{"prompt": "é" * 300_000, "response": "[{\\" * 100_000}, {"prompt": "b", "response": "c"}]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False))
    assert [fields for _, fields in read(tmp_path / "a.json")] == rows
