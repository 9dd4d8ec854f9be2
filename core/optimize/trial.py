"""The finished ONNX model put to the test: speed, agreement with PyTorch, and what the adapter has learnt."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data import Example, Segment, load_examples
from core.errors import RequestError
from core.events import Reporter
from core.files import MANIFEST, read_if_whole
from core.folder import merged_folder
from core.language import told
from core.model.text import read_text
from core.model.tokenizer import ModelTokenizer
from core.optimize.session import OnnxSession, TimedAnswer
from core.optimize.verify import TIE, Choices, choices, compare, demand, summary
from core.recipe import Recipe
from core.similarity import says_the_same

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPARED = 5
"""Prompts whose answers are compared with PyTorch's."""
COMPARED_TOKENS = 24
QUESTIONS = 20
"""Training prompts that the adapter is asked again, evenly spread over the records."""
SHOWN_TOKENS = 64
BUDGET_S = 20.0
"""Seconds that asking training prompts may take; those whose answers would take longer are left out."""

_PLAIN = (
    "Hello. How are you?",
    "What is the capital of France?",
    "Tell me a story.",
    "Why is the sky blue?",
    "1, 2, 3,",
)


@dataclass(frozen=True)
class TrialPrompt:
    """A question, its tokens, and the training answer (empty where there is none)."""

    question: str
    ids: list[int]
    expected: str


def _spread(items: list[Example], most: int) -> list[Example]:
    """At most so many items, evenly over the whole list, the first among them."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _by_preference(adapter: Path) -> bool:
    """Whether an adapter was trained to prefer some answers, and so not to give those of the records."""
    manifest = read_if_whole(adapter / MANIFEST)
    result = manifest.get("result") if isinstance(manifest, dict) else None
    return isinstance(result, dict) and result.get("objective", "sft") != "sft"


LongText = Callable[["PreTrainedModel", OnnxSession | None], dict[str, Any]]
"""Given the base's PyTorch model, and the session that computes without rounding if one is open."""


class Trial:
    """One model folder, with or without an adapter, against the checkpoint it was made from."""

    def __init__(
        self,
        folder: Path,
        checkpoint: Path,
        finetuned: Path | None,
        beside: Path,
        *,
        recipe: Recipe,
        lab_root: Path,
        accuracy_level: int | None,
        precision: str,
        work: Path,
        report: Reporter,
    ) -> None:
        """Load.

        Args:
            beside: the adapter's file, or the checkpoint that it was merged into, whose model stands below ``folder``.
            accuracy_level, precision: as the model was built; they say how exact it can be.
        """
        self._folder, self._checkpoint, self._finetuned = folder, checkpoint, finetuned
        self._beside, self._work = beside, work
        self._merged = merged_folder(folder, recipe.finetune.adapter) if beside.is_dir() else None
        self._rounds = accuracy_level == 4
        self._exact_sessions: dict[str | None, OnnxSession] = {}
        exact = accuracy_level == 1 or precision == "fp32"
        self._tokenizer = ModelTokenizer.read(checkpoint, read_text(checkpoint).ends)
        self._recipe, self._report = recipe, report
        self._tolerance = TIE["exact" if exact else "rounded"]
        self._train, self._held_out = self._load_prompts(lab_root)
        report.progress(told("Loading the ONNX model"), 0, None)
        self._sessions: dict[str | None, OnnxSession] = {None: OnnxSession(folder)}
        if finetuned is not None:
            self._sessions["trial"] = self._tuned(self._sessions[None])

    def _tuned(self, base: OnnxSession) -> OnnxSession:
        if self._merged is not None:
            return OnnxSession(self._merged)
        base.load_adapter(self._beside, "trial")
        return base

    def _answer(self, ids: list[int], most: int, adapter: str | None) -> TimedAnswer:
        return self._sessions[adapter].answer(ids, most, None if self._merged else adapter)

    def run(self, long_text: LongText | None = None) -> dict[str, Any]:
        """Everything; the result in numbers.

        Args:
            long_text: what else is to be found out of the base; its numbers are in the result.

        Raises:
            StageError: the answers are not PyTorch's, or a model fails.
        """
        compared = (self._held_out[: COMPARED // 2] + self._train + self._held_out)[:COMPARED]
        self._check_tokenizer(compared)
        answers = {adapter: self._answers(compared, adapter) for adapter in self._sessions}
        result = self._speeds(answers)
        result["agreement"] = self._agreement(compared, answers, long_text, result)
        result.update(self._learnt())
        result["answers"] = self._shown(compared, answers)
        return result

    def _load_prompts(self, lab_root: Path) -> tuple[list[TrialPrompt], list[TrialPrompt]]:
        data = dataclasses.replace(self._recipe.data, answer_only=True)
        recipe = dataclasses.replace(self._recipe, data=data)
        try:
            split = load_examples(recipe, lab_root, text=read_text(self._checkpoint))
        except RequestError as error:
            self._report.log(
                f"The training records cannot be used here: {error.title} {error.detail}", "warning"
            )
            return [self._plain(text) for text in _PLAIN], []
        train, held_out = (
            [self._prompt(item) for item in part]
            for part in (_spread(split.train, QUESTIONS), split.eval[:8])
        )
        return train, held_out

    _pace = 0.0
    """Seconds that a token takes, the base's and the tuned model's added up."""

    def _prompt(self, example: Example) -> TrialPrompt:
        """What stands before the last answer that is learnt; of a record that is all answer, its first half."""
        before, _ = example.up_to_answer()
        if not before:
            return self._plain(example.text[: max(1, len(example.text) // 2)])
        return TrialPrompt(example.question, self._tokenizer.encode(before).ids, example.answer)

    def _plain(self, text: str) -> TrialPrompt:
        return TrialPrompt(text, self._tokenizer.encode([Segment(text, False)]).ids, "")

    def _check_tokenizer(self, prompts: Sequence[TrialPrompt]) -> None:
        """Warn where onnxruntime-genai's tokenizer reads or writes a question otherwise than the model's own does."""
        for prompt in prompts:
            own = self._tokenizer.encode([Segment(prompt.question, False)]).ids[len(self._tokenizer.start) :]
            other = [int(number) for number in self._sessions[None].tokenizer.encode(prompt.question)]
            written = self._sessions[None].decode(own)
            wrong = ""
            if own != other[len(other) - len(own) :]:
                wrong = told("reads {question!r} as other tokens", question=prompt.question)
            elif written.strip() != self._text(own).strip():
                wrong = told(
                    "writes the tokens of {question!r} as {written!r}, otherwise",
                    question=prompt.question,
                    written=written,
                )
            if wrong:
                self._report.log(
                    f"onnxruntime-genai {wrong} than Hugging Face does: chat, server and the figures here use "
                    "Hugging Face's, programs of your own with onnxruntime-genai's tokenizer do not.",
                    "warning",
                )
                return

    def _text(self, ids: Sequence[int]) -> str:
        """What the model's own tokenizer, which the chat uses, writes for an answer."""
        ends = self._sessions[None].ends
        kept = [number for number in ids if number not in ends]
        return str(self._tokenizer.tokenizer.decode(kept, skip_special_tokens=False))

    def _answers(self, prompts: Sequence[TrialPrompt], adapter: str | None) -> list[TimedAnswer]:
        phase = (
            told("Answering without the adapter") if adapter is None else told("Answering with the adapter")
        )
        found = []
        for number, prompt in enumerate(prompts):
            self._report.check_cancelled()
            self._report.progress(phase, number, len(prompts))
            most = SHOWN_TOKENS if prompt is self._shown_prompt(prompts) else COMPARED_TOKENS
            found.append(self._answer(prompt.ids, most, adapter))
        self._report.progress(phase, len(prompts), len(prompts))
        return found

    def _speeds(self, answers: dict[str | None, list[TimedAnswer]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for adapter, found in answers.items():
            name = "base" if adapter is None else "tuned"
            seconds = sum(answer.rest_s for answer in found)
            tokens = sum(len(answer.ids) - 1 for answer in found)
            self._pace += seconds / tokens if tokens else 0.0
            result[f"tokens_per_s_{name}"] = round(tokens / seconds, 1) if seconds and tokens else None
            first = sorted(answer.first_s for answer in found)
            result[f"time_to_first_token_s_{name}"] = round(first[len(first) // 2], 4)
            if result[f"tokens_per_s_{name}"]:
                self._report.metric(f"tokens_per_s_{name}", result[f"tokens_per_s_{name}"])
        return result

    def _agreement(
        self,
        prompts: Sequence[TrialPrompt],
        answers: dict[str | None, list[TimedAnswer]],
        long_text: LongText | None,
        numbers: dict[str, Any],
    ) -> dict[str, Any]:
        model = self._reference(self._folder, self._checkpoint)
        result = {"base": self._compare(told("the base"), model, prompts, answers[None], None)}
        if long_text is not None:  # before the adapter is put into it
            numbers.update(long_text(model, self._exact_sessions.get(None)))
        if self._finetuned is not None:
            from core.finetune.lora_layer import load_lora

            if self._merged is not None:
                tuned = self._reference(self._merged, self._beside)
            else:
                tuned = load_lora(model, str(self._finetuned))
                self._round_as_stored(tuned)
            result["tuned"] = self._compare(
                told("the tuned model"), tuned, prompts, answers["trial"], "trial"
            )
        return result

    def _reference(self, folder: Path, checkpoint: Path) -> PreTrainedModel:
        """The PyTorch model of a graph."""
        from core.olive.checkpoint import embed_by_output_matrix, load_reference
        from core.optimize.embedding import is_shared

        model = load_reference(checkpoint, self._report, self._recipe.model.trust_remote_code)
        if is_shared(folder):
            embed_by_output_matrix(model)
        return model

    def _round_as_stored(self, tuned: Any) -> None:
        """Give PyTorch the adapter's matrices as the graph has them, where it has them in 8 bits."""
        import torch

        from core.optimize.adapters import EIGHT_BITS, read_layout, read_lora
        from core.optimize.switched import as_stored

        layout = read_layout(self._folder)
        if self._finetuned is None or layout.dtype != EIGHT_BITS:
            return
        stored = as_stored(read_lora(self._finetuned), layout)
        with torch.no_grad():
            for module, pair in stored.pairs.items():
                layer = tuned.get_submodule(f"base_model.model.{module}")
                for matrices, matrix in ((layer.lora_A, pair.a), (layer.lora_B, pair.b)):
                    for each in matrices.values():
                        each.weight.copy_(matrix)

    def _compare(
        self,
        name: str,
        model: PreTrainedModel,
        prompts: Sequence[TrialPrompt],
        answers: Sequence[TimedAnswer],
        adapter: str | None,
    ) -> dict[str, Any]:
        self._report.check_cancelled()
        self._report.progress(told("Comparing {name} with PyTorch", name=name), 0, None)
        found = choices(
            model, [prompt.ids for prompt in prompts], [answer.ids[:COMPARED_TOKENS] for answer in answers]
        )
        result = compare(found, self._tolerance)
        if result.wrong and self._rounds:
            right = [
                n for n in result.wrong if self._exact_distance(prompts[n], found[n], adapter) <= TIE["exact"]
            ]
            result = compare(found, self._tolerance, rounded=right)
        demand(name, result, self._tolerance)
        noted = f"Greedy answers of {name} to {result.prompts} prompts: {result.identical} are PyTorch's"
        if result.ties:
            noted += f"; {result.ties} differ only at a near tie"
        if result.by_rounding:
            noted += (
                f"; {result.by_rounding} differ by the int8 rounding of activations, without which they agree"
            )
        self._report.log(noted + ".")
        return summary(result)

    def _exact_distance(self, prompt: TrialPrompt, found: Choices, adapter: str | None) -> float:
        """How far the logits of the graph are from PyTorch's when it computes without rounding."""
        if adapter not in self._exact_sessions:
            from core.optimize.build import exact_copy

            self._report.progress(told("Computing without rounding"), 0, None)
            own = adapter is not None and self._merged is not None
            folder = self._merged if own and self._merged else self._folder
            session = OnnxSession(exact_copy(folder, self._work / ("merged-exact" if own else "base-exact")))
            if self._merged is None and self._finetuned is not None:
                session.load_adapter(self._beside, "trial")
            self._exact_sessions.update(
                {adapter: session} if self._merged else dict.fromkeys(self._sessions, session)
            )
        session = self._exact_sessions[adapter]
        logits = session.logits([*prompt.ids, *found.answer], None if self._merged else adapter)
        return found.distance(logits[len(prompt.ids) - 1 : -1])

    def _learnt(self) -> dict[str, Any]:
        """How many training prompts get the training answer, from the tuned model and from the base."""
        questions = [prompt for prompt in self._train if prompt.expected]
        if self._finetuned is None or not questions or _by_preference(self._finetuned):
            return {}
        started = time.perf_counter()
        right = {"base": 0, "tuned": 0}
        asked = 0
        left_out = 0
        for prompt in questions:
            self._report.check_cancelled()
            self._report.progress(told("Asking training questions again"), asked, len(questions))
            length = len(self._tokenizer.encode([Segment(prompt.expected, False)]).ids)
            if time.perf_counter() - started + self._pace * length > BUDGET_S:
                left_out += 1
                continue
            for name, adapter in (("tuned", "trial"), ("base", None)):
                answer = self._answer(prompt.ids, length + 8, adapter)
                right[name] += says_the_same(self._text(answer.ids), prompt.expected)
            asked += 1
        self._report.progress(told("Asking training questions again"), asked, asked)
        if left_out:
            self._report.log(
                f"{left_out} training questions were not asked: with them it would have taken longer than "
                f"{BUDGET_S:.0f} s."
            )
        self._report.log(
            f"Training questions answered as trained: {right['tuned']} of {asked} by the tuned model, "
            f"{right['base']} by the base."
        )
        return {
            "training_prompts": asked,
            "training_right_tuned": right["tuned"],
            "training_right_base": right["base"],
        }

    def _shown_prompt(self, compared: Sequence[TrialPrompt]) -> TrialPrompt:
        """The one of those compared whose answers are shown, and are longer for that."""
        return next((prompt for prompt in compared if prompt in self._train[:1]), compared[0])

    def _shown(
        self, compared: Sequence[TrialPrompt], answers: dict[str | None, list[TimedAnswer]]
    ) -> dict[str, Any]:
        """One question answered by both, to be shown."""
        prompt = self._shown_prompt(compared)

        def text(adapter: str | None) -> str:
            return self._text(answers[adapter][compared.index(prompt)].ids).strip()

        return {
            "question": prompt.question,
            "base": text(None),
            "tuned": text("trial") if self._finetuned is not None else None,
        }
