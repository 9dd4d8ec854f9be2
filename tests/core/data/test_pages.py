"""Pages of files of every form are the rows that a reader gives, wherever one looks."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.data.pager import RowPager
from core.data.reader import RowIndex, RowReader
from core.data.streams import SeekableGzip
from core.errors import LabError, RequestError

COUNT = 3000
FORMS = (
    "a.jsonl",
    "b.jsonl.gz",
    "c.json",
    "d.json",
    "e.json.gz",
    "f.csv",
    "g.csv",
    "h.csv.gz",
    "i.parquet",
    "j.txt",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each form: blank lines, broken rows, quotes and line breaks among the rows."""
    root = tmp_path_factory.mktemp("pages")
    chance = random.Random(1)
    rows = [
        {
            "prompt": f"câu {i} " + "x" * chance.randrange(80),
            "response": 'a "q",\n' + "é" * chance.randrange(200),
        }
        for i in range(COUNT)
    ]
    lines = "".join(
        json.dumps(row, ensure_ascii=chance.random() < 0.5) + chance.choice(["\n", "\r\n", "\n\n", "\n  \n"])
        for row in rows
    )
    lines = lines.replace('{"prompt": "câu 77', '{"prompt" "broken ')
    (root / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (root / "b.jsonl.gz").write_bytes(
        gzip.compress(lines.encode()[:99_999]) + gzip.compress(lines.encode()[99_999:])
    )
    (root / "c.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    (root / "d.json").write_text("\n".join(json.dumps(row, indent=2) for row in rows))
    (root / "e.json.gz").write_bytes(gzip.compress(json.dumps({"data": rows, "more": 1}).encode()))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["prompt", "response"])
    writer.writeheader()
    writer.writerows(rows)
    (root / "f.csv").write_text("\ufeff" + text.getvalue().replace("\r\n", "\r\n\r\n"))
    (root / "g.csv").write_text("a,a\n" + text.getvalue() + 'x,"open\ny,z\n')
    (root / "h.csv.gz").write_bytes(gzip.compress(text.getvalue().encode()))
    (root / "j.txt").write_text("hello")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), root / "i.parquet", row_group_size=700)
    return root


@pytest.mark.parametrize("name", [*FORMS, "."])
def test_pages_are_the_rows(folder: Path, name: str) -> None:
    path = folder / name
    wanted = list(RowReader(path))
    chance = random.Random(name)
    with RowIndex(path) as index:
        starts = [0, len(wanted) - 5, 17, 255, 256, 300, *(chance.randrange(len(wanted)) for _ in range(12))]
        for start in map(abs, starts):
            assert index.rows(start, 40) == wanted[start : start + 40]
        while not index.whole:
            index.step()
        assert index.progress() == (index.progress()[1],) * 2
        assert (index.known, index.estimate()) == (len(wanted),) * 2
        assert index.rows(len(wanted) - 1, 40) == wanted[-1:]
        assert index.rows(len(wanted), 40) == []


@pytest.mark.parametrize("name", [*FORMS, "."])
def test_a_row_is_found_by_its_file_and_its_number_in_there(folder: Path, name: str) -> None:
    wanted = list(RowReader(folder / name))
    with RowIndex(folder / name) as index:
        for number in {len(wanted) - 1, len(wanted) // 2, 0}:
            assert index.number_of(wanted[number].file, wanted[number].number) == number
        last = wanted[-1]
        assert index.number_of(last.file, last.number + 1) is None
        assert index.number_of(last.file, 0) is None
        assert index.number_of("elsewhere.jsonl", 1) is None


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.json.gz"])
def test_a_cut_gzip_file_has_the_same_rows_from_any_place(folder: Path, tmp_path: Path, name: str) -> None:
    plain = {"a.jsonl.gz": "a.jsonl", "a.csv.gz": "f.csv", "a.json.gz": "c.json"}[name]
    whole = gzip.compress((folder / plain).read_bytes())
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    wanted = list(RowReader(tmp_path / name))
    assert len(wanted) > 1000
    assert wanted[-1].problem is not None
    assert "cut off" in wanted[-1].problem.message
    with RowIndex(tmp_path / name) as index:
        for start in (len(wanted) - 3, 700, 0):
            assert index.rows(start, 40) == wanted[start : start + 40]


def test_a_folder_may_have_more_files_than_are_kept_open(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.jsonl").write_text('{"a": 1}\n' * number)
    wanted = list(RowReader(tmp_path))
    with RowIndex(tmp_path) as index:
        for start in (400, 0, 213):
            assert index.rows(start, 50) == wanted[start : start + 50]


def test_the_estimate_is_near_before_the_index_is_there(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "x" * 50, "response": "y" * 100}) + "\n"
    (tmp_path / "a.jsonl").write_text(row * 20_000)
    with RowIndex(tmp_path / "a.jsonl") as index:
        assert not index.whole
        assert index.estimate() == pytest.approx(20_000, rel=0.02)


def test_a_far_page_comes_at_once(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}", "response": "y" * 100} for n in range(40_000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with RowIndex(tmp_path / "a.jsonl") as index:
        found, exact = index.near(30_000, 10)
        assert not exact
        assert len(found) == 10
        assert all(row.line == 0 for row in found)
        assert int((found[0].fields or {})["prompt"]) == pytest.approx(30_000, abs=600)
        assert index.known < 1000  # nothing was indexed for it
        assert index.near(10, 5) == (index.rows(10, 5), True)
        assert index.rows(30_000, 10)[0].line == 30_001
        assert index.near(30_000, 10) == (index.rows(30_000, 10), True)


@pytest.mark.parametrize("name", [*FORMS, "."])
def test_near_pages_are_the_pages_once_there_is_an_index(folder: Path, name: str) -> None:
    with RowIndex(folder / name) as index:
        early, exact = index.near(2900, 20)
        assert exact == (early == index.rows(2900, 20)) or not early
        while not index.whole:
            index.step()
        for start in (0, index.known // 2, index.known - 1, index.known):
            assert index.near(start, 20) == (index.rows(start, 20), True)


# In a process of its own


@pytest.mark.parametrize("name", ["i.parquet", "."])
def test_the_process_gives_the_same_rows_while_it_indexes(folder: Path, name: str) -> None:
    wanted = list(RowReader(folder / name))
    with RowPager(folder / name) as pager:
        marks: list[tuple[int, int]] = []
        worker = threading.Thread(target=pager.index, args=(lambda *mark: marks.append(mark),))
        worker.start()
        for start in (2900, 0, 1500):
            assert pager.rows(start, 20) == wanted[start : start + 20]
        worker.join(timeout=60)
        assert not worker.is_alive()
        assert marks[-1][0] == marks[-1][1] > 0
        assert pager.count_estimate() == (len(wanted), True)
        assert pager.rows_near(7, 5) == (wanted[7:12], True)
        assert set(pager.files) == {row.file for row in wanted}
        assert pager.number_of(wanted[-1].file, wanted[-1].number) == len(wanted) - 1


def test_indexing_stops_when_asked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' * 2_000_000)
    with RowPager(tmp_path / "a.jsonl") as pager:
        assert pager.index(stop=lambda: True) > 0
        assert not pager.count_estimate()[1]


def test_of_very_long_rows_the_first_of_a_page_is_whole(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "é" * 2_000_000, "turns": [[1, "x" * 5000]] * 3, "response": "b"}) + "\n"
    (tmp_path / "a.jsonl").write_text(row * 30)
    with RowPager(tmp_path / "a.jsonl") as pager:
        first, *others = pager.rows(0, 30)
        assert first.fields == json.loads(row)
        assert len(others) == 29
        assert all(len(str(each.fields)) < 10_000 for each in others[1:])
        assert "characters more)" in str(others[-1].fields)


def test_what_json_does_not_hold_comes_as_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_pylist([{"when": datetime.date(2020, 1, 2), "a": b"x"}]), tmp_path / "a.parquet"
    )
    with RowPager(tmp_path / "a.parquet") as pager:
        assert pager.rows(0, 1)[0].fields == {"when": "2020-01-02", "a": "b'x'"}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.jsonl"):
        RowPager(tmp_path / "nowhere.jsonl")


def test_a_folder_without_rows_is_refused_as_by_the_reader(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no records"):
        RowPager(tmp_path)


def test_a_process_that_has_died_is_an_error_and_no_hang(folder: Path) -> None:
    with RowPager(folder / "c.json") as pager:
        assert pager.rows(0, 1)
        os.kill(pager._child.pid, signal.SIGKILL)
        with pytest.raises(LabError) as told:
            pager.rows(0, 1)
        assert told.value.code == "process.died"


def test_gzip_is_read_from_any_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.data.streams._SPACING", 50_000)
    monkeypatch.setattr("core.data.streams._MOST", 8)
    chance = random.Random(4)
    data = bytes(chance.choices(b"abcdefgh \n", k=2_000_000))
    (tmp_path / "a.gz").write_bytes(
        gzip.compress(data[:700_000]) + gzip.compress(data[700_000:]) + b"\0" * 100
    )
    with SeekableGzip(tmp_path / "a.gz") as stream:
        for _ in range(60):
            at, size = chance.randrange(len(data)), chance.randrange(1, 5000)
            stream.seek(at)
            got = b""
            while len(got) < size and (piece := stream.read(size - len(got))):
                got += piece
            assert got == data[at : at + size]
        assert len(stream._marks) <= 8


def test_paging_and_preview_load_nothing_heavy(folder: Path) -> None:
    """In the user interface's process: no tokenizer library, pyarrow, numpy or jinja2 for looking at rows."""
    code = (
        "import sys; from pathlib import Path; from core.data.pager import RowPager\n"
        "import core.data.background, core.data.preview\n"
        "with RowPager(Path(sys.argv[1])) as pager: assert len(pager.rows(5, 3)) == 3\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'pyarrow', 'numpy', 'jinja2', 'datasets', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    for name in ("a.jsonl", "i.parquet"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder / name)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.strip() == "[]"
