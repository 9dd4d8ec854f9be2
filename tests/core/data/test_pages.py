"""Pages of files of every form are the rows that a reader gives, wherever one looks."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.data.pages import RowPager
from core.data.readers import RowReader
from core.data.seekable_gzip import SeekableGzip
from core.errors import RequestError

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
    with RowPager(path) as pager:
        for start in [
            0,
            len(wanted) - 5,
            17,
            255,
            256,
            300,
            *(chance.randrange(len(wanted)) for _ in range(12)),
        ]:
            assert pager.rows(start, 40) == wanted[max(0, start) : max(0, start) + 40]
        marks: list[tuple[int, int]] = []
        assert pager.index(lambda done, total: marks.append((done, total))) == len(wanted)
        assert marks[-1][0] == marks[-1][1] > 0
        assert pager.count_estimate() == (len(wanted), True)
        assert pager.rows(len(wanted) - 2, 40) == wanted[-2:]
        assert pager.rows(len(wanted), 40) == []


def test_the_estimate_is_near_before_the_index_is_there(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "x" * 50, "response": "y" * 100}) + "\n"
    (tmp_path / "a.jsonl").write_text(row * 20_000)
    with RowPager(tmp_path / "a.jsonl") as pager:
        count, exact = pager.count_estimate()
        assert not exact
        assert count == pytest.approx(20_000, rel=0.02)


def test_a_far_page_comes_at_once(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}", "response": "y" * 100} for n in range(40_000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with RowPager(tmp_path / "a.jsonl") as pager:
        found, exact = pager.rows_near(30_000, 10)
        assert not exact
        assert len(found) == 10
        assert all(row.line == 0 for row in found)
        assert int((found[0].fields or {})["prompt"]) == pytest.approx(30_000, abs=600)
        assert not pager.count_estimate()[1]  # nothing was indexed for it
        assert pager.rows_near(10, 5) == (pager.rows(10, 5), True)
        pager.index()
        assert pager.rows_near(30_000, 10) == (pager.rows(30_000, 10), True)


@pytest.mark.parametrize("name", [*FORMS, "."])
def test_near_pages_are_the_pages_once_there_is_an_index(folder: Path, name: str) -> None:
    with RowPager(folder / name) as pager:
        early, exact = pager.rows_near(2900, 20)
        assert exact == (early == pager.rows(2900, 20)) or not early
        count = pager.index()
        for start in (0, count // 2, count - 5, count):
            assert pager.rows_near(start, 20) == (pager.rows(start, 20), True)


def test_pages_can_be_had_while_another_thread_indexes(folder: Path) -> None:
    wanted = list(RowReader(folder / "f.csv"))
    with RowPager(folder / "f.csv") as pager:
        worker = threading.Thread(target=pager.index)
        worker.start()
        for start in (2900, 0, 1500):
            assert pager.rows(start, 20) == wanted[start : start + 20]
        worker.join(timeout=60)
        assert not worker.is_alive()
        assert pager.count_estimate() == (len(wanted), True)


def test_indexing_stops_when_asked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' * 1_000_000)
    with RowPager(tmp_path / "a.jsonl") as pager:
        pager._pages.index_for = lambda seconds: False  # type: ignore[union-attr, method-assign]
        pager.index(stop=lambda: True)
        assert not pager.count_estimate()[1]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.jsonl"):
        RowPager(tmp_path / "nowhere.jsonl")


def test_a_server_that_has_died_is_an_error_and_no_hang(folder: Path) -> None:
    with RowPager(folder / "c.json") as pager:
        assert pager.rows(0, 1)
        process = pager._server._process  # type: ignore[union-attr]
        assert process is not None
        process.kill()
        process.wait()
        with pytest.raises(RequestError, match="has ended"):
            pager.rows(0, 1)


def test_gzip_is_read_from_any_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.data.seekable_gzip._SPACING", 50_000)
    monkeypatch.setattr("core.data.seekable_gzip._MOST", 8)
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
        "import sys; from pathlib import Path; from core.data.pages import RowPager\n"
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
