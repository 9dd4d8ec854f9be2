"""The data screen's words: a row as the model will see it, the figures of a file, a finding, a proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from textual.content import Content

from core.errors import text_of, texts_of, with_told
from core.language import _, changed, ngettext, shown
from core.options import AUTO
from core.text import clean, told_apart
from tui.figures import counted, human_bytes, number, time_left
from tui.glyphs import ascii_only, bar, glyph
from tui.screens.data.rows import ShownRow, as_text
from tui.theme import QUIET

if TYPE_CHECKING:
    from core.data.background import SurveyState
    from core.data.mapping import Proposal
    from core.data.preview import Piece, Preview
    from core.data.types import Finding, Quote
    from core.recipe import Recipe
    from tui.screens.data.controller import DataState, Whole


MOST = 20_000
"""Characters of a row that are drawn; of a longer one the beginning, and how much more there is."""


def row_line(
    row: ShownRow | None, index: int, sure: bool, wide: int, digits: int, many: bool = False
) -> Content:
    """A row in the list: its line, a mark, and the beginnings of its fields side by side.

    Args:
        many: whether there are several files, of which the lines are no names: their rows are numbered through.
    """
    if row is None:
        return Content.styled(f"{number(index + 1):>{digits}} {glyph('cut')}", QUIET)
    if many:
        place = str(index + 1)
    else:
        place = where(row.row.line, row.row.number) if row.row.line and sure else f"~{index + 1}"
    mark = Content("")
    if row.problem:
        mark = Content.styled(_("BAD") + " ", "bold $text-error")
    elif row.held_out:
        mark = Content.styled(_("HELD") + " ", "$text-secondary")
    room = max(10, wide - digits - 1)
    if row.row.fields is None:
        return Content.assemble((f"{place:>{digits}} ", QUIET), mark, (clean(row.problem), QUIET))
    return Content.assemble(
        (f"{place:>{digits}} ", QUIET), mark, *side_by_side(row.cells, room, mark.cell_length)
    )


def where(line: int, number: int) -> str:
    """The line of a row; where several stand on one, as in a JSON array, which row it is."""
    return f"#{number}" if number > line else str(line)


def side_by_side(cells: Sequence[str], room: int, taken: int = 0) -> list[Content]:
    """Cells in columns, as many as have at least 14 places each; `taken` of the first are a mark's."""
    count = max(1, min(len(cells), room // 14))
    each = (room - 3 * (count - 1)) // count
    parts: list[Content] = []
    for place, text in enumerate(cells[:count]):
        if place:
            parts.append(Content.styled(f" {glyph('bar')} ", QUIET))
        wide = each if place else max(1, each - taken)
        cut = Content(text).truncate(wide, ellipsis=True)
        parts.append(cut.pad_right(max(0, wide - cut.cell_length)) if place < count - 1 else cut)
    return parts


def row_place(state: DataState, whole: Whole) -> str:
    """Where a row stands: its number of how many, its line and its file."""
    row, source = whole.row.row, state.source
    total = number(state.count) if state.exact else _("about {count}", count=number(state.count))
    parts = [
        _("Row {number} of {total}", number=number(whole.index + 1), total=total),
        _("line {line}", line=row.line) if row.line else _("just about there"),
    ]
    told = ", ".join(parts)
    if source is not None and source.path.is_dir():
        return _("{place} of {file}", place=told, file=row.file)
    return told


def row_text(state: DataState) -> Content:
    """The row that is shown whole: where it stands, what is wrong with it, as the model will see it, and as it is."""
    whole = state.whole
    if whole is None:
        return Content("")
    row, seen = whole.row, whole.seen
    parts: list[Content | tuple[str, str]] = [
        Content.styled(clean(row_place(state, whole), keep_newlines=False), "bold"),
        Content("\n"),
        Content.styled(
            _("HELD OUT: to measure with, not learnt") + "\n" if row.held_out else "", "$text-secondary"
        ),
    ]
    problem = row.problem
    if seen is not None and seen.problems and not problem:
        problem = "; ".join(shown(each.words) for each in seen.problems)
    if problem:
        parts.append(
            Content.styled(
                clean(_("It cannot be used: {problem}", problem=problem)) + "\n", "bold $text-error"
            )
        )
    if row.row.problem is not None:
        parts += [*quoted(row.row.problem.quote), Content("\n")]
    if seen is not None and seen.pieces and not any(piece.trained for piece in seen.pieces):
        parts.append(Content.styled(_("NOT LEARNT: the row itself says so") + "\n", "$text-warning"))
    if state.jumped is not None and state.jumped[0] == whole.index:
        finding = state.jumped[1]
        note = _(
            "{kind}: {message}. What to do: {fix}.",
            kind=finding.kind,
            message=finding.message,
            fix=finding.fix,
        )
        parts.append(Content.styled(clean(note) + "\n", "$text-warning"))
        if row.row.problem is None and finding.quote is not None:
            parts += [*quoted(finding.quote), Content("\n")]
    if seen is not None and seen.pieces:
        parts += _as_seen(seen, proposed=state.proposed is not None, learnt=not row.held_out)
    fields = row.row.fields
    if fields is not None:
        parts.append(Content.styled(glyph("line") * 2 + " " + _("The record") + "\n", QUIET))
        used = whole.view.used
        for name, value in fields.items():
            told = clean(str(name)[:CELL_NAME], keep_newlines=False)
            if used is not None and name not in used:
                parts += [
                    Content.styled(told, "bold"),
                    Content.styled(" " + _("(not used)"), "$text-warning"),
                ]
                told = ""
            parts += [Content.styled(f"{told}: ", "bold"), *cut(as_text(value)), Content("\n")]
    return Content.assemble(*parts)


def _as_seen(seen: Preview, *, proposed: bool, learnt: bool) -> list[Content]:
    """What the model sees of a row, with each of its answers; ``learnt``: whether the row is there to learn from."""
    if not learnt or not any(piece.trained for piece in seen.pieces):
        by = _("With the proposed fields and template") if proposed else _("What the model sees")
    elif proposed:
        by = _("With the proposed fields and template; underlined: what it learns to say")
    else:
        by = _("What the model sees; underlined: what it learns to say")
    parts = [
        Content.styled(by + "\n", QUIET),
        *pieces(seen.pieces, learnt),
        Content("\n"),
    ]
    if seen.rejected:
        by = (
            _("The same with the rejected answer; underlined: what it learns to say less")
            if learnt
            else _("The same with the rejected answer")
        )
        parts += [Content.styled(f"{by}\n", QUIET), *pieces(seen.rejected, learnt), Content("\n")]
    return parts


CELL_NAME = 80


def cut(text: str, style: str = "") -> list[Content]:
    """Foreign text, control characters as escapes that stand out, with a word on what of a long one was left out."""
    parts = [
        Content.styled(piece, f"{style} {ESCAPED}" if escape else style)
        for piece, escape in told_apart(text[:MOST])
    ]
    if len(text) > MOST:
        parts.append(
            Content.styled("\n" + _("({count} characters more)", count=number(len(text) - MOST)), style)
        )
    return parts


ESCAPED = "bold $text-warning"
"""The style of an escape that stands for a control character."""


def quoted(place: Quote | None) -> list[Content]:
    """A piece of the file with the place marked where it is wrong."""
    if place is None:
        return []
    here, behind = place.at[:1] or glyph("break"), place.at[1:]
    return [Content(place.before), Content.styled(here, "reverse bold $text-error"), Content(f"{behind}\n")]


def pieces(found: Sequence[Piece], learnt: bool) -> list[Content]:
    """Training text: what is learnt underlined, where the row is learnt at all; special tokens reversed."""
    parts: list[Content] = []
    left = MOST
    for piece in found:
        if left <= 0:
            break
        style = " ".join(
            word
            for word, holds in (("reverse", piece.kind == "special"), ("underline", piece.trained and learnt))
            if holds
        )
        parts += cut(piece.text, style)
        left -= len(piece.text)
    return parts


def file_line(count: int, exact: bool, bytes: int, columns: Sequence[str]) -> Content:
    """What is known of a file at once."""
    rows = counted(count, "row") if exact else _("about {count}", count=counted(count, "row"))
    parts = [rows, human_bytes(bytes)] if bytes else [rows]
    more = f" {glyph('cut')}" if len(columns) > 6 else ""
    parts.append(_("fields: {names}", names=", ".join(columns[:6]) + more))
    return Content(clean(f"  {glyph('dot')}  ".join(parts), keep_newlines=False))


def progress_line(state: SurveyState, wide: int) -> Content:
    """How far the survey is."""
    if not state.total:
        return Content.styled(_("Checking all rows") + f" {glyph('cut')}", "$text-primary")
    share = min(1.0, state.done / state.total)
    return Content.assemble(
        (_("Checking all rows") + ": ", "$text-primary"),
        f"{shown(changed(state.phase, lambda text: clean(text, keep_newlines=False)))} ",
        bar(share, max(6, min(30, wide - 64))),
        f" {share:4.0%}  {time_left(state.eta_s)}",
    )


def report_lines(report: Mapping[str, Any], recipe: Recipe, wide: int) -> Content:
    """Rows, split, token counts, lengths drawn, rounds and padding on two lines; below, what is not used."""
    tokens = report.get("tokens") or {}
    rows, pairs = report.get("rows", 0), report.get("pairs", 0)
    first = [
        counted(pairs, "pair")
        if pairs and pairs == rows
        else ", ".join([counted(rows, "row"), *([counted(pairs, "pair")] if pairs else [])]),
        _(
            "{learnt} to learn, {held} held out",
            learnt=number(report.get("train", 0)),
            held=number(report.get("eval", 0)),
        ),
    ]
    if tokens.get("total"):
        total = number(tokens["total"])
        first.append(
            _(
                "tokens: {total}, median {median}, longest {longest}",
                total=_("about {count}", count=total) if tokens.get("estimated") else total,
                median=number(tokens.get("p50", 0)),
                longest=number(tokens.get("max", 0)),
            )
        )
    lines = [Content.styled(f"  {glyph('dot')}  ".join(first), "bold")]
    second: list[Content] = []
    more: list[tuple[str, str]] = []
    if report.get("train"):
        more.append(_sees(report, recipe))
    if tokens.get("lost"):
        more.append((_("{count} tokens are cut off", count=number(tokens["lost"])), QUIET))
    if report.get("padding"):
        more.append((_("padding {share:.0%}", share=report["padding"]), QUIET))
    gap = f"  {glyph('dot')}  "
    drawn = lengths(tokens.get("histogram") or [], wide)
    # What is to be read comes first: beside long words there is no room to draw.
    if drawn is not None and (not more or drawn.cell_length + len(gap) + cell_len(more[0][0]) <= wide):
        second.append(drawn)
    taken = sum(part.cell_length for part in second)
    for words, style in more:
        before = gap if second else ""
        if taken + len(before) + cell_len(words) <= wide:  # what does not fit is left out whole
            second.append(Content.styled(before + words, style))
            taken += len(before) + cell_len(words)
    if second:
        lines.append(Content("").join(second))
    left = left_out_words(report)
    if left:
        lines.append(Content.styled(left, "$text-warning").truncate(wide, ellipsis=True))
    return Content("\n").join(lines)


def _sees(report: Mapping[str, Any], recipe: Recipe) -> tuple[str, str]:
    """How often the run sees each row, or how many of them, with the style of it."""
    from core.data.findings import OFTEN, passes

    tune = recipe.finetune
    if tune.steps == AUTO or tune.batch_size == AUTO:
        rounds, steps = float(report.get("epochs", 0)), None
    else:
        rounds = tune.steps * tune.batch_size * tune.gradient_accumulation / report["train"]
        steps = tune.steps
    told = passes(rounds, report["train"])
    seen = (
        _("training sees {rows}", rows=told)
        if steps is None
        else ngettext(
            "{count} step sees {rows}",
            "{count} steps see {rows}",
            steps,
            count=number(steps),
            rows=told,
        )
    )
    if rounds > OFTEN:
        return _("{seen}, very often", seen=seen), "$text-warning"
    return (_("{seen}, more steps see the rest", seen=seen) if rounds < 1 else seen), QUIET


def left_out_words(report: Mapping[str, Any]) -> str:
    """What of the rows does not reach the model, and how many are not learnt; "" where there is nothing."""
    from core.data.unused import unused_words

    told = []
    unused = unused_words(report.get("not_used") or [], report.get("usable", 0))
    if unused:
        told.append(_("not used: {unused}", unused=unused))
    reasons = report.get("not_learnt") or {}
    whys = texts_of({**report, "not_learnt": list(reasons)}, "not_learnt")
    told += [
        _("not learnt: {rows}, {why}", rows=counted(count, "row"), why=why)
        for why, count in zip(whys, reasons.values(), strict=True)
    ]
    return clean(f"  {glyph('dot')}  ".join(told), keep_newlines=False)


def lengths(bars: Sequence[Sequence[int]], wide: int) -> Content | None:
    """How many rows there are of each length, drawn."""
    if not bars:
        return None
    steps = " .:-=+*#" if ascii_only() else " ▁▂▃▄▅▆▇█"
    most = max(count for *_ends, count in bars) or 1
    thick = 2 if wide < 110 else 3
    drawn = "".join(
        steps[0 if not count else max(1, round(count / most * (len(steps) - 1)))] * thick
        for *_ends, count in bars
    )
    return Content.assemble(
        (_("lengths {shortest}", shortest=bars[0][0]) + " ", QUIET),
        (drawn, "$text-secondary"),
        (" " + _("{longest} tokens", longest=bars[-1][1]), QUIET),
    )


def counts_line(counts: Mapping[str, int], listed: bool) -> Content:
    """How many findings of each kind: first those with which training does not start, then the most frequent.

    Args:
        listed: whether they are listed, or cannot be: the key that lists them is not told then.
    """
    many = sum(counts.values())
    if not many:
        return Content.styled(_("No findings: every row can be used."), "$text-success")
    kinds = sorted(counts.items(), key=lambda pair: (not blocking(dict([pair])), -pair[1]))
    told = ", ".join(f"{number(count)} {kind}" for kind, count in kinds[:4])
    rest = f" {glyph('cut')}" if len(kinds) > 4 else ""
    bad = blocking(counts)
    return Content.assemble(
        (counted(many, "finding"), "bold $text-warning"),
        (f", {bad_words(bad)}" if bad else "", "bold $text-error"),
        f": {told}{rest}",
        ("" if listed else "  " + _("(f lists them)"), QUIET),
    )


def blocking(counts: Mapping[str, int]) -> int:
    """How many findings there are with which training does not start."""
    from core.data.types import BLOCKING

    return sum(count for kind, count in counts.items() if kind in BLOCKING)


def bad_words(bad: int) -> str:
    """How many of them, with the word that such a row has in the lists."""
    return f"{number(bad)} {_('BAD')}"


def finding_line(finding: Finding | None, index: int, many_files: bool, digits: int) -> Content:
    """A finding in the list."""
    if finding is None:
        return Content.styled(f"{number(index + 1)} {glyph('cut')}", QUIET)
    place = where(finding.line, finding.row)
    place = f"{finding.file}:{place}" if many_files else place
    bad = finding.level == "error"
    return Content.assemble(
        (f"{clean(place, keep_newlines=False):>{digits}} ", QUIET),
        (_("BAD") + " " if bad else _("see") + " ", "bold $text-error" if bad else "$text-warning"),
        clean(f"{finding.kind}: {shown(finding.message)}"[:300], keep_newlines=False),
    )


def finding_text(finding: Finding) -> Content:
    """A finding whole: where, what, and what to do."""
    bad = finding.level == "error"
    what = _("training does not start with it") if bad else _("worth a look")
    return Content.assemble(
        Content.styled(
            _("{path}, line {line}", path=clean(finding.file, keep_newlines=False), line=finding.line) + "\n",
            "bold",
        ),
        (finding.kind, "bold $text-error" if bad else "bold $text-warning"),
        (f" ({what})\n\n", "$text-error" if bad else QUIET),
        clean(shown(finding.message)) + "\n",
        *quoted(finding.quote),
        ("\n" + _("What to do:") + " ", "bold"),
        clean(shown(finding.fix)) + "\n\n",
        (_("Enter goes to the row."), QUIET),
    )


def proposal_error(problem: Mapping[str, Any], proposal: Proposal) -> dict[str, Any]:
    """Why the recipe does not go with the rows, and what they suggest, as an error that is asked about."""
    given = {"words": proposal.mapping.words(), "why": proposal.why}
    hint = (
        _(
            "Press a to use what the rows suggest: {words}, with the model's own chat template ({why}).",
            **given,
        )
        if proposal.chat_template
        else _("Press a to use what the rows suggest: {words}, with plain text ({why}).", **given)
    )
    return {**with_told({key: text_of(problem, key) for key in ("title", "detail")}), "hint": hint}
