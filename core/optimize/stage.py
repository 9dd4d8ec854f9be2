"""The optimize stage: one ONNX base with places for adapters, the lab's adapter beside it, both verified.

The base is built anew only when what it depends on has changed; an adapter alone is added to the
base that is there. What is published has answered, and agreed with PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import Do, RequestError
from core.files import (
    MANIFEST,
    damage,
    folder_stamp,
    publish,
    read_if_whole,
    read_json,
    require_disk,
    write_json,
)
from core.folder import LabFolder, adapter_names, merged_folder
from core.formats import human_bytes
from core.language import told
from core.model.auto import Settled, remembered_facts
from core.model.folder import ModelFacts, model_facts, read_config, refuse_model_as_adapter
from core.providers import PROVIDERS
from core.stage_context import StageContext, versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from core.optimize.adapters import Lora
    from core.optimize.build import BuildChoice
    from core.optimize.session import OnnxSession

LONG_TEXT = ("verified_tokens", "window", "long_text_gap")
"""Fields of the result that tell about the base alone."""

GRAPH_VERSION = 6
"""Raised when the graph that this stage makes changes in kind."""

_PACKAGES = (
    "olive-ai",
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
    "onnxruntime",
    "onnx",
    "torch",
    "transformers",
)


def base_fingerprint(lab: LabFolder, recipe: Settled) -> dict[str, Any]:
    """All that the ONNX base depends on; an adapter is no part of it.

    Raises:
        RequestError: there is no quantized model yet.
    """
    if not (lab.quantized_dir / "config.json").is_file():
        raise RequestError(
            told("There is no quantized model yet."),
            told("{quantized_dir} does not exist.", quantized_dir=lab.quantized_dir),
            told("Run: {run}", run=Do.of("run", lab.root, "quantize")),
            code="result.missing",
        )
    optimize = recipe.optimize
    return {
        "graph": GRAPH_VERSION,
        "checkpoint": checkpoint_stamp(lab.quantized_dir),
        "device": optimize.device,
        "provider": optimize.provider,
        "precision": optimize.precision,
        "group_size": recipe.quantize.group_size,
        **({"adapters": optimize.adapters} if optimize.adapters != "switched" else {}),
        **({"embeddings": optimize.embeddings} if optimize.embeddings != "shared" else {}),
        "versions": versions(*_PACKAGES),
    }


def checkpoint_stamp(folder: Path) -> str:
    """What a quantized model was made from; one that was put there by hand is known by its files."""
    manifest = read_json(folder / MANIFEST) or {}
    made_from = manifest.get("fingerprint")
    if made_from is None:
        return folder_stamp(folder)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
    return hashlib.sha256(json.dumps([made_from, sizes], sort_keys=True).encode()).hexdigest()


def fingerprint(lab: LabFolder, recipe: Settled) -> dict[str, Any]:
    """All that the published folder depends on. Raises as :func:`base_fingerprint`."""
    base = base_fingerprint(lab, recipe)
    adapter = lab.finetuned_dir(recipe.finetune.adapter)
    return {
        "base": {key: value for key, value in base.items() if key != "versions"},
        "versions": {k: v for k, v in base["versions"].items() if v != "missing"},
        "adapter": recipe.finetune.adapter,
        "adapter_stamp": folder_stamp(adapter) if adapter.is_dir() else None,
        "template": recipe.data.template,
    }


def output(lab: LabFolder, recipe: Settled) -> Path:
    """``models/onnx``."""
    return lab.onnx_dir


def base_digest(base: dict[str, Any]) -> str:
    """One line for a base's fingerprint."""
    return hashlib.sha256(json.dumps(base, sort_keys=True).encode()).hexdigest()


def run(context: StageContext) -> dict[str, Any]:
    """Build the base if need be, add the adapter, verify both, publish.

    Raises:
        RequestError: an input is missing or does not fit; no graph can be made of the architecture; the
            precision does not fit the provider.
        MachineError: this machine cannot build for the recipe's provider; no memory, no disk.
        StageError: building failed, a trained layer has no place, or the answers are not PyTorch's.
    """
    from core.model.architectures import require
    from core.optimize.targets import require_target

    quantized = context.lab.quantized_dir
    if (quantized / "config.json").is_file():
        require(read_config(quantized), str(quantized))
    optimize = context.recipe.optimize
    target = require_target(optimize.device, optimize.provider, optimize.precision)
    return _Run(context, target.why).work()


class _Run:
    """One run of the stage."""

    def __init__(self, context: StageContext, why_not: str) -> None:
        self.context = context
        self.lab, self.recipe, self.report = context.lab, context.recipe, context.report
        self.trust = self.recipe.model.trust_remote_code
        self.why_not = why_not
        self.base = base_fingerprint(self.lab, self.recipe)
        self.digest = base_digest(self.base)
        self.name = self.recipe.finetune.adapter
        self.finetuned = self.lab.finetuned_dir(self.name)
        refuse_model_as_adapter(self.finetuned)
        self.has_adapter = (self.finetuned / "adapter_config.json").is_file()
        self.merges = self.recipe.optimize.adapters == "merged"
        if self.has_adapter and not self._fits_base(self.finetuned):
            raise RequestError(
                told("The adapter {name} was trained on another quantized model.", name=self.name),
                told(
                    "{finetuned} was made before {quantized_dir} was made anew.",
                    finetuned=self.finetuned,
                    quantized_dir=self.lab.quantized_dir,
                ),
                told("Run: {run}", run=Do.of("run", self.lab.root, "finetune")),
                code="adapter.other-base",
            )

    def _fits_base(self, finetuned: Path) -> bool:
        """Whether an adapter says that it was trained on the lab's quantized model, or says nothing."""
        trained_on = ((read_json(finetuned / MANIFEST) or {}).get("fingerprint") or {}).get("base")
        made_from = (read_json(self.lab.quantized_dir / MANIFEST) or {}).get("fingerprint")
        return trained_on is None or made_from is None or trained_on == made_from

    def work(self) -> dict[str, Any]:
        from core.olive.run import import_olive
        from core.optimize.build import build_base, choose, context_limit, linked_copy
        from core.optimize.genai import complete_config, end_tokens
        from core.optimize.sharing import set_apart

        import_olive()
        started = time.perf_counter()
        checkpoint = self.lab.quantized_dir
        facts = model_facts(checkpoint)
        precision = self.recipe.optimize.precision
        reused = self._base_is_there()
        if not reused or self.merges:
            self._check_disk(facts)
        if facts.quantization is None and precision in ("int4", "int8"):
            self.report.log(f"The weights are float: they are rounded to {precision[3:]} bits first.")
            checkpoint = self._rounded(checkpoint, int(precision[3:]))
            facts = model_facts(checkpoint)
        choice = choose(facts, precision, self.recipe.optimize.provider)
        if choice.precision != precision:
            self.report.log(
                f"The quantized model has {choice.precision} weights, so the ONNX model has them too "
                f"(the recipe says {precision}).",
            )
        if reused:
            self.report.log("The ONNX base has not changed: only the adapter is added to it.")
            folder = linked_copy(self.lab.onnx_dir, self.context.work / "model")
        else:
            folder, _ = build_base(
                checkpoint,
                choice,
                device=self.recipe.optimize.device,
                provider=self.recipe.optimize.provider,
                base_digest=self.digest,
                work=self.context.work / "build",
                report=self.report,
                trust_remote_code=self.trust,
                places=not self.merges,
                share=self.recipe.optimize.embeddings == "shared",
            )
            if self.merges:
                set_apart(folder)
        limit = context_limit(read_config(checkpoint))
        complete_config(folder, end_tokens(checkpoint, self.recipe), limit)
        if limit and limit < facts.max_positions:
            self.report.log(
                f"Its context is {limit:,} tokens, not {facts.max_positions:,}: beyond that its long rope turns "
                "positions that are in the cache already."
            )
        merged: Path | None = None
        noted: dict[str, Any] = {}
        if self.has_adapter and self.merges:
            merged, noted = self._merge(folder, facts)
        elif self.has_adapter:
            self.report.progress(told("Adding the adapter"), 0, None)
            self._add_adapter(folder, self.name)
        else:
            self.report.log(f"There is no adapter {self.name} yet: the base alone is made.", "warning")
        if not reused:
            self._keep_other_adapters(folder)
        built_s = time.perf_counter() - started
        result = {
            "precision": choice.precision,
            "device": self.recipe.optimize.device,
            "provider": self.recipe.optimize.provider,
            "adapter": self.name if self.has_adapter else None,
            **self._sizes(folder),
            "base_reused": reused,
            "context": min(limit or facts.max_positions, facts.max_positions),
            "accuracy_level": choice.accuracy_level,
            "output_matrix": choice.head,
            "embeddings": self._embeddings(folder),
            "build_s": round(built_s, 2),
            **noted,
        }
        result.update(self._verify(folder, checkpoint, choice, reused, merged))
        self._publish(folder, result)
        return result

    def _embeddings(self, folder: Path) -> str:
        """Whether the graph has a table of them, or looks them up in the output matrix; with the reason in the log."""
        from core.optimize.build import LOOKS_UP
        from core.optimize.embedding import is_shared

        if is_shared(folder):
            self.report.log(
                "Embeddings and output matrix are one in this model, and stand in the graph once."
            )
            return "shared"
        provider = self.recipe.optimize.provider
        if self.recipe.optimize.embeddings == "shared" and PROVIDERS[provider].builder not in LOOKS_UP:
            self.report.log(
                "Embeddings have a table of their own, also where they are the output matrix: looking them up in "
                f"packed weights was not tried with the {provider}."
            )
        return "own"

    def _rounded(self, checkpoint: Path, bits: int) -> Path:
        """A float checkpoint rounded to 4 or 8 bits as the quantize step would, for labs that skip that step."""
        from core.quantize.stage import run_pass

        settings = replace(self.recipe.quantize, algorithm="rtn", bits=bits, eight_bit_layers="")
        context = replace(
            self.context,
            recipe=replace(self.recipe, quantize=settings),
            work=self.context.work / "rounded",
        )
        return run_pass(context, checkpoint, [])[0]

    def _check_disk(self, facts: ModelFacts) -> None:
        """Refuse before the work what would end with a full disk: the weights lie there twice for a moment.

        And once more where fused layers are cut for the builder.
        """
        from core.olive.checkpoint import fused_layers

        tables = 4 * facts.vocab_size * facts.hidden_size
        one = facts.weight_bytes + tables if facts.quantization else facts.parameters * 4
        cut = facts.weight_bytes if fused_layers(self.lab.quantized_dir) else 0
        # Merging writes the float model with the adapter in it, then all the same of that.
        merging = 2 * facts.parameters + facts.weight_bytes + 2 * one + cut if self.merges else 0
        require_disk(self.lab.models_dir, 2 * one + cut + merging + (64 << 20))

    def _base_is_there(self) -> bool:
        """Whether the published base is the one that would be built.

        A run although nothing at all has changed was forced by the user: then the base is built too.
        """
        manifest = read_if_whole(self.lab.onnx_dir / MANIFEST) or {}
        if (manifest.get("base") or {}).get("digest") != self.digest:
            return False
        if manifest.get("fingerprint") == self.context.manifest.get("fingerprint"):
            return False
        from core.optimize.adapters import LAYOUT_FILE

        names = [
            "model.onnx",
            "model.onnx.data",
            "genai_config.json",
            *([] if self.merges else [LAYOUT_FILE]),
        ]
        if not all((self.lab.onnx_dir / name).is_file() for name in names):
            return False
        # The recipe's adapter is made again beside the base; anything else is not.
        broken = damage(self.lab.onnx_dir, verify=bool(self.context.options.get("verify")))
        again = (f"adapters/{self.name}.", f"merged/{self.name}/", f"merged/{self.name}.")
        return all(each.startswith(again) for each in broken)

    def _merge(self, folder: Path, facts: ModelFacts) -> tuple[Path, dict[str, Any]]:
        """Make the model that the adapter is merged into, beside the base; its checkpoint, and what is told of it."""
        from core.model.sources import resolve_model
        from core.optimize.adapters import read_lora
        from core.optimize.build import build_base, choose, context_limit
        from core.optimize.genai import complete_config, end_tokens
        from core.optimize.merge import distance_to_unmerged, fold_in
        from core.optimize.sharing import set_apart, share
        from core.quantize.quality import affordable, within_budget
        from core.quantize.stage import chosen_rows, keep_files, run_pass
        from core.quantize.verify import running_device

        quantized, work = self.lab.quantized_dir, self.context.work / "merged"
        source, precision = quantized, self.recipe.optimize.precision
        if model_facts(quantized).quantization is not None:
            source = resolve_model(
                self.recipe.model.source, self.lab.root, self.report, trust_remote_code=self.trust
            ).path
        lora = read_lora(self.finetuned)
        checkpoint = fold_in(
            source, quantized, lora, work / "float", report=self.report, trust_remote_code=self.trust
        )
        context = replace(self.context, work=work / "rounding")
        rows, held_out = chosen_rows(context, source, model_facts(source))
        self.report.log("The adapter is in the float weights; they are rounded anew.")
        if source != quantized:
            checkpoint, _ = run_pass(context, checkpoint, rows)
        elif precision in ("int4", "int8"):
            checkpoint = self._rounded(checkpoint, int(precision[3:]))
        keep_files(quantized, checkpoint)
        made, _ = build_base(
            checkpoint,
            choose(model_facts(checkpoint), precision, self.recipe.optimize.provider),
            device=self.recipe.optimize.device,
            provider=self.recipe.optimize.provider,
            base_digest=self.digest,
            work=work / "build",
            report=self.report,
            trust_remote_code=self.trust,
            places=False,
            share=self.recipe.optimize.embeddings == "shared",
        )
        complete_config(made, end_tokens(quantized, self.recipe), context_limit(read_config(checkpoint)))
        measured = within_budget(
            held_out, facts.vocab_size, tokens=affordable(facts, running_device())
        ) or within_budget(rows, facts.vocab_size, tokens=64)
        apart = distance_to_unmerged(quantized, self.finetuned, checkpoint, measured, self.report, self.trust)
        noted = {"kl_to_unmerged": round(apart.kl, 6), "same_word_as_unmerged": round(apart.agreement, 4)}
        self.report.log(
            f"Merged and rounded, it is {apart.kl:.4f} nats a token from the base with its adapter; the likeliest "
            f"next word is the same at {apart.agreement:.1%} of {apart.tokens} tokens."
        )
        target = merged_folder(folder, self.name)
        for old in (target, target.with_name(f"{self.name}.json")):
            if old.is_dir():
                shutil.rmtree(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)
        set_apart(target)
        shared = share(target, [folder])
        size = _model_bytes(target)
        self.report.log(
            f"The merged model has {human_bytes(size)}, {human_bytes(shared)} of them shared with the base."
        )
        note = {"name": self.name, **self._about(self.name, lora), **noted, "bytes": size}
        write_json(target.with_name(f"{self.name}.json"), note)
        return checkpoint, {**noted, "merged_bytes": size, "shared_bytes": shared}

    def _about(self, name: str, lora: Lora) -> dict[str, Any]:
        return {
            "rank": lora.rank,
            "alpha": lora.alpha,
            "modules": sorted(lora.pairs),
            "checkpoint": self.base["checkpoint"],
            "source": folder_stamp(self.lab.finetuned_dir(name)),
        }

    def _add_adapter(self, folder: Path, name: str) -> None:
        from core.optimize.adapters import arrange, read_layout, read_lora
        from core.optimize.adding import add_adapter

        lora = read_lora(self.lab.finetuned_dir(name))
        add_adapter(folder, name, arrange(lora, read_layout(folder)), self._about(name, lora))

    def _keep_other_adapters(self, folder: Path) -> None:
        """Make the lab's other adapters again for a new base of the same quantized model; merged ones stay."""
        from core.optimize.build import linked_copy
        from core.optimize.sharing import share

        for name in adapter_names(self.lab.onnx_dir):
            if name == self.name:
                continue
            merged = merged_folder(self.lab.onnx_dir, name)
            beside = merged if merged.is_dir() else self.lab.adapter_file(name)
            note = read_json(beside.with_name(f"{name}.json")) or {}
            source = self.lab.finetuned_dir(name)
            if merged.is_dir() and self.merges and note.get("source") == folder_stamp(source):
                share(linked_copy(merged, merged_folder(folder, name)), [folder])
                write_json(merged_folder(folder, name).with_name(f"{name}.json"), note)
            elif self.merges:
                self.report.log(
                    f"The adapter {name} is not merged: run optimize with finetune.adapter = {name}.",
                    "warning",
                )
            elif (
                note.get("checkpoint") == self.base["checkpoint"]
                and (source / "adapter_config.json").is_file()
                and self._fits_base(source)
            ):
                self._add_adapter(folder, name)
            else:
                why = (
                    told("was trained on another quantized model")
                    if source.is_dir()
                    else told("is no longer in the lab")
                )
                self.report.log(
                    f"The adapter {name} {why} and is left out; finetune it again to have it back.", "warning"
                )

    def _sizes(self, folder: Path) -> dict[str, Any]:
        facts = model_facts(self.lab.quantized_dir)
        # A tied output matrix stands in the quantized model by itself; the float model has it once.
        made_from = remembered_facts(self.lab)
        parameters = made_from[1].parameters if made_from else facts.parameters
        note = read_json(folder / "adapters" / f"{self.name}.json") or {}
        base = _model_bytes(folder)
        sizes = {
            "float16_bytes": parameters * 2,
            "quantized_bytes": facts.weight_bytes,
            "base_bytes": base,
            "adapter_bytes": note.get("bytes", 0),
        }
        self.report.log(
            f"{human_bytes(sizes['float16_bytes'])} in 16 bits, {human_bytes(base)} as ONNX, "
            f"adapter {human_bytes(sizes['adapter_bytes'])}."
        )
        return sizes

    def _verify(
        self, folder: Path, checkpoint: Path, choice: BuildChoice, reused: bool, merged: Path | None
    ) -> dict[str, Any]:
        if self.why_not:
            self.report.log(f"{self.why_not} The answers were not verified.", "warning")
            return {"verified": False, "why_not_verified": self.why_not}
        from core.optimize.trial import Trial

        started = time.perf_counter()
        trial = Trial(
            folder,
            checkpoint,
            self.finetuned if self.has_adapter else None,
            merged or folder / "adapters" / f"{self.name}.onnx_adapter",
            recipe=self.recipe,
            lab_root=self.lab.root,
            accuracy_level=choice.accuracy_level,
            precision=choice.precision,
            work=self.context.work,
            report=self.report,
        )
        numbers = trial.run(None if reused else partial(self._verify_long_text, folder, checkpoint, choice))
        if reused:  # the base is as it was, and was read then
            before = (read_json(self.lab.onnx_dir / MANIFEST) or {}).get("result") or {}
            numbers.update({key: before[key] for key in LONG_TEXT if key in before})
        return {"verified": True, **numbers, "verify_s": round(time.perf_counter() - started, 2)}

    def _verify_long_text(
        self,
        folder: Path,
        checkpoint: Path,
        choice: BuildChoice,
        model: PreTrainedModel,
        exact: OnnxSession | None,
    ) -> dict[str, Any]:
        from core.optimize.build import exact_copy
        from core.optimize.long_context import verify_long_text
        from core.optimize.session import OnnxSession

        rounds = choice.accuracy_level == 4
        graph = exact or OnnxSession(exact_copy(folder, self.context.work / "long") if rounds else folder)
        reading = verify_long_text(
            graph,
            checkpoint,
            facts=model_facts(checkpoint),
            context=int(read_json(folder / "genai_config.json")["model"]["context_length"]),
            exact=choice.accuracy_level is not None or choice.precision == "fp32",
            trust_remote_code=self.trust,
            report=self.report,
            model=model,
        )
        self.report.log(reading.told(), "info" if reading.tokens > reading.window else "warning")
        return reading.summary()

    def _publish(self, folder: Path, result: dict[str, Any]) -> None:
        manifest = {
            **self.context.manifest,
            "result": result,
            "base": {"digest": self.digest, "made_from": self.base},
        }
        publish(folder, self.lab.onnx_dir, manifest)
        self.report.artifact(self.lab.onnx_dir, "ONNX model")
        if self.has_adapter:
            made = (
                merged_folder(self.lab.onnx_dir, self.name)
                if self.merges
                else self.lab.adapter_file(self.name)
            )
            self.report.artifact(made, f"adapter {self.name}")


def _model_bytes(folder: Path) -> int:
    """The size of a graph and its weights, without adapters."""
    return sum(path.stat().st_size for path in folder.glob("model.onnx*"))
