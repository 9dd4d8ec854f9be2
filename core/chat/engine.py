"""The model itself: loading, answering, comparing and scoring. Only for the worker process."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.chat.caches import Caches
from core.chat.detokenize import Detokenizers
from core.chat.generation import Generation
from core.chat.kv_cache import WORDS_BETWEEN, KVCache, caches_that_fit, context_that_fits
from core.chat.protocol import Ask, Dropped, Finished, Load, Notice, ProtocolMessage, Ready, Score, Scored
from core.chat.sampler import Sampler
from core.chat.settings import Sampling
from core.errors import RequestError, Use
from core.folder import adapter_names, merged_folder
from core.formats import some
from core.language import told
from core.model.messages import Message, Segment, text_of
from core.model.prompt_format import PromptFormat, read_prompt_format
from core.model.template import ChatTemplate, Guard, TemplateError
from core.optimize.adapters import adapters_inside, check_adapter
from core.optimize.genai import import_genai, open_model
from core.optimize.trusted import check_config, check_onnx_folder
from core.options import AUTO

og = import_genai()

CACHES = 2
"""Caches kept at once unless told otherwise: a comparison needs two. The weights are there once."""

_END = Finished()

SCORE_CHUNK = 128
"""Tokens scored at once: their logits are kept for the moment, vocabulary times this times 4 bytes."""


class Engine:
    """One loaded copy of the weights and the conversations held on it."""

    def __init__(self, request: Load) -> None:
        """Load the model, and make ready what the first question needs.

        Raises:
            RequestError: the folder holds no usable model.
        """
        started = time.perf_counter()
        folder = Path(request.model_dir)
        self.folder = folder
        check_onnx_folder(folder)
        config = check_config(folder)
        self._model = open_model(folder)
        self._prompts = read_prompt_format(folder, request.template or AUTO, answer=request.answer)
        self._tokens = self._prompts.tokenizer
        self._detokenizers = Detokenizers(self._tokens.tokenizer)
        self._notes = notes_on(self._prompts)
        limit = int(config.get("model", {}).get("context_length", request.context_tokens))
        wanted, caches = min(request.context_tokens, limit), CACHES
        if request.cache_bytes:
            caches = caches_that_fit(config, wanted, request.cache_bytes)
        self._context, note = context_that_fits(config, wanted, caches)
        self._notes += [note] if note else []
        self._ends = self._end_tokens(config)
        self._adapters = og.Adapters(self._model)
        self._inside = adapters_inside(folder)
        self._loaded: set[str] = set()
        self._caches = Caches(self._new_cache, caches)
        self._refused: dict[str, str] = {}
        self._merged: dict[str, Any] = {}
        names = adapter_names(folder)
        for name in names:
            try:
                self._check(name)
            except RequestError as error:
                self._refused[name] = error.detail
        if not request.adapter or (request.adapter in names and request.adapter not in self._refused):
            self._caches.take(request.adapter, "").warm()
        Sampler(Sampling())
        self.ready = Ready(
            model=str(config.get("model", {}).get("type", "")),
            context_tokens=self._context,
            model_context_tokens=limit,
            adapters=[name for name in names if name not in self._refused],
            refused=self._refused,
            seconds=time.perf_counter() - started,
            notes=self._notes,
        )

    def _end_tokens(self, config: dict[str, Any]) -> set[int]:
        """Tokens that end an answer: the configured ones, and the template's own end-of-turn token.

        Without the latter in genai_config.json, answers would run on into turns that nobody asked for.
        """
        found = config.get("model", {}).get("eos_token_id", [])
        ends = {int(number) for number in (found if isinstance(found, list) else [found])}
        names = {number: name for name, number in self._tokens.numbers.items()}
        for number in self._prompts.end_ids():
            if number not in ends:
                ends.add(number)
                name = names.get(number, f"token {number}")
                self._notes.append(
                    told(
                        "{name} also ends an answer here, though genai_config.json does not list it.",
                        name=name,
                    )
                )
        return ends

    def set_adapter(self, adapter: str) -> float:
        """Make an adapter ready; returns the seconds taken.

        Raises:
            RequestError: no such adapter, or it does not fit this model.
        """
        started = time.perf_counter()
        self._use(adapter)
        return time.perf_counter() - started

    def _new_cache(self, adapter: str) -> KVCache:
        self._use(adapter)
        if adapter in self._merged:
            return KVCache(og, self._merged[adapter], None, adapter, self._context)
        return KVCache(og, self._model, self._adapters, adapter, self._context)

    def _check(self, adapter: str) -> None:
        """Raises RequestError if an adapter does not fit, or the model that it was merged into is not as it must be."""
        merged = merged_folder(self.folder, adapter)
        if merged.is_dir():
            check_onnx_folder(merged)
        else:
            check_adapter(self.folder, self._file(adapter))

    def _use(self, adapter: str) -> None:
        """Load an adapter, or the model that it was merged into, unless it is loaded.

        Raises RequestError if it cannot be used.
        """
        if not adapter or adapter in self._loaded or adapter in self._merged:
            return
        self._check(adapter)
        if (merged := merged_folder(self.folder, adapter)).is_dir():
            self._merged[adapter] = open_model(merged)
            return
        if adapters_inside(self.folder) != self._inside:
            raise RequestError(
                told("The adapter {adapter} came after this model was loaded.", adapter=adapter),
                told(
                    "{folder} was made anew since then, and its adapters stand inside the graph.",
                    folder=self.folder,
                ),
                told("Open the chat again."),
                code="adapter.newer",
            )
        self._adapters.load(str(self._file(adapter)), adapter)
        self._loaded.add(adapter)

    def _file(self, adapter: str) -> Path:
        return self.folder / "adapters" / f"{adapter}.onnx_adapter"

    def ask(self, request: Ask, arrived: float, stopped: Callable[[], bool]) -> Iterator[ProtocolMessage]:
        """Answer each prompt, by turns, and tell what happens.

        Args:
            arrived: ``time.perf_counter()`` when the request came in.
            stopped: true as soon as the user wants no more.

        Raises:
            RequestError: an adapter that cannot be used, or a question that does not fit the context.
        """
        settings = Sampling().changed(**request.settings)
        notice = self._lookalikes(request.prompts[0].get("messages", ()))
        if notice is not None:
            yield notice
        runs: list[Generation] = []
        caches: list[KVCache] = []
        for prompt in request.prompts:
            begun = arrived if not runs else time.perf_counter()
            caches.append(self._caches.take(str(prompt.get("adapter", "")), _words(prompt)))
            run = self._generation(caches[-1], prompt, settings, stopped)
            run.watch.spent += time.perf_counter() - begun
            runs.append(run)
        steps = [run.steps() for run in runs]
        alive = list(range(len(runs)))
        while alive:
            for place in list(alive):
                runs[place].watch.start()
                try:
                    message = next(steps[place], _END)
                except (
                    BaseException
                ):  # native failure or anything else: nobody knows what its cache holds now
                    self._caches.forget(caches[place])
                    raise
                runs[place].watch.stop()
                if message is _END:
                    alive.remove(place)
                elif message is not None:
                    yield message

    def _lookalikes(self, messages: Sequence[dict[str, Any]]) -> Notice | None:
        """What is to be said of a question that has the letters of special tokens: they are no more than letters."""
        question = str(messages[-1]["content"]) if messages else ""
        found = [name for name in self._tokens.special if name in question]
        if not found:
            return None
        return Notice(
            told(
                "The question has {names}: to the model that is plain text here, and begins or ends no turn.",
                names=some(found),
            )
        )

    def _generation(
        self, cache: KVCache, prompt: dict[str, Any], settings: Sampling, stopped: Callable[[], bool]
    ) -> Generation:
        messages, tools, dropped = prompt.get("messages", []), prompt.get("tools", ()), 0
        if prompt.get("whole"):
            given = prompt.get("text")
            segments = self._written(messages, tools) if given is None else self._plain(given)
            text, ids = text_of(segments), cache.encode(segments, self._tokens)
            if len(ids) >= self._context:
                raise self._too_long(len(ids))
            if not ids:
                raise RequestError(
                    told("There is nothing to go on with."), told("The text is empty."), code="chat.question"
                )
        else:
            text, ids, dropped = self.fit(messages, cache, settings, tools)
        name = cache.adapter
        return Generation(
            name,
            cache,
            (text, ids),
            settings,
            asked=prompt,
            room=min(settings.max_new_tokens, self._context - len(ids)),
            ends=self._ends,
            detokenizers=self._detokenizers,
            stopped=stopped,
            dropped=Dropped(name, dropped, self._context) if dropped else None,
        )

    def fit(
        self,
        messages: list[dict[str, Any]],
        cache: KVCache,
        settings: Sampling,
        tools: Sequence[dict[str, Any]] = (),
    ) -> tuple[str, list[int], int]:
        """The text and ids of a conversation that leave room for an answer, and the turns dropped for that.

        When something must go, a quarter of the context is cleared at once: each drop makes the whole
        conversation be read again, and should not happen at every turn.
        """
        reserve = min(settings.max_new_tokens, max(16, self._context // 4))
        room = self._context - reserve
        head = [messages[0]] if messages and messages[0].get("role") == "system" else []
        turns = messages[len(head) :]
        written: dict[int, tuple[str, list[int]]] = {}

        def without(start: int) -> tuple[str, list[int]]:
            if start not in written:
                segments = self._written([*head, *turns[start:]], tools)
                written[start] = text_of(segments), cache.encode(segments, self._tokens)
            return written[start]

        # Where the conversation may begin: at each question, and at the last turn.
        starts = [n for n in range(1, len(turns)) if turns[n].get("role") == "user"]
        if len(turns) > 1 and starts[-1:] != [len(turns) - 1]:
            starts.append(len(turns) - 1)
        starts.insert(0, 0)
        least = self._least_dropped(turns, starts, room)
        if not least and len(without(0)[1]) <= room:
            return *without(0), 0
        room = min(room, self._context * 3 // 4)
        fitting = bisect.bisect_left(starts, True, lo=least, key=lambda start: len(without(start)[1]) <= room)
        dropped = min(fitting, len(starts) - 1)
        text, ids = without(starts[dropped])
        cache.words = _words({"messages": [*head, *turns[starts[dropped] :]]})
        if len(ids) <= room or len(ids) <= self._context - 16:
            return text, ids, dropped  # the last question alone: a shorter answer is better than none
        raise self._too_long(len(ids))

    def _too_long(self, tokens: int) -> RequestError:
        return RequestError(
            told("The question is longer than the context."),
            told(
                "It has {tokens} tokens with its template; the context holds {context}.",
                tokens=tokens,
                context=self._context,
            ),
            told("Shorten it, or raise {context_tokens}.", context_tokens=Use("chat.context_tokens")),
            code="chat.too-long",
        )

    def _plain(self, text: str) -> tuple[Segment, ...]:
        """A text as it is, in which letters that look like a special token are letters."""
        guard = Guard(self._tokens.special, text)
        return (guard.segment(guard.text(text), False),)

    def _least_dropped(self, turns: list[dict[str, Any]], starts: list[int], room: int) -> int:
        """How many must go for the words of the turns alone: to write a thousand with their template takes long."""
        if sum(len(turn["content"]) for turn in turns) <= 4 * room:
            return 0
        total = 0
        for place in reversed(range(len(turns))):
            total += len(self._tokens.encode([Segment(turns[place]["content"], False)]).ids)
            if total > room:
                return min(bisect.bisect_right(starts, place), len(starts) - 1)
        return 0

    def _written(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
    ) -> tuple[Segment, ...]:
        """A conversation up to the answer that is wanted.

        Raises:
            RequestError: the template refuses it.
        """
        try:
            return self._prompts.opening([Message.of(message) for message in messages], tools)
        except TemplateError as error:
            raise RequestError(
                told("This conversation cannot be written for the model."),
                told("{error}.", error=error),
                code="chat.conversation",
            ) from None

    def score(self, request: Score) -> Scored:
        """Mean loss over the tokens of the segments that count, encoded as in training."""
        self._use(request.adapter)
        row = self._tokens.encode_row(
            [Segment(str(text), bool(counts), tuple(cuts)) for text, counts, cuts in request.segments]
        )
        ids, counts = row.ids[: self._context], row.learnt[: self._context]
        cache = KVCache(og, self._model, self._adapters, request.adapter, max(2, len(ids)))
        losses: list[float] = []
        place = 0
        while place < len(ids) - 1:
            chunk = ids[place : min(place + SCORE_CHUNK, len(ids) - 1)]
            cache.append(chunk)
            logits = cache.logits()
            if len(logits) < len(chunk):  # a graph that only gives the last position: one token at a time
                cache.rewind(place)
                chunk = chunk[:1]
                cache.append(chunk)
                logits = cache.logits()
            losses += [
                _loss(logits[offset], ids[place + offset + 1])
                for offset in range(len(chunk))
                if counts[place + offset + 1]
            ]
            place += len(chunk)
        return Scored(float(np.mean(losses)) if losses else 0.0, len(losses))


def _words(prompt: Mapping[str, Any]) -> str:
    """The texts of a prompt, by which the cache of its conversation is found again."""
    texts = [str(turn["content"]) for turn in prompt.get("messages", ())]
    return WORDS_BETWEEN.join([*texts, prompt["text"]] if "text" in prompt else texts)


def _loss(logits: Any, target: int) -> float:
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(np.log(np.exp(shifted).sum()) - shifted[target])


def notes_on(prompts: PromptFormat) -> list[str]:
    """What a person should know of the way in which turns are written."""
    turns = prompts.turns
    if prompts.plain_text:
        return [
            told(
                "The records are plain text without questions. Turns are written by {why}, otherwise than in "
                "training.",
                why=prompts.why,
            )
        ]
    if isinstance(turns, ChatTemplate):
        if not turns.thoughts.strip():
            return []
        return [
            told(
                "The model's chat template opens each answer with {thoughts}. Training rows have no such part, "
                "so answers begin without it here as there.",
                thoughts=turns.thoughts.strip(),
            )
        ]
    notes: list[str] = [told("Turns are written by {why}.", why=prompts.why)]
    if turns.more:
        names = ", ".join("{" + name + "}" for name in turns.more)
        notes.append(
            told(
                "A question goes into {{{asked}}}; {names} of data.template stay empty in the chat, "
                "otherwise than in training.",
                asked=turns.asked,
                names=names,
            )
        )
    return notes
