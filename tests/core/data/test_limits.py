"""Hostile files: never a traceback, and never more memory or time than their size is worth."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data import tables
from core.data.reader import RowIndex, RowReader
from core.data.survey import summary
from core.data.tokens import TokenCounter
from core.data.types import Row
from core.errors import LabError
from core.model.messages import Segment
from core.model.text import read_text
from core.recipe import Recipe
from core.resources import rehearsal_model

LONG = 1 << 24


def problems(rows: list[Row]) -> list[str]:
    return [row.problem.message if row.problem else "" for row in rows]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_a_record_longer_than_any_is_refused_and_the_file_read_on(tmp_path: Path, name: str) -> None:
    rows = [{"a": "x" * (LONG + 100_000), "b": "1"}, {"a": "y", "b": "2"}]
    if ".csv" in name:
        text = "a,b\n" + "".join(f"{row['a']},{row['b']}\n" for row in rows)
    else:
        text = json.dumps(rows, indent=0) if name == "a.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_bytes(gzip.compress(text.encode(), 1) if name.endswith("gz") else text.encode())
    found = list(RowReader(tmp_path / name))
    assert problems(found)[0] != ""
    assert found[-1].fields == rows[1]
    with RowIndex(tmp_path / name) as index:
        assert index.rows(0, 9) == found


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("inner", ["[],", '{"z":{}},', "[[[[[[]]]]]],", '"[[[[[[[[",'])
def test_a_record_of_brackets_without_end_is_refused_and_the_file_read_on(
    tmp_path: Path, name: str, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.json_records.MOST_BRACKETS", 5_000)
    records = ['{"a": "x", "b": [%s1]}' % (inner * 200_000), '{"a": "y", "b": 2}']
    (tmp_path / name).write_text("\n".join(records) if name == "a.jsonl" else "[" + ",\n".join(records) + "]")
    first, *rest = RowReader(tmp_path / name)
    assert first.problem is not None
    assert "brackets" in first.problem.message
    assert rest[-1].fields == {"a": "y", "b": 2}
    with RowIndex(tmp_path / name) as index:
        assert index.rows(0, 9) == [first, *rest]


def test_a_quote_that_is_opened_costs_one_record_however_many_quotes_follow(tmp_path: Path) -> None:
    lines = ["a,b", '"open,1', *['x ""y"" z,2'] * 5000]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    found = list(RowReader(tmp_path / "a.csv"))
    assert problems(found)[0].startswith("a quote is opened here and never closed")
    assert len(found) == 5001


def bomb(path: Path, value: str, rows: int) -> None:
    """A Parquet file of about a kilobyte: one value in a dictionary, and many rows that point to it."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))
    table = pa.table({"prompt": column, "response": pa.array(["x"] * rows)})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 5_000


def test_a_table_that_unpacks_to_far_more_than_its_size_is_refused_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.tables._LARGE", 1 << 26)
    bomb(tmp_path / "a.parquet", "x" * 100_000, 1000)
    found = list(RowReader(tmp_path / "a.parquet"))
    assert len(found) < 1000
    assert "unpack" in problems(found)[-1]
    assert found[0].fields is not None


def nested_bomb(path: Path, value: str, shape: tuple[int, ...]) -> None:
    """The same within lists: each row has the value as often as ``shape`` says."""
    count = sum(shape)
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value]))
    turns = pa.StructArray.from_arrays([pa.array(["user"] * count), texts], ["role", "content"])
    ends = pa.array([0, *accumulate(shape)], pa.int32())
    pq.write_table(
        pa.table({"messages": pa.ListArray.from_arrays(ends, turns)}),
        path,
        compression="zstd",
        store_schema=False,
    )
    assert path.stat().st_size < 5_000


def test_a_row_of_a_table_that_repeats_a_long_text_is_refused_before_it_is_made(tmp_path: Path) -> None:
    nested_bomb(tmp_path / "a.parquet", "x" * 100_000, (2_000, 2, 0, 2_000, 1))
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    found = list(RowReader(tmp_path / "a.parquet"))
    assert pa.total_allocated_bytes() - before < 1 << 26
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26  # 200 MB a row otherwise
    too_long = "the record is longer than 16 MiB"
    assert problems(found) == [too_long, "", "", too_long, ""]
    assert found[1].fields == {"messages": [{"role": "user", "content": "x" * 100_000}] * 2}
    assert found[2].fields == {"messages": []}


def test_texts_of_one_length_that_a_row_repeats_are_counted_as_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.tables._LARGE", 1 << 20)
    column = pa.array([[b"x" * 10_000] * 400], pa.list_(pa.binary(10_000)))
    pq.write_table(pa.table({"a": column}), tmp_path / "a.parquet", compression="zstd")
    (row,) = RowReader(tmp_path / "a.parquet")
    assert row.problem is not None
    assert "unpacks from" in row.problem.message


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b"]),
            st.none() | st.lists(st.none() | st.text(max_size=3) | st.just("x" * 40), max_size=4),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nested_rows_are_read_as_they_were_written(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """However their texts are stored, and whether they are made at once or one by one."""
    inner = pa.list_(pa.string())
    kind = pa.struct([("a", inner), ("b", inner)])
    table = pa.table({"m": pa.array([[row] * 2 for row in rows], pa.list_(kind)), "n": pa.array(rows, kind)})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=len(rows) % 2 == 0)
    expected = [{"m": tables.without_nulls([row] * 2), "n": tables.without_nulls(row)} for row in rows]
    for most in (1 << 28, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "_AT_ONCE", most)
            assert [row.fields for row in RowReader(tmp_path / "a.parquet")] == expected


def test_rows_of_a_table_that_are_longer_than_any_are_refused_one_by_one(tmp_path: Path) -> None:
    bomb(tmp_path / "a.parquet", "x" * (LONG + 1), 3)
    assert problems(list(RowReader(tmp_path / "a.parquet"))) == ["the record is longer than 16 MiB"] * 3


def test_a_group_of_rows_that_claims_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.tables._LARGE", 1 << 20)
    pq.write_table(
        pa.table({"a": ["x" * 20_000_000]}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False
    )
    (row,) = RowReader(tmp_path / "a.parquet")
    assert row.problem is not None
    assert "unpacks from" in row.problem.message


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_table_of_too_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr("core.data.tables.MOST_ROWS", 100)
    table = pa.table({"a": ["x"] * 101})
    if form == "parquet":
        pq.write_table(table, tmp_path / "a.parquet")
    else:
        with (
            pa.OSFile(str(tmp_path / "a.arrow"), "wb") as stream,
            pa.ipc.new_stream(stream, table.schema) as out,
        ):
            out.write_table(table)
    (row,) = RowReader(tmp_path / f"a.{form}")
    assert row.problem is not None
    assert "101 rows" in row.problem.message


def test_the_tokens_of_a_very_long_row_are_estimated_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("core.data.tokens.COUNTED", 10_000)
    counter = TokenCounter(read_text(rehearsal_model()))
    words = "What should I see in this old town by the river? " * 1000
    (long,) = counter.count([[Segment("<|user|>\n", False), Segment(words, True)]])
    monkeypatch.setattr("core.data.tokens.COUNTED", len(words) * 2)
    (exact,) = counter.count([[Segment("<|user|>\n", False), Segment(words, True)]])
    assert long != exact
    assert long == pytest.approx(exact, rel=0.02)


def test_of_names_without_end_the_first_are_counted_and_messages_are_cut(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "response": f"It, {n}.", f"extra {n}": 1} for n in range(1500)]
    rows.append({"x" * 50_000: "no prompt"})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = summary(tmp_path, Recipe().with_values({"data.file": "a.jsonl"}))
    assert len(report.not_used) == 1000
    (missing,) = [
        each for each in report.findings if each.kind == "missing-field" and "prompt" in each.message
    ]
    assert len(missing.message) == 2000
    assert missing.message.endswith("…")


def arrow(path: Path, table: pa.Table, form: str, compression: str | None = "zstd") -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    begin = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as stream, begin(stream, table.schema, options=options) as out:
        out.write_table(table, max_chunksize=100)


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("compression", ["lz4", "zstd", None])
def test_packed_tables_are_read(tmp_path: Path, form: str, compression: str | None) -> None:
    table = pa.Table.from_pylist(ROWS)
    views = table.set_column(0, "question", table["question"].cast(pa.string_view()))
    arrow(tmp_path / "a.arrow", views, form, compression)
    assert [row.fields for row in RowReader(tmp_path / "a.arrow")] == ROWS


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("where", ["rows", "dictionary"])
def test_an_arrow_file_that_unpacks_to_too_much_at_once_is_refused_before(
    tmp_path: Path, form: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.tables._LARGE", 1 << 20)
    texts = pa.array([f"{number}" * 100_000 for number in range(20)])
    table = pa.table({"a": texts if where == "rows" else texts.dictionary_encode()})
    arrow(tmp_path / "a.arrow", table, form)
    monkeypatch.setattr("core.data.tables._arrow_batches", None)  # nothing is unpacked
    (row,) = RowReader(tmp_path / "a.arrow")
    assert row.problem is not None
    assert "unpacks from" in row.problem.message


def test_a_parquet_file_whose_footer_says_less_than_its_pages_unpack_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"a": ["x" * 3_000_000], "b": ["y"]})
    pq.write_table(
        table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False, write_statistics=False
    )
    data = (tmp_path / "a.parquet").read_bytes()
    size = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0).total_uncompressed_size
    told = varint(size)
    assert data.count(told) == 1
    monkeypatch.setattr("core.data.tables._LARGE", 1 << 20)
    (tmp_path / "a.parquet").write_bytes(data.replace(told, varint(1 << 20)))  # as many bytes
    assert (
        pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0).total_uncompressed_size
        == 1 << 20
    )
    (row,) = RowReader(tmp_path / "a.parquet")
    assert row.problem is not None
    assert "unpacks from" in row.problem.message


def varint(number: int) -> bytes:
    """A number in Thrift's compact form."""
    number, found = number << 1, bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


@pytest.mark.parametrize(
    "kind", [pa.list_view(pa.int8()), pa.list_(pa.string_view()), pa.struct([("x", pa.list_view(pa.int8()))])]
)
def test_columns_whose_rows_may_share_elements_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    arrow(tmp_path / "a.arrow", pa.table({"a": pa.array([None], kind)}), "file", None)
    (row,) = RowReader(tmp_path / "a.arrow")
    assert row.problem is not None
    assert "is not read" in row.problem.message


def test_texts_that_all_rows_share_are_unpacked_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, data = struct.pack("<i4sii", 100_000, b"xxxx", 0, 0) * 90, b"x" * 100_000
    buffers = [None, pa.py_buffer(views), pa.py_buffer(data)]
    table = pa.table({"a": pa.Array.from_buffers(pa.string_view(), 90, buffers)})
    arrow(tmp_path / "a.arrow", table, "file", None)
    assert (tmp_path / "a.arrow").stat().st_size < 200_000
    monkeypatch.setattr("core.data.tables._AT_ONCE", 1_000_000)
    sizes: list[int] = []
    rows = tables.table_rows

    def counted(batch: pa.RecordBatch) -> Iterator[Any]:
        sizes.append(batch.num_rows)
        return rows(batch)

    monkeypatch.setattr(tables, "table_rows", counted)
    assert [row.fields for row in RowReader(tmp_path / "a.arrow")] == [{"a": "x" * 100_000}] * 90
    assert max(sizes) == 10


# Bytes of any kind


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """A good file with some of its bytes changed, and cut somewhere."""
    changes = st.lists(st.tuples(st.integers(0, len(data) - 1), st.binary(max_size=4)), max_size=8)

    def apply(found: tuple[list[tuple[int, bytes]], int]) -> bytes:
        result = bytearray(data)
        for at, piece in found[0]:
            result[at : at + len(piece)] = piece
        return bytes(result[: found[1]])

    return st.tuples(changes, st.integers(1, len(data))).map(apply)


ROWS = [{"question": f"Where is {n}?", "answer": f'By the "river", {n}.\nThere.'} for n in range(300)]
LINES = "\n".join(map(json.dumps, ROWS)).encode()
CSV = ("question,answer\n" + "\n".join(f'"Where, {n}?","By ""it"".\nYes"' for n in range(300))).encode()


def parquet_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=70)
    return bytes(sink.getvalue())


def arrow_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=70)
    return bytes(sink.getvalue())


def packed_arrow_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_table(table, max_chunksize=70)
    return bytes(sink.getvalue())


FILES = {
    "a.jsonl": LINES,
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "b.json": json.dumps({"train": ROWS, "test": ROWS[:5]}).encode(),
    "a.csv": CSV,
    "a.jsonl.gz": gzip.compress(LINES),
    "a.csv.gz": gzip.compress(CSV),
    "a.parquet": parquet_bytes(),
    "a.arrow": arrow_bytes(),
    "b.arrow": packed_arrow_bytes(),
}


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_pages_of_damaged_files_are_the_rows_that_a_reader_gives(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    (tmp_path / name).write_bytes(data.draw(mutated(FILES[name])))
    wanted = list(RowReader(tmp_path / name))
    with RowIndex(tmp_path / name) as index:
        for start in {0, max(0, len(wanted) - 3), min(256, len(wanted))}:
            assert index.rows(start, 20) == wanted[start : start + 20]
        assert index.rows(0, len(wanted) + 9) == wanted


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), name=st.sampled_from([*FILES, "a.txt", "a"]))
def test_any_bytes_are_a_report(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    try:
        report = summary(tmp_path, Recipe().with_values({"data.file": name}))
    except LabError:
        return
    assert report.ok or report.findings.blocking
