"""``report.html``: the report as one page that can be sent on, with charts; it loads nothing from anywhere."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.difference import difference
from core.errors import RequestError
from core.events import now
from core.files import MANIFEST, read_json, write_atomic
from core.folder import LabFolder
from core.formats import human_bytes, number
from core.hardware import usable_cores
from core.model.auto import Chosen
from core.recipe import Recipe, UploadSection, recipe_text
from core.report import report_text, what_is_made
from core.results import numbers_of
from core.stages import STAGES, assessment, result_lines
from core.stale import stale
from core.text import clean, command
from core.version import __version__

_TEMPLATE = Path(__file__).with_name("report_page.html.j2")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 360, 190, 44, 22, 10
_CHART_SPAN = 7
"""Steps over which the loss is smoothed, on each side as many as there are."""


def write_report(lab: LabFolder, recipe: Recipe) -> None:
    """Write ``report.md`` and ``report.html`` anew from the manifests of what there is.

    Raises:
        MachineError: the disk is full.
    """
    write_atomic(lab.report_path, report_text(lab, recipe))
    write_atomic(lab.report_page_path, page(lab, recipe))


def page(lab: LabFolder, recipe: Recipe) -> str:
    """The report of what there is now, as HTML; a result that cannot be read is named."""
    from jinja2 import Environment
    from markupsafe import Markup

    made, unread = _made(lab)
    results = {stage: manifest.get("result") or {} for stage, _, _, manifest in made}
    sentences = [assessment(stage, manifest.get("result") or {}) for stage, _, _, manifest in made]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    charts = [
        {"title": title, "svg": Markup(svg), "words": words}
        for title, svg, words in (_sizes(results), _loss(results.get("finetune", {})), _speed(results))
        if svg
    ]
    text: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        lab=_plain(lab.root.name),
        model=_plain(recipe.model.source),
        data=_plain(recipe.data.file),
        written=f"{now()[:19]}Z",
        version=__version__,
        verdict=[sentence for sentence in sentences if sentence.text],
        old=[f"{STAGES[stage].title}: {_plain(why)}." for stage, why in stale(lab, recipe).items()] + unread,
        charts=charts,
        answers=_answers(results.get("optimize", {}).get("answers")),
        parts=[_part(*each) for each in made],
        commands=_commands(lab, recipe, [stage for stage, *_ in made]),
        recipe=_plain_text(recipe_text(_without_azure(recipe))),
        machine=f"{platform.system()} {platform.machine()}, {usable_cores()} cores, Python {platform.python_version()}",
    )
    return text


def _made(lab: LabFolder) -> tuple[list[tuple[str, str, Path, Mapping[str, Any]]], list[str]]:
    """The stage, heading, folder and manifest of everything that was made, and what of it cannot be read."""
    found, unread = [], []
    for stage, heading, folder in what_is_made(lab):
        try:
            manifest = read_json(folder / MANIFEST)
        except RequestError as error:
            unread.append(_plain(f"{heading}: {error.title} {error.detail}"))
            continue
        if manifest:
            found.append((stage, heading, folder, manifest))
    return found, unread


def _part(stage: str, heading: str, folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    result = numbers_of(manifest)
    main = result_lines(stage, result, main=True)
    fingerprint = manifest.get("fingerprint") or {}
    packages = fingerprint.get("versions") or {}
    made = [("Made with", ", ".join(f"{_plain(name)} {_plain(v)}" for name, v in packages.items()))]
    made += [(_plain(name), f"SHA-256 {_plain(digest)}") for name, digest in _digests(manifest.get("files"))]
    return {
        "heading": _plain(heading),
        "sentence": assessment(stage, result).text,
        "main": main,
        "rest": [line for line in result_lines(stage, result) if line not in main],
        "auto": [
            {"option": each["option"], "words": _plain(_words(each)), "reason": _plain(each["reason"])}
            for each in manifest.get("auto") or []
        ],
        "made": [("Folder", f"models/{folder.relative_to(folder.parent.parent)}"), *made] if folder else made,
    }


def _words(chosen: Mapping[str, Any]) -> str:
    return Chosen(chosen["option"], chosen["value"], chosen["reason"]).words


def _digests(files: Any) -> list[tuple[str, str]]:
    if not isinstance(files, Mapping):
        return []
    return [(name, kept[1]) for name, kept in files.items() if isinstance(kept, Sequence) and len(kept) == 2]


def _without_azure(recipe: Recipe) -> Recipe:
    """A page is sent on: whose subscription it was is nobody else's concern."""
    return replace(recipe, upload=UploadSection(name=recipe.upload.name))


def _commands(lab: LabFolder, recipe: Recipe, stages: Sequence[str]) -> list[str]:
    folder = lab.root.name
    lines = [
        f"# with OlivePress {__version__}, this recipe as {lab.root.name}/lab.toml, and its records beside it"
    ]
    if stages:
        lines.append(command("check", folder))
        lines.append(command("run", folder, *dict.fromkeys(stages)))
    lines.append(command("chat", folder))
    return [_plain(line) for line in lines]


def _plain(text: object) -> str:
    return clean(str(text), keep_newlines=False)


def _plain_text(text: str) -> str:
    return clean(text)


# The charts


def _sizes(results: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    quantized, built = results.get("quantize", {}), results.get("optimize", {})
    bars = [
        ("float", quantized.get("bytes_before") or built.get("float16_bytes")),
        ("quantized", quantized.get("bytes_after")),
        ("ONNX", built.get("base_bytes")),
        ("adapter", built.get("adapter_bytes")),
    ]
    found = [(name, float(size)) for name, size in bars if _is_number(size) and size]
    return (
        "Size",
        _bars(found, human_bytes) if len(found) > 1 else "",
        "The adapter is a file of its own beside the ONNX model.",
    )


def _speed(results: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    built = results.get("optimize", {})
    bars = [("base", built.get("tokens_per_s_base")), ("with adapter", built.get("tokens_per_s_tuned"))]
    found = [(name, float(speed)) for name, speed in bars if _is_number(speed) and speed]
    first = built.get("time_to_first_token_s_base")
    words = f"The first token after {1000 * float(first or 0):,.0f} ms." if _is_number(first) else ""
    return "Tokens a second, as ONNX", _bars(found, number) if found else "", words


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and value == value
        and abs(value) < 1e18
    )


def _bars(bars: Sequence[tuple[str, float]], words: Any) -> str:
    most = max(value for _, value in bars)
    height = 34 * len(bars)
    lines = []
    for number_, (name, value) in enumerate(bars):
        y, width = 34 * number_, max(1.0, 340 * value / most)
        kind = "bar first" if number_ == 0 else "bar"
        lines.append(
            f'<text x="0" y="{y + 11}">{_escaped(name)}: {_escaped(words(value))}</text>'
            f'<rect class="{kind}" x="0" y="{y + 15}" width="{width:.1f}" height="11" rx="2"/>'
        )
    told = "; ".join(f"{name} {words(value)}" for name, value in bars)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{_escaped(told)}">{"".join(lines)}</svg>'


def _escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(_plain(text)))


def _points(curve: Any) -> list[tuple[float, float]]:
    if not isinstance(curve, Sequence) or isinstance(curve, str):
        return []
    pairs = [pair for pair in curve if isinstance(pair, Sequence) and len(pair) == 2]
    return [(float(step), float(loss)) for step, loss in pairs if _is_number(step) and _is_number(loss)]


def _loss(result: Mapping[str, Any]) -> tuple[str, str, str]:
    losses, held = _points(result.get("loss_curve")), _points(result.get("eval_curve"))
    both = losses + held
    if len(losses) < 2:
        return "Loss", "", ""
    right = max(step for step, _ in both) or 1.0
    low, high = min(loss for _, loss in both), max(loss for _, loss in both)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 6) * step / right

    def y(loss: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - loss) / (high - low)

    def line(points: Sequence[tuple[float, float]], kind: str) -> str:
        places = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
        return f'<polyline class="{kind}" points="{places}"/>'

    parts = []
    for share in (0.0, 0.5, 1.0):
        value, step = low + share * (high - low), share * right
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
            f'<text x="{x(step):.1f}" y="{_HEIGHT - 6}" text-anchor="{("start", "middle", "end")[round(2 * share)]}">'
            f"{step:,.0f}</text>"
        )
    parts += [line(losses, "raw"), line(_smoothed(losses), "smooth")]
    words = "Training loss by step, smoothed"
    if held:
        best = min(held, key=lambda pair: pair[1])
        parts += [
            line(held, "held"),
            f'<circle class="dot" cx="{x(best[0]):.1f}" cy="{y(best[1]):.1f}" r="4"/>',
        ]
        words += f"; in orange the held-out loss, lowest at step {best[0]:,.0f} ({best[1]:.2f})"
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_escaped(words)}">{"".join(parts)}</svg>'
    return "Loss", svg, f"{words}."


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found = []
    for place, (step, _) in enumerate(points):
        near = points[max(0, place - _CHART_SPAN) : place + _CHART_SPAN + 1]
        found.append((step, sum(loss for _, loss in near) / len(near)))
    return found


# The answers


def _answers(answers: Any) -> dict[str, Any] | None:
    if not isinstance(answers, Mapping) or not answers.get("base") or not answers.get("tuned"):
        return None
    base, tuned = (clean(str(answers[key])) for key in ("base", "tuned"))
    apart = difference(base, tuned)
    return {
        "question": _plain(answers.get("question") or ""),
        "base": _pieces(base, apart.first),
        "tuned": _pieces(tuned, apart.second),
        "marked": bool(apart.first or apart.second),
    }


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    found, at = [], 0
    for begin, end in spans:
        found += [{"text": text[at:begin], "differs": False}, {"text": text[begin:end], "differs": True}]
        at = end
    return [*found, {"text": text[at:], "differs": False}]
