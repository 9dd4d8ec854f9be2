"""What the result of an evaluation says, as people read it: a table of the variants, and answers side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.formats import counted, duration, human_bytes, number
from core.language import shown, told
from core.text import clean

TITLES: Mapping[str, str] = {
    "float": told("float model"),
    "quantized": told("quantized"),
    "tuned": told("with adapter"),
    "onnx": told("ONNX, base"),
    "onnx_tuned": told("ONNX, with adapter"),
}
"""The variants, in the order in which a lab makes them, and what people call each."""

Result = Mapping[str, Any]


def measured(result: Result) -> list[tuple[str, Mapping[str, Any]]]:
    """The variants of a result with their figures; a result may be of another version, or changed by hand."""
    found = result.get("variants")
    if not isinstance(found, Mapping):
        return []
    return [(name, found[name]) for name in TITLES if isinstance(found.get(name), Mapping)]


def figure(numbers: Mapping[str, Any], key: str, part: str = "value") -> float | None:
    """A figure of a variant, or a bound of it; None where there is none that can be counted with."""
    found = numbers.get(key)
    if isinstance(found, Mapping):
        found = found.get(part)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def between(numbers: Mapping[str, Any], key: str, show: Callable[[float], str] = number) -> str:
    """A figure with its bounds, ``5.1 (4.2 to 6.3)``; empty without one."""
    value, low, high = (figure(numbers, key, part) for part in ("value", "low", "high"))
    if value is None:
        return ""
    if low is None or high is None or show(low) == show(high):
        return show(value)
    return told("{value} ({low} to {high})", value=show(value), low=show(low), high=show(high))


def nats(value: float) -> str:
    """A perplexity or a divergence, with three digits or so."""
    return f"{value:.2f}" if 1 <= value < 10 else number(value)


def percent(value: float) -> str:
    """A share as ``97 %``."""
    return f"{100 * value:.0f} %"


def points(value: float) -> str:
    """A figure of up to 100."""
    return f"{value:.0f}"


def milliseconds(value: float) -> str:
    """Seconds as ``41 ms``."""
    return f"{number(round(1000 * value))} ms" if value < 10 else duration(value)


def rate(value: float) -> str:
    """Tokens a second."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


LINES: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("perplexity", told("Perplexity on held-out records"), nats),
    ("exact", told("Answers word for word"), percent),
    ("right", told("Answers that say the same"), percent),
    ("words", told("Words in common (ROUGE-L)"), percent),
    ("chrf", told("Letters in common (chrF)"), points),
    ("preferred", told("Prefers the chosen answer"), percent),
    ("general_perplexity", told("Perplexity on general text"), nats),
    ("kl", told("Divergence on general text"), number),
    ("bytes", told("Size on disk"), human_bytes),
    ("peak_bytes", told("Memory at most"), human_bytes),
    ("gpu_peak_bytes", told("GPU memory at most"), human_bytes),
    ("load_s", told("Loading took"), duration),
    ("first_s", told("First token after"), milliseconds),
    ("tokens_per_s", told("Tokens a second"), rate),
)
"""Each figure of a variant by its key: what people call it, and how it is written."""


def lines_of(result: Result) -> list[tuple[str, str, Callable[[float], str]]]:
    """Those of :data:`LINES` that any variant of a result has."""
    there = measured(result)
    return [line for line in LINES if any(figure(numbers, line[0]) is not None for _, numbers in there)]


def table(result: Result) -> list[tuple[str, list[str]]]:
    """A line for each figure that any variant has, with a cell for each of :func:`measured`."""
    there = measured(result)
    return [
        (label, [between(numbers, key, show) for _, numbers in there])
        for key, label, show in lines_of(result)
    ]


def tasks_table(result: Result) -> list[tuple[str, list[str]]]:
    """The same for the tasks of lm-eval: a line for each metric of each task."""
    tasks = result.get("tasks")
    found = []
    for task, metrics in tasks.items() if isinstance(tasks, Mapping) else ():
        for metric, values in metrics.items() if isinstance(metrics, Mapping) else ():
            if isinstance(values, Mapping):
                cells = [_with_error(values.get(name)) for name, _ in measured(result)]
                found.append((clean(f"{task}, {metric}", keep_newlines=False), cells))
    return found


def _with_error(value: Any) -> str:
    if not isinstance(value, Sequence) or len(value) != 2 or not isinstance(value[0], int | float):
        return ""
    off = value[1]
    return f"{value[0]:.3f} ± {off:.3f}" if isinstance(off, int | float) else f"{value[0]:.3f}"


def left_out(result: Result) -> list[str]:
    """The variants that were not measured, each with the reason."""
    found = result.get("left_out")
    if not isinstance(found, Mapping):
        return []
    return [
        clean(f"{shown(TITLES.get(str(name), str(name)))}: {why}", keep_newlines=False)
        for name, why in found.items()
    ]


def explained(result: Result) -> str:
    """How sure the figures are, in words; empty where nothing was measured."""
    rows, questions = result.get("rows"), result.get("questions")
    if not isinstance(rows, int):
        return ""
    of = result.get("held_out_rows")
    records = counted(rows, "held-out record")
    if isinstance(of, int) and of > rows:
        records = told("{records} (of {total} held out)", records=records, total=number(of))
    if isinstance(questions, int) and 0 < questions < rows:
        records = told(
            "{records}, {questions} of them questions", records=records, questions=number(questions)
        )
    meaning = told(
        "In brackets: with other records of the kind, the figure would lie there 95 times in 100 (bootstrap over the "
        "records; Wilson's interval for shares); of times and speeds, where eight in ten lie."
    )
    if rows < FEW_RECORDS:
        return told(
            "On {records}. Of so few records the intervals are too narrow. {meaning}",
            records=records,
            meaning=meaning,
        )
    return told("On {records}. {meaning}", records=records, meaning=meaning)


class Answered(NamedTuple):
    """A held-out record with what the variants made of it: answer and loss a token, by the variant's name."""

    file: str
    line: int
    question: str
    expected: str
    answers: Mapping[str, str]
    losses: Mapping[str, float]


FEW_RECORDS = 10
"""Below so many held-out records nothing is told of a model: intervals drawn from so few are too narrow."""

ROWS = "rows.jsonl"
"""The file of an evaluation's folder with every record that was measured."""


def read_rows(folder: Path) -> list[Answered]:
    """The records of an evaluation that are a question; what is no record, as after an edit, is passed over."""
    try:
        lines = (folder / ROWS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
            answers = {str(k): str(v) for k, v in row["answers"].items()}
            losses = {str(k): float(v) for k, v in row["losses"].items()}
            where = str(row["file"]), int(row["line"])
            if answers:
                found.append(Answered(*where, str(row["question"]), str(row["expected"]), answers, losses))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return found


def two_sides(names: Collection[str]) -> tuple[str, str] | None:
    """The two variants that are read side by side: as deployed without and with the adapter, else first and last."""
    if "onnx" in names and "onnx_tuned" in names:
        return "onnx", "onnx_tuned"
    there = [name for name in TITLES if name in names]
    return (there[0], there[-1]) if len(there) > 1 else None


def samples(result: Result) -> list[Mapping[str, Any]]:
    """Some questions with the answer expected and those of the variants."""
    found = result.get("answers")
    kept = found if isinstance(found, Sequence) and not isinstance(found, str) else ()
    return [each for each in kept if isinstance(each, Mapping) and isinstance(each.get("answers"), Mapping)]
