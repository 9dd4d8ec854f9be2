"""From what was measured of each variant to the stage's result: figures with their intervals, and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.evaluate.measures import Match, difference, exponential, match, mean, ratio, share, spread
from core.evaluate.measuring import Kept
from core.evaluate.plan import EvaluationPlan, Variant

SHOWN = 6
"""Questions whose answers stand in the result, and so in the report; all of them are in the rows' file."""
_TIMED = 4
"""Tokens that an answer must have after its first, for its speed to say something."""


def numbers_of(plan: EvaluationPlan, variant: Variant, kept: Kept) -> dict[str, Any]:
    """A variant's figures, each with its interval where rows make it."""
    losses, tokens = _losses(kept)
    loss = ratio(losses, tokens)
    found: dict[str, Any] = {
        "loss": loss.as_dict(),
        "perplexity": exponential(loss).as_dict(),
        "tokens": int(sum(tokens)),
        "answered": len(_matches(plan, kept)),
    }
    if matches := list(_matches(plan, kept).values()):
        found |= {
            "exact": share([each.exact for each in matches]).as_dict(),
            "right": share([each.right for each in matches]).as_dict(),
            "words": mean([each.words for each in matches]).as_dict(),
            "chrf": mean([each.chrf for each in matches]).as_dict(),
        }
    if preferred := _preferred(plan, kept):
        found["preferred"] = share(preferred).as_dict()
    if kept["general"]:
        counts = [each["tokens"] for each in kept["general"]]
        scored = [each - 1 for each in counts]
        found["general_perplexity"] = exponential(
            ratio([_nll(each) * n for each, n in zip(kept["general"], scored, strict=True)], scored)
        ).as_dict()
        for name, key in (("kl", "kl"), ("same_word", "agreement")):
            sums = [each[key] * n for each, n in zip(kept["general"], counts, strict=True)]
            found[name] = ratio(sums, counts).as_dict()
    timed = [each for each in kept["answers"] if "first_s" in each]
    found["first_s"] = spread([each["first_s"] for each in timed]).as_dict()
    timed = [each for each in timed if len(each["ids"]) > _TIMED and each["rest_s"] > 0]
    if timed:
        found["tokens_per_s"] = spread([(len(each["ids"]) - 1) / each["rest_s"] for each in timed]).as_dict()
    found["load_s"] = round(kept["load_s"], 3)
    found["how"] = kept["how"]
    found["bytes"] = variant.bytes
    found["peak_bytes"] = kept["peak"]["ram_bytes"]
    if kept["peak"].get("gpu_bytes"):
        found["gpu_peak_bytes"] = kept["peak"]["gpu_bytes"]
    return found


def _preferred(plan: EvaluationPlan, kept: Kept) -> list[bool]:
    """Of each pair, whether its chosen answer is the likelier one, word for word, as in training."""
    chosen = [each for row, each in zip(plan.rows, kept["scores"], strict=True) if row.rejected is not None]
    return [
        one["loss"] / max(one["tokens"], 1) < other["loss"] / max(other["tokens"], 1)
        for one, other in zip(chosen, kept["rejected"], strict=True)
    ]


def _nll(quality: Mapping[str, float]) -> float:
    import math

    return math.log(quality["perplexity"])


def _losses(kept: Kept) -> tuple[list[float], list[float]]:
    return [each["loss"] for each in kept["scores"]], [each["tokens"] for each in kept["scores"]]


def _texts(plan: EvaluationPlan, kept: Kept) -> dict[int, str]:
    """The answers by the number of their row."""
    pairs = zip(plan.prompts, kept["answers"], strict=False)  # the last ones may not have been asked
    return {prompt.row: plan.text(each["ids"]) for prompt, each in pairs if prompt.row is not None}


def _cut(plan: EvaluationPlan, kept: Kept) -> set[int]:
    """The rows whose answers were cut where they were long enough."""
    pairs = zip(plan.prompts, kept["answers"], strict=False)
    return {
        prompt.row
        for prompt, each in pairs
        if prompt.row is not None and len(each["ids"]) >= prompt.most and each["ids"][-1] not in plan.ends
    }


def _matches(plan: EvaluationPlan, kept: Kept) -> dict[int, Match]:
    return {row: match(text, plan.rows[row].expected) for row, text in _texts(plan, kept).items()}


def rows_of(plan: EvaluationPlan, found: Mapping[str, Kept]) -> list[dict[str, Any]]:
    """Every row with what each variant made of it: its answer, its loss a token, and how alike the answer is."""
    texts = {name: _texts(plan, kept) for name, kept in found.items()}
    rows = []
    for number, row in enumerate(plan.rows):
        answers, losses, likeness = {}, {}, {}
        for name, kept in found.items():
            score = kept["scores"][number]
            losses[name] = round(score["loss"] / max(score["tokens"], 1), 5)
            if number in texts[name]:
                answers[name] = texts[name][number]
                likeness[name] = round(match(answers[name], row.expected).words, 4)
        rows.append(
            {
                "file": row.file,
                "line": row.line,
                "before": row.before,
                "question": row.question,
                "expected": row.expected,
                "answers": answers,
                "losses": losses,
                "likeness": likeness,
            }
        )
    return rows


def summary(plan: EvaluationPlan, there: Sequence[Variant], found: Mapping[str, Kept]) -> dict[str, Any]:
    """The stage's result but for what went wrong: the variants, and what was before and after in a few figures.

    Before is the first variant that was measured, after the last: the model as it was taken, and as it is deployed.
    """
    variants = {each.name: numbers_of(plan, each, found[each.name]) for each in there}
    first, last = there[0].name, there[-1].name
    result: dict[str, Any] = {
        "rows": len(plan.rows),
        "held_out_rows": plan.held_out,
        "truncated_rows": plan.truncated,
        "questions": sum(prompt.row is not None for prompt in plan.prompts),
        "answer_tokens": variants[last]["tokens"],
        "general_tokens": sum(map(len, plan.general)),
        "before": first,
        "after": last,
    }
    for name, key in (("perplexity", "perplexity"), ("general", "general_perplexity")):
        for when, which in (("before", first), ("after", last)):
            if key in variants[which]:
                result[f"{name}_{when}"] = variants[which][key]["value"]
    both = _both(plan, found[first], found[last])
    if both:
        result["asked_of_both"] = len(both)
        result["right_before"] = sum(one.right for one, _ in both)
        result["right_after"] = sum(other.right for _, other in both)
        result["words_before"] = round(sum(one.words for one, _ in both) / len(both), 4)
        result["words_after"] = round(sum(other.words for _, other in both) / len(both), 4)
    if pairs := _preferred(plan, found[first]):
        result["pairs"] = len(pairs)
        result["preferred_before"], result["preferred_after"] = sum(pairs), sum(_preferred(plan, found[last]))
    if first != last:
        losses, tokens = _losses(found[first])
        result["loss_change"] = difference(losses, _losses(found[last])[0], tokens).as_dict()
    for one, other, name in (("tuned", "onnx_tuned", "deploying"), ("onnx", "onnx_tuned", "adapting")):
        if one in found and other in found:
            losses, tokens = _losses(found[one])
            result[f"{name}_change"] = difference(losses, _losses(found[other])[0], tokens).as_dict()
    for name in ("bytes", "peak_bytes", "load_s", "first_s", "tokens_per_s", "kl"):
        value = variants[last].get(name)
        if value is not None:
            result[name] = value["value"] if isinstance(value, Mapping) else value
    result["variants"] = variants
    result["answers"] = _shown(plan, found)
    return result


def _both(plan: EvaluationPlan, first: Kept, last: Kept) -> list[tuple[Match, Match]]:
    """The answers of two variants to the questions that were put to both."""
    one, other = _matches(plan, first), _matches(plan, last)
    return [(one[row], other[row]) for row in one if row in other]


def _shown(plan: EvaluationPlan, found: Mapping[str, Kept]) -> list[dict[str, Any]]:
    """Some rows with answers, evenly spread; an answer that was cut ends in an ellipsis."""
    cut = {name: _cut(plan, kept) for name, kept in found.items()}
    asked = [(number, row) for number, row in enumerate(rows_of(plan, found)) if row["answers"]]
    count = min(SHOWN, len(asked))
    shown = []
    for number, row in (asked[place * len(asked) // count] for place in range(count)):
        answers = {
            name: f"{text} …" if number in cut[name] else text for name, text in row["answers"].items()
        }
        shown.append({"question": row["question"], "expected": row["expected"], "answers": answers})
    return shown
