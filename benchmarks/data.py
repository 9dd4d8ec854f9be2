"""Measures the data step on a large file: opening, paging, indexing, and checking every row.

    python benchmarks/data.py [--rows 2000000] [--folder DIR] [--forms jsonl,gz,csv,json,parquet] [--survey]

Makes the files (seeded, about 530 bytes a row), and prints one line a measure. The check runs in a
process of its own, so that its peak memory (maximum resident set) is its own.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FORMS = ("jsonl", "gz", "csv", "json", "parquet")


def make_rows(count: int) -> Iterator[dict[str, str]]:
    """Rows of made-up words, as varied as real text is: a vocabulary of 30,000 words, common ones more often."""
    chance = random.Random(5)
    letters = "aeiou", "bcdfghjklmnprstvz"
    vocabulary = [
        "".join(chance.choice(letters[(i + 1) % 2]) for i in range(chance.randrange(2, 10)))
        for _ in range(30_000)
    ]
    places = [chance.paretovariate(0.9) for _ in range(1 << 16)]
    common = [vocabulary[min(29_999, int(place * 12) - 12)] for place in places]
    for number in range(count):
        words = chance.choices(common, k=chance.randrange(30, 100))
        asked, answer = words[:9], words[9:]
        if number % 500 == 499:
            answer = answer[:3] + common[number % 5000 : number % 5000 + 60]
        yield {"prompt": f"What about {' '.join(asked)}?", "response": f"{' '.join(answer)} {number}."}


def make_file(path: Path, form: str, count: int) -> None:
    """Write the rows in one form."""
    if form in ("jsonl", "gz"):
        with gzip.open(path, "wt", 1, encoding="utf-8") if form == "gz" else path.open("w") as stream:
            for row in make_rows(count):
                stream.write(json.dumps(row) + "\n")
    elif form == "json":
        with path.open("w") as stream:
            for number, row in enumerate(make_rows(count)):
                stream.write(("[\n" if number == 0 else ",\n") + json.dumps(row))
            stream.write("\n]\n")
    elif form == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["prompt", "response"])
            writer.writeheader()
            writer.writerows(make_rows(count))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([("prompt", pa.string()), ("response", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            batch: list[dict[str, str]] = []
            for row in make_rows(count):
                batch.append(row)
                if len(batch) == 50_000:
                    writer.write_table(pa.Table.from_pylist(batch, schema))
                    batch = []
            if batch:
                writer.write_table(pa.Table.from_pylist(batch, schema))


def page(path: Path, count: int) -> None:
    """Print how long opening, jumping and indexing take."""
    from core.data.pager import RowPager

    size = path.stat().st_size / 2**20
    began = time.perf_counter()
    with RowPager(path) as pager:
        assert len(pager.rows(0, 200)) == 200
        opened = time.perf_counter() - began
        began = time.perf_counter()
        pager.rows_near(count - 400, 200)
        guessed = time.perf_counter() - began
        began = time.perf_counter()
        assert len(pager.rows(count - 200, 200)) == 200
        jumped = time.perf_counter() - began
        began = time.perf_counter()
        assert pager.index() == count
        indexed = jumped + time.perf_counter() - began
        chance = random.Random(1)
        slowest = 0.0
        for _ in range(50):
            start = chance.randrange(count - 200)
            began = time.perf_counter()
            rows = pager.rows(start, 200)
            slowest = max(slowest, time.perf_counter() - began)
            assert rows[0].fields is not None
            assert rows[0].fields["response"].endswith(f" {start}.")
    print(
        f"{path.name}: {size:,.0f} MiB, {count:,} rows: first page {opened:.3f} s, "
        f"a far page before there is an index {guessed:.3f} s (about there), {jumped:.2f} s (just there), "
        f"whole index {indexed:.2f} s, "
        f"slowest of 50 pages anywhere {slowest:.3f} s",
        flush=True,
    )


def survey(path: Path) -> None:
    """Print how long checking every row takes, and its peak memory."""
    with tempfile.TemporaryDirectory(prefix="olivepress-bench-", dir=path.parent) as folder:
        lab = Path(folder)
        (lab / "lab.toml").write_text(f'[model]\nsource = "rehearsal"\n[data]\nfile = "{path}"\n')
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "core.cli", "data", str(lab), "--json"],
            stdout=subprocess.PIPE,
            check=False,
        )
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    report = json.loads(done.stdout)
    print(
        f"{path.name}: olivepress data: {report['rows']:,} rows, {report['tokens']['total']:,} tokens "
        f"in {seconds:.0f} s, peak {peak:.0f} MiB, findings {report['counts']}, held out {report['eval']:,}",
        flush=True,
    )


def main() -> None:
    """Make the files and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument(
        "--folder", type=Path, help="where the files are made and kept (default: a temporary folder)"
    )
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--survey", action="store_true", help="check every row as well (minutes)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="olivepress-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for form in options.forms.split(","):
            path = folder / f"big.{'jsonl.gz' if form == 'gz' else form}"
            if not path.exists():
                make_file(path.with_suffix(".part"), form, options.rows)
                os.replace(path.with_suffix(".part"), path)
            page(path, options.rows)
            if options.survey:
                survey(path)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
