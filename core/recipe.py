"""The recipe, ``lab.toml``: what the lab's one hand-edited file may say, read with care.

An unknown key, a wrong type or an impossible value is refused with file, line, key and what would
be right. Writing keeps the comments and the order that people gave the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from core.algorithms import ALGORITHMS
from core.errors import Do, RequestError
from core.files import explained, small_bytes, write_atomic
from core.language import N_, _, shown, told, words_of
from core.options import AUTO, Auto, Option, option, options_of
from core.providers import PROVIDERS, providers_for
from core.resources import REHEARSAL, sample_file

SAMPLE_FILE = sample_file()
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ModelSection:
    """``[model]``: what to start from."""

    source: str = option(
        REHEARSAL,
        N_("hub id, folder, .gguf file, azureml:// path, or rehearsal for the bundled model"),
        wide=True,
    )
    trust_remote_code: bool = option(
        False, N_("run Python code that comes with the model; only for models you trust"), advanced=True
    )


@dataclass(frozen=True)
class DataSection:
    """``[data]``: the training records."""

    file: str = option(SAMPLE_FILE, N_("training records, relative to the lab folder"), wide=True)
    template: str | Auto = option(
        AUTO,
        N_("how a record becomes text, with {field} for a field of the rows; auto: the model's own way"),
        wide=True,
        multiline=True,
    )
    prompt_field: str = option("", N_("field with the question (empty: found by name)"), advanced=True)
    response_field: str = option("", N_("field with the answer (empty: found by name)"), advanced=True)
    messages_field: str = option(
        "", N_("field with a list of chat messages (empty: found by name)"), advanced=True
    )
    label_field: str = option(
        "",
        N_(
            "field that says whether an answer is good; where it says no, the row is not learnt "
            "(empty: found by name; -: none)"
        ),
        advanced=True,
    )
    rejected_field: str = option(
        "",
        N_("field with the answer that was rejected in favour of the other (empty: found by name; -: none)"),
        advanced=True,
    )
    eval_fraction: float = option(0.1, N_("share of the records held out to measure with"), low=0.0, high=0.9)
    max_seq_len: int | Auto = option(
        AUTO, N_("longest record in tokens; the rest is cut"), low=16, high=131072
    )
    answer_only: bool = option(True, N_("learn from the answers only, not from the questions"), advanced=True)
    seed: int = option(0, N_("seed of the split into training and held-out records"), low=0, advanced=True)


@dataclass(frozen=True)
class QuantizeSection:
    """``[quantize]``: fewer bits for each weight."""

    algorithm: str = option(
        "awq+gptq",
        N_("how weights are rounded"),
        choices=ALGORITHMS,
        words=lambda name: ALGORITHMS[name].title,
        wide=True,
    )
    bits: int = option(
        4,
        N_("bits for each weight"),
        choices=(4, 8),
        words={4: N_("4 - a quarter of the size"), 8: N_("8 - half the size")}.__getitem__,
    )
    group_size: int | Auto = option(AUTO, N_("weights that share a scale"), choices=(16, 32, 64, 128, 256))
    eight_bit_layers: str = option(
        "",
        N_("kinds of layers that get 8 bits instead, by the last part of their names, with commas: o_proj"),
        advanced=True,
    )
    calibration_samples: int | Auto = option(AUTO, N_("records that the method looks at"), low=1, high=4096)
    max_calibration_len: int | Auto = option(
        AUTO, N_("longest calibration record in tokens"), low=16, high=8192, advanced=True
    )
    calibration_file: str = option(
        "", N_("calibrate on this file instead of the training records"), advanced=True, wide=True
    )
    seed: int = option(0, N_("seed of the choice of calibration records"), low=0, advanced=True)


@dataclass(frozen=True)
class FinetuneSection:
    """``[finetune]``: a LoRA adapter on the quantized weights."""

    adapter: str = option("travel", N_("name of the adapter; several can share one base"))
    objective: str | Auto = option(
        AUTO,
        N_("what is learnt: the answers, or to prefer them to rejected ones"),
        choices=("sft", "dpo", "orpo", "kto"),
        words={
            "sft": N_("sft - the answers"),
            "dpo": N_("dpo - chosen before rejected answers"),
            "orpo": N_("orpo - the same, and the chosen answers"),
            "kto": N_("kto - good answers, bad ones not"),
        }.__getitem__,
        wide=True,
        advanced=True,
    )
    beta: float = option(
        0.1,
        N_("how firmly preferences hold on to the base (dpo, kto), or how much they weigh (orpo)"),
        low=0.001,
        high=10.0,
        advanced=True,
    )
    rank: int | Auto = option(AUTO, N_("rank of the adapter's matrices"), low=1, high=1024)
    alpha: int | Auto = option(AUTO, N_("the adapter's scale, as alpha / rank"), low=1, high=4096)
    steps: int | Auto = option(AUTO, N_("training steps"), low=1, high=1_000_000)
    batch_size: int | Auto = option(AUTO, N_("records in a step"), low=1, high=4096)
    learning_rate: float | Auto = option(AUTO, N_("learning rate at its highest"), low=1e-8, high=1.0)
    turns: int | Auto = option(
        AUTO,
        N_("records of a step joined at random to conversations of up to so many turns (1: each by itself)"),
        low=1,
        high=64,
        advanced=True,
    )
    gradient_accumulation: int = option(
        1, N_("batches summed before a step"), low=1, high=1024, advanced=True
    )
    warmup_ratio: float = option(
        0.03, N_("share of the steps in which the rate rises"), low=0.0, high=0.5, advanced=True
    )
    dropout: float | Auto = option(
        AUTO, N_("dropout in front of the adapter"), low=0.0, high=0.9, advanced=True
    )
    eval_every: int | Auto = option(
        AUTO,
        N_("measure on held-out records every so many steps (0: before and after)"),
        low=0,
        advanced=True,
    )
    stop_early: int = option(
        0,
        N_("stop when so many measurements in a row are no better (0: never)"),
        low=0,
        high=1000,
        advanced=True,
    )
    keep: str = option(
        "last",
        N_("whose weights become the adapter: the last step's, or the one's with the lowest held-out loss"),
        choices=("last", "best"),
        advanced=True,
    )
    save_steps: int = option(50, N_("keep a checkpoint every so many steps"), low=1, advanced=True)
    memory: str = option("auto", N_("trade memory for speed"), choices=("auto", "fast", "low"), advanced=True)
    track: str = option(
        "",
        N_("experiment tracker that gets the curves as well (empty: none)"),
        choices=("", "mlflow", "tensorboard", "wandb", "trackio"),
        words=lambda name: name or N_("none"),
        advanced=True,
    )
    gpus: int | Auto = option(1, N_("GPUs that share the records of a step"), low=1, high=64, advanced=True)
    seed: int = option(0, N_("seed of the adapter's start and the order of records"), low=0, advanced=True)


@dataclass(frozen=True)
class OptimizeSection:
    """``[optimize]``: the ONNX graph and where it will run."""

    device: str = option(
        "cpu",
        N_("what the result will run on"),
        choices=("cpu", "gpu", "npu"),
        words={
            "cpu": N_("CPU - runs on every machine"),
            "gpu": N_("GPU - an NVIDIA card, DirectX on Windows, WebGPU"),
            "npu": N_("NPU - a neural processor"),
        }.__getitem__,
        wide=True,
    )
    provider: str = option(
        "CPUExecutionProvider",
        N_("ONNX Runtime execution provider"),
        choices=tuple(PROVIDERS),
        wide=True,
    )
    precision: str = option(
        "int4",
        N_("precision of the weights in the graph"),
        choices=("int4", "int8", "fp16", "bf16", "fp32"),
        words={
            "int4": N_("int4 - small and fast; the usual choice"),
            "int8": N_("int8 - twice the size, nearer to the original"),
            "fp16": N_("fp16 - for GPUs"),
            "bf16": N_("bf16 - for newer GPUs"),
            "fp32": N_("fp32 - full precision, eight times the size"),
        }.__getitem__,
        wide=True,
    )
    adapters: str = option(
        "switched",
        N_("how the adapter comes with the model"),
        choices=("switched", "merged"),
        words={
            "switched": N_("switched - one base, adapters come and go"),
            "merged": N_("merged - folded in and rounded anew: full speed, a model for each"),
        }.__getitem__,
        wide=True,
        advanced=True,
    )
    embeddings: str = option(
        "shared",
        N_("embeddings of a model that has one matrix for them and for its output"),
        choices=("shared", "own"),
        words={
            "shared": N_("shared - looked up in the output matrix: a third to a half smaller"),
            "own": N_("own - a table of their own, as before"),
        }.__getitem__,
        wide=True,
        advanced=True,
    )


@dataclass(frozen=True)
class ChatSection:
    """``[chat]``: how the result answers."""

    system: str = option(
        "",
        N_("system message put before the conversation"),
        off_form=N_("a chat takes it when it begins: set it in lab.toml"),
        multiline=True,
    )
    temperature: float = option(
        0.0, N_("0 gives the likeliest answer, higher more varied ones"), low=0.0, high=5.0
    )
    max_new_tokens: int = option(256, N_("longest answer in tokens"), low=1, high=131072)
    top_p: float = option(
        1.0, N_("keep the likeliest tokens up to this probability"), low=0.0, high=1.0, advanced=True
    )
    top_k: int = option(50, N_("keep this many likeliest tokens"), low=1, high=100_000, advanced=True)
    repetition_penalty: float = option(1.0, N_("above 1 repeats less"), low=0.1, high=5.0, advanced=True)
    seed: int = option(0, N_("seed of the sampling"), low=0, advanced=True)
    context_tokens: int = option(
        4096,
        N_("longest conversation kept in memory, in tokens"),
        low=64,
        high=1_048_576,
        advanced=True,
        off_form=N_("the memory is taken when the model is loaded: set it in lab.toml before the chat"),
    )


@dataclass(frozen=True)
class EvaluateSection:
    """``[evaluate]``: what every step cost and gave, on held-out records."""

    rows: int = option(50, N_("held-out records to measure on, at most"), low=1, high=100_000, advanced=True)
    general_text: str = option(
        "",
        N_("file of plain text that shows what was forgotten (empty: the one that comes along)"),
        advanced=True,
    )
    tasks: str = option("", N_("tasks of lm-eval, by their names, with commas"), advanced=True)
    task_folder: str = option("", N_("folder with tasks of your own for lm-eval"), advanced=True)
    task_limit: int = option(
        0, N_("questions of each task at most (0: all)"), low=0, high=1_000_000, advanced=True
    )


@dataclass(frozen=True)
class UploadSection:
    """``[upload]``: where the result is registered."""

    subscription: str = option("", N_("Azure subscription id"), wide=True)
    resource_group: str = option("", N_("Azure resource group"))
    workspace: str = option("", N_("Azure ML workspace"))
    name: str = option("ft-for-travel", N_("name of the registered model"))
    version: str = option("", N_("version (empty: the next free one)"))
    tags: dict[str, str] = option({}, N_("tags to register it with"), advanced=True)
    concurrency: int = option(16, N_("connections at once, at most"), low=1, high=64, advanced=True)
    registered: str = option(
        "",
        N_("the last model registered from this lab, written by upload"),
        advanced=True,
        off_form=N_("upload writes it"),
    )


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, checked."""

    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    quantize: QuantizeSection = field(default_factory=QuantizeSection)
    finetune: FinetuneSection = field(default_factory=FinetuneSection)
    optimize: OptimizeSection = field(default_factory=OptimizeSection)
    chat: ChatSection = field(default_factory=ChatSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    upload: UploadSection = field(default_factory=UploadSection)

    def with_values(self, values: dict[str, Any]) -> Recipe:
        """A copy with some values, given as ``{"section.key": value}``, checked and replaced.

        Raises:
            RequestError: a key is unknown or a value is impossible.
        """
        recipe = self
        for name, value in values.items():
            if name == OLD_CHAT_TEMPLATE.name:
                name, value = "data.template", _template_meant(value, recipe.data.template)
            declared = find_option(name)
            try:
                value = declared.check(value)
            except ValueError as error:
                raise RequestError(
                    told("{name} cannot be set so.", name=name), words_of(error), code="recipe.value"
                ) from None
            section = dataclasses.replace(getattr(recipe, declared.section), **{declared.key: value})
            recipe = dataclasses.replace(recipe, **{declared.section: section})
        check_whole(recipe, told("the settings"))
        return recipe


OPTIONS: dict[str, dict[str, Option]] = {
    name: options_of(name, cls) for name, cls in get_type_hints(Recipe).items()
}
"""Every option there is, by section and key."""


def on_form(sections: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options of these sections that stand on a form, as ``section.key``: the usual ones, and the advanced."""
    shown = [each for section in sections for each in OPTIONS[section].values() if not each.off_form]
    return tuple(e.name for e in shown if not e.advanced), tuple(e.name for e in shown if e.advanced)


OLD_CHAT_TEMPLATE = Option("data", "chat_template", bool, False, N_('true is the same as template = "auto"'))
"""How labs made before ``template = "auto"`` asked for the model's own chat template: still read, no longer
written. False says nothing: the template that stands beside it holds."""


RENAMED = {"finetune.eval_steps": "finetune.eval_every"}
"""Options by the names that they had: still read, no longer written."""


def _template_meant(chat_template: Any, template: str) -> str:
    """What ``data.chat_template`` beside a template amounts to. Raises RequestError for no true or false."""
    try:
        return AUTO if OLD_CHAT_TEMPLATE.check(chat_template) else template
    except ValueError as error:
        raise RequestError(
            told("{name} cannot be set so.", name=OLD_CHAT_TEMPLATE.name),
            words_of(error),
            code="recipe.value",
        ) from None


def find_option(name: str, where: str = N_("the request")) -> Option:
    """The option called ``section.key``.

    Raises:
        RequestError: there is none; the message names the nearest one.
    """
    name = RENAMED.get(name, name)
    section, _dot, key = name.partition(".")
    if name == OLD_CHAT_TEMPLATE.name:
        return OLD_CHAT_TEMPLATE
    if section in OPTIONS and key in OPTIONS[section]:
        return OPTIONS[section][key]
    known = [item.name for group in OPTIONS.values() for item in group.values()]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = (
        told("Did you mean {near}?", near=near[0])
        if near
        else _("The options are: {names}.", names=", ".join(known))
    )
    raise RequestError(
        told("There is no option {name}.", name=name),
        told("It stands in {where}.", where=told(where)),
        hint,
        code="recipe.unknown-key",
    )


def read_recipe(path: Path) -> Recipe:
    """Read and check a ``lab.toml``.

    Raises:
        RequestError: no such file, not TOML, an unknown key, a wrong type or an impossible value.
    """
    try:
        text = small_bytes(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise RequestError(
            told("There is no lab here."),
            told("{path} does not exist.", path=path),
            told("Make one with: {command}", command=Do.of("new", path.parent)),
            code="lab.missing",
        ) from None
    except UnicodeDecodeError as error:
        raise RequestError(
            told("The recipe is not UTF-8 text."),
            told("{path}, byte {start}.", path=path, start=error.start),
            told("Save it as UTF-8."),
            code="recipe.syntax",
        ) from None
    except ValueError as error:
        raise RequestError(
            told("The recipe cannot be read."), f"{path}: {error}.", code="recipe.unreadable"
        ) from None
    except OSError as error:
        raise RequestError(
            told("The recipe cannot be read."), f"{path}: {error.strerror}.", code="recipe.unreadable"
        ) from None
    return parse_recipe(text, path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """Check the text of a ``lab.toml``; ``path`` is named in errors. Raises as :func:`read_recipe`."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RequestError(
            told("The recipe is not valid TOML."),
            f"{path}: {error}.",
            told("Text needs quotes; each key stands once."),
            code="recipe.syntax",
        ) from None
    sections: dict[str, Any] = {}
    for section, values in tables.items():
        where = told("{path}, line {line}", path=path, line=_line_of(text, section, None))
        if section not in OPTIONS:
            near = difflib.get_close_matches(section, OPTIONS, n=1)
            hint = (
                told("Did you mean [{near}]?", near=near[0])
                if near
                else _("The tables are: {names}.", names=", ".join(OPTIONS))
            )
            raise RequestError(
                told("The recipe has no table [{section}].", section=section),
                told("{where}: [{section}].", where=where, section=section),
                hint,
                code="recipe.unknown-key",
            )
        if not isinstance(values, dict):
            raise RequestError(
                told("{section} must be a table.", section=section),
                told("{where}.", where=where),
                told("Write [{section}] on a line of its own.", section=section),
                code="recipe.value",
            )
        checked = {}
        for key, value in values.items():
            where = told("{path}, line {line}", path=path, line=_line_of(text, section, key))
            declared = find_option(f"{section}.{key}", where)
            try:
                checked[declared.key] = declared.check(value)
            except ValueError as error:
                raise RequestError(
                    told("{section}.{key} is wrong.", section=section, key=key),
                    told("{where}: {key} = {value!r}.", where=where, key=key, value=value),
                    told("{error}.", error=error),
                    code="recipe.value",
                ) from None
        if checked.pop(OLD_CHAT_TEMPLATE.key, False) and section == OLD_CHAT_TEMPLATE.section:
            checked["template"] = AUTO
        sections[section] = dataclasses.replace(getattr(Recipe(), section), **checked)
    recipe = Recipe(**sections)
    check_whole(recipe, str(path))
    return recipe


def check_whole(recipe: Recipe, where: str) -> None:
    """Refuse values that are possible alone but not together. ``where`` is named in the error."""
    if not ADAPTER_NAME.fullmatch(recipe.finetune.adapter):
        raise RequestError(
            told("finetune.adapter is wrong."),
            told(
                "{where}: {adapter!r} cannot be a folder's name.",
                where=where,
                adapter=recipe.finetune.adapter,
            ),
            told("Use letters, digits, dot, dash and underscore, up to 64."),
            code="recipe.value",
        )
    if not recipe.model.source.strip():
        raise RequestError(
            told("model.source is empty."),
            told("{where}.", where=where),
            told('Name a model, or "rehearsal".'),
            code="recipe.value",
        )
    providers = providers_for(recipe.optimize.device)
    if recipe.optimize.provider not in providers:
        raise RequestError(
            told("optimize.provider does not fit optimize.device."),
            told(
                "{where}: {provider} does not run on {device}.",
                where=where,
                provider=recipe.optimize.provider,
                device=recipe.optimize.device,
            ),
            told(
                "For {device} use {providers}.",
                device=recipe.optimize.device,
                providers=_(" or ").join(providers),
            ),
            code="recipe.provider",
        )
    if recipe.finetune.eval_every == 0 and (recipe.finetune.stop_early or recipe.finetune.keep == "best"):
        asked = "stop_early" if recipe.finetune.stop_early else "keep"
        raise RequestError(
            told("finetune.{asked} needs measurements.", asked=asked),
            told(
                "{where}: finetune.eval_every = 0 measures only before and after the training.", where=where
            ),
            told('Use finetune.eval_every = "auto", or leave it out.'),
            code="recipe.value",
        )
    bad_tags = [key for key, value in recipe.upload.tags.items() if not isinstance(value, str)]
    if bad_tags:
        raise RequestError(
            told("upload.tags is wrong."),
            told("{where}: tag {tag!r} is not text.", where=where, tag=bad_tags[0]),
            told("Put it in quotes."),
            code="recipe.value",
        )


def _line_of(text: str, section: str, key: str | None) -> int:
    """The line, from 1, where a table or a key of it stands; 1 if it cannot be found."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        header = re.match(r"\[\s*[\"']?([\w-]+)[\"']?\s*(?:\.\s*[\"']?([\w-]+)[\"']?\s*)?\]", stripped)
        if header:
            table = header.group(1)
            if table == section and key in (None, header.group(2)):
                return number
            continue
        name = re.match(r"[\"']?([\w-]+)[\"']?\s*(?:\.\s*[\"']?([\w-]+)[\"']?\s*)?=", stripped)
        if name and (table, name.group(1)) == (section, key):
            return number
        if name and not table and name.group(1) == section and key in (None, name.group(2)):
            return number
    return 1


def write_values(path: Path, values: dict[str, Any]) -> Recipe:
    """Change some values of a ``lab.toml``, ``{"section.key": value}``, and keep all else of the file.

    Returns the new recipe. Raises :class:`RequestError` before anything is written if a key or a
    value is wrong.
    """
    import tomlkit

    recipe = read_recipe(path).with_values(values)
    document = tomlkit.parse(small_bytes(path).decode("utf-8-sig"))
    for name in values:
        declared = find_option(name)
        if declared.section not in document:
            document.add(declared.section, tomlkit.table())
        if declared.section == "data" and declared.key in ("template", OLD_CHAT_TEMPLATE.key):
            declared = OPTIONS["data"]["template"]
            document["data"].pop(OLD_CHAT_TEMPLATE.key, None)
        for old in (old for old, new in RENAMED.items() if new == declared.name):
            document[declared.section].pop(old.partition(".")[2], None)
        value = getattr(getattr(recipe, declared.section), declared.key)
        if isinstance(value, dict):
            table = tomlkit.inline_table()
            table.update(value)
            value = table
        document[declared.section][declared.key] = value
    with explained(path):
        write_atomic(path, tomlkit.dumps(document))
    return recipe


def recipe_text(recipe: Recipe) -> str:
    """A fresh ``lab.toml`` for a recipe: every common option with its meaning, the rest where it differs."""
    import tomlkit

    document = tomlkit.document()
    document.add(
        tomlkit.comment(_("The recipe of this lab. Guide: docs/recipe.md. Check it with: olivepress check"))
    )
    for section, group in OPTIONS.items():
        table = tomlkit.table()
        for key, declared in group.items():
            value = getattr(getattr(recipe, section), key)
            if declared.advanced and value == declared.default and key != "tags":
                continue
            if isinstance(value, dict):
                inline = tomlkit.inline_table()
                inline.update(value)
                value = inline
            entry = tomlkit.item(value)
            if not (isinstance(value, str) and len(value) > 40):
                entry.comment(_(declared.help) if not declared.choices else shown(declared.expected))
            table.add(key, entry)
        document.add(section, table)
    return tomlkit.dumps(document)
