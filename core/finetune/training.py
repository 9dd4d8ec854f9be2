"""One training on one base, as a recipe says: its rows, the memory that it takes, the adapter, its figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from core.errors import MachineError, RequestError, Use, either
from core.events import Reporter
from core.finetune.checkpoints import Checkpoints
from core.finetune.device import (
    attend_plainly,
    free_bytes,
    fuse_norms,
    give_back,
    out_of_memory,
    out_of_memory_words,
    recompute_layers,
    spread_layers,
    training_device,
    training_dtype,
)
from core.finetune.fused import fuse
from core.finetune.gpus import rows_at_once
from core.finetune.loop import Course, Settings, Trainer
from core.finetune.lora_layer import add_lora, save_adapter
from core.finetune.loss import Measure
from core.finetune.memory import TEXTS_AT_ONCE, MemoryPlan, TrainingSize
from core.finetune.objective import Answers, Objective, Preferences
from core.finetune.ranks import Ranks, rank_name
from core.finetune.rows import JoinedTurns, Row, Tokenized, tokenize, tokenize_preferences, tokens_between
from core.finetune.verify import check_adapter
from core.formats import counted, human_bytes, some
from core.language import told
from core.model.auto import Facts, Settled, SettledFinetune, resolve
from core.model.folder import config_facts, read_config
from core.model.prompt_format import prompt_format
from core.model.text import read_text
from core.model.tokenizer import ModelTokenizer
from core.olive.checkpoint import load_model, multiply_quickly, unpack_linears
from core.recipe import Recipe, read_recipe

TRIED_TOKENS = 128
"""Tokens of the prompt on which the saved adapter is compared with the trained one."""

AGAIN_LOW = "The GPU ran out of memory; trying again the way that needs the least."


@dataclass(frozen=True)
class Task:
    """What is to be trained, as another process can read it too.

    Attributes:
        base: the model's folder.
        recipe: a ``lab.toml``; empty: a new lab's.
        data_root: the folder that ``data.file`` is relative to.
        checkpoints: folder for checkpoints; empty: none are kept.
        checkpoint_key: only a checkpoint with the same key is resumed.
        adapter: the folder to write the adapter into.
        memory: takes the place of ``finetune.memory``; empty: it holds.
    """

    base: str
    recipe: str
    data_root: str
    checkpoints: str
    checkpoint_key: str
    adapter: str
    memory: str = ""

    def settled(self) -> Settled:
        """The recipe. A lab's own lab.toml may leave to the model how its records are read."""
        recipe = read_recipe(Path(self.recipe)) if self.recipe else Recipe()
        if self.memory:
            recipe = recipe.with_values({"finetune.memory": self.memory})
        return resolve(recipe, Facts.of(Path(self.base)), None).recipe


class TooLittleMemory(MachineError):
    """A training did not fit.

    Attributes:
        low_may_fit: whether it may, the way that needs the least.
    """

    low_may_fit = False


class Training:
    """One training on one base, as the recipe says.

    Args:
        ranks: the processes that do it together; rank 0 alone writes the adapter.
        spread: the devices over which the base's layers are spread, by this one process; empty: it stands on one.
    """

    def __init__(
        self,
        task: Task,
        report: Reporter,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        spread: Sequence[torch.device] = (),
    ) -> None:
        self.base, self.recipe, self.report, self.ranks = Path(task.base), task.settled(), report, ranks
        self.spread = tuple(spread)
        self.options = self.recipe.finetune
        self.texts = TEXTS_AT_ONCE[self.options.objective]
        self.folder = Path(task.adapter)
        self.checkpoints = (
            Checkpoints(Path(task.checkpoints), task.checkpoint_key) if task.checkpoints else None
        )
        self.report.progress(told("loading"), 0, None)
        self.device = self.spread[0] if self.spread else training_device(ranks.rank)
        self.train, self.held_out, self.turns = self._rows(Path(task.data_root))
        self.size = TrainingSize(
            config_facts(read_config(self.base)),
            self.options.rank,
            self.texts
            * rows_at_once(self.options.batch_size, self.options.gradient_accumulation, ranks.count),
            self.train.longest,
            training_dtype(self.device).itemsize,
            self.options.dropout > 0,
        )

    def _rows(self, data_root: Path) -> tuple[Tokenized[Row], Tokenized[Row], JoinedTurns]:
        from core.data import load_examples

        recipe, report = self.recipe, self.report
        text = read_text(self.base)
        tokenizer = ModelTokenizer.read(self.base, text.ends)
        limit, answers = recipe.data.max_seq_len, recipe.data.answer_only
        train: Tokenized[Row]
        held_out: Tokenized[Row]
        if self.options.objective == "sft":
            split = load_examples(recipe, data_root, text=text)
            train = tokenize(split.train, tokenizer, max_len=limit, answer_only=answers)
            held_out = tokenize(split.eval, tokenizer, max_len=limit, answer_only=answers)
        else:
            # Answers are compared; the question is the same on both sides.
            split = load_examples(recipe.with_values({"data.answer_only": True}), data_root, text=text)
            pairs = self.texts == 2
            train = tokenize_preferences(split.train, tokenizer, max_len=limit, pairs=pairs)
            held_out = tokenize_preferences(
                split.eval, tokenizer, max_len=limit, pairs=pairs, first=len(train.rows)
            )
        for rows, what in (train, "training"), (held_out, "held-out"):
            if rows.truncated or rows.dropped:
                report.log(
                    f"{counted(rows.truncated, what + ' row')} cut at {limit} tokens, and {rows.dropped} left out "
                    "since nothing to learn stood within them. Raise data.max_seq_len to keep them whole.",
                    "warning",
                )
        if not train.rows:
            raise RequestError(
                told("There is nothing to train on."),
                told(
                    "{file}: of {rows} none has an answer within {limit} tokens.",
                    file=recipe.data.file,
                    rows=counted(len(split.train), "training row"),
                    limit=limit,
                ),
                told(
                    "Raise {setting}, lower {setting2}, or give more records.",
                    setting=Use("data.max_seq_len"),
                    setting2=Use("data.eval_fraction"),
                ),
                code="data.no-rows",
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
                told("There is nothing to measure with."),
                told(
                    'finetune.stop_early and finetune.keep = "best" go by the loss on held-out records; '
                    "there are none."
                ),
                told('Raise data.eval_fraction, or set finetune.stop_early = 0 and finetune.keep = "last".'),
                code="data.held-out",
            )
        start = tokenizer.start[0] if tokenizer.start else text.ids.get(text.bos)
        return train, held_out, JoinedTurns(most, between or (), start, limit, self.options.seed)

    def run(self) -> dict[str, Any]:
        """Train the way that fits, and write the adapter; the numbers of the training, of rank 0.

        Raises:
            TooLittleMemory: it does not fit. Of several ranks none tries again by itself: all must.
        """
        memory = self.options.memory
        while True:
            plan = self._plan(memory)
            # A GPU says when it is full; a machine without one starts to swap, or kills.
            if not plan.fits and self.device.type == "cpu":
                raise self._too_little(plan, f"The estimate is {human_bytes(plan.need.total)}")
            self.report.log(f"Memory: {plan.reason}.")
            try:
                result = self._train(plan)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                reason = out_of_memory_words(error)
            # Here, outside of the handler, nothing refers to the model any more.
            self._give_back()
            again = memory == "auto" and plan.way != "low"
            if not again or self.ranks.count > 1:
                full = self._too_little(plan, reason)
                full.low_may_fit = again
                raise full
            self.report.log(AGAIN_LOW, "warning")
            memory = "low"
        self._give_back()
        return result

    def _plan(self, memory: str) -> MemoryPlan:
        if self.spread:
            return self.size.spread(self._free_of_each(), memory)
        return self.size.plan(self._free(), memory)

    def _give_back(self) -> None:
        for device in self.spread or (self.device,):
            give_back(device)

    def _objective(self, measure: Measure, device: torch.device) -> Objective:
        if self.options.objective == "sft":
            return Answers(measure, device)
        rows = len(self.train.rows) + len(self.held_out.rows)
        return Preferences(self.options.objective, self.options.beta, rows, measure, device)

    def _free(self) -> int:
        """Memory that each rank may use: the same on all, so that all go the same way."""
        free = free_bytes(self.device)
        if self.device.type == "cpu":
            free //= self.ranks.count
        return self.ranks.lowest(free, self.device)

    def _free_of_each(self) -> list[int]:
        """Memory of the devices over which the layers are spread; on the CPU they share it."""
        free = [free_bytes(device) for device in self.spread]
        return [each // len(free) if self.device.type == "cpu" else each for each in free]

    def _too_little(self, plan: MemoryPlan, reason: str) -> TooLittleMemory:
        free, size = free_bytes(self.device), self.size
        each = self._free_of_each()
        low = size.spread(each, "low") if self.spread else size.plan(free, "low")
        if plan.way == "fast" and low.fits:
            fitting = [Use("finetune.memory", "auto")]
        else:
            fitting = size.what_fits(each or free, plan.need.total if plan.way == "low" else None)
            if size.batch < self.options.batch_size:  # what each GPU has of a batch
                fitting = [_of_batch(each, self.ranks.count) for each in fitting]
        on_gpu, several = self.device.type == "cuda", self.ranks.count > 1
        room = {
            "reason": reason,
            "free": some([human_bytes(one) for one in each or [free]]),
            "where": told("GPU memory") if on_gpu else "RAM",
            "rank": size.rank,
            "rows": size.batch,
            "tokens": size.length,
        }
        return TooLittleMemory(
            told("There is not enough GPU memory for this training.")
            if on_gpu
            else told("There is not enough RAM for this training."),
            told(
                "{gpu}: {reason}; {free} of {where} are free. Asked for were rank {rank}, {rows} rows for each GPU, "
                "{tokens} tokens in the longest row.",
                gpu=rank_name(self.ranks.rank, self.device.type),
                **room,
            )
            if several
            else told(
                "{reason}; {free} of {where} are free. Asked for were rank {rank}, {rows} rows a batch, "
                "{tokens} tokens in the longest row.",
                **room,
            ),
            (told("What would fit: "), *either(fitting), ".")
            if fitting
            else told(
                "Use a smaller model, or more GPUs: its layers can be spread over several (finetune.gpus)."
            ),
            code="machine.memory",
        )

    def _train(self, plan: MemoryPlan) -> dict[str, Any]:
        report, wanted, ranks, folder = self.report, self.options, self.ranks, self.folder
        began = time.perf_counter()
        base = load_model(
            self.base,
            device="cpu" if plan.spread else str(self.device),
            dtype=training_dtype(self.device),
            trust_remote_code=self.recipe.model.trust_remote_code,
        )
        if plan.spread:
            spread_layers(base, self.spread, plan.spread)
        device, dtype = base.device, base.dtype
        if plan.way == "fast":
            unpack_linears(base, dtype)
        else:
            multiply_quickly(base.get_output_embeddings())
        attend_plainly(base, self.train.longest)
        fuse_norms(base)
        fuse(base)
        torch.manual_seed(wanted.seed)
        peft_model = add_lora(
            base,
            rank=wanted.rank,
            alpha=wanted.alpha,
            dropout=wanted.dropout,
            base_name=self.recipe.model.source,
        )
        recomputed = recompute_layers(base, plan.recomputed, random=wanted.dropout > 0)
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
            objective=self._objective,
            turns=self.turns,
            ranks=ranks,
        )
        # A rank that a signal ended in the middle would be waited for by the others: they end together.
        with report.unbroken() if ranks.count > 1 else nullcontext():
            course = trainer.train()
            peaks = ranks.all_of(float(course.gpu_peak), device)
        if not ranks.first:
            return {}
        report.progress(told("verifying"), 0, None)
        save_adapter(peft_model, folder)
        prompt = (self.held_out.rows or self.train.rows)[0].ids[:TRIED_TOKENS]
        checked = check_adapter(peft_model, folder, prompt)
        report.progress(told("verifying"), 1, 1)
        return {
            **_course_numbers(course, settings.steps, max(peaks)),
            **_preference_numbers(course, wanted),
            **({"gpus": ranks.count} if ranks.count > 1 else {}),
            **({"layers_on_gpus": list(plan.spread)} if plan.spread else {}),
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


def _of_batch(use: Use, gpus: int) -> Use:
    """What would fit, with the records that one GPU has at once as those of a batch that all share."""
    name = "finetune.batch_size"
    if use.option == name and isinstance(use.value, int):
        return replace(use, value=use.value * gpus)
    return replace(
        use, more=tuple((k, v * gpus if k == name and isinstance(v, int) else v) for k, v in use.more)
    )


def _course_numbers(course: Course, steps_wanted: int, gpu_peak: float) -> dict[str, Any]:
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
    if gpu_peak:
        numbers["gpu_peak_gib"] = round(gpu_peak / 2**30, 2)
    return numbers


def _preference_numbers(course: Course, options: SettledFinetune) -> dict[str, Any]:
    """How much of the held-out rows is preferred as it should be, before and after."""
    if options.objective == "sft":
        return {}
    numbers: dict[str, Any] = {"objective": options.objective, "beta": options.beta}
    for name, after in course.kept_told.items():
        numbers[f"eval_{name}_base"] = next(value for step, value in course.told[name] if step == 0)
        numbers[f"eval_{name}_tuned"] = after
    return numbers


def _thinned(losses: list[float], most: int = 200) -> list[tuple[int, float]]:
    """At most about ``most`` points of the curve, the first and the last among them."""
    stride = max(1, len(losses) // most)
    points = list(enumerate(losses, 1))
    return points[:-1][::stride] + points[-1:]


def _row_numbers(train: Tokenized[Row], held_out: Tokenized[Row]) -> dict[str, Any]:
    return {
        "train_rows": len(train.rows),
        "eval_rows": len(held_out.rows),
        "train_tokens": train.tokens,
        "longest_row_tokens": train.longest,
        "truncated_rows": train.truncated + held_out.truncated,
        "dropped_rows": train.dropped + held_out.dropped,
    }
