"""The stages that run as jobs, once: what each is called, needs, makes and tells, and the module that does it.

Commands, jobs, the report and the wizard's rail and forms are made from :data:`STAGES`. A stage's
module is loaded only in a job's own process.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from core.algorithms import is_calibrated
from core.assessments import (
    Assessment,
    none,
    of_evaluate,
    of_finetune,
    of_optimize,
    of_quantize,
    of_search,
    of_upload,
)
from core.errors import RequestError
from core.evaluated import nats
from core.folder import LabFolder
from core.formats import duration, human_bytes
from core.language import N_, _, told
from core.results import PREPARED, Figure, exact_seconds, gib, milliseconds, percent

if TYPE_CHECKING:
    from core.model.auto import Settled
    from core.recipe import Recipe
    from core.stage_context import StageContext


class StageModule(Protocol):
    """What a stage's module has."""

    def fingerprint(self, lab: LabFolder, recipe: Settled) -> dict[str, Any]:
        """All that the output depends on: recipe fields it reads, input files, package versions.

        Raises :class:`RequestError` when an input is missing, with the step that makes it.
        """

    def output(self, lab: LabFolder, recipe: Settled) -> Path | None:
        """The folder whose manifest tells whether there is anything to do; None: always run."""

    def run(self, context: StageContext) -> dict[str, Any]:
        """Do the work, verify it, publish it; return the result in numbers, JSON-able."""


class Makes(NamedTuple):
    """What a stage leaves in the lab.

    Attributes:
        title: its heading in the report.
        folder: where it lies, for the adapter of that name where there is one for each.
        proof: the file that is there when the folder is.
    """

    title: str
    folder: Callable[[LabFolder, str], Path]
    proof: str

    def folders(self, lab: LabFolder) -> list[Path]:
        """Every folder of its kind in the lab, in order of their names."""
        pattern = self.folder(lab, "*")
        return sorted(pattern.parent.glob(pattern.name))

    def heading(self, lab: LabFolder, folder: Path) -> str:
        """What the report calls one of them, in the language in use: with its name, where there may be several."""
        several = self.folder(lab, "*").name == "*"
        return f"{_(self.title)} {folder.name}" if several else _(self.title)


def _never(recipe: Recipe) -> bool:
    """For a stage whose settings do not depend on the records."""
    return False


class Stage(NamedTuple):
    """A stage.

    Attributes:
        name: as in ``olivepress run DIR NAME``, in job ids, and the key in :data:`STAGES`.
        title: for people.
        about: two sentences: what it does, and why.
        run: the module that does it, a :class:`StageModule`.
        needs: the stage whose result it starts from; empty: it starts from the model that the recipe names.
        makes: what it leaves in the lab; None: nothing.
        form: the tables of ``lab.toml`` whose options stand in its form.
        reads: the tables it reads in which a value may be "auto".
        records: whether those values depend on the training records.
        assessment: its result in one sentence.
        figures: what people read of its result, in this order.
        sizes: fields of its result that are drawn as bars, with a word for each; the first is what the others
            are compared with.
        metrics: what its screen shows of it while it works.
        curve: whether it tells a loss, which is drawn.
        computes: whether it works on this machine: such jobs run one at a time.
        usual: whether it is a step of the wizard, and ``run`` without words runs it where it computes.
        beside: the stage on whose screen it is shown, where it is no step.
    """

    name: str
    title: str
    about: str
    run: str
    needs: str = ""
    makes: Makes | None = None
    form: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    records: Callable[[Recipe], bool] = _never
    assessment: Callable[[Mapping[str, Any]], Assessment] = none
    figures: tuple[Figure, ...] = ()
    sizes: tuple[tuple[str, str], ...] = ()
    metrics: tuple[str, ...] = ("gpu_mem_gib", "ram_gib", "cpu_util")
    curve: bool = False
    computes: bool = True
    usual: bool = True
    beside: str = ""

    def load(self) -> StageModule:
        """Its module, imported now."""
        return cast(StageModule, importlib.import_module(self.run))


def _agreement(who: str, labels: tuple[str, str, str, str, str]) -> tuple[Figure, ...]:
    before, of = f"agreement.{who}.", N_("{first} of {second}")
    same, identical, near_ties, by_rounding, gap = labels
    return (
        Figure(f"{before}agreeing|{before}prompts", same, who == "base", form=of),
        Figure(f"{before}identical|{before}prompts", identical, form=of),
        Figure(f"{before}near_ties", near_ties, zero=False),
        Figure(f"{before}by_rounding", by_rounding, zero=False),
        Figure(f"{before}largest_gap", gap),
    )


_AGREES_BASE = (
    N_("Answers as PyTorch's, base"),
    N_("Of them word for word, base"),
    N_("Answers apart at a near tie, base"),
    N_("Answers apart by int8 rounding, base"),
    N_("Largest gap where they differ, base"),
)
_AGREES_TUNED = (
    N_("Answers as PyTorch's, tuned"),
    N_("Of them word for word, tuned"),
    N_("Answers apart at a near tie, tuned"),
    N_("Answers apart by int8 rounding, tuned"),
    N_("Largest gap where they differ, tuned"),
)

_PREPARED = Figure(PREPARED, N_("Prepared result, put here"), main=True)

_ALL = (
    Stage(
        "quantize",
        N_("Quantize"),
        N_(
            "Stores each weight of the model in 4 bits in place of 16."
            " The model gets up to four times smaller and answers almost as well."
        ),
        run="core.quantize.stage",
        makes=Makes(N_("Quantized model"), lambda lab, adapter: lab.quantized_dir, "config.json"),
        form=("model", "quantize"),
        reads=("data", "quantize"),
        records=lambda recipe: (
            is_calibrated(recipe.quantize.algorithm) and not recipe.quantize.calibration_file
        ),
        assessment=of_quantize,
        figures=(
            _PREPARED,
            Figure("algorithm", N_("Algorithm"), main=True),
            Figure("bits", N_("Bits"), main=True),
            Figure("group_size", N_("Group size"), main=True),
            Figure("parameters", N_("Parameters")),
            Figure("bytes_before|bytes_after", N_("Size"), show=human_bytes),
            Figure("perplexity_float|perplexity", N_("Perplexity"), main=True),
            Figure("same_likeliest_token", N_("Same next word"), main=True, show=percent),
            Figure("kl_to_float", N_("Divergence from the float model")),
            Figure("measured_tokens", N_("Measured on tokens")),
            Figure("calibration_rows", N_("Records looked at"), main=True),
            Figure("calibration_tokens", N_("Tokens looked at")),
            Figure("seconds", N_("Quantizing took"), show=duration),
            Figure("folds", N_("Scales folded into layers")),
            Figure("search_error_ratio", N_("Error, of that of plain rounding"), show=percent),
            Figure("mean_exponent", N_("Mean exponent of the scales")),
            Figure("learnt_error_ratio", N_("Error left after learning"), show=percent),
        ),
        sizes=(("bytes_before", N_("before")), ("bytes_after", N_("after"))),
    ),
    Stage(
        "finetune",
        N_("Finetune"),
        N_(
            "Teaches the small model your records by training a little adapter beside it (LoRA)."
            " The model itself stays as it is, so adapters can be swapped."
        ),
        run="core.finetune.stage",
        needs="quantize",
        makes=Makes(N_("Adapter"), lambda lab, adapter: lab.finetuned_dir(adapter), "adapter_config.json"),
        form=("finetune",),
        reads=("data", "finetune"),
        records=lambda recipe: True,
        assessment=of_finetune,
        figures=(
            _PREPARED,
            Figure("adapter", N_("Adapter")),
            Figure("objective", N_("Objective")),
            Figure("beta", N_("Beta")),
            Figure(
                "eval_preferred_base|eval_preferred_tuned",
                N_("Held-out preferred right"),
                main=True,
                show=percent,
            ),
            Figure("eval_margin_base|eval_margin_tuned", N_("Margin, held out"), main=True),
            Figure("eval_loss_base|eval_loss_tuned", N_("Held-out loss"), main=True),
            Figure("loss_first|loss_last", N_("Training loss")),
            Figure("steps", N_("Steps"), main=True),
            Figure("stopped_early_of", N_("Stopped early, of steps"), main=True),
            Figure("kept_step", N_("Adapter of step")),
            Figure("resumed_from", N_("Went on from step"), main=True, zero=False),
            Figure("seconds_per_step", N_("A step took"), main=True, show=exact_seconds),
            Figure("tokens_per_s", N_("Tokens/s"), main=True),
            Figure("training_s", N_("Training took"), show=duration),
            Figure("measuring_s", N_("Measuring in between took"), show=duration),
            Figure("loading_s", N_("Loading took"), show=duration),
            Figure("train_rows", N_("Records"), main=True),
            Figure("eval_rows", N_("Records held out")),
            Figure("train_tokens", N_("Tokens in the records")),
            Figure("longest_row_tokens", N_("Longest record, in tokens")),
            Figure("truncated_rows", N_("Records cut")),
            Figure("dropped_rows", N_("Records left out")),
            Figure("rank", N_("Rank")),
            Figure("alpha", N_("Alpha")),
            Figure("adapter_parameters", N_("Adapter weights"), main=True),
            Figure("adapter_matrices", N_("Matrices with an adapter")),
            Figure("bytes", N_("Size"), show=human_bytes),
            Figure("logit_change", N_("Change of the logits")),
            Figure("device", N_("Trained on")),
            Figure("dtype", N_("Computed in")),
            Figure("memory", N_("Use of memory")),
            Figure("memory_reason", N_("Reason for it")),
            Figure("recomputed_layers", N_("Layers computed twice")),
            Figure("gpus", N_("GPUs"), main=True),
            Figure("gpu_peak_gib", N_("GPU memory at most"), show=gib),
        ),
        metrics=(
            "tokens_per_s",
            "learning_rate",
            "grad_norm",
            "margin",
            "eval_preferred",
            "gpu_mem_gib",
            "ram_gib",
        ),
        curve=True,
    ),
    Stage(
        "optimize",
        N_("Optimize"),
        N_(
            "Turns the model into an ONNX graph for the device that will run it."
            " The adapter becomes a small file that is switched on and off while you chat."
        ),
        run="core.optimize.stage",
        needs="quantize",
        makes=Makes(N_("ONNX model"), lambda lab, adapter: lab.onnx_dir, "genai_config.json"),
        form=("optimize",),
        reads=("quantize",),
        assessment=of_optimize,
        figures=(
            _PREPARED,
            Figure("provider", N_("Provider"), main=True),
            Figure("precision", N_("Precision"), main=True),
            Figure("device", N_("Device")),
            Figure("adapter", N_("Adapter"), main=True),
            Figure("float16_bytes", N_("Size in 16 bits"), show=human_bytes),
            Figure("quantized_bytes", N_("Size quantized"), show=human_bytes),
            Figure("base_bytes", N_("Size as ONNX"), show=human_bytes),
            Figure("adapter_bytes", N_("Size of the adapter"), show=human_bytes, zero=False),
            Figure("merged_bytes", N_("Size of the merged model"), show=human_bytes),
            Figure("kl_to_unmerged", N_("Divergence of merged from unmerged"), main=True),
            Figure("same_word_as_unmerged", N_("Same next word as unmerged"), show=percent),
            Figure("context", N_("Context, in tokens")),
            Figure("accuracy_level", N_("Accuracy level of the int4 kernels")),
            Figure("output_matrix", N_("Output matrix")),
            Figure("embeddings", N_("Embeddings")),
            Figure("base_reused", N_("Base as it was")),
            Figure("build_s", N_("Building took"), show=duration),
            Figure("verified", N_("Tried here"), main=True),
            Figure("why_not_verified", N_("Why not")),
            Figure("training_prompts", N_("Questions asked again"), main=True),
            Figure(
                "training_right_base|training_right_tuned",
                N_("Right, base and tuned"),
                True,
                form=N_("{first} and {second}"),
            ),
            *_agreement("base", _AGREES_BASE),
            *_agreement("tuned", _AGREES_TUNED),
            Figure("verified_tokens", N_("Longest text compared, in tokens")),
            Figure("window", N_("Attention window, in tokens")),
            Figure("long_text_gap", N_("Largest gap in that text")),
            Figure("tokens_per_s_base", N_("Tokens/s, base")),
            Figure("tokens_per_s_tuned", N_("Tokens/s, tuned")),
            Figure("time_to_first_token_s_base", N_("First token after, base"), show=milliseconds),
            Figure("time_to_first_token_s_tuned", N_("First token after, tuned"), show=milliseconds),
            Figure("answers.question", N_("A question")),
            Figure("answers.base", N_("Answer of the base")),
            Figure("answers.tuned", N_("Answer of the tuned model")),
            Figure("verify_s", N_("Trying took"), show=duration),
        ),
        sizes=(
            ("float16_bytes", N_("16 bits")),
            ("base_bytes", N_("as ONNX")),
            ("adapter_bytes", N_("adapter")),
        ),
    ),
    Stage(
        "search",
        N_("Search"),
        N_(
            "Looks for the settings that are best within the limits that you state."
            " Many are tried on a part of the work, and the few that promise most as a whole."
        ),
        run="core.search.stage",
        reads=("data", "quantize", "finetune"),
        records=lambda recipe: True,
        assessment=of_search,
        figures=(
            Figure("kind", N_("Settings of"), main=True),
            Figure("limits", N_("Limits"), main=True, zero=False),
            Figure("best_title", N_("Best within them"), main=True),
            Figure("best_number", N_("Its number")),
            Figure("best_size", N_("Its size"), main=True, show=human_bytes),
            Figure("best_loss", N_("Its divergence or loss"), main=True),
            Figure("best_worse", N_("Perplexity above the float model's"), show=percent),
            Figure("best_speed", N_("Tokens/s as ONNX"), main=True),
            Figure("tries", N_("Choices"), main=True),
            Figure("refused", N_("Of them refused by a limit"), zero=False),
            Figure("measured", N_("Of them made and measured as a whole"), main=True),
            Figure("note", N_("Note"), main=True, zero=False),
        ),
        usual=False,
        beside="quantize",
    ),
    Stage(
        "evaluate",
        N_("Evaluate"),
        N_(
            "Puts the same held-out records to the float, the quantized and the ONNX model, with adapter and without."
            " It shows what was learnt, what was forgotten, and what it costs to run."
        ),
        run="core.evaluate.stage",
        needs="quantize",
        makes=Makes(N_("Evaluation"), lambda lab, adapter: lab.evaluation_dir(adapter), "rows.jsonl"),
        form=("evaluate",),
        reads=("data", "evaluate"),
        assessment=of_evaluate,
        figures=(
            Figure(
                "perplexity_before|perplexity_after",
                N_("Perplexity on held-out records"),
                True,
                show=nats,
                form=N_("{first} before, {second} after"),
            ),
            Figure(
                "words_before|words_after",
                N_("Words in common with the records' answers"),
                True,
                show=percent,
                form=N_("{first} before, {second} after"),
            ),
            Figure(
                "preferred_before|pairs",
                N_("Chosen answers preferred before"),
                True,
                form=N_("{first} of {second}"),
            ),
            Figure(
                "preferred_after|pairs",
                N_("Chosen answers preferred after"),
                True,
                form=N_("{first} of {second}"),
            ),
            Figure(
                "right_before|asked_of_both", N_("Right answers before"), True, form=N_("{first} of {second}")
            ),
            Figure(
                "right_after|asked_of_both", N_("Right answers after"), True, form=N_("{first} of {second}")
            ),
            Figure(
                "general_before|general_after",
                N_("Perplexity on general text"),
                True,
                show=nats,
                form=N_("{first} before, {second} after"),
            ),
            Figure("bytes", N_("Size on disk, as deployed"), True, show=human_bytes),
            Figure("peak_bytes", N_("Memory at most, as deployed"), True, show=human_bytes),
            Figure("load_s", N_("Loading took"), show=duration),
            Figure("first_s", N_("First token after"), True, show=milliseconds),
            Figure("tokens_per_s", N_("Tokens a second"), True),
            Figure("rows", N_("Held-out records")),
            Figure("questions", N_("Of them questions")),
            Figure("truncated_rows", N_("Records cut"), zero=False),
            Figure("general_tokens", N_("General text, in tokens")),
            Figure("kl", N_("Divergence from the float model on it")),
        ),
        usual=False,
        beside="chat",
    ),
    Stage(
        "upload",
        N_("Upload"),
        N_(
            "Registers the result in Azure Machine Learning, one way of several to take it with you."
            " Nothing leaves this machine until you press Upload."
        ),
        run="core.upload.stage",
        needs="optimize",
        form=("upload",),
        assessment=of_upload,
        figures=(
            Figure("name", N_("Model"), main=True),
            Figure("version", N_("Version"), main=True),
            Figure("workspace", N_("Workspace"), main=True),
            Figure("files", N_("Files"), main=True),
            Figure("bytes", N_("Size"), main=True, show=human_bytes),
            Figure("bytes_sent", N_("Sent now"), main=True, show=human_bytes),
            Figure("user", N_("Signed in as")),
            Figure("id", N_("Id")),
            Figure("uri", N_("Path")),
            Figure("url", N_("Page")),
        ),
        computes=False,
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}
"""Every stage by its name, in the order of the lab."""


def default_stages() -> tuple[str, ...]:
    """What ``olivepress run`` runs when no stage is named: all that works on this machine."""
    return tuple(stage.name for stage in STAGES.values() if stage.computes and stage.usual)


def stage_named(name: str) -> Stage:
    """The stage of that name.

    Raises:
        RequestError: there is none.
    """
    if name not in STAGES:
        raise RequestError(
            told("There is no stage {name!r}.", name=name),
            hint=told("The stages are: {names}.", names=", ".join(STAGES)),
            code="stage.unknown",
        )
    return STAGES[name]


def made_in(lab: LabFolder) -> frozenset[str]:
    """The stages that have left something in the lab."""
    return frozenset(
        stage.name
        for stage in STAGES.values()
        if (makes := stage.makes) and any((each / makes.proof).is_file() for each in makes.folders(lab))
    )


def result_lines(stage: str, result: Mapping[str, Any], *, main: bool = False) -> list[tuple[str, str]]:
    """A stage's result as label and value a line, cleaned of what could harm a terminal.

    Args:
        stage: its name; a stage that is not known here, as of a newer version's job, has no lines.
        main: only those that matter most.
    """
    figures = STAGES[stage].figures if stage in STAGES else ()
    shown = ((figure, figure.text(result)) for figure in figures if figure.main or not main)
    return [(_(figure.label), text) for figure, text in shown if text]


def assessment(stage: str, result: Mapping[str, Any]) -> Assessment:
    """A stage's result in one sentence; an empty one of a stage that is not known here."""
    return STAGES[stage].assessment(result) if stage in STAGES else Assessment()


if _plugin := os.environ.get("OLIVEPRESS_PLUGIN"):
    # A module that puts stages or algorithms of its own into the lists, in every process of a lab.
    importlib.import_module(_plugin)
