"""An Olive pass: LoRA on a model that Olive has quantized (or on a float one), by a loop of our own.

Olive's LoRA pass fails on Olive's own quantized checkpoints, joins the rows of the data and cuts the
result into blocks, and reports nothing while it trains.
"""

from __future__ import annotations

import shutil
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from olive.model import HfModelHandler
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from core.errors import MachineError, RequestError, Use, either
from core.finetune.checkpoints import Checkpoints
from core.finetune.device import (
    free_bytes,
    fuse_norms,
    give_back,
    out_of_memory,
    out_of_memory_words,
    recompute_layers,
    training_device,
    training_dtype,
)
from core.finetune.loop import Course, Settings, Trainer
from core.finetune.lora_layer import add_lora, save_adapter
from core.finetune.memory import MemoryPlan, TrainingSize
from core.finetune.rows import JoinedTurns, Tokenized, tokenize, tokens_between
from core.finetune.verify import check_adapter
from core.formats import counted, human_bytes
from core.model.auto import Facts, Settled, resolve
from core.model.folder import config_facts, read_config
from core.model.prompt_format import prompt_format
from core.model.text import read_text
from core.model.tokenizer import ModelTokenizer
from core.olive.checkpoint import load_model, multiply_quickly, unpack_linears
from core.olive.passes import options
from core.recipe import Recipe, read_recipe
from core.tqdm_progress import current_report

RESULT = "olivepress_finetune"
"""The model attribute that holds the numbers of the training."""

TRIED_TOKENS = 128
"""Tokens of the prompt on which the saved adapter is compared with the trained one."""


class OlivePressLora(Pass):
    """Train a LoRA adapter on all linear layers of a quantized or float causal language model."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        return options(
            {
                # Not the settings themselves: Olive takes any text that happens to be a path for one.
                "recipe": (str, None, "A lab.toml; [data] and [finetune] tell what to train on, and how."),
                "data_root": (str, ".", "Folder that data.file is relative to."),
                "checkpoints": (str, None, "Folder for checkpoints; none are kept without it."),
                "checkpoint_key": (str, "", "Only a checkpoint with the same key is resumed."),
                "adapter_only": (
                    bool,
                    False,
                    "Give back the adapter without its base, which Olive would copy.",
                ),
            }
        )

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> HfModelHandler:
        base, adapter = Path(model.model_path), Path(output_model_path) / "adapter"
        recipe = read_recipe(Path(config.recipe)) if config.recipe else Recipe()
        # A lab's own lab.toml may leave to the model how its records are read.
        settled = resolve(recipe, Facts.of(base), None).recipe
        checkpoints = (
            Checkpoints(Path(config.checkpoints), config.checkpoint_key) if config.checkpoints else None
        )
        training = _Training(base, settled, Path(config.data_root), checkpoints)
        result = training.run(adapter)
        output = deepcopy(model)
        output.set_resource("adapter_path", str(adapter))
        if config.adapter_only:
            # Olive wants a model folder here, and copies it: one with a configuration is enough.
            bare = Path(output_model_path) / "base"
            bare.mkdir(parents=True)
            shutil.copy(base / "config.json", bare)
            output.set_resource("model_path", str(bare))
        output.model_attributes = {**(output.model_attributes or {}), RESULT: result}
        return output


class _Training:
    """One training on one base, as the recipe says."""

    def __init__(self, base: Path, recipe: Settled, data_root: Path, checkpoints: Checkpoints | None) -> None:
        self.base, self.recipe, self.options = base, recipe, recipe.finetune
        self.checkpoints = checkpoints
        self.report = current_report()
        self.report.progress("loading", 0, None)
        self.device = training_device()
        self.train, self.held_out, self.turns = self._rows(data_root)
        self.size = TrainingSize(
            config_facts(read_config(base)),
            self.options.rank,
            self.options.batch_size,
            self.train.longest,
            training_dtype(self.device).itemsize,
            self.options.dropout > 0,
        )

    def _rows(self, data_root: Path) -> tuple[Tokenized, Tokenized, JoinedTurns]:
        from core.data import load_examples

        recipe, report = self.recipe, self.report
        text = read_text(self.base)
        tokenizer = ModelTokenizer.read(self.base, text.ends)
        split = load_examples(recipe, data_root, text=text)
        limit, answers = recipe.data.max_seq_len, recipe.data.answer_only
        train = tokenize(split.train, tokenizer, max_len=limit, answer_only=answers)
        held_out = tokenize(split.eval, tokenizer, max_len=limit, answer_only=answers)
        for rows, what in (train, "training"), (held_out, "held-out"):
            if rows.truncated or rows.dropped:
                report.log(
                    f"{counted(rows.truncated, what + ' row')} cut at {limit} tokens, and {rows.dropped} left out "
                    "since nothing to learn stood within them. Raise data.max_seq_len to keep them whole.",
                    "warning",
                )
        if not train.rows:
            raise RequestError(
                "There is nothing to train on.",
                f"{recipe.data.file}: of {counted(len(split.train), 'training row')} none has an answer "
                f"within {limit} tokens.",
                (
                    "Raise ",
                    Use("data.max_seq_len"),
                    ", lower ",
                    Use("data.eval_fraction"),
                    ", or give more records.",
                ),
            )
        most, between = self.options.turns, None
        if most > 1:
            between = tokens_between(
                prompt_format(text, tokenizer, recipe.data.template, answer=recipe.data.response_field)
            )
            if between is None:
                report.log(
                    "The records of a step are not joined to conversations (finetune.turns): they are plain text, or "
                    "in this template a conversation is more than its turns one behind the other.",
                    "warning",
                )
                most = 1
        if not held_out.rows and (self.options.stop_early or self.options.keep == "best"):
            raise RequestError(
                "There is nothing to measure with.",
                'finetune.stop_early and finetune.keep = "best" go by the loss on held-out records; there are none.',
                'Raise data.eval_fraction, or set finetune.stop_early = 0 and finetune.keep = "last".',
            )
        start = tokenizer.start[0] if tokenizer.start else text.ids.get(text.bos)
        return train, held_out, JoinedTurns(most, between or (), start, limit, self.options.seed)

    def run(self, folder: Path) -> dict[str, Any]:
        """Train the way that fits, and write the adapter into ``folder``; the numbers of the training."""
        memory = self.options.memory
        while True:
            plan = self.size.plan(free_bytes(self.device), memory)
            # A GPU says when it is full; a machine without one starts to swap, or kills.
            if not plan.fits and self.device.type == "cpu":
                raise self._too_little(plan, f"The estimate is {human_bytes(plan.need.total)}")
            self.report.log(f"Memory: {plan.reason}.")
            try:
                result = self._train(plan, folder)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                reason = out_of_memory_words(error)
            # Here, outside of the handler, nothing refers to the model any more.
            give_back(self.device)
            if memory != "auto" or plan.way == "low":
                raise self._too_little(plan, reason)
            self.report.log(
                "The GPU ran out of memory; trying again the way that needs the least.", "warning"
            )
            memory = "low"
        give_back(self.device)
        return result

    def _too_little(self, plan: MemoryPlan, reason: str) -> MachineError:
        free, size = free_bytes(self.device), self.size
        if plan.way == "fast" and size.plan(free, "low").fits:
            fitting = [Use("finetune.memory", "auto")]
        else:
            fitting = size.what_fits(free, plan.need.total if plan.way == "low" else None)
        where = "GPU memory" if self.device.type == "cuda" else "RAM"
        return MachineError(
            f"There is not enough {where} for this training.",
            f"{reason}; {human_bytes(free)} of {where} are free. Asked for were rank {size.rank}, "
            f"{size.batch} rows a batch, {size.length} tokens in the longest row.",
            ("What would fit: ", *either(fitting), ".") if fitting else "Use a smaller model.",
        )

    def _train(self, plan: MemoryPlan, folder: Path) -> dict[str, Any]:
        report, wanted = self.report, self.options
        began = time.perf_counter()
        base = load_model(
            self.base,
            device=str(self.device),
            dtype=training_dtype(self.device),
            trust_remote_code=self.recipe.model.trust_remote_code,
        )
        device, dtype = base.device, base.dtype
        if plan.way == "fast":
            unpack_linears(base, dtype)
        else:
            multiply_quickly(base.get_output_embeddings())
        if device.type == "cuda":
            fuse_norms(base)
        torch.manual_seed(wanted.seed)
        peft_model = add_lora(
            base,
            rank=wanted.rank,
            alpha=wanted.alpha,
            dropout=wanted.dropout,
            base_name=self.recipe.model.source,
        )
        recomputed = recompute_layers(base, plan.recomputed)
        if recomputed < plan.recomputed:
            report.log(
                "This architecture cannot recompute its layers; their activations are kept.", "warning"
            )
        loaded = time.perf_counter() - began
        settings = Settings(
            steps=wanted.steps,
            batch_size=wanted.batch_size,
            accumulation=wanted.gradient_accumulation,
            learning_rate=wanted.learning_rate,
            warmup_ratio=wanted.warmup_ratio,
            seed=wanted.seed,
            eval_every=wanted.eval_every,
            stop_early=wanted.stop_early,
            keep_best=wanted.keep == "best",
            save_steps=wanted.save_steps,
        )
        trainer = Trainer(
            base,
            self.train.rows,
            self.held_out.rows,
            settings,
            report,
            checkpoints=self.checkpoints,
            turns=self.turns,
        )
        course = trainer.train()
        report.progress("verifying", 0, None)
        save_adapter(peft_model, folder)
        prompt = (self.held_out.rows or self.train.rows)[0].ids[:TRIED_TOKENS]
        checked = check_adapter(peft_model, folder, prompt)
        report.progress("verifying", 1, 1)
        return {
            **_course_numbers(course, settings.steps),
            **_row_numbers(self.train, self.held_out),
            "rank": wanted.rank,
            "alpha": float(wanted.alpha),
            "adapter_matrices": checked.matrices,
            "adapter_parameters": checked.numbers,
            "logit_change": round(checked.logit_change, 4),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "dtype": str(dtype).removeprefix("torch."),
            "memory": plan.way,
            "memory_reason": plan.reason,
            "recomputed_layers": recomputed,
            "loading_s": round(loaded, 2),
        }


def _course_numbers(course: Course, steps_wanted: int) -> dict[str, Any]:
    done = len(course.losses)
    seconds = course.seconds / course.steps_timed if course.steps_timed else None
    numbers: dict[str, Any] = {
        "eval_loss_base": course.eval_at(0),
        "eval_loss_tuned": course.kept_loss,
        "loss_first": course.losses[0],
        "loss_last": sum(course.losses[-10:]) / len(course.losses[-10:]),
        "steps": done,
        "kept_step": course.kept_step,
        "stopped_early_of": steps_wanted if done < steps_wanted else None,
        "resumed_from": course.resumed_from,
        "training_s": round(course.training_s, 2),
        "measuring_s": round(course.measuring_s, 2),
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
