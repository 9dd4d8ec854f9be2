"""An Olive pass: LoRA on a model that Olive has quantized (or on a float one), by a loop of our own.

Olive's LoRA pass fails on Olive's own quantized checkpoints, joins the rows of the data and cuts the
result into blocks, and reports nothing while it trains. This one is a subclass of it: the model is
loaded, given adapters and saved in the methods that Olive's pass has for these.
"""

from __future__ import annotations

import shutil
import time
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from olive.common.quant.nn import QuantLinear
from olive.model import HfModelHandler
from olive.passes.olive_pass import PassConfigParam
from olive.passes.pytorch.lora import LoRA

from core.errors import MachineError, RequestError
from core.events import Reporter
from core.finetune.checkpoints import Checkpoints
from core.finetune.device import (
    free_bytes,
    give_back,
    out_of_memory,
    told_shortly,
    training_device,
    training_dtype,
)
from core.finetune.fused import fuse_norms
from core.finetune.loop import Course, Settings, Trainer
from core.finetune.lora_layer import add_lora, multiply_quickly, save_adapter, unpack_linears
from core.finetune.memory import Plan, plan_memory, what_fits
from core.finetune.recompute import recompute_layers
from core.finetune.rows import Tokenized, tokenize
from core.finetune.turns import Turns, tokens_between
from core.finetune.verify import Checked, check_adapter
from core.formats import human_bytes
from core.model.auto import Facts, resolve
from core.model.folder import read_config
from core.model.load import load_model
from core.model.prompt_format import prompt_format
from core.model.shape import Shape
from core.model.text import ModelText, read_text
from core.model.tokenizer import ModelTokenizer
from core.recipe import Recipe, read_recipe
from core.tqdm_progress import current_report

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

RESULT = "olivepress_finetune"
"""The model attribute that holds the numbers of the training."""

TRIED_TOKENS = 128
"""Tokens of the prompt on which the saved adapter is compared with the trained one."""


class OlivePressLora(LoRA):  # type: ignore[misc]
    """Train a LoRA adapter on all linear layers of a quantized or float causal language model."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        kept = ("r", "alpha", "lora_dropout", "target_modules")
        inherited = {
            key: value for key, value in super()._default_config(accelerator_spec).items() if key in kept
        }
        own: dict[str, tuple[Any, Any, str]] = {
            # Not the settings themselves: Olive takes any text that happens to be a path for one.
            "recipe": (str, None, "A lab.toml; its [data] table tells what to train on."),
            "data_root": (str, ".", "Folder that data.file is relative to."),
            "steps": (int, 100, "Training steps."),
            "batch_size": (int, 8, "Rows in a batch."),
            "turns": (int, 1, "Records of a batch joined to conversations of up to so many turns."),
            "gradient_accumulation": (int, 1, "Batches summed before a step."),
            "learning_rate": (float, 2e-4, "The highest learning rate; it falls along a cosine."),
            "warmup_ratio": (float, 0.03, "Share of the steps in which the learning rate rises."),
            "eval_steps": (int, 0, "Measure on held-out rows every so many steps; 0: before and after."),
            "save_steps": (int, 50, "Keep a checkpoint every so many steps."),
            "seed": (int, 0, "Seed of the adapter's start and of the order of the rows."),
            "memory": (str, "auto", "auto, fast (weights unpacked once) or low (at each use)."),
            "checkpoints": (str, None, "Folder for checkpoints; none are kept without it."),
            "checkpoint_key": (str, "", "Only a checkpoint with the same key is gone on from."),
            "adapter_only": (bool, False, "Give back the adapter without its base, which Olive would copy."),
            "trust_remote_code": (bool, False, "Run Python code that comes with the model."),
        }
        return {
            **inherited,
            "lora_dropout": PassConfigParam(type_=float, default_value=0.0, description="Dropout before A."),
            **{
                key: PassConfigParam(type_=kind, default_value=default, description=text)
                for key, (kind, default, text) in own.items()
            },
        }

    @classmethod
    def check_dependencies(cls, config: Any, is_qlora: bool = False) -> None:
        """Nothing beyond what the package requires."""

    @staticmethod
    def get_peft_model(
        model: PreTrainedModel, config: Any, config_kwargs: dict[str, Any] | None = None
    ) -> PeftModel:
        """The model with a fresh adapter whose layers know Olive's packed weights."""
        return add_lora(
            model,
            rank=config.r,
            alpha=config.alpha,
            dropout=config.lora_dropout,
            targets=config.target_modules,
            base_name=_recipe(config).model.source if config.recipe else None,
            **(config_kwargs or {}),
        )

    def load_base_pytorch_model(
        self, model_handler: HfModelHandler, config: Any, **kwargs: Any
    ) -> PreTrainedModel:
        """The base on the training device; never with weights filled in at random."""
        device = training_device()
        return load_model(
            Path(model_handler.model_path),
            device=str(device),
            dtype=training_dtype(device),
            trust_remote_code=config.trust_remote_code,
        )

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> HfModelHandler:
        report = current_report()
        report.progress("loading", 0, None)
        device = training_device()
        text = read_text(Path(model.model_path))
        train, held_out, turns = self._rows(config, text, report)
        shape = Shape.of(read_config(Path(model.model_path)))
        memory = Path(config.memory).name
        while True:
            plan = self._plan(shape, config, train, device, memory)
            # A GPU says when it is full; a machine without one starts to swap, or kills.
            if not plan.fits and device.type == "cpu":
                need = f"The estimate is {human_bytes(plan.need.total)}"
                raise self._too_little(shape, config, train, device, plan, need)
            report.log(f"Memory: {plan.reason}.")
            adapter = Path(output_model_path) / "adapter"
            try:
                result = self._train(model, config, plan, train, held_out, turns, text, adapter)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                reason = told_shortly(error)
            # Here, outside of the handler, nothing refers to the model any more.
            give_back(device)
            if memory != "auto" or plan.way == "low":
                raise self._too_little(shape, config, train, device, plan, reason)
            report.log("The GPU ran out of memory; trying again the way that needs the least.", "warning")
            memory = "low"
        give_back(device)
        output = deepcopy(model)
        output.set_resource("adapter_path", str(adapter))
        if config.adapter_only:
            # Olive wants a model folder here, and copies it: one with a configuration is enough.
            bare = Path(output_model_path) / "base"
            bare.mkdir(parents=True)
            shutil.copy(Path(model.model_path) / "config.json", bare)
            output.set_resource("model_path", str(bare))
        output.model_attributes = {**(output.model_attributes or {}), RESULT: result}
        return output

    def _rows(self, config: Any, text: ModelText, report: Reporter) -> tuple[Tokenized, Tokenized, Turns]:
        from core.data import load_examples

        assert text.folder is not None
        # A lab's own lab.toml may leave to the model how its records are read.
        recipe = resolve(_recipe(config), Facts.of(text.folder), None).recipe
        tokenizer = ModelTokenizer.read(text.folder, text.ends)
        split = load_examples(recipe, Path(config.data_root), text=text)
        limit, answers = recipe.data.max_seq_len, recipe.data.answer_only
        train = tokenize(split.train, tokenizer, max_len=limit, answer_only=answers)
        held_out = tokenize(split.eval, tokenizer, max_len=limit, answer_only=answers)
        for rows, what in (train, "training"), (held_out, "held-out"):
            if rows.truncated or rows.dropped:
                report.log(
                    f"{rows.truncated} {what} rows were cut at {limit} tokens, and {rows.dropped} left out "
                    "since nothing to learn stood within them. Raise data.max_seq_len to keep them whole.",
                    "warning",
                )
        if not train.rows:
            raise RequestError(
                "There is nothing to train on.",
                f"{recipe.data.file}: of {len(split.train)} training rows none has an answer "
                f"within {limit} tokens.",
                "Raise data.max_seq_len, lower data.eval_fraction, or give more records.",
            )
        most, between = (
            config.turns,
            tokens_between(
                prompt_format(text, tokenizer, recipe.data.template, answer=recipe.data.response_field)
            )
            if config.turns > 1
            else (),
        )
        if between is None:
            report.log(
                "The records of a step are not joined to conversations (finetune.turns): they are plain text, or in "
                "this template a conversation is more than its turns one behind the other.",
                "warning",
            )
            most, between = 1, ()
        start = tokenizer.start[0] if tokenizer.start else text.ids.get(text.bos)
        turns = Turns(most, between, start, limit, config.seed)
        return train, held_out, turns

    def _plan(self, shape: Shape, config: Any, train: Tokenized, device: torch.device, memory: str) -> Plan:
        free, size = free_bytes(device), training_dtype(device).itemsize
        return plan_memory(
            shape,
            free,
            rank=config.r,
            batch=config.batch_size,
            length=train.longest,
            memory=memory,
            number_bytes=size,
            dropout=config.lora_dropout > 0,
        )

    def _too_little(
        self,
        shape: Shape,
        config: Any,
        train: Tokenized,
        device: torch.device,
        plan: Plan,
        reason: str,
    ) -> MachineError:
        free = free_bytes(device)
        if plan.way == "fast" and self._plan(shape, config, train, device, "low").fits:
            fitting = ["finetune.memory = auto"]
        else:
            fitting = what_fits(
                shape,
                free,
                rank=config.r,
                batch=config.batch_size,
                length=train.longest,
                number_bytes=training_dtype(device).itemsize,
                dropout=config.lora_dropout > 0,
                failed=plan.need.total if plan.way == "low" else None,
            )
        where = "GPU memory" if device.type == "cuda" else "RAM"
        return MachineError(
            f"There is not enough {where} for this training.",
            f"{reason}; {human_bytes(free)} of {where} are free. Asked for were rank {config.r}, "
            f"{config.batch_size} rows a batch, {train.longest} tokens in the longest row.",
            "What would fit: " + ", or ".join(fitting) + "." if fitting else "Use a smaller model.",
        )

    def _train(
        self,
        model: HfModelHandler,
        config: Any,
        plan: Plan,
        train: Tokenized,
        held_out: Tokenized,
        turns: Turns,
        text: ModelText,
        folder: Path,
    ) -> dict[str, Any]:
        report = current_report()
        began = time.perf_counter()
        base = self.load_base_pytorch_model(model, config)
        device, dtype = base.device, base.dtype
        if plan.way == "fast":
            unpack_linears(base, dtype)
        elif isinstance(head := base.get_output_embeddings(), QuantLinear):
            multiply_quickly(head)
        if device.type == "cuda":
            fuse_norms(base)
        torch.manual_seed(config.seed)
        peft_model = self.init_adapters(base, config, task=model.task)
        recomputed = recompute_layers(base, plan.recomputed)
        if recomputed < plan.recomputed:
            report.log(
                "This architecture cannot recompute its layers; their activations are kept.", "warning"
            )
        loaded = time.perf_counter() - began
        settings = Settings(
            steps=config.steps,
            batch_size=config.batch_size,
            accumulation=config.gradient_accumulation,
            learning_rate=config.learning_rate,
            warmup_ratio=config.warmup_ratio,
            seed=config.seed,
            eval_steps=config.eval_steps,
            save_steps=config.save_steps,
        )
        checkpoints = (
            Checkpoints(Path(config.checkpoints), config.checkpoint_key) if config.checkpoints else None
        )
        trainer = Trainer(
            base,
            train.rows,
            held_out.rows,
            settings,
            report,
            checkpoints=checkpoints,
            turns=turns,
        )
        course = trainer.train()
        report.progress("verifying", 0, None)
        save_adapter(peft_model, folder)
        prompt = (held_out.rows or train.rows)[0].ids[:TRIED_TOKENS]
        checked = check_adapter(peft_model, folder, prompt)
        report.progress("verifying", 1, 1)
        return {
            **_course_numbers(course, settings),
            **_row_numbers(train, held_out),
            **_adapter_numbers(checked, config),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "dtype": str(dtype).removeprefix("torch."),
            "memory": plan.way,
            "memory_reason": plan.reason,
            "recomputed_layers": recomputed,
            "loading_s": round(loaded, 2),
        }


def _recipe(config: Any) -> Recipe:
    return read_recipe(Path(config.recipe)) if config.recipe else Recipe()


def _course_numbers(course: Course, settings: Settings) -> dict[str, Any]:
    base, tuned = course.eval_at(0), course.eval_at(settings.steps)
    seconds = course.seconds / course.steps_timed if course.steps_timed else None
    numbers: dict[str, Any] = {
        "eval_loss_base": base,
        "eval_loss_tuned": tuned,
        "loss_first": course.losses[0],
        "loss_last": sum(course.losses[-10:]) / len(course.losses[-10:]),
        "steps": settings.steps,
        "resumed_from": course.resumed_from,
        "training_s": round(course.training_s, 2),
        "seconds_per_step": None if seconds is None else round(seconds, 4),
        "tokens_per_s": round(course.tokens_timed / course.seconds) if course.seconds else None,
        "loss_curve": [[step, round(loss, 5)] for step, loss in _thinned(course.losses)],
        "eval_curve": course.eval_losses,
    }
    if course.gpu_peak:
        numbers["gpu_peak_gib"] = round(course.gpu_peak / 2**30, 2)
    return numbers


def _thinned(losses: list[float], most: int = 200) -> list[tuple[int, float]]:
    """At most about ``most`` points of the curve, the first and the last among them."""
    stride = max(1, len(losses) // most)
    points = list(enumerate(losses, 1))
    return points[:-1][::stride] + points[-1:]


def _row_numbers(train: Tokenized, held_out: Tokenized) -> dict[str, Any]:
    return {
        "train_rows": len(train.rows),
        "eval_rows": len(held_out.rows),
        "train_tokens": train.tokens,
        "longest_row_tokens": train.longest,
        "truncated_rows": train.truncated + held_out.truncated,
        "dropped_rows": train.dropped + held_out.dropped,
    }


def _adapter_numbers(checked: Checked, config: Any) -> dict[str, Any]:
    return {
        "rank": config.r,
        "alpha": config.alpha,
        "adapter_matrices": checked.matrices,
        "adapter_parameters": checked.numbers,
        "logit_change": round(checked.logit_change, 4),
    }
