"""Reading rows: every form gives the same rows, with the right lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from core.data.reader import RowIndex, RowReader
from core.data.survey import summary
from core.data.types import Problem
from core.errors import RequestError
from core.recipe import Recipe

ROWS = [
    {"prompt": "Where is Huế?", "response": 'In "central" Việt Nam,\non the Perfume River.'},
    {"prompt": "کجا بروم؟", "response": "شیراز می‌ارزد."},
    {"prompt": "And Kyōto?", "response": "In Japan."},
]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


def read(path: Path) -> list[tuple[int, object]]:
    return [(row.line, row.fields or row.problem) for row in RowReader(path)]


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
    "old_mac.csv": (as_csv().replace("\n", "\r").replace("\r\r", "\r"), [2, 4, 5]),
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
    found = [(row.file, row.line, row.fields) for row in RowReader(tmp_path)]
    assert found == [("data/a.csv", 2, {"prompt": "x", "response": "y"}), ("data/b.jsonl", 1, ROWS[1])]


def test_files_named_as_a_test_part_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINES[0])
    (tmp_path / "test-00000.jsonl").write_text(LINES[1])
    (tmp_path / "contest.jsonl").write_text(LINES[2])
    sides = {row.file: row.held_out for row in RowReader(tmp_path)}
    assert sides == {"train.jsonl": False, "test-00000.jsonl": True, "contest.jsonl": False}


def test_a_folder_of_test_files_only_is_training_data(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(LINES[0])
    assert [row.held_out for row in RowReader(tmp_path)] == [False]


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(RequestError, match=r"\.parquet"):
        list(RowReader(tmp_path))


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf \n\n")
    assert read(tmp_path / "a.jsonl") == []


def test_a_long_element_across_chunks_is_whole(tmp_path: Path) -> None:
    rows = [{"prompt": "é" * 300_000, "response": "[{\\" * 100_000}, {"prompt": "b", "response": "c"}]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False))
    assert [fields for _, fields in read(tmp_path / "a.json")] == rows


def test_csv_with_a_space_before_the_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question, answer\n"Where, 1?", "at, 1"\n"Where, 2?",  "at ""2"""\n')
    rows = [{"question": "Where, 1?", "answer": "at, 1"}, {"question": "Where, 2?", "answer": 'at "2"'}]
    assert [fields for _, fields in read(tmp_path / "a.csv")] == rows


def test_spaces_in_a_csv_file_without_such_quotes_stay(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\nx, y\n"a ""b"", c",d\n')
    assert [fields for _, fields in read(tmp_path / "a.csv")] == [
        {"question": "x", "answer": " y"},
        {"question": 'a "b", c', "answer": "d"},
    ]


def test_another_encoding_is_named_with_its_letter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("question,answer\nOù?,Là\n".encode("latin-1"))
    ((line, problem),) = read(tmp_path / "a.csv")
    assert line == 2
    assert isinstance(problem, Problem)
    assert "0xf9, 'ù' in Windows' and Latin-1 files" in problem.message


# Folders as `datasets` and hubs write them


def arrow(path: Path, rows: list[dict[str, Any]], *, footer: bool = False) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    make = pa.ipc.new_file if footer else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as stream, make(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def saved(folder: Path, rows: list[dict[str, Any]]) -> None:
    """As `Dataset.save_to_disk` writes it, with a cache of an earlier map beside."""
    arrow(folder / "data-00000-of-00001.arrow", rows)
    arrow(folder / "cache-4711.arrow", [{"other": 1}])
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": {}}))


@pytest.mark.parametrize("real", [False, True])
def test_a_saved_dataset_is_read(tmp_path: Path, real: bool) -> None:
    if real:
        pytest.importorskip("datasets").Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "set"))
    else:
        saved(tmp_path / "set", ROWS)
    found = list(RowReader(tmp_path / "set"))
    assert [row.fields for row in found] == ROWS
    assert {row.file for row in found} == {"data-00000-of-00001.arrow"}
    with RowIndex(tmp_path / "set") as pager:
        assert pager.rows(1, 9) == found[1:]


def test_a_saved_dataset_of_several_parts(tmp_path: Path) -> None:
    saved(tmp_path / "train", ROWS[:2])
    saved(tmp_path / "test", ROWS[2:])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [(row.fields, row.held_out) for row in RowReader(tmp_path)] == [
        (ROWS[2], True),
        (ROWS[0], False),
        (ROWS[1], False),
    ]


def test_a_snapshot_of_a_hub(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("# A set")
    (tmp_path / ".gitattributes").write_text("*.parquet filter=lfs")
    for name in ("dataset_infos.json", "dataset_info.json"):
        (tmp_path / name).write_text('{"default": {"features": {}}}')
    assert [row.fields for row in RowReader(tmp_path)] == ROWS


def test_a_file_of_a_folder_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text("\n".join(LINES))
    (tmp_path / "set" / "b.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    report = summary(tmp_path, Recipe().with_values({"data.file": "set"}))
    assert [(each.what, each.name) for each in report.not_used] == [("file", "b.jsonl.zst")]
    assert report.findings.counts == {"not-used": 1}


def test_an_arrow_file_with_a_footer(tmp_path: Path) -> None:
    arrow(tmp_path / "a.feather", ROWS, footer=True)
    assert [fields for _, fields in read(tmp_path / "a.feather")] == ROWS


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_keys_that_a_table_had_to_fill_are_not_there(tmp_path: Path, form: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0}]
    rows = [{"messages": turns, "id": None}]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    else:
        arrow(tmp_path / "a.arrow", rows)
    assert read(tmp_path / f"a.{form}") == [(1, rows[0])]


@pytest.mark.parametrize(
    ("header", "row", "fields"),
    [
        (",question,answer", "0,Where?,There.", {"column 1": "0", "question": "Where?", "answer": "There."}),
        ("question,answer,", "Where?,There.,", {"question": "Where?", "answer": "There.", "column 3": ""}),
    ],
)
def test_a_column_of_csv_may_have_no_name(
    tmp_path: Path, header: str, row: str, fields: dict[str, str]
) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    assert [each.fields for each in RowReader(tmp_path / "a.csv")] == [fields]
    with RowIndex(tmp_path / "a.csv") as pager:
        assert [each.fields for each in pager.rows(0, 5)] == [fields]


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("Where is tower 1?,It stands by the river.", "this one seems to be a record"),
        ("1,Where is tower 1?", "this one seems to be a record"),
        ("answer,answer", "'answer' stands there twice"),
    ],
)
def test_a_first_line_that_names_no_columns_is_refused(tmp_path: Path, first: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(f"{first}\nWhere is tower 2?,It stands on the hill.\n", encoding="utf-8")
    problem = next(iter(RowReader(tmp_path / "a.csv"))).problem
    assert problem is not None
    assert (problem.kind, message in problem.message) == ("broken-csv", True)
    with RowIndex(tmp_path / "a.csv") as pager:
        assert pager.rows(0, 1)[0].problem == problem


def test_names_of_columns_may_be_questions_as_forms_have_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Timestamp,What do you ask?,Your answer is?\n1,a,b\n", encoding="utf-8")
    assert [len(each.fields or {}) for each in RowReader(tmp_path / "a.csv")] == [3]


def test_a_workbook_is_called_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as book:
        book.writestr("xl/workbook.xml", "<workbook/>")
    problem = next(iter(RowReader(tmp_path / "a.xlsx"))).problem
    assert problem is not None
    assert "workbook" in problem.message
    assert "CSV" in problem.fix


def test_what_a_folder_cannot_give_is_told(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "rows", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "c.jsonl").write_text(json.dumps({"question": "Why?", "answer": "So."}), encoding="utf-8")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "train.jsonl").symlink_to(tmp_path / "gone")
    (folder / "empty.csv").touch()
    (folder / "old.zip").write_bytes(b"PK")
    (folder / "notes.md").write_text("what I did", encoding="utf-8")
    rows = [json.dumps({"question": f"Where is {n}?", "answer": f"There, {n}."}) for n in range(3)]
    (folder / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    report = summary(tmp_path, Recipe().with_values({"data.file": "rows"}))
    told = {finding.file: finding.fix for finding in report.findings if finding.kind == "not-used"}
    assert (
        set(told)
        == {"empty.csv", "linked", "old.zip", "train.jsonl"}
        == {each.name for each in report.not_used}
    )
    assert "put the folder itself" in told["linked"]
    assert "fetch the file" in told["train.jsonl"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        ("<!DOCTYPE html>\n<p>", "web page"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_what_was_downloaded_in_place_of_the_file_is_named(
    tmp_path: Path, text: str, what: str, name: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    problem = next(iter(RowReader(tmp_path / name))).problem
    assert problem is not None
    assert (problem.kind, what in problem.message) == ("unreadable-file", True)


# What a folder holds beside or apart


def folder_of(root: Path, *names: str) -> Path:
    """A folder of JSON Lines files, two rows each, all different."""
    for at, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        rows = [{"question": f"Where is {at}{n}?", "answer": f"There, {at}{n}."} for n in range(2)]
        (root / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("names", "sets"),
    [
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test-00000-of-00001.jsonl"], None),
        (["a.jsonl", "b.jsonl"], None),
        (["data/a.jsonl", "more/b.jsonl"], None),
        (["train_sft-00000-of-00001.jsonl", "train_gen-00000-of-00001.jsonl"], "train_gen, train_sft"),
        (["en/train-00000-of-00001.jsonl", "fr/train-00000-of-00001.jsonl"], "en/train, fr/train"),
        (["en/train.jsonl", "fr/train.jsonl", "fr/test.jsonl"], "en, fr"),
    ],
)
def test_sets_of_a_hub_that_are_read_as_one_are_named(
    tmp_path: Path, names: list[str], sets: str | None
) -> None:
    folder_of(tmp_path / "set", *names)
    report = summary(tmp_path, Recipe().with_values({"data.file": "set"}))
    told = [each.message for each in report.findings if each.kind == "several-sets"]
    assert told == ([f"2 sets of records are read as one: {sets}"] if sets else [])
    assert report.ok


def test_configs_that_the_card_names_are_told(tmp_path: Path) -> None:
    folder_of(tmp_path / "set", "one.jsonl", "other.jsonl")
    card = "---\nconfigs:\n- config_name: easy\n  data_files: one.jsonl\n- config_name: hard\n---\n# A set\n"
    (tmp_path / "set" / "README.md").write_text(card, encoding="utf-8")
    report = summary(tmp_path, Recipe().with_values({"data.file": "set"}))
    (told,) = [each for each in report.findings if each.kind == "several-sets"]
    assert "easy, hard" in told.message


def test_plain_texts_beside_the_rows_are_named(tmp_path: Path) -> None:
    folder_of(tmp_path / "set", "a.jsonl")
    for name in ("novel.txt", "requirements.txt", "LICENSE.txt"):
        (tmp_path / "set" / name).write_text("words", encoding="utf-8")
    report = summary(tmp_path, Recipe().with_values({"data.file": "set"}))
    assert [(each.what, each.name) for each in report.not_used] == [("file", "novel.txt")]
    assert "plain text" in next(iter(report.findings)).fix
