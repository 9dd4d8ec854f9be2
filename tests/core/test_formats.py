"""What people read: bytes, durations, numbers, and the results of stages, the same wherever they are shown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from core.cli.show import print_result
from core.data.findings import passes
from core.files import MANIFEST, write_json
from core.folder import LabFolder
from core.formats import duration, human_bytes, number, time_left
from core.recipe import Recipe
from core.report import report_text
from core.stages import STAGES, assessment, result_lines
from tests.tui.labs import RESULTS


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (8_808_038, "8.4 MiB"), (3 * 2**40, "3.0 TiB")],
)
def test_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (0.4, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (42, "42 s"),
        (59.6, "1 min"),
        (1200, "20 min"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rounds", "rows", "text"),
    [
        (8 / 60, 60, "8 of 60 rows"),
        (8e-6, 1_000_000, "8 of 1,000,000 rows"),
        (1e-9, 60, "1 of 60 rows"),
        (1.0, 60, "each row once"),
        (1.02, 60, "each row once"),
        (2.5, 1, "each row 2.5 times"),
        (4.0, 60, "each row 4 times"),
        (41.3, 60, "each row 41 times"),
    ],
)
def test_what_training_sees_of_its_rows(rounds: float, rows: int, text: str) -> None:
    assert passes(rounds, rows) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (3, "a few seconds left"),
        (42, "about 40 s left"),
        (95, "about 2 min left"),
        (9000, "about 2.5 h left"),
    ],
)
def test_time_left_is_coarse(seconds: float | None, text: str) -> None:
    assert time_left(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (11832.0, "11,832"),
        (1234.6, "1,235"),
        (0.00014, "0.00014"),
        (2.612, "2.612"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    "stage", [name for name in STAGES if name != "evaluate"]
)  # its forms are a table of their own
def test_no_key_is_shown_to_people_and_none_is_forgotten(stage: str) -> None:
    result = RESULTS[stage]
    told = {part for figure in STAGES[stage].figures for part in figure.key.split("|")}
    assert told >= {key for key, value in result.items() if not isinstance(value, list)}
    labels = [label for label, _ in result_lines(stage, result)]
    assert len(labels) == len(set(labels))
    assert not any("_" in label for label in labels)
    main = result_lines(stage, result, main=True)
    assert main
    assert set(main) <= set(result_lines(stage, result))


def test_values_in_words() -> None:
    result = {
        "bytes_before": 3 << 30,
        "bytes_after": 3 << 20,
        "perplexity_float": 6.21,
        "perplexity": None,
        "same_likeliest_token": 0.957,
        "algorithm": "a\x1b[2Jb\nc",
    }
    assert result_lines("quantize", result) == [
        ("Algorithm", "ab c"),
        ("Size", "3.0 GiB to 3.0 MiB"),
        ("Same next word", "95.7 %"),
    ]
    agreement = {"base": {"agreeing": 99, "prompts": 100}, "tuned": {"agreeing": 7, "prompts": 8}}
    lines = dict(result_lines("optimize", {"verified": True, "agreement": agreement}))
    assert lines == {
        "Tried here": "yes",
        "Answers as PyTorch's, base": "99 of 100",
        "Answers as PyTorch's, tuned": "7 of 8",
    }
    assert result_lines("finetune", {"resumed_from": 0}) == []


def test_report_and_command_line_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = LabFolder(tmp_path)
    write_json(lab.quantized_dir / MANIFEST, {"result": RESULTS["quantize"]})
    report = report_text(lab, Recipe())
    print_result("quantize", json.loads(json.dumps(RESULTS["quantize"])))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "quantize: done"
    sentence = assessment("quantize", RESULTS["quantize"]).text
    assert printed[1] == f"  {sentence}"
    assert f"## Quantized model\n\n{sentence}\n\n" in report
    for line, (label, value) in zip(printed[2:], result_lines("quantize", RESULTS["quantize"]), strict=True):
        assert line == f"  {label}: {value}"
        assert f"| {label} | {value} |" in report
