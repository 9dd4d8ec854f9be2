"""What a colleague would say of a stage's result: one sentence, and where a number is bad the next step.

Pure functions of the result; each stage names its own in :mod:`core.stages`. A result may be of an older
version or changed by hand, so nothing is said of a number that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from core.evaluated import FEW_RECORDS, nats
from core.formats import counted, human_bytes, number
from core.language import _
from core.text import clean

Result = Mapping[str, Any]

SAME_WORDS: Mapping[int, tuple[float, float]] = {4: (0.85, 0.75), 8: (0.95, 0.85)}
"""By bits: the share of next words that must stay the same for a good result, and below which it is poor.

At 4 bits: on two real models (docs/awq.md) the best methods kept 88 to 93 of 100, AWQ alone 73 to 85, and
methods that look at no records 55 to 75, which answers show. At 8 bits a rounding step is a sixteenth of that."""

SMALLER = 1.05
"""How many times smaller a model is to be called smaller.

Where the output matrix is the table of embeddings (Gemma 3 270M: 168 of 268 million weights), a packed copy comes
beside the table, which takes what the layers save."""

LEARNT, HARDLY = 0.5, 0.95
"""The part of the held-out loss that may be left when an adapter has learnt, and from which on it hardly has.

Two real models (docs/real-models.md) were left with 23 and 35 %; the rehearsal model, stopped after 20 steps, with
61 %, and answered nothing as trained."""

ROSE = 1.03
"""How far above its lowest the held-out loss ends when the training went on too long; less is chance."""

FORGOT_LITTLE, FORGOT_MUCH = 1.1, 2.0
"""How many times the perplexity on general text may be of what it was, for nothing and for little to be forgotten.

Rounding the weights of a small model to 4 bits by the plainest method alone makes it 1.2 times."""

HARDLY_RIGHT = 0.1
"""The share of held-out questions below which it answers none, whatever its loss is."""

PREFERS = 0.75
"""The share of held-out pairs whose chosen answer is to be preferred; by chance it is the half."""

FORM_LEARNT = 1.5
"""How many times the words in common with the records' answers must have grown for their form to be learnt."""

DEPLOYED_WORSE = 0.05
"""Nats a token by which the deployed model may be worse than PyTorch's with that adapter; int8 rounding is less."""

FEW_TOKENS = 200
"""Below so many measured tokens, chance alone moves the share of next words by two or three in a hundred."""


class Assessment(NamedTuple):
    """A sentence on a result.

    Attributes:
        text: the sentence; empty where the result says too little.
        poor: whether something is bad, which the sentence then says, with what to do.
    """

    text: str = ""
    poor: bool = False


def none(result: Result) -> Assessment:
    """For a stage without a sentence."""
    return Assessment()


def of_quantize(result: Result) -> Assessment:
    """How much smaller, and how near to the float model."""
    if result.get("algorithm") == "none":
        return Assessment(_("Kept as it is: no weight was rounded, so it is neither smaller nor different."))
    before, after = _number(result, "bytes_before"), _number(result, "bytes_after")
    times = before / after if before and after and min(before, after) > 0 else None
    smaller = _("{before:.1f} times smaller", before=times) if times and times >= SMALLER else ""
    same = _number(result, "same_likeliest_token")
    bits = _number(result, "bits")
    if same is None or not 0 <= same <= 1 or bits is None or bits not in SAME_WORDS:
        if times and not smaller:
            return Assessment(
                _(
                    "No smaller yet: most of this model is its embeddings, which only the optimize stage packs."
                )
            )
        return Assessment(smaller and f"{smaller[0].upper()}{smaller[1:]}.")
    # 100 is said of all alone.
    kept = round(100 * same) if same == 1 else min(99, round(100 * same))
    good, poor = SAME_WORDS[int(bits)]
    if smaller:
        said = _("{smaller}; of 100 next words {kept} stay the same", smaller=smaller, kept=kept)
    elif times:
        said = _(
            "No smaller yet, as most of this model is its embeddings, which only the optimize stage packs; of 100 "
            "next words {kept} stay the same",
            kept=kept,
        )
    else:
        said = _("Of 100 next words {kept} stay the same", kept=kept)
    tokens = _number(result, "measured_tokens")
    if tokens is not None and tokens < FEW_TOKENS:
        on = counted(int(tokens), "token")
        said = _("{said} (measured on {tokens} only, so a rough figure)", said=said, tokens=on)
    if same >= good:
        return Assessment(_("{said}: a good result for {bits} bits.", said=said, bits=number(bits)))
    if same >= poor:
        said = _(
            "{said}: a fair result for {bits} bits. {advice}",
            said=said,
            bits=number(bits),
            advice=_nearer(result),
        )
    else:
        said = _(
            "{said}: a poor result for {bits} bits. {advice}",
            said=said,
            bits=number(bits),
            advice=_nearer(result),
        )
    return Assessment(said, same < poor)


def _nearer(result: Result) -> str:
    """What would bring the quantized model nearer to the float one."""
    if result.get("algorithm") not in ("awq+gptq", "awq+signround", "gptq"):
        return _("Choose awq+gptq as the algorithm: it stays nearest.")
    group = _number(result, "group_size")
    if group is not None and group >= 32:
        return _("Try a group size of {group}, which costs a little size.", group=number(group // 2))
    if _number(result, "bits") == 4:
        return _("Try 8 bits, at twice the size, or more samples.")
    return _("Try more samples, of the kind of text that it will read.")


def of_finetune(result: Result) -> Assessment:
    """What it learnt of records that it never saw."""
    if result.get("objective") in ("dpo", "orpo", "kto"):
        return _of_preferences(result)
    base, tuned = _number(result, "eval_loss_base"), _number(result, "eval_loss_tuned")
    if base is None or tuned is None or base <= 0:
        steps = _number(result, "steps")
        if steps is None:
            return Assessment()
        return Assessment(
            _(
                "Trained for {steps}, but no records were held out, so only the chat shows what it learnt. "
                "Hold some out (data.eval_fraction) to have it measured.",
                steps=counted(int(steps), "step"),
            ),
            poor=True,
        )
    loss = _("{base:.2f} to {tuned:.2f}", base=base, tuned=tuned)
    if tuned >= base:
        return Assessment(
            _(
                "Held-out loss {loss}: no better than the base. Try a lower learning rate, fewer steps or more "
                "records.",
                loss=loss,
            ),
            poor=True,
        )
    best = min(_measured(result), key=lambda point: point[1], default=(0.0, tuned))
    if best[0] >= 1 and tuned > ROSE * best[1]:
        return Assessment(
            _(
                "Held-out loss {loss}, but it was {lowest:.2f} at step {step} and rose again: it began to learn "
                "the records by heart. Train {step} steps, or add records.",
                loss=loss,
                lowest=best[1],
                step=number(best[0]),
            ),
            poor=True,
        )
    times = math.exp(min(base - tuned, 50.0))
    likelier = f"{times:.1f}" if times < 10 else number(round(times))
    said = _(
        "Held-out loss {loss}: in records it never saw, right words are {likelier} times as likely as before",
        loss=loss,
        likelier=likelier,
    )
    if tuned > HARDLY * base:
        return Assessment(
            _("{said}. It has hardly learnt: train more steps, or with more records.", said=said), poor=True
        )
    if tuned > LEARNT * base:
        return Assessment(_("{said}, a small gain. More steps or more records may give more.", said=said))
    return Assessment(_("{said}: it has learnt.", said=said))


def _of_preferences(result: Result) -> Assessment:
    """How much of what it never saw it prefers as it should."""
    before, after = _number(result, "eval_preferred_base"), _number(result, "eval_preferred_tuned")
    rows, margin = _number(result, "eval_rows"), _number(result, "eval_margin_tuned")
    start = _number(result, "eval_margin_base") or 0.0
    if before is None or after is None or margin is None or not rows:
        return Assessment(
            _(
                "Trained by preference, but no records were held out, so only the chat shows what it learnt. "
                "Hold some out (data.eval_fraction) to have it measured."
            ),
            poor=True,
        )
    right, was = number(round(after * rows)), number(round(before * rows))
    what = _(
        "Of {pairs} it prefers the chosen answer in {right} ({was} before)",
        pairs=counted(int(rows), "held-out pair"),
        right=right,
        was=was,
    )
    if result["objective"] == "kto":
        what = _(
            "Of {answers} it has {right} on the right side ({was} before)",
            answers=counted(int(rows), "held-out answer"),
            right=right,
            was=was,
        )
    said = _(
        "{what}; the margin went from {start:.2f} to {margin:.2f}", what=what, start=start, margin=margin
    )
    if margin <= start:
        return Assessment(
            _(
                "{said}: no better than the base. Try a higher learning rate, more steps or more records.",
                said=said,
            ),
            poor=True,
        )
    if after < before:
        return Assessment(
            _("{said}. Fewer than before: look at the records, or train longer.", said=said), poor=True
        )
    return Assessment(f"{said}.")


def _measured(result: Result) -> list[tuple[float, float]]:
    """The held-out loss as (step, loss), of the trained model."""
    curve = result.get("eval_curve")
    found = []
    for point in curve if isinstance(curve, list | tuple) else ():
        if isinstance(point, list | tuple) and len(point) == 2:
            step, loss = _as_number(point[0]), _as_number(point[1])
            if step is not None and loss is not None and step >= 1:
                found.append((step, loss))
    return found


def of_optimize(result: Result) -> Assessment:
    """Whether the graph answers as PyTorch does, and as trained."""
    if result.get("verified") is False:
        why = clean(str(result.get("why_not_verified") or ""), keep_newlines=False).rstrip(".")
        ask = _("Ask it a question where it will run before you share it.")
        said = _("Built, but not tried here: {why}.", why=why) if why else _("Built, but not tried here.")
        return Assessment(f"{said} {ask}", poor=True)
    parts = []
    agreeing, prompts = (
        sum(_number(result, f"agreement.{who}.{key}") or 0 for who in ("base", "tuned"))
        for key in ("agreeing", "prompts")
    )
    if prompts:
        parts.append(
            _(
                "Answers agree {agreeing} of {prompts} with PyTorch's",
                agreeing=number(agreeing),
                prompts=number(prompts),
            )
        )
    asked, right = _number(result, "training_prompts"), _number(result, "training_right_tuned")
    base = _number(result, "training_right_base")
    weak = False
    if asked and right is not None:
        trained = _(
            "{right} of {questions} answered as trained",
            right=number(right),
            questions=counted(int(asked), "question"),
        )
        parts.append(
            trained if base is None else _("{trained}; the base {base}", trained=trained, base=number(base))
        )
        weak = 2 * right < asked and right <= (base or 0)
    if not parts:
        return Assessment()
    said = "; ".join(parts)
    if agreeing < prompts:
        return Assessment(_("{said}. Set the precision to fp32, or quantize again.", said=said), poor=True)
    if weak:
        return Assessment(
            _("{said}. The adapter adds nothing: go back to Finetune with more steps or records.", said=said),
            poor=True,
        )
    return Assessment(_("{said}: ready to chat.", said=said))


def of_search(result: Result) -> Assessment:
    """Which settings are the best within the limits; or that none is."""
    tries, best = _number(result, "tries"), result.get("best_title")
    if tries is None:
        return Assessment()
    limits = clean(str(result.get("limits") or ""), keep_newlines=False)
    choices = counted(int(tries), "choice")
    if not best:
        return Assessment(
            _(
                "None of {choices} is good enough within the limits ({limits}): allow more.",
                choices=choices,
                limits=limits,
            )
            if limits
            else _("None of {choices} is good enough: allow more.", choices=choices),
            True,
        )
    title = clean(str(best), keep_newlines=False)
    said = (
        _("Best within the limits ({limits}): {title}.", limits=limits, title=title)
        if limits
        else _("Best: {title}.", title=title)
    )
    measured = _number(result, "measured")
    of = (
        _(
            "It is one of {choices}, {measured} of them made as a whole.",
            choices=choices,
            measured=number(measured),
        )
        if measured is not None
        else _("It is one of {choices}.", choices=choices)
    )
    return Assessment(f"{said} {of}")


def of_evaluate(result: Result) -> Assessment:
    """Whether it was worth it: what was learnt, what was forgotten, and whether what is deployed is as it was tuned."""
    before, after = _number(result, "perplexity_before"), _number(result, "perplexity_after")
    if before is None or after is None:
        return Assessment()
    if result.get("before") == result.get("after"):
        return Assessment(
            _(
                "Only one form of the model was measured: perplexity {value} on held-out records.",
                value=nats(after),
            )
        )
    faults = []
    parts = [_("perplexity on held-out records {was} before, {now} after", was=nats(before), now=nats(after))]
    learnt, missed = _learnt(result)
    parts += learnt
    faults += missed
    general, later = _number(result, "general_before"), _number(result, "general_after")
    if general and later is not None:
        much = later > FORGOT_MUCH * general
        figures = {"was": nats(general), "now": nats(later)}
        parts.append(
            _("on general text {was} before, {now} after, so much was forgotten", **figures)
            if much
            else _("on general text {was} before, {now} after, so a little was forgotten", **figures)
            if later > FORGOT_LITTLE * general
            else _("on general text {was} before, {now} after, so nothing was forgotten", **figures)
        )
        if much:
            faults.append(_("if it is to answer other questions too, train fewer steps or at a lower rate"))
    if isinstance(apart := result.get("apart"), Mapping) and apart:
        again = _(" and ").join(name for name in ("finetune", "optimize") if name in apart)
        faults.append(
            _(
                "the variants do not belong together, for what they are made of was made anew: run {stages} again",
                stages=again,
            )
        )
    if result.get("other_held_out"):
        faults.append(
            _(
                "the adapter was trained when other records were held out, and may have learnt these: "
                "run finetune again"
            )
        )
    gap = _number(result, "deploying_change.low")
    if gap is not None and gap > DEPLOYED_WORSE:
        faults.append(_("as deployed it is worse than in PyTorch: set optimize.precision to int8 or fp32"))
    rows = _number(result, "rows")
    if rows is not None and rows < FEW_RECORDS:
        few = counted(int(rows), "held-out record")
        faults.append(_("of {records} nothing is certain: raise data.eval_fraction", records=few))
    if not str(result.get("after") or "").startswith("onnx"):
        faults.append(_("what is deployed was not measured: these figures are of PyTorch's"))
    said = "; ".join(parts)
    told = f"{said[0].upper()}{said[1:]}"
    if faults:
        return Assessment(_("{told}. But {faults}.", told=told, faults=_("; and ").join(faults)), poor=True)
    return Assessment(_("{told}: worth it.", told=told))


def _learnt(result: Result) -> tuple[list[str], list[str]]:
    """What was learnt, and what is wrong with it."""
    parts: list[str] = []
    faults: list[str] = []
    low, high = (_number(result, f"loss_change.{end}") for end in ("low", "high"))
    pairs, liked, likes = (_number(result, key) for key in ("pairs", "preferred_before", "preferred_after"))
    if pairs and liked is not None and likes is not None:  # what was to be learnt is what is liked better
        parts.append(
            _(
                "of {pairs} the chosen answer is preferred in {was} before, {now} after",
                pairs=counted(int(pairs), "held-out pair"),
                was=number(liked),
                now=number(likes),
            )
        )
        if likes < PREFERS * pairs or likes <= liked < pairs:
            faults.append(
                _("it does not prefer the chosen answers yet: train more steps, or with more pairs")
            )
    elif low is not None and high is not None and high >= 0:
        chance = _("what was gained may be chance: give more records or train longer")
        faults.append(chance if low < 0 else _("it answers worse than the model that you began with"))
    asked, was, right = (_number(result, key) for key in ("asked_of_both", "right_before", "right_after"))
    if asked and was is not None and right is not None:
        parts.append(
            _(
                "of {questions} {was} right before, {right} after",
                questions=counted(int(asked), "question"),
                was=number(was),
                right=number(right),
            )
        )
        if right < HARDLY_RIGHT * asked and not pairs:
            faults.append(_not_right(result))
    return parts, faults


def _not_right(result: Result) -> str:
    """What is said where hardly an answer is right: it may have the records' form all the same."""
    before, after = _number(result, "words_before"), _number(result, "words_after")
    if before is None or after is None or after < FORM_LEARNT * before:
        return _("hardly an answer is right yet: train more steps, or with more records")
    return _(
        "it has learnt how the records answer ({was:.0f} % of the words in common before, "
        "{now:.0f} % after) and hardly what: do not rely on its facts; a larger model knows more",
        was=100 * before,
        now=100 * after,
    )


def of_upload(result: Result) -> Assessment:
    """What is registered where, and how much of it went now."""
    name, version = (clean(str(result.get(key) or ""), keep_newlines=False) for key in ("name", "version"))
    if not name or not version:
        return Assessment()
    place = clean(str(result.get("workspace") or ""), keep_newlines=False)
    said = _("{name} is registered as version {version}", name=name, version=version) + (
        _(" in {place}", place=place) if place else ""
    )
    sent, size = _number(result, "bytes_sent"), _number(result, "bytes")
    if sent is None:
        return Assessment(f"{said}.")
    if not sent:
        return Assessment(_("{said}: all of it was there already, so nothing was sent.", said=said))
    whole = (
        _(" of {size}; the rest was there already", size=human_bytes(size)) if size and sent < size else ""
    )
    return Assessment(_("{said}: {sent} sent{whole}.", said=said, sent=human_bytes(sent), whole=whole))


def _number(result: Result, key: str) -> float | None:
    found: Any = result
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return _as_number(found)


def _as_number(value: Any) -> float | None:
    """A number that can be said and counted with; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and abs(value) < 1e18 else None
