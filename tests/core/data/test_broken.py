"""Fifty broken files: each gives the right line and cause, in the report and in training, and no traceback."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from core.data import load_examples
from core.data.survey import summary
from core.errors import RequestError
from core.recipe import Recipe

Row = dict[str, object]
WORDS = "river bridge museum garden castle harbour market tower temple square island station".split()  # noqa: SIM905


def make_rows(chance: random.Random) -> list[Row]:
    return [
        {
            "prompt": f"What of {' '.join(chance.sample(WORDS, 4))} number {i}?",
            "response": " ".join(chance.sample(WORDS, 8)) + ".",
        }
        for i in range(chance.randrange(6, 30))
    ]


def line_of(row: Row) -> bytes:
    return json.dumps(row).encode()


# Each way to break a line of JSON Lines: (kind, what to do with the line of a row).
LINES: dict[str, tuple[str, Callable[[Row], bytes]]] = {
    "no end": ("broken-json", lambda row: line_of(row)[:-1]),
    "half": ("broken-json", lambda row: line_of(row)[: len(line_of(row)) // 2]),
    "no comma": ("broken-json", lambda row: line_of(row).replace(b'", "', b'" "')),
    "trailing comma": ("broken-json", lambda row: line_of(row)[:-1] + b",}"),
    "single quotes": ("broken-json", lambda row: line_of(row).replace(b'"', b"'")),
    "two on a line": ("broken-json", lambda row: line_of(row) * 2),
    "words": ("broken-json", lambda row: b"What of the river?"),
    "raw tab": ("broken-json", lambda row: line_of(row).replace(b"What of", b"What\tof")),
    "deep": ("broken-json", lambda row: b"[" * 50_000),
    "long number": ("broken-json", lambda row: b'{"prompt": ' + b"7" * 5000 + b"}"),
    "not UTF-8": ("invalid-utf8", lambda row: line_of(row).replace(b"What", b"Wh\xe1t")),
    "half a pair": ("invalid-utf8", lambda row: line_of(row).replace(b"What", b"\\ud83d")),
    "list": ("wrong-type", lambda row: b'["What?", "That."]'),
    "null": ("wrong-type", lambda row: b"null"),
    "no answer": ("missing-field", lambda row: line_of({"prompt": row["prompt"]})),
    "null answer": ("missing-field", lambda row: line_of({**row, "response": None})),
    "empty object": ("missing-field", lambda row: b"{}"),
    "empty answer": ("empty-field", lambda row: line_of({**row, "response": " \n"})),
    "number": ("wrong-type", lambda row: line_of({**row, "response": 42})),
    "nested": ("wrong-type", lambda row: line_of({**row, "prompt": {"text": "What?"}})),
}


def jsonl(rows: list[Row], at: int, how: str) -> tuple[bytes, int, str]:
    kind, breaker = LINES[how]
    lines = [breaker(row) if i == at else line_of(row) for i, row in enumerate(rows)]
    return b"\n".join(lines), at + 1, kind


def array(rows: list[Row], at: int, how: str) -> tuple[bytes, int, str]:
    texts = [json.dumps(row, indent=2) for row in rows]
    line = 2 + 4 * at
    if how == "no comma":
        texts[at] = texts[at].replace('",\n', '"\n')
    elif how == "open text":
        texts[at] = texts[at].replace('.",', ".,").replace('."', ".")
    elif how == "cut":
        at = len(rows) - 1
        return ("[\n" + ",\n".join(texts))[:-3].encode(), 2 + 4 * at, "broken-json"
    elif how == "no end":
        return ("[\n" + ",\n".join(texts)).encode(), 1 + 4 * len(rows), "broken-json"
    elif how == "element":
        texts[at] = '"only text"'
        return ("[\n" + ",\n".join(texts) + "\n]").encode(), line, "wrong-type"
    return ("[\n" + ",\n".join(texts) + "\n]").encode(), line, "broken-json"


def table(rows: list[Row], at: int, how: str) -> tuple[bytes, int, str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["prompt", "response"])
    writer.writerows([row["prompt"], row["response"]] for row in rows)
    lines = text.getvalue().encode().splitlines()
    kind = "broken-csv"
    if how == "open quote":
        lines[at + 1] = lines[at + 1][:-1]
    elif how == "wrong quote":
        lines[at + 1] = b'"He said "no" to it","x"'
    elif how == "more":
        lines[at + 1] += b',"and more"'
        kind = "wrong-columns"
    elif how == "fewer":
        lines[at + 1] = b'"only this"'
        kind = "wrong-columns"
    elif how == "not UTF-8":
        lines[at + 1] = b'"caf\xe9","x"'
        kind = "invalid-utf8"
    elif how == "empty":
        lines[at + 1] = b'"","x"'
        kind = "empty-field"
    return b"\n".join(lines) + b"\n", at + 2, kind


def chat(rows: list[Row], at: int, how: str) -> tuple[bytes, int, str]:
    talks: list[Row] = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["response"]},
            ]
        }
        for row in rows
    ]
    broken: dict[str, object] = {
        "role": [{"role": "wizard", "content": "x"}],
        "nobody": [{"role": "user", "content": "x"}],
        "turn": ["x", "y"],
        "empty": [{"role": "user", "content": ""}, {"role": "assistant", "content": "x"}],
        "alone": [{"role": "assistant", "content": "x"}],
        "text": "hello",
    }
    talks[at] = {"messages": broken[how]}
    return b"\n".join(map(line_of, talks)), at + 1, "bad-messages"


CASES: list[tuple[str, Callable[[list[Row], int, str], tuple[bytes, int, str]], str]] = [
    *[("a.jsonl", jsonl, how) for how in LINES],
    *[("a.jsonl.gz", jsonl, how) for how in list(LINES)[:8]],
    *[("a.json", array, how) for how in ("no comma", "open text", "cut", "no end", "element")],
    *[("a.csv", table, how) for how in ("open quote", "wrong quote", "more", "fewer", "not UTF-8", "empty")],
    *[("a.csv.gz", table, how) for how in ("open quote", "more", "not UTF-8")],
    *[("a.jsonl", chat, how) for how in ("role", "nobody", "turn", "empty", "alone", "text")],
]
WHOLE_FILES = {
    "empty.jsonl": (b"\n", "no-rows"),
    "zip.jsonl": (b"PK\x03\x04 and so on", "unreadable-file"),
    "utf16.csv": ("prompt,response\nx,y\n".encode("utf-16"), "invalid-utf8"),
    "words.txt": (b"just words\nand more", "unreadable-file"),
    "cut.parquet": (b"PAR1 cut off", "unreadable-file"),
    "no.parquet": (b"prompt,response", "unreadable-file"),
    "bad.jsonl.gz": (b"\x1f\x8b\x08 damaged", "unreadable-file"),
}


def test_there_are_fifty() -> None:
    assert len(CASES) + len(WHOLE_FILES) >= 50


@pytest.mark.parametrize("seed", range(len(CASES)))
def test_broken_row(tmp_path: Path, seed: int) -> None:
    name, build, how = CASES[seed]
    chance = random.Random(seed)
    rows = make_rows(chance)
    # The mapping is told by the rows before; the last row is spared so that the file goes on behind.
    data, line, kind = build(rows, chance.randrange(2, len(rows) - 1), how)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    recipe = Recipe().with_values({"data.file": name})

    report = summary(tmp_path, recipe)
    # A row may lack two fields, so the same line and kind may come twice.
    assert {(each.line, each.kind) for each in report.findings} == {(line, kind)}, how
    found = next(iter(report.findings))
    assert found.file == name
    assert found.message
    assert found.fix
    assert not report.ok
    assert report.usable >= len(rows) - 1

    with pytest.raises(RequestError, match=rf"{name}, line {line}: "):
        load_examples(recipe, tmp_path)


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_broken_file(tmp_path: Path, name: str) -> None:
    data, kind = WHOLE_FILES[name]
    (tmp_path / name).write_bytes(data)
    recipe = Recipe().with_values({"data.file": name})
    report = summary(tmp_path, recipe)
    assert [(each.file, each.line, each.kind) for each in report.findings] == [(name, 1, kind)]
    with pytest.raises(RequestError, match=name.replace(".", r"\.")):
        load_examples(recipe, tmp_path)


def test_a_cut_gzip_file_keeps_the_rows_before_the_cut(tmp_path: Path) -> None:
    chance = random.Random(1)
    rows = [row for _ in range(200) for row in make_rows(chance)]
    whole = gzip.compress(b"\n".join(map(line_of, rows)))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-500])
    report = summary(tmp_path, Recipe().with_values({"data.file": "a.jsonl.gz"}))
    assert report.usable > 100
    assert report.findings.counts["unreadable-file"] == 1


def test_random_bytes_never_raise(tmp_path: Path) -> None:
    """Noise put into good files of each form is always a report, whatever it says."""
    for seed in range(60):
        chance = random.Random(seed)
        build, how = chance.choice([(jsonl, "no end"), (array, "no comma"), (table, "more")])
        data = bytearray(build(make_rows(chance), 2, how)[0])
        for _ in range(chance.randrange(1, 30)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        name = chance.choice(["a.jsonl", "a.json", "a.csv", "a"])
        (tmp_path / name).write_bytes(bytes(data))
        recipe = Recipe().with_values({"data.file": name})
        summary(tmp_path, recipe)
        with suppress(RequestError):
            load_examples(recipe, tmp_path)
