"""What the settings called ``"auto"`` are for a given model and given records, and why.

One place for the rules: the stages, the checks, the forms and the report all ask here. A value that a
person wrote is never changed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import RequestError, text_of, with_told
from core.files import MANIFEST, read_if_whole
from core.folder import LabFolder
from core.formats import counted
from core.language import all_of, told
from core.model.template import PLAIN
from core.options import AUTO, Option
from core.recipe import (
    OPTIONS,
    DataSection,
    FinetuneSection,
    QuantizeSection,
    Recipe,
)

if TYPE_CHECKING:
    from core.model.folder import ModelFacts
    from core.model.gguf import Header

GROUP_SIZES = (128, 64, 32, 16)
"""Group sizes that are tried, the best first: larger groups are smaller and quicker, and lose little."""

ENOUGH_TOKENS = 16_384
"""Calibration tokens that short rows are taken for, and that are plenty for a small model."""

MOST_TOKENS = 1024
"""Tokens of a record that are kept where the model's window allows it."""

BATCH_TOKENS = 4096
"""Tokens of a step that a batch is kept within."""

STEPS = (20, 10_000)
"""Fewer steps teach nothing, and more are not taken unasked."""

STEPS_A_ROUND = 7
"""Steps that a round through few records has, where records are joined."""

MANY_ROUNDS = 10
"""Rounds through the records from which an adapter begins to learn them by heart."""

MEASUREMENTS = 10
"""About so many times the held-out loss is measured while training."""

SMALL = 50_000_000
"""Parameters below which a model has narrow matrices, and has to be taught that a conversation goes on."""


@dataclass(frozen=True)
class Facts:
    """What the rules know of a model.

    Attributes:
        parameters: numbers in its weights.
        inputs: of the matrices that are rounded: inputs, how many have so many, the name of one.
        positions: the longest text it can read, in tokens; 0 where it does not say.
        chat_template: whether it has a chat template; None where only its configuration is known.
        group_size: of a model that is quantized already.
    """

    parameters: int
    inputs: tuple[tuple[int, int, str], ...] = ()
    positions: int = 0
    chat_template: bool | None = True
    group_size: int | None = None

    @classmethod
    def of(cls, folder: Path) -> Facts:
        """From the files of a model folder; no weights are loaded.

        Raises:
            RequestError: it is no whole model.
        """
        from core.model.folder import model_facts

        return cls.of_model(model_facts(folder))

    @classmethod
    def of_model(cls, model: ModelFacts) -> Facts:
        """From what was read of a model already; of one that is not on this machine, its configuration."""
        from core.model.tensors import rounded_matrices

        if not model.parameters:  # not here
            return cls._of_config(model)
        group = (model.quantization or {}).get("group_size")
        return cls(
            model.parameters,
            () if model.quantized_by else _counted(rounded_matrices(model)),
            model.max_positions,
            bool(model.text.template),
            group if isinstance(group, int) and group > 0 else None,
        )

    @classmethod
    def of_gguf(cls, header: Header) -> Facts:
        """From the header of a GGUF file that was not unpacked yet."""
        widths = {
            name.removesuffix(".weight"): tensor.shape[1]
            for name, tensor in header.tensors.items()
            if len(tensor.shape) == 2 and not name.startswith(("token_embd", "position_embd"))
        }
        positions = int(header.own("context_length", 0) or 0)
        return cls(header.parameters, _counted(widths), positions, bool(header.templates))

    @classmethod
    def _of_config(cls, model: ModelFacts) -> Facts:
        if not model.has_sizes:  # another check says so
            return cls(1_000_000_000, (), model.max_positions, None)
        widths: dict[int, int] = {model.hidden_size: 1}  # the output matrix
        for width, _ in model.linears:
            widths[width] = widths.get(width, 0) + model.layers
        matrices = tuple((width, count, "a matrix") for width, count in sorted(widths.items()))
        return cls(model.linear_numbers + model.end_numbers, matrices, model.max_positions, None)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Facts:
        """What :meth:`as_dict` gave."""
        inputs = tuple((int(width), int(count), str(name)) for width, count, name in data["inputs"])
        return cls(**{**data, "inputs": inputs})


def _counted(widths: Mapping[str, int]) -> tuple[tuple[int, int, str], ...]:
    names: dict[int, list[str]] = {}
    for name, width in widths.items():
        names.setdefault(width, []).append(name)
    return tuple((width, len(there), there[0]) for width, there in sorted(names.items()))


@dataclass(frozen=True)
class RecordCount:
    """What the rules know of the training records.

    Attributes:
        rows: how many are trained on.
        tokens: their mean length, the rejected answer read along.
        pairs: how many have a rejected answer.
    """

    rows: int
    tokens: float
    pairs: int = 0


@dataclass(frozen=True)
class Chosen:
    """An option that is ``"auto"``.

    Attributes:
        option: ``section.key``.
        value: what it is here; None while that cannot be known, or where nothing fits.
            ``"auto"`` of ``data.template`` stands for the model's own chat template.
        reason: why, or what is missing, in words.
    """

    option: str
    value: Any
    reason: str

    @property
    def words(self) -> str:
        """The value for people, on one line; "auto" while it is not known."""
        if self.option == "data.template":
            words = {AUTO: told("the model's own chat template"), PLAIN: told("plain text")}
            return words.get(self.value, AUTO)
        return (
            AUTO
            if self.value is None
            else f"{self.value:g}"
            if isinstance(self.value, float)
            else str(self.value)
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return with_told(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Chosen:
        """What :meth:`as_dict` gave."""
        return cls(data["option"], data["value"], text_of(data, "reason"))


@dataclass(frozen=True)
class SettledData(DataSection):
    """``[data]`` with numbers where "auto" may stand. A template "auto" is the model's own chat template."""

    max_seq_len: int = field(kw_only=True)


@dataclass(frozen=True)
class SettledQuantize(QuantizeSection):
    """``[quantize]`` with numbers where "auto" may stand."""

    group_size: int = field(kw_only=True)
    calibration_samples: int = field(kw_only=True)
    max_calibration_len: int = field(kw_only=True)


@dataclass(frozen=True)
class SettledFinetune(FinetuneSection):
    """``[finetune]`` with values where "auto" may stand."""

    objective: str = field(kw_only=True)
    rank: int = field(kw_only=True)
    alpha: int = field(kw_only=True)
    steps: int = field(kw_only=True)
    batch_size: int = field(kw_only=True)
    learning_rate: float = field(kw_only=True)
    turns: int = field(kw_only=True)
    eval_every: int = field(kw_only=True)
    dropout: float = field(kw_only=True)


@dataclass(frozen=True)
class Settled(Recipe):
    """A recipe as the stages use it: every "auto" has become a value."""

    data: SettledData = field(kw_only=True)
    quantize: SettledQuantize = field(kw_only=True)
    finetune: SettledFinetune = field(kw_only=True)


@dataclass(frozen=True)
class Resolved:
    """A recipe made ready, and what was chosen for it.

    Attributes:
        recipe: every value a value; where a choice has none yet, one that an estimate can be made with.
        chosen: the options that are "auto", in the order of the recipe.
    """

    recipe: Settled
    chosen: tuple[Chosen, ...]

    def of(self, *sections: str) -> list[Chosen]:
        """What was chosen for some sections."""
        return [each for each in self.chosen if each.option.partition(".")[0] in sections]


def resolve(recipe: Recipe, facts: Facts | None, records: RecordCount | None) -> Resolved:
    """What every "auto" of a recipe is. The same answer each time, whatever the machine.

    Args:
        facts: of the model; None while it is not on this machine.
        records: of the data; None while they have not been counted.
    """
    case = _Case(
        facts or Facts(1_000_000_000),
        records or RecordCount(1000, 200.0),
        {option.name: _value(recipe, option.name) for option in _auto_options()},
        recipe,
    )
    chosen: dict[str, Chosen] = {}
    for name, rule in _RULES.items():
        if case.values[name] == AUTO:
            value, reason = rule.choose(case)
            case.values[name] = GROUP_SIZES[-1] if value is None else value
            missing = _missing(name, rule, recipe, facts, records, chosen)
            chosen[name] = Chosen(name, None if missing else value, missing or reason)
    order = [option.name for option in _auto_options()]
    return Resolved(_made(recipe, case.values), tuple(chosen[name] for name in order if name in chosen))


def _missing(
    name: str,
    rule: _Rule,
    recipe: Recipe,
    facts: Facts | None,
    records: RecordCount | None,
    chosen: Mapping[str, Chosen],
) -> str:
    """What has to be known before a choice can be made; empty where it can."""
    followed = chosen.get(rule.follows)
    if followed is not None and followed.value is None:
        return followed.reason
    if rule.of_model and (facts is None or (name == "data.template" and facts.chat_template is None)):
        return told("known once the model is on this machine")
    calibrates_alone = name == "quantize.calibration_samples" and recipe.quantize.calibration_file
    if rule.of_records and records is None and not calibrates_alone:
        return told("known once the records are counted")
    return ""


def _auto_options() -> list[Option]:
    return [option for group in OPTIONS.values() for option in group.values() if option.auto]


def _value(recipe: Recipe, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(recipe, section), key)


def _made(recipe: Recipe, values: Mapping[str, Any]) -> Settled:
    def section(name: str) -> dict[str, Any]:
        old = getattr(recipe, name)
        kept = {each.name: getattr(old, each.name) for each in dataclasses.fields(old)}
        new = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
        return {**kept, **new}

    return Settled(
        model=recipe.model,
        data=SettledData(**section("data")),
        quantize=SettledQuantize(**section("quantize")),
        finetune=SettledFinetune(**section("finetune")),
        optimize=recipe.optimize,
        chat=recipe.chat,
        evaluate=recipe.evaluate,
        upload=recipe.upload,
    )


# The rules. Each gives a value and the reason for it, from the case as far as it is settled.


@dataclass
class _Case:
    facts: Facts
    records: RecordCount
    values: dict[str, Any]
    recipe: Recipe

    @property
    def size(self) -> str:
        """The model's size in words."""
        millions = self.facts.parameters / 1e6
        if millions < 1:
            return told("{value:,} thousand parameters", value=max(1, round(1000 * millions)))
        return (
            told("{millions:.1f} billion parameters", millions=millions / 1000)
            if millions >= 1000
            else told("{millions:.0f} million parameters", millions=millions)
        )

    @property
    def by_preference(self) -> bool:
        return bool(self.values["finetune.objective"] != "sft")

    @property
    def rows_a_step(self) -> int:
        return int(self.values["finetune.batch_size"]) * self.recipe.finetune.gradient_accumulation


def _template(case: _Case) -> tuple[Any, str]:
    if case.facts.chat_template:
        return AUTO, told("so it was trained")
    return PLAIN, told("the model has no chat template, so plain words and its own end token")


def _max_seq_len(case: _Case) -> tuple[Any, str]:
    if 0 < case.facts.positions < MOST_TOKENS:
        return case.facts.positions, told("the model reads no more at once")
    return MOST_TOKENS, told("enough for most records; a longer one is cut, and that is said")


def _group_size(case: _Case) -> tuple[Any, str]:
    inputs = case.facts.inputs
    if case.facts.group_size is not None:
        return case.facts.group_size, told("the model is quantized so already")
    if not inputs:
        return GROUP_SIZES[0], told("there is no matrix to round")
    fitting = next((size for size in GROUP_SIZES if all(width % size == 0 for width, _, _ in inputs)), None)
    if fitting is None:
        width, _, name = next(each for each in inputs if each[0] % GROUP_SIZES[-1])
        return None, told("none fits: {name} has {width} inputs", name=name, width=width)
    total = sum(count for _, count, _ in inputs)
    odd = _odd_width(inputs, fitting)
    return fitting, told("the largest that divides all {total} matrices ({odd} inputs)", total=total, odd=odd)


def _odd_width(inputs: tuple[tuple[int, int, str], ...], size: int) -> str:
    """The width that keeps the group size from being larger; all of them where nothing does."""
    larger = [each for each in GROUP_SIZES if each > size]
    for width, _, _ in inputs:
        if larger and width % larger[-1]:
            return f"{width:,}"
    return all_of(f"{width:,}" for width, _, _ in inputs[:3])


def _calibration_samples(case: _Case) -> tuple[Any, str]:
    if case.recipe.quantize.calibration_file:
        return 128, told("more rows change the scales very little")
    wanted = ENOUGH_TOKENS if case.facts.parameters < 1e9 else 65_536
    length = max(1.0, min(case.records.tokens, case.values["quantize.max_calibration_len"]))
    most = 128
    if most * length < ENOUGH_TOKENS:
        # Of short rows more do better on text of every kind, and cost little (docs/awq.md).
        wanted = ENOUGH_TOKENS
        most = min(1024, round(wanted / length))
    samples = max(32, min(most, round(wanted / length)))
    if 0 < case.records.rows <= samples:
        return _all_of(case.records.rows)
    if samples * length < 0.99 * wanted:  # rounded to whole rows
        return samples, told("more rows change the scales very little")
    return samples, told("{wanted:,} tokens are plenty for {size}", wanted=wanted, size=case.size)


def _all_of(rows: int) -> tuple[int, str]:
    return rows, told("the only record") if rows == 1 else told("all {rows} records", rows=rows)


def _max_calibration_len(case: _Case) -> tuple[Any, str]:
    limit = int(case.values["data.max_seq_len"])
    return min(512, limit), told("what stands further back changes the scales very little")


def _objective(case: _Case) -> tuple[Any, str]:
    if case.records.pairs:
        return "dpo", told("the records have a chosen and a rejected answer")
    return "sft", told("the records have one answer each")


def _rank(case: _Case) -> tuple[Any, str]:
    rows = case.records.rows
    rank = 16 if rows < 10_000 else 32 if rows < 100_000 else 64
    if case.facts.parameters < SMALL and rank < 32:
        return 32, told("the narrow matrices of a small model need a higher one to learn as much")
    return rank, told("room enough for {records}", records=counted(rows, "record"))


def _alpha(case: _Case) -> tuple[Any, str]:
    return 2 * int(case.values["finetune.rank"]), told("twice the rank")


def _batch_size(case: _Case) -> tuple[Any, str]:
    rows, tokens = case.records.rows, max(1.0, case.records.tokens)
    usual = 8 if rows < 10_000 else 16 if rows < 100_000 else 32
    joined = int(case.values["finetune.turns"]) > 1
    # Records that are joined are taken more at a time, so that a step has several conversations; but few records
    # in large steps are few steps, which teach a model as small as that too little.
    usual = max(usual, min(3 * usual, rows // STEPS_A_ROUND)) if joined else usual
    room = max(1, int(BATCH_TOKENS / tokens))
    batch = max(1, min(usual, room, rows))
    if batch == rows:
        return _all_of(rows)
    if batch == room < usual:
        return batch, told(
            "records of {tokens:,.0f} tokens on average, {batch_tokens:,} tokens in a step at most",
            tokens=tokens,
            batch_tokens=BATCH_TOKENS,
        )
    if joined and rows // STEPS_A_ROUND >= 24:
        return batch, told("several conversations a step, of several records each")
    return batch, told("usual for {records}", records=counted(rows, "record"))


def _rounds(case: _Case) -> float:
    """How often each record is seen: a small model needs more rounds, and many records need fewer."""
    wanted = min(20.0, max(3.0, 20.0 * (4e6 / max(1, case.facts.parameters)) ** 0.4))
    rows = case.records.rows
    return 1.0 if rows >= 50_000 else min(wanted, 3.0) if rows >= 10_000 else wanted


def _steps(case: _Case) -> tuple[Any, str]:
    rows, batch = max(1, case.records.rows), case.rows_a_step
    least, most = STEPS
    steps = math.ceil(round(_rounds(case)) * rows / batch)
    steps = min(most, max(least, steps))
    rounds = steps * batch / rows
    said = (
        told("{rounds:.0f} rounds", rounds=rounds)
        if rounds >= 1.5
        else told("one round")
        if rounds > 0.9
        else told("{rounds:.1f} rounds", rounds=rounds)
    )
    return steps, told(
        "{said} through {records} of {batch} a step, for {size}",
        said=said,
        records=counted(rows, "record"),
        batch=batch,
        size=case.size,
    )


def _learning_rate(case: _Case) -> tuple[Any, str]:
    rate = 1e-3 * math.sqrt(135e6 / max(1, case.facts.parameters))
    rate = float(f"{min(6e-3, max(2e-4, rate)):.0e}")
    if case.values["finetune.objective"] in ("dpo", "kto"):
        return float(f"{rate / 10:.0e}"), told(
            "a tenth of that for answers alone, for {size}", size=case.size
        )
    return rate, told("for {size}; it falls with the model's size", size=case.size)


def _turns(case: _Case) -> tuple[Any, str]:
    if case.by_preference:
        return 1, told("what is preferred stands beside what is rejected, each by itself")
    if case.facts.parameters < SMALL:
        return 8, told("a model as small as this one must be shown conversations of several turns")
    return 1, told("each record by itself: a model of this size holds several turns anyway")


def _dropout(case: _Case) -> tuple[Any, str]:
    rounds = int(case.values["finetune.steps"]) * case.rows_a_step / max(1, case.records.rows)
    if rounds > MANY_ROUNDS:
        return 0.05, told("{rounds:.0f} rounds would be learnt by heart without it", rounds=rounds)
    return 0.0, told("not needed for a few rounds")


def _eval_every(case: _Case) -> tuple[Any, str]:
    every = max(1, round(int(case.values["finetune.steps"]) / MEASUREMENTS))
    return every, told("about {measurements} measurements over the training", measurements=MEASUREMENTS)


@dataclass(frozen=True)
class _Rule:
    """How an option is chosen, and what has to be known for it: the model, the records, or another option."""

    choose: Callable[[_Case], tuple[Any, str]]
    of_model: bool = True
    of_records: bool = False
    follows: str = ""


_RULES: dict[str, _Rule] = {
    "data.template": _Rule(_template),
    "data.max_seq_len": _Rule(_max_seq_len),
    "quantize.group_size": _Rule(_group_size),
    "quantize.max_calibration_len": _Rule(_max_calibration_len),
    "quantize.calibration_samples": _Rule(_calibration_samples, of_records=True),
    "finetune.objective": _Rule(_objective, of_model=False, of_records=True),
    "finetune.rank": _Rule(_rank, of_records=True),
    "finetune.alpha": _Rule(_alpha, of_model=False, follows="finetune.rank"),
    "finetune.turns": _Rule(_turns, follows="finetune.objective"),
    "finetune.batch_size": _Rule(_batch_size, of_records=True),
    "finetune.steps": _Rule(_steps, of_records=True),
    "finetune.learning_rate": _Rule(_learning_rate, follows="finetune.objective"),
    "finetune.dropout": _Rule(_dropout, of_model=False, follows="finetune.steps"),
    "finetune.eval_every": _Rule(_eval_every, of_model=False, follows="finetune.steps"),
}
"""In the order in which they need each other's answers. None is for where nothing fits: what is wrong then,
:mod:`core.model.faults` tells."""


# What is known of a lab's model and records.


def facts_at_hand(lab: LabFolder, recipe: Recipe) -> Facts | None:
    """What files on this machine tell of the recipe's model, in milliseconds; None where it is not here.

    A model that cannot be read counts as not here: the checks tell what is wrong with it.
    """
    try:
        found = _facts_of_source(recipe.model.source, lab.root)
    except (RequestError, OSError, ValueError):
        return None
    if found is not None:
        return found
    made_from = remembered_facts(lab)
    return made_from[1] if made_from is not None and made_from[0] == recipe.model.source else None


def _facts_of_source(source: str, lab_root: Path) -> Facts | None:
    from core.model.gguf import check_gguf
    from core.model.sources import at_hand, kind_of

    place = at_hand(source, lab_root)
    if place is None:
        return None
    if kind_of(source, lab_root) == "gguf":
        return Facts.of_gguf(check_gguf(place))
    return Facts.of(place)


def facts_of_quantized(lab: LabFolder) -> Facts | None:
    """What the lab's quantized model was made from, or itself where it does not say; None without one.

    Raises:
        RequestError: it is not whole.
    """
    if not (lab.quantized_dir / "config.json").is_file():
        return None
    made_from = remembered_facts(lab)
    return made_from[1] if made_from is not None else Facts.of(lab.quantized_dir)


def remembered_facts(lab: LabFolder) -> tuple[str, Facts] | None:
    """The source and the facts that the quantized model's manifest kept; None where it does not say."""
    # A damaged one is told by the fingerprint of the stages that build on it; quantize makes it anew.
    manifest = read_if_whole(lab.quantized_dir / MANIFEST)
    try:
        return str(manifest["model"]["source"]), Facts.from_dict(manifest["model"]["facts"])
    except (KeyError, TypeError, ValueError):
        return None
