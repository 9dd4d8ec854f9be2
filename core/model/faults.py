"""What is wrong with the source model, told before the work: by ``check``, before a job starts, and when it does.

Every fault has a stable code, names the file or tensor, and says what would work instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Hint, RequestError, Use
from core.events import Reporter
from core.formats import human_bytes, some
from core.language import any_of, told, words_of
from core.model.architectures import REFUSED, judge
from core.model.auto import Settled
from core.model.finite import NotFinite, first_not_finite
from core.model.folder import ADAPTER_CONFIG, OLIVE, ModelFacts, model_facts, read_adapter
from core.model.messages import Message
from core.model.template import PLAIN, ChatTemplate, TemplateError
from core.model.tensors import (
    USUAL,
    beside_layers,
    fitting_group_sizes,
    gaps,
    has_head,
    layers_there,
    not_in_layers,
    not_merged,
    of_adapters,
    rounded_matrices,
    same_numbers,
    unknown_prefix,
    unread,
)
from core.model.text import TEMPLATE_FILE, AddedToken, tokens_from
from core.model.weights import TensorEntry, tensor_entries, weight_files
from core.options import AUTO


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a model.

    Attributes:
        code: its kind, ``model.…``.
        title: what is wrong.
        detail: the file, tensor or key, and what was found there.
        advice: what would work.
        stops: False for what should be read, and does not keep the lab from working.
    """

    code: str
    title: str
    detail: str
    advice: Hint = ""
    stops: bool = True

    @property
    def hint(self) -> str:
        """What would work, as the command line says it."""
        return self.error().hint

    def error(self) -> RequestError:
        """As it is raised."""
        return RequestError(self.title, self.detail, self.advice, code=self.code)


def refuse(path: Path, recipe: Settled, report: Reporter) -> ModelFacts:
    """The facts of a model that the stages can work on; every weight is looked at once.

    Raises:
        RequestError: the first fault that would stop a stage.
        Cancelled: asked to stop.
    """
    from core.model.load import check_tensors

    facts = model_facts(path)
    for fault in faults(facts, recipe):
        if fault.stops:
            raise fault.error()
        report.log(f"{fault.title} {fault.detail} {fault.hint}".strip(), "warning")

    def tell(done: int, total: int) -> None:
        report.check_cancelled()
        report.progress(told("Looking at the weights"), done, total)

    if (found := first_not_finite(weight_files(path), facts.dtype, tell)) is not None:
        raise not_finite(found).error()
    check_tensors(path, recipe.model.trust_remote_code)
    return facts


def faults(facts: ModelFacts, recipe: Settled) -> list[Fault]:
    """What is wrong with a model for a recipe, the worst first; from headers and tokenizer files, in milliseconds.

    Facts of a ``config.json`` alone give what can be told from that.
    """
    found = [
        *_adapter(facts),
        *_quantized(facts, recipe),
        *_architecture(facts),
        *_remote_code(facts, recipe),
    ]
    if facts.shards:
        tensors = list(_tensors(facts))
        found += [*tensors, *_tokens(facts, recipe), *_template(facts, recipe), *_leftovers(facts)]
        if all(fault.code != "model.not-merged" for fault in tensors):
            found += _group_size(facts, recipe)
    found += _context(facts, recipe)
    return sorted(found, key=lambda fault: not fault.stops)


def _as_fault(error: RequestError) -> Fault:
    return Fault(error.code, error.title, error.detail, error.advice)


def not_finite(found: NotFinite) -> Fault:
    """The fault of a tensor with a number that is none."""
    place = f"[{', '.join(map(str, found.place))}]" if found.place else ""
    more = (
        told(" and {count:,} more of its numbers are not finite", count=found.count - 1)
        if found.count > 1
        else ""
    )
    if found.what not in ("NaN", "Inf"):
        return Fault(
            "model.too-large",
            told("The model's weights hold numbers that are {what}.", what=found.what),
            told(
                "{file}: {tensor}{place}{value}; config.json says that the model is float16.",
                file=found.file,
                tensor=found.tensor,
                place=place,
                value=told(" and {count:,} more", count=found.count - 1) if found.count > 1 else "",
            ),
            told(
                'Set dtype (or torch_dtype) to "bfloat16" or "float32" in its config.json, as the '
                "weights are."
            ),
        )
    return Fault(
        "model.not-finite",
        told("The model's weights hold {what}.", what=found.what),
        told(
            "{file}: {tensor}{place} is {what}{more}.",
            file=found.file,
            tensor=found.tensor,
            place=place,
            what=found.what,
            more=more,
        ),
        told(
            "Nothing can be made of it: fetch the model again, or take a checkpoint from before its "
            "training broke."
        ),
    )


def _adapter(facts: ModelFacts) -> Iterator[Fault]:
    adapter = read_adapter(facts.path) if facts.shards else None
    if adapter is not None:
        yield Fault(
            "model.adapter",
            told("The model's folder holds an adapter besides."),
            told(
                "{path}: it is for {base}. With this file there, transformers loads that model in the "
                "place of this one.",
                path=facts.path / ADAPTER_CONFIG,
                base=adapter.base or told("a model that it does not name"),
            ),
            told("Move {file} and adapter_model.safetensors to another folder.", file=ADAPTER_CONFIG),
        )


def _quantized(facts: ModelFacts, recipe: Settled) -> Iterator[Fault]:
    if not facts.quantized_by or (
        facts.quantized_by == OLIVE and recipe.quantize.algorithm == "none" and facts.quantization
    ):
        return
    how = (
        told("quant_method = {quantized_by}", quantized_by=repr(facts.quantized_by))
        if facts.quantization
        else told("packed by {quantized_by}", quantized_by=facts.quantized_by)
    )
    where = facts.path / "config.json" if facts.shards else "config.json"
    yield Fault(
        "model.quantized",
        told("The model is already quantized."),
        told("{where}: {how}.", where=where, how=how),
        told('Start from the float model that it was made from, or set quantize.algorithm = "none".')
        if facts.quantized_by == OLIVE
        else told("Start from the float model that it was made from."),
    )


def _architecture(facts: ModelFacts) -> Iterator[Fault]:
    verdict = judge(facts.config)
    if verdict.state == REFUSED:
        yield Fault(
            "model.architecture",
            told("No ONNX model can be made of this model."),
            told("{reason}.", reason=verdict.reason),
            verdict.hint,
        )


def _remote_code(facts: ModelFacts, recipe: Settled) -> Iterator[Fault]:
    allowed = recipe.model.trust_remote_code
    if facts.remote_code and not allowed and judge(facts.config).state == REFUSED:
        yield Fault(
            "model.remote-code",
            told("The model brings Python code of its own, and the recipe does not allow it."),
            told("config.json: auto_map."),
            told("If you trust its author: {setting}", setting=Use("model.trust_remote_code", True)),
        )
    elif allowed:
        yield Fault(
            "model.remote-code",
            told("Python code that comes with the model will run.")
            if facts.remote_code
            else told("The recipe allows the model's own code, and this model brings none."),
            "model.trust_remote_code = true.",
            told("Only for authors you trust.")
            if facts.remote_code
            else told("Set {setting}", setting=Use("model.trust_remote_code", False)),
            stops=False,
        )


def _tensors(facts: ModelFacts) -> Iterator[Fault]:
    entries = tensor_entries(facts.path)
    if facts.quantized_by:
        return
    for look in (_adapters_within, _names, _layers):
        found = list(look(facts, entries))
        yield from found
        if any(fault.stops for fault in found):
            return  # what else is wrong follows from that
    for look in (_no_head, _two_heads, _gaps, _unread):
        yield from look(facts, entries)


def _adapters_within(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> Iterator[Fault]:
    if adapted := of_adapters(entries):
        yield _as_fault(not_merged(facts.path, adapted))


def _names(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> Iterator[Fault]:
    prefix = unknown_prefix(facts, entries)
    if prefix is None:
        return
    named = next(name for name in entries if name.startswith(prefix))
    yield Fault(
        "model.names",
        told("The weights have names that transformers does not look for."),
        told(
            "{named}: {named2}.",
            named=facts.path / facts.shards[0]
            if len(facts.shards) == 1
            else told("{folder} (in)", folder=facts.path),
            named2=named,
        ),
        told(
            "Take {prefix} from the start of every name and save them anew; a wrapper that the "
            "training put around the model left it there.",
            prefix=repr(prefix.removesuffix("model.")),
        )
        if prefix.endswith("model.")
        else told(
            "Rename them so that {named} is 'model.{named2}'.",
            named=repr(named),
            named2=named.removeprefix(prefix),
        ),
    )


def _layers(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> Iterator[Fault]:
    there, wanted = layers_there(entries), set(range(facts.layers))
    if facts.model_type not in USUAL or there == wanted:
        return
    missing = sorted(wanted - there)
    which = (
        told("none of layer {missing}", missing=missing[0])
        if missing
        else told("layers up to {there}", there=max(there))
    )
    yield Fault(
        "model.layers",
        told("The weights lack whole layers.")
        if missing
        else told("The weights have more layers than are used."),
        told(
            "config.json: num_hidden_layers = {layers}; {named} has {which}.",
            layers=facts.layers,
            named=_named(facts),
            which=which,
        ),
        told("Fetch the model again; or set num_hidden_layers to the number of layers that there are."),
        stops=bool(missing) or not facts.layers,
    )


def _no_head(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> Iterator[Fault]:
    if not has_head(facts, entries):
        yield Fault(
            "model.no-head",
            told("The model has no output matrix."),
            told(
                "{named} has no lm_head.weight, and config.json does not say tie_word_embeddings = true.",
                named=_named(facts),
            ),
            told(
                "Fetch the model again. If its output matrix is its embeddings, set tie_word_embeddings "
                "= true in config.json; a model for embeddings or for classification writes no text."
            ),
        )


def _gaps(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> Iterator[Fault]:
    every = list(gaps(facts, entries))
    missing = [gap for gap in every if gap.found is None]
    wrong = [gap for gap in every if gap.found is not None]
    if missing:
        yield Fault(
            "model.missing-tensors",
            told("The checkpoint does not hold the whole model."),
            told("{named} has no {names}.", named=_named(facts), names=some(gap.name for gap in missing)),
            told("Fetch the model again; with these weights filled in at random it would answer nonsense."),
        )
    if wrong:
        first = wrong[0]
        more = told(", and {count} more", count=len(wrong) - 1) if len(wrong) > 1 else ""
        yield Fault(
            "model.wrong-shape",
            told("The weights do not have the sizes that config.json gives."),
            told(
                "{file}: {first} is {by}, by config.json {by2}{more}.",
                file=entries[first.name].file,
                first=first.name,
                by=_by(first.found),
                by2=_by(first.wanted),
                more=more,
            ),
            told("Fetch the model again, with the config.json that belongs to these weights."),
        )


def _unread(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> Iterator[Fault]:
    if places := not_in_layers(facts, entries):
        yield _as_fault(unread(facts.path, places))
    if places := beside_layers(facts, entries):
        yield Fault(
            "model.unread-tensors",
            told("The weights hold more than the language model."),
            told(
                "{named} has {names}, which the lab does not use and the result does not have.",
                named=_named(facts),
                names=some(places),
            ),
            told(
                "Nothing need be done if you want the language model alone, as for a value head of a trainer."
            ),
            stops=False,
        )


def _two_heads(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> Iterator[Fault]:
    """Programs do not agree on what such a model is: some use the one, some the other."""
    head = entries.get("lm_head.weight")
    embeddings = next((each for name, each in entries.items() if name.endswith("embed_tokens.weight")), None)
    if not facts.tied_embeddings or head is None or embeddings is None or same_numbers(head, embeddings):
        return
    yield Fault(
        "model.two-heads",
        told("The model has an output matrix of its own, and is said to have none."),
        told(
            "{file}: lm_head.weight is not the embeddings; by config.json (tie_word_embeddings, or "
            "the architecture where that is not there) the embeddings are the output matrix.",
            file=head.file,
        ),
        told(
            "If lm_head.weight was trained, set tie_word_embeddings = false in config.json; if it is "
            "a leftover, take it out of the file."
        ),
    )


def _named(facts: ModelFacts) -> str:
    if len(facts.shards) == 1:
        return str(facts.path / facts.shards[0])
    return told("{folder} (no part)", folder=facts.path)


def _by(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape or ()))


def _tokens(facts: ModelFacts, recipe: Settled) -> Iterator[Fault]:
    rows, text = facts.embedding_rows or facts.vocab_size, facts.text
    if not rows or text.size <= rows:
        return
    beyond = tokens_from(facts.path, rows)
    # A special token that neither a template nor the model's own settings use never comes up: text of a record that
    # looks like it is cut. Gemma 3's text models have such a one, of their siblings that see pictures.
    written = [*text.templates.values(), str(recipe.data.template)]
    added = {token.text: token for token in text.added}
    used = {text.bos, text.eos}
    harmful = [
        word
        for _, word in beyond
        if not _special(added.get(word)) or word in used or any(word in each for each in written)
    ]
    shown = some(f"{word!r} ({number})" for number, word in beyond)
    yield Fault(
        "model.tokens-beyond-embeddings",
        told("The tokenizer has more tokens than the model has embeddings."),
        told(
            "{path}: the tokenizer's ids go up to {size:,}, the embeddings have {rows:,} rows. "
            "Without one: {shown}.",
            path=facts.path,
            size=text.size - 1,
            rows=rows,
            shown=shown,
        ),
        told(
            "Take the tokenizer that belongs to these weights; or load the model with transformers, "
            "call resize_token_embeddings({size}), save it, and train the new tokens.",
            size=text.size,
        )
        if harmful
        else told("Neither the model's template nor the recipe's uses them, so they do no harm."),
        stops=bool(harmful),
    )


_ASKED = Message("user", "Where is the station?")
_ANSWERED = (_ASKED, Message("assistant", "Behind the church."))
_TRIALS = (_ANSWERED, (Message("system", "You know the town."), *_ANSWERED))
"""The simplest conversations: a template that can write none of them can write none."""


def _template(facts: ModelFacts, recipe: Settled) -> Iterator[Fault]:
    text = facts.text
    own = told(
        "Take {file} from where the model came from, or write a data.template of your own.",
        file=TEMPLATE_FILE,
    )
    if text.templates and not text.template and recipe.data.template in (AUTO, PLAIN):
        yield Fault(
            "model.template",
            told("The model has several chat templates, and none of them is its default."),
            told("{path}: {names}.", path=facts.path, names=", ".join(map(repr, text.templates))),
            told(
                "Copy the one to train with to {file} there, or write a data.template of your own.",
                file=TEMPLATE_FILE,
            ),
        )
    template = ChatTemplate(text.template, text.eos, text.bos, text.special)
    known = [each for each in text.ends if isinstance(each, str) or each < text.size]
    if not known and not (text.template and template.ending):
        yield Fault(
            "model.no-end",
            told("The model has no token that ends an answer, so it will not learn to stop."),
            told(
                "{path}: tokenizer_config.json names no eos_token, generation_config.json and "
                "config.json no eos_token_id{value}.",
                path=facts.path,
                value=told(" that the tokenizer has") if text.ends else "",
            ),
            told(
                "Set eos_token in tokenizer_config.json and eos_token_id in config.json to one that it "
                "was trained with."
            ),
            stops=False,
        )
    if not text.template or recipe.data.template != AUTO:
        return
    reasons = []
    for messages in _TRIALS:
        try:
            template.segments(messages)
        except TemplateError as error:
            reasons.append(words_of(error))
        else:
            return
    yield Fault(
        "model.template",
        told("No conversation can be written with the model's chat template."),
        told("{path}: {reasons}.", path=facts.path, reasons=reasons[0]),
        own,
    )


def _special(token: AddedToken | None) -> bool:
    return token is not None and token.special


def _group_size(facts: ModelFacts, recipe: Settled) -> Iterator[Fault]:
    rounded = recipe.quantize.algorithm != "none" or recipe.optimize.precision in ("int4", "int8")
    size = recipe.quantize.group_size
    widths = {} if facts.quantized_by or not rounded else rounded_matrices(facts)
    bad = {name: width for name, width in widths.items() if width % size}
    if not bad:
        return
    fitting = fitting_group_sizes(widths)
    name, width = next(iter(bad.items()))
    more = told(" (and {count} more layers)", count=len(bad) - 1) if len(bad) > 1 else ""
    yield Fault(
        "model.group-size",
        told("The group size {size} does not divide the model's weights.", size=size)
        if fitting
        else told("No group size divides the model's weights."),
        told("{name} has {width} inputs{more}.", name=name, width=width, more=more),
        _fitting_size(fitting)
        if fitting
        else told(
            "Set {setting} and {setting2}.",
            setting=Use("quantize.algorithm", "none"),
            setting2=Use("optimize.precision", "fp16"),
        ),
    )


def _fitting_size(fitting: Sequence[int]) -> Hint:
    """The largest group size that fits, and the others."""
    *others, largest = sorted(fitting)
    said = any_of(reversed(others))
    setting = Use("quantize.group_size", largest)
    if not others:
        return told("Set {setting}.", setting=setting)
    return told("Set {setting}; {others} would do as well.", setting=setting, others=said)


def _leftovers(facts: ModelFacts) -> Iterator[Fault]:
    if not facts.leftovers:
        return
    size = sum((facts.path / name).stat().st_size for name in facts.leftovers)
    yield Fault(
        "model.leftovers",
        told("The folder holds other weights besides, which are not used."),
        told(
            "{path}: {names} ({size}). Used: {names2}{value}.",
            path=facts.path,
            names=some(facts.leftovers, 4),
            size=human_bytes(size),
            names2=", ".join(facts.shards[:2]),
            value=told(" and so on") if len(facts.shards) > 2 else "",
        ),
        told("They can be removed if nothing else needs them."),
        stops=False,
    )


def _context(facts: ModelFacts, recipe: Settled) -> list[Fault]:
    limit, wanted = facts.max_positions, recipe.data.max_seq_len
    if not limit or wanted <= limit:
        return []
    return [
        Fault(
            "model.context",
            told("Rows may be longer than the model's context."),
            told(
                "config.json: max_position_embeddings = {limit:,}; lab.toml: data.max_seq_len = {wanted:,}.",
                limit=limit,
                wanted=wanted,
            ),
            told("Set data.max_seq_len = {limit}", limit=limit),
            stops=False,
        )
    ]
