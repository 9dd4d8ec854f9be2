"""``report.html``: the report as one page that can be sent on, with charts; it loads nothing from anywhere."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from core.difference import difference
from core.errors import RequestError
from core.evaluated import (
    TITLES,
    explained,
    figure,
    left_out,
    measured,
    nats,
    rate,
    samples,
    table,
    tasks_table,
)
from core.files import MANIFEST, read_json, write_atomic
from core.folder import LabFolder
from core.formats import counted, human_bytes, number
from core.hardware import usable_cores
from core.language import N_, RIGHT_TO_LEFT, _, in_use, shown, speaking, wanted
from core.model.auto import Chosen
from core.recipe import Recipe, UploadSection, recipe_text
from core.report import report_text, search_heading, what_is_made, written
from core.results import numbers_of
from core.searched import TABLE_LEGEND, Board, boards_of, refused_words, seen, summary
from core.searched import table as search_table
from core.stages import STAGES, assessment, result_lines
from core.stale import stale
from core.text import clean, command
from core.version import __version__

_TEMPLATE = Path(__file__).with_name("report_page.html.j2")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 360, 190, 44, 22, 10
_CHART_SPAN = 7
"""Points over which the loss is smoothed, on each side; fewer where there are few."""


def write_report(lab: LabFolder, recipe: Recipe) -> None:
    """Write ``report.md`` and ``report.html`` anew from the manifests of what there is, in the user's language.

    Raises:
        MachineError: the disk is full.
    """
    with speaking(wanted()):
        write_atomic(lab.report_path, report_text(lab, recipe))
        write_atomic(lab.report_page_path, page(lab, recipe))


def page(lab: LabFolder, recipe: Recipe) -> str:
    """The report of what there is now, as HTML; a result that cannot be read is named."""
    from jinja2 import Environment
    from markupsafe import Markup

    made, unread = _made(lab)
    results = _meant(lab, recipe, made)
    evaluation = results.get("evaluate", {})
    boards = boards_of(lab, recipe.model.source)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    charts = [
        {"title": title, "svg": Markup(svg), "words": words}
        for title, svg, words in (
            *_quality(evaluation),
            *map(_search, boards),
            _loss(results.get("finetune", {})),
            _layers(evaluation),
            _sizes(results),
            _memory(evaluation),
            _speed(results, evaluation),
        )
        if svg
    ]
    text: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        lab=_plain(lab.root.name),
        made=_(
            "Model {model}, records {data}. Written {time} by OlivePress {version}.",
            model=_plain(recipe.model.source),
            data=_plain(recipe.data.file),
            time=written(),
            version=__version__,
        ),
        about=_about(recipe, results),
        headline=_headline(results),
        verdict=_verdict(made),
        old=[f"{_(STAGES[stage].title)}: {_plain(why)}." for stage, why in stale(lab, recipe).items()]
        + unread,
        charts=charts,
        answers=_samples(evaluation) or _answers(results.get("optimize", {}).get("answers")),
        table=_table(evaluation),
        parts=[_part(lab.root, *each) for each in made],
        searches=[_searched(board) for board in boards],
        commands=_commands(lab, recipe, [stage for stage, *_rest in made]),
        recipe=_plain_text(recipe_text(_without_azure(recipe))),
        machine=_(
            "{system} {machine}, {count} cores, Python {version}",
            system=platform.system(),
            machine=platform.machine(),
            count=usable_cores(),
            version=platform.python_version(),
        ),
        language=in_use(),
        direction="rtl" if in_use() in RIGHT_TO_LEFT else "ltr",
        words=_words_of_page(),
    )
    return text


def _words_of_page() -> dict[str, str]:
    return {
        "title": _("OlivePress report"),
        "glance": _("At a glance"),
        "forms": _("Every form of the model, on the same records"),
        "variants": _("All variants"),
        "left_out": _("Not measured:"),
        "answers": _("Answers before and after"),
        "expected": _("Expected:"),
        "underlined": _("Words that only one of the two has are underlined."),
        "rest": _("All figures, settings and versions"),
        "choices": _("All choices"),
        "again": _("Do it again"),
        "recipe": _("The recipe, lab.toml"),
    }


def _made(lab: LabFolder) -> tuple[list[tuple[str, str, Path, Mapping[str, Any]]], list[str]]:
    """The stage, heading, folder and manifest of everything that was made, and what of it cannot be read."""
    found, unread = [], []
    for stage, heading, folder in what_is_made(lab):
        try:
            manifest = read_json(folder / MANIFEST)
        except RequestError as error:
            unread.append(_plain(f"{shown(heading)}: {shown(error.title)} {shown(error.detail)}"))
            continue
        if manifest:
            found.append((stage, heading, folder, manifest))
    return found, unread


def _meant(
    lab: LabFolder, recipe: Recipe, made: Sequence[tuple[str, str, Path, Mapping[str, Any]]]
) -> dict[str, Mapping[str, Any]]:
    """Each stage's result: of the adapter that the recipe names, or of another where that has none."""
    found: dict[str, Mapping[str, Any]] = {}
    for stage, _heading, folder, manifest in made:
        makes = STAGES[stage].makes
        if stage not in found or (makes and folder == makes.folder(lab, recipe.finetune.adapter)):
            found[stage] = numbers_of(manifest)
    return found


def _verdict(made: Sequence[tuple[str, str, Path, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A sentence for each result, with its name where there are several of its kind."""
    stages = [stage for stage, *_rest in made]
    found = []
    # Whether it was worth it stands first, where that was measured.
    for stage, heading, _folder, manifest in sorted(made, key=lambda each: each[0] != "evaluate"):
        sentence = assessment(stage, numbers_of(manifest))
        if sentence.text:
            name = f"{_plain(heading)}: " if stages.count(stage) > 1 else ""
            found.append({"text": f"{name}{shown(sentence.text)}", "poor": sentence.poor})
    return found


def _headline(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The verdict in two or three words; empty where nothing was evaluated."""
    judged = assessment("evaluate", results.get("evaluate", {}))
    if not judged.text:
        return ""
    return _("Not good enough yet") if judged.poor else _("It was worth it")


def _about(recipe: Recipe, results: Mapping[str, Mapping[str, Any]]) -> str:
    """What was done, for who has not seen the lab."""
    quantized, tuned, built = (results.get(name, {}) for name in ("quantize", "finetune", "optimize"))
    parts = []
    if _is_number(bits := quantized.get("bits")) and quantized.get("algorithm") != "none":
        parts.append(_("Its weights were rounded to {bits} bits.", bits=bits))
    if _is_number(count := tuned.get("train_rows")):
        parts.append(_("It was trained on {records}.", records=counted(int(count), "record")))
    if _is_number(size := built.get("base_bytes")):
        device = _DEVICES.get(str(built.get("device")))
        parts.append(
            _("It was made an ONNX model of {size} for a {device}.", size=human_bytes(size), device=device)
            if device
            else _("It was made an ONNX model of {size}.", size=human_bytes(size))
        )
    if not parts:
        return ""
    size = quantized.get("parameters")
    name = _plain(Path(recipe.model.source).name or recipe.model.source)
    if _is_number(size) and size >= 1e6:
        millions = number(round(size / 1e6))
        head = _("{name} is a language model of {millions} million parameters.", name=name, millions=millions)
    else:
        head = _("{name} is a language model.", name=name)
    return " ".join((head, *parts))


_DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


def _part(root: Path, stage: str, heading: str, folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    result = numbers_of(manifest)
    main = result_lines(stage, result, main=True)
    fingerprint = manifest.get("fingerprint") or {}
    packages = fingerprint.get("versions") or {}
    made = [(_("Made with"), ", ".join(f"{_plain(name)} {_plain(v)}" for name, v in packages.items()))]
    made += [(_plain(name), f"SHA-256 {_plain(digest)}") for name, digest in _digests(manifest.get("files"))]
    return {
        "heading": _plain(heading),
        "sentence": shown(assessment(stage, result).text),
        "main": _lines_shown(main),
        "rest": _lines_shown(line for line in result_lines(stage, result) if line not in main),
        "auto": [
            {
                "option": each["option"],
                "words": _plain(_words(each)),
                "reason": _plain(Chosen.from_dict(each).reason),
            }
            for each in manifest.get("auto") or []
        ],
        "made": [(_("Folder"), _plain(folder.relative_to(root))), *made],
    }


def _searched(board: Board) -> dict[str, Any]:
    """What a search found, as the page shows it."""
    found = search_table(board)
    return {
        "heading": search_heading(board),
        "sentence": shown(assessment("search", summary(board)).text),
        "heads": list(map(shown, found.heads)),
        "rows": [list(map(shown, row)) for row in found.rows],
        "words": " ".join(
            filter(None, (f"{shown(TABLE_LEGEND)}.", shown(refused_words(board)), _plain(board.note)))
        ),
    }


def _lines_shown(lines: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(shown(label), shown(value)) for label, value in lines]


def _words(chosen: Mapping[str, Any]) -> str:
    return Chosen.from_dict(chosen).words


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
        _(
            "# with OlivePress {version}, this recipe as {path}, and its records beside it",
            version=__version__,
            path=f"{lab.root.name}/lab.toml",
        )
    ]
    if stages:
        lines.append(command("check", folder))
        lines.append(command("run", folder, *dict.fromkeys(stages)))
    lines.append(command("chat", folder))
    return [_plain(line) for line in lines]


def _plain(text: object) -> str:
    return clean(shown(text) if isinstance(text, str) else str(text), keep_newlines=False)


def _plain_text(text: str) -> str:
    return clean(text)


# The charts


def _sizes(results: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    quantized, built = results.get("quantize", {}), results.get("optimize", {})
    bars = [
        (_("float"), quantized.get("bytes_before") or built.get("float16_bytes")),
        (_("quantized"), quantized.get("bytes_after")),
        ("ONNX", built.get("base_bytes")),
        (_("adapter"), built.get("adapter_bytes")),
    ]
    found: list[Bar] = [(name, float(size), None) for name, size in bars if _is_number(size) and size]
    return (
        _("Size"),
        _bars(found, human_bytes) if len(found) > 1 else "",
        _("The adapter is a file of its own beside the ONNX model."),
    )


Chart = tuple[str, str, str]
"""A title, the SVG (empty where there is nothing to draw), and words below it."""


def _quality(evaluation: Mapping[str, Any]) -> list[Chart]:
    """What was learnt and what was forgotten, by variant."""
    charts = []
    for key, title, words in (
        (
            "perplexity",
            _("Perplexity on held-out records"),
            _("Lower is better: the records' own answers surprise it less."),
        ),
        (
            "general_perplexity",
            _("Perplexity on general text"),
            _("What the records do not teach: higher is forgotten."),
        ),
    ):
        bars = _measured_bars(evaluation, key)
        charts.append((title, _bars(bars, nats) if len(bars) > 1 else "", f"{words} {_(_LINES)}"))
    return charts


_LINES = N_("The thin lines are intervals of 95 in 100.")


def _measured_bars(evaluation: Mapping[str, Any], key: str) -> list[Bar]:
    found = []
    for name, numbers in measured(evaluation):
        value, low, high = (figure(numbers, key, part) for part in ("value", "low", "high"))
        if value is not None and _is_number(value):
            ends = None if low is None or high is None or not _is_number(high) else (low, high)
            found.append((TITLES[name], value, ends))
    return found


def _memory(evaluation: Mapping[str, Any]) -> Chart:
    bars = _measured_bars(evaluation, "peak_bytes")
    words = _("At most, of a process of its own while it answered. PyTorch unpacks what is quantized.")
    return _("Memory"), _bars(bars, human_bytes) if len(bars) > 1 else "", words


def _layers(evaluation: Mapping[str, Any]) -> Chart:
    """What quantizing each layer costs, as bars side by side."""
    values = evaluation.get("kl_by_layer")
    given = values if isinstance(values, Sequence) and not isinstance(values, str) else ()
    layers = [float(each) for each in given if _is_number(each)]
    if len(layers) < 2 or max(layers) <= 0:
        return _("Divergence by layer"), "", ""
    wide = (_WIDTH - _LEFT - 6) / len(layers)
    high = _HEIGHT - _TOP - _BOTTOM
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _TOP + high * (1 - share)
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{shown(number(share * max(layers)))}</text>'
        )
    for place, value in enumerate(layers):
        tall = max(0.5, high * max(value, 0.0) / max(layers))
        parts.append(
            f'<rect class="bar" x="{_LEFT + place * wide + 0.1 * wide:.1f}" y="{_TOP + high - tall:.1f}" '
            f'width="{0.8 * wide:.1f}" height="{tall:.1f}"/>'
        )
    for place, anchor in ((0, "start"), (len(layers) - 1, "end")):
        x = _LEFT + (place + (anchor == "end")) * wide
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{place + 1}</text>')
    worst = max(range(len(layers)), key=layers.__getitem__)
    words = _(
        "From the float model, in nats a token, when one layer alone is the quantized one: most in layer {layer} "
        "({value}).",
        layer=worst + 1,
        value=number(layers[worst]),
    )
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_escaped(words)}">{"".join(parts)}</svg>'
    return _("Divergence by layer"), svg, words


def _search(board: Board) -> Chart:
    """The choices of a search by size and divergence, with the line of those that none beats in both."""
    found = [
        (each.size, each.loss, each) for each in seen(board) if each.size and each.loss and each.loss > 0
    ]
    title = _("Search: size and divergence")
    if len(found) < 2:
        return title, "", ""
    left, right = min(size for size, _loss, _each in found), max(size for size, _loss, _each in found)
    low, high = min(loss for _size, loss, _each in found), max(loss for _size, loss, _each in found)

    def x(size: float) -> float:
        share = (size - left) / (right - left) if right > left else 0.5
        return _LEFT + 8 + (_WIDTH - _LEFT - 22) * share

    def y(loss: float) -> float:  # by powers, since the plainest roundings are many times worse than the best
        share = math.log(high / loss) / math.log(high / low) if high > low else 0.5
        return _TOP + 6 + (_HEIGHT - _TOP - _BOTTOM - 12) * share

    parts = [
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y(loss):.1f}" y2="{y(loss):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{shown(number(loss))}</text>'
        for loss in dict.fromkeys((low, math.sqrt(low * high), high))
    ]
    for size, anchor in dict.fromkeys(((left, "start"), (right, "end"))):
        parts.append(
            f'<text x="{_LEFT if anchor == "start" else _WIDTH - 6}" y="{_HEIGHT - 4}" '
            f'text-anchor="{anchor}">{shown(human_bytes(size))}</text>'
        )
    line = sorted((size, loss) for size, loss, each in found if each.front)
    places = " ".join(f"{x(size):.1f},{y(loss):.1f}" for size, loss in line)
    parts.append(f'<polyline class="smooth" points="{places}"/>')
    best = None
    for size, loss, each in sorted(found, key=lambda point: point[2].number == board.best):
        kind, radius = ("point" if each.part >= 1 else "guess"), 3.5
        if each.number == board.best:
            best, kind, radius = each, "dot", 5
        parts.append(f'<circle class="{kind}" cx="{x(size):.1f}" cy="{y(loss):.1f}" r="{radius}"/>')
    every = [
        _("Further left is smaller, lower is nearer to the float model, by powers."),
        _("Hollow: estimated from some layers."),
    ]
    if line:
        every.append(_("On the line: none is both smaller and better."))
    if best is not None:
        every.append(
            _(
                "In orange the best, {title}: {size}, {loss}.",
                title=_plain(best.title),
                size=human_bytes(best.size or 0),
                loss=best.loss_words,
            )
        )
    words = " ".join(every)
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_escaped(words)}">{"".join(parts)}</svg>'
    return title, svg, words


def _table(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The variants and their figures, as the page shows them."""
    there = measured(evaluation)
    if not there:
        return None
    return {
        "heads": [shown(TITLES[name]) for name, _numbers in there],
        "lines": [
            (shown(label), [shown(cell).partition(" (") for cell in cells])
            for label, cells in (*table(evaluation), *tasks_table(evaluation))
        ],
        "words": shown(explained(evaluation)),
        "left_out": [shown(line) for line in left_out(evaluation)],
    }


def _speed(results: Mapping[str, Mapping[str, Any]], evaluation: Mapping[str, Any]) -> Chart:
    measured_bars = _measured_bars(evaluation, "tokens_per_s")
    if measured_bars:
        words = _("The middle of the answers; the thin lines are where eight in ten lie.")
        return _("Tokens a second"), _bars(measured_bars, rate), words
    built = results.get("optimize", {})
    bars = [(_("base"), built.get("tokens_per_s_base")), (_("with adapter"), built.get("tokens_per_s_tuned"))]
    found: list[Bar] = [(name, float(speed), None) for name, speed in bars if _is_number(speed) and speed]
    first = built.get("time_to_first_token_s_base")
    time = number(round(1000 * float(first))) if _is_number(first) else ""
    words = _("The first token after {time} ms.", time=time) if time else ""
    return _("Tokens a second, as ONNX"), _bars(found, number) if found else "", words


def _is_number(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and value == value
        and abs(value) < 1e18
    )


Bar = tuple[str, float, tuple[float, float] | None]
"""A name, a value, and between what it lies where that is known."""


def _bars(bars: Sequence[Bar], words: Callable[[float], str]) -> str:
    most = max(max(value, ends[1] if ends else 0.0) for _name, value, ends in bars) or 1.0
    height = 34 * len(bars)
    mirrored = in_use() in RIGHT_TO_LEFT
    start = _WIDTH if mirrored else 0
    lines, texts = [], []
    for place, (name, value, ends) in enumerate(bars):
        y, width = 34 * place, max(1.0, 340 * value / most)
        kind = "bar first" if place == 0 else "bar"
        texts.append(f'<text x="{start}" y="{y + 11}">{_escaped(name)}: {_escaped(words(value))}</text>')
        lines.append(f'<rect class="{kind}" x="0" y="{y + 15}" width="{width:.1f}" height="11" rx="2"/>')
        if ends is not None and ends[0] < ends[1]:
            left, right, middle = 340 * ends[0] / most, 340 * ends[1] / most, y + 20.5
            lines.append(
                f'<path class="span" d="M{left:.1f} {middle}H{right:.1f}M{left:.1f} {middle - 4}v8'
                f'M{right:.1f} {middle - 4}v8"/>'
            )
    said = "; ".join(f"{shown(name)} {shown(words(value))}" for name, value, _ends in bars)
    drawn = "".join(lines)
    if mirrored:
        drawn = f'<g transform="translate({_WIDTH} 0) scale(-1 1)">{drawn}</g>'
    return (
        f'<svg class="bars" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{_escaped(said)}">'
        f"{''.join(texts)}{drawn}</svg>"
    )


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
        return _("Loss"), "", ""
    right = max(step for step, _loss in both) or 1.0
    low, high = min(loss for _step, loss in both), max(loss for _step, loss in both)
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
            f"{shown(number(round(step)))}</text>"
        )
    parts += [line(losses, "raw"), line(_smoothed(losses), "smooth")]
    words = _("Training loss by step, smoothed.")
    if held:
        best = min(held, key=lambda pair: pair[1])
        parts += [
            line(held, "held"),
            f'<circle class="dot" cx="{x(best[0]):.1f}" cy="{y(best[1]):.1f}" r="4"/>',
        ]
        lowest = _(
            "In orange the held-out loss, lowest at step {step} ({loss:.2f}).",
            step=number(round(best[0])),
            loss=best[1],
        )
        words = f"{words} {lowest}"
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_escaped(words)}">{"".join(parts)}</svg>'
    return _("Loss"), svg, words


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found, span = [], min(_CHART_SPAN, len(points) // 8)
    for place, (step, _loss) in enumerate(points):
        near = points[max(0, place - span) : place + span + 1]
        found.append((step, sum(loss for _step, loss in near) / len(near)))
    return found


# The answers


def _samples(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Some held-out questions with the answers of the first and the last variant."""
    there = [name for name, _numbers in measured(evaluation)]
    if len(there) < 2:
        return []
    first, last = there[0], there[-1]
    found = []
    for sample in samples(evaluation):
        before, after = (sample["answers"].get(name) for name in (first, last))
        if isinstance(before, str) and isinstance(after, str):
            pair = _side_by_side(before, after, shown(TITLES[first]), shown(TITLES[last]))
            expected = clean(str(sample.get("expected") or ""))
            found.append({"question": _plain(sample.get("question") or ""), "expected": expected, **pair})
    return found


def _answers(answers: Any) -> list[dict[str, Any]]:
    """The question that optimize asked, where nothing was evaluated."""
    if not isinstance(answers, Mapping) or not answers.get("base") or not answers.get("tuned"):
        return []
    pair = _side_by_side(str(answers["base"]), str(answers["tuned"]), _("Base"), _("Tuned"))
    return [{"question": _plain(answers.get("question") or ""), "expected": "", **pair}]


def _side_by_side(before: str, after: str, first: str, second: str) -> dict[str, Any]:
    base, tuned = clean(before), clean(after)
    apart = difference(base, tuned)
    return {
        "before": _pieces(base, apart.first),
        "after": _pieces(tuned, apart.second),
        "first": first,
        "second": second,
        "marked": bool(apart.first or apart.second),
    }


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    found, at = [], 0
    for begin, end in spans:
        found += [{"text": text[at:begin], "differs": False}, {"text": text[begin:end], "differs": True}]
        at = end
    return [*found, {"text": text[at:], "differs": False}]
