"""What of a lab was made from older settings, data or results than it has now, and why.

A result is stale where a run of its stage would find its fingerprint changed. The versions of packages are
left out: a run makes the result anew for them, but nobody asked for another one. No weights are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.data.records import remembered
from core.errors import LabError
from core.files import MANIFEST, folder_stamp, read_if_whole
from core.folder import LabFolder, adapter_names, merged_folder
from core.formats import listed
from core.language import N_, told
from core.model.auto import Facts, facts_at_hand, facts_of_quantized, resolve
from core.model.sources import local_place
from core.recipe import Recipe, read_recipe
from core.stages import STAGES, Stage
from core.text import clean

_LIMIT = 3
"""Reasons that are told of one result."""

_NO_SETTING = ("stage", "versions", "graph", "base.versions", "base.graph")
"""Parts of fingerprints that follow the program and not the lab."""

_INPUTS: Mapping[tuple[str, str], str] = {
    ("quantize", "model.files"): N_("the model's files have changed"),
    ("quantize", "quantize.records"): N_("the records that it was calibrated on have changed"),
    ("finetune", "base"): N_("the quantized model was made anew"),
    ("finetune", "records"): N_("the data file has changed"),
    ("optimize", "base.checkpoint"): N_("the quantized model was made anew"),
    ("optimize", "adapter_stamp"): N_("the adapter was trained anew"),
    ("evaluate", "base"): N_("the quantized model was made anew"),
    ("evaluate", "adapter_stamp"): N_("the adapter was trained anew"),
    ("evaluate", "onnx"): N_("the ONNX model was made anew"),
    ("evaluate", "records"): N_("the data file has changed"),
    ("evaluate", "general"): N_("the general text has changed"),
    ("evaluate", "tasks"): N_("the tasks have changed"),
}
"""What is said where a part of a stage's fingerprint that stands for a file or an earlier result is another."""

_OPTIONS: Mapping[tuple[str, str], str] = {
    ("optimize", "base.group_size"): "quantize.group_size",
    ("optimize", "base.device"): "optimize.device",
    ("optimize", "base.provider"): "optimize.provider",
    ("optimize", "base.precision"): "optimize.precision",
    ("optimize", "base.adapters"): "optimize.adapters",
    ("optimize", "adapter"): "finetune.adapter",
    ("optimize", "template"): "data.template",
    ("evaluate", "adapter"): "finetune.adapter",
    ("evaluate", "max_new_tokens"): "chat.max_new_tokens",
}
"""The option behind a part of a fingerprint that is not named as the option is."""

_OF_ADAPTER = ("adapter", "adapter_stamp")
"""Parts of the fingerprint of optimize that do not concern the base."""


_HELD_OUT = (
    "data.file",
    "data.seed",
    "data.eval_fraction",
    "data.prompt_field",
    "data.response_field",
    "data.messages_field",
)
"""Settings by which records are held out or not; where records are added, the old ones stay where they are."""


@dataclass(frozen=True)
class Older:
    """Why an answer would not come from what the lab describes now.

    Attributes:
        reason: a sentence.
        stage: the first stage that is to be run again.
    """

    reason: str
    stage: str


def stale(lab: LabFolder, recipe: Recipe) -> dict[str, str]:
    """The stages whose result is stale, each with the reason in words.

    What was made from a stale result is stale as well, and so is what was uploaded before the model was made
    anew. A result whose inputs are not there cannot be compared and is not listed: the checks tell what is missing.
    """
    found: dict[str, str] = {}
    for stage in STAGES.values():
        if stage.makes is None or not _made(stage, lab, recipe):
            continue
        reasons = _reasons(stage, lab, recipe)
        heard = [reasons[key] for key in list(reasons)[:_LIMIT]]
        if len(reasons) > _LIMIT:
            heard.append(told("{n} more", n=len(reasons) - _LIMIT))
        if not heard:
            heard = [
                told("made from the result of {title}, which is stale", title=told(each.title))
                for each in _before(stage)
                if each.name in found
            ]
        if heard:
            found[stage.name] = listed(heard)
    if told_of_upload := _older_upload(lab, found):
        found["upload"] = told_of_upload
    return found


def _older_upload(lab: LabFolder, found: Mapping[str, str]) -> str:
    """Why what was uploaded last is not the lab's model any more; empty where it is, or nobody knows."""
    note = read_if_whole(lab.upload_path)
    sent = note.get("model") if isinstance(note, dict) else None
    if not isinstance(sent, str) or not (lab.onnx_dir / "genai_config.json").is_file():
        return ""
    if sent != folder_stamp(lab.onnx_dir):
        return told("the ONNX model was made anew since")
    return (
        told("made from the result of {title}, which is stale", title=told(STAGES["optimize"].title))
        if "optimize" in found
        else ""
    )


def made_apart(lab: LabFolder, recipe: Recipe) -> dict[str, str]:
    """The results that were not made from what lies in the lab now, each with the reason; settings do not count."""
    found = {}
    for name in ("finetune", "optimize"):
        stage = STAGES[name]
        if _made(stage, lab, recipe):
            reasons = _reasons(stage, lab, recipe)
            heard = [reasons[key] for key in ("base", "base.checkpoint", "adapter_stamp") if key in reasons]
            if heard:
                found[name] = listed(heard)
    return found


def other_source(lab: LabFolder, recipe: Recipe) -> str:
    """Why ``model.source`` is not what the quantized model was made from; empty where it is, or nobody knows."""
    if not _made(STAGES["quantize"], lab, recipe):
        return ""
    reasons = _reasons(STAGES["quantize"], lab, recipe)
    return listed([reasons[key] for key in ("model.source", "model.files") if key in reasons])


def other_held_out(lab: LabFolder, recipe: Recipe) -> str:
    """Why the adapter may have learnt records that are held out now; empty where it has not, or nobody knows."""
    if not _made(STAGES["finetune"], lab, recipe):
        return ""
    reasons = _reasons(STAGES["finetune"], lab, recipe)
    return listed([reasons[key] for key in _HELD_OUT if key in reasons])


def older_answers(lab: LabFolder, recipe: Recipe) -> dict[str, Older]:
    """Why the base (``""``) and each adapter of the ONNX model are not what the lab describes now; the others lack."""
    if not (lab.onnx_dir / "genai_config.json").is_file():
        return {}
    of_all = stale(lab, recipe)
    found: dict[str, Older] = {}
    base = _reasons(STAGES["optimize"], lab, recipe, skip=_OF_ADAPTER)
    if "quantize" in of_all:
        found[""] = Older(
            told("This model is older than your settings: {why}.", why=of_all["quantize"]), "quantize"
        )
    elif base:
        found[""] = Older(
            told("This model is older than your settings: {why}.", why=next(iter(base.values()))), "optimize"
        )
    for name in adapter_names(lab.onnx_dir):
        merged = merged_folder(lab.onnx_dir, name)
        file = merged if merged.is_dir() else lab.adapter_file(name)
        older = _older_adapter(lab, file, name)
        if older is None and name == recipe.finetune.adapter and "finetune" in of_all:
            older = Older(
                told("This adapter is older than your settings: {why}.", why=of_all["finetune"]),
                "finetune",
            )
        older = older or found.get("")
        if older is not None:
            found[name] = Older(older.reason, _first(of_all, older.stage, name == recipe.finetune.adapter))
    return found


def _older_adapter(lab: LabFolder, file: Path, name: str) -> Older | None:
    """Whether an adapter was trained again since it was put beside the ONNX model."""
    source = lab.finetuned_dir(name)
    note = read_if_whole(file.with_name(f"{name}.json"))
    made_from = note.get("source") if isinstance(note, dict) else None
    if made_from is None or not (source / "adapter_config.json").is_file():
        return None
    if folder_stamp(source) == made_from:
        return None
    return Older(told("This adapter is older than your last finetune."), "optimize")


def _first(of_all: Mapping[str, str], stage: str, current: bool) -> str:
    """The first stage to run again: an earlier one that is stale, where it concerns the adapter."""
    earlier = [name for name in of_all if name == "quantize" or (current and name == "finetune")]
    return next(iter(earlier), stage)


def _before(stage: Stage) -> list[Stage]:
    """The stages whose results this one is made from: what it needs, and what stands between that and it."""
    found = []
    for earlier in STAGES.values():
        if earlier.name == stage.name:
            break
        if earlier.name == stage.needs or (stage.needs and earlier.needs == stage.needs):
            found.append(earlier)
    return found


def _made(stage: Stage, lab: LabFolder, recipe: Recipe) -> bool:
    makes = stage.makes
    return makes is not None and (makes.folder(lab, recipe.finetune.adapter) / makes.proof).is_file()


def _reasons(stage: Stage, lab: LabFolder, recipe: Recipe, skip: tuple[str, ...] = ()) -> dict[str, str]:
    """What differs between the fingerprint that a stage would have now and the one of its result."""
    assert stage.makes is not None
    manifest = read_if_whole(stage.makes.folder(lab, recipe.finetune.adapter) / MANIFEST)
    kept = manifest.get("fingerprint") if isinstance(manifest, dict) else None
    if not isinstance(kept, dict):
        return {}
    try:
        facts = _facts(stage, lab, recipe)
        resolved = resolve(recipe, facts, remembered(recipe, lab.root))
        now = stage.load().fingerprint(lab, resolved.recipe)
    except (LabError, OSError):
        return {}
    automatic = {each.option for each in resolved.chosen}
    unknown = {each.option for each in resolved.chosen if each.value is None}
    before, after = _flat(stage.name, kept), _flat(stage.name, json.loads(json.dumps(now, default=str)))
    settings, inputs = {}, {}
    for key in after:
        # What the older result says nothing of is no change that somebody made.
        if key not in before or before[key] == after[key] or key in (*_NO_SETTING, *skip):
            continue
        option = _option(stage.name, key)
        if (stage.name, key) in _INPUTS:
            inputs[key] = told(_INPUTS[stage.name, key])
        elif option not in unknown:
            settings[option] = told(
                "{option} is {now}, it was {was}",
                option=option,
                now=_value(after[key]),
                was=_value(before[key]),
            )
    # An automatic value that follows a changed setting is no news beside it.
    own = {option: words for option, words in settings.items() if option not in automatic}
    settings = own or settings
    if settings.keys() & {"data.file", "quantize.calibration_file"}:
        inputs = {key: words for key, words in inputs.items() if not key.endswith("records")}
    if "model.source" in settings:
        inputs.pop("model.files", None)
    if "finetune.adapter" in settings:
        inputs.pop("adapter_stamp", None)
    return {**settings, **inputs}


def _facts(stage: Stage, lab: LabFolder, recipe: Recipe) -> Facts | None:
    return facts_of_quantized(lab) if stage.needs else facts_at_hand(lab, recipe)


def _flat(stage: str, data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A fingerprint as its leaves, by their paths."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        path = before + name
        if isinstance(value, dict) and value and (stage, path) not in _INPUTS and path not in _NO_SETTING:
            found.update(_flat(stage, value, f"{path}."))
        else:
            found[path] = value
    return found


def _option(stage: str, path: str) -> str:
    """The option that a part of a fingerprint holds."""
    # Quantize keeps the settings of the data that it is calibrated on among its own.
    return _OPTIONS.get((stage, path)) or path.replace("quantize.data.", "data.")


def _value(value: Any) -> str:
    text = clean(f"{value:g}" if isinstance(value, float) else str(value), keep_newlines=False)
    return told("empty") if not text else text if len(text) <= 60 else f"{text[:59]}…"


@dataclass
class StaleReader:
    """:func:`stale` and :func:`older_answers` for who looks again and again: worked out only when a file has changed.

    Attributes:
        stages, answers: what they returned when it was worked out last.
    """

    lab: LabFolder
    stages: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Older] = field(default_factory=dict)
    _seen: tuple[object, ...] = ()
    _recipe: Recipe | None = None

    def look(self) -> bool:
        """Look at the files; whether something else is stale now."""
        seen = self._stamps()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self._recipe = read_recipe(self.lab.recipe_path)
            self._seen = self._stamps()
        except LabError:  # told by whoever needs it; until it is right nothing else is known
            return False
        before = self.stages, self.answers
        self.stages = stale(self.lab, self._recipe)
        self.answers = older_answers(self.lab, self._recipe)
        return before != (self.stages, self.answers)

    def _stamps(self) -> tuple[object, ...]:
        return tuple((path, *_stamp(path)) for path in inputs(self.lab, self._recipe))


def inputs(lab: LabFolder, recipe: Recipe | None) -> list[Path]:
    """The files and folders that the stages start from, there or not; without a recipe those of the lab alone."""
    paths = [lab.recipe_path, lab.records_path, lab.quantized_dir / MANIFEST, lab.onnx_dir / MANIFEST]
    paths += [lab.upload_path]
    paths += [lab.onnx_dir / "adapters", *sorted(lab.finetuned_root.glob(f"*/{MANIFEST}"))]
    paths += sorted(lab.evaluation_dir("*").parent.glob(f"*/{MANIFEST}"))
    if recipe is not None:
        files = (recipe.data.file, recipe.quantize.calibration_file, recipe.model.source)
        paths += [local_place(each, lab.root) for each in files if each and "://" not in each]
    return paths


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return found.st_mtime_ns, found.st_size
