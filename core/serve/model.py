"""The lab's model behind the server: one process, one answer at a time, in the order in which requests came."""

from __future__ import annotations

import asyncio
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from core.chat.model_process import ModelProcess, check_model
from core.chat.protocol import BASE, Done, Error, Finished, Load, ProtocolMessage, Ready, Token
from core.chat.settings import Sampling
from core.errors import LabError
from core.lab import Lab
from core.serve.faults import MORE, Refusal
from core.serve.metrics import Metrics
from core.serve.requests import Wanted
from core.text import clean

Hear = Callable[[int, Token | Done], None]
"""Takes what comes of a choice, by its number. Must not block."""

_UNHEARD_SECONDS = 10.0
"""A model that has not obeyed for so long when an answer was to end is ended itself."""

_AGAIN_SECONDS = 10.0
"""A model that could not be loaded is tried again at the first request after so long."""


@dataclass(frozen=True)
class Limits:
    """What the server takes on.

    Attributes:
        waiting: requests that may wait for their turn.
        seconds: how long a request may wait, and how long it may then be answered.
        max_tokens: the longest answer; 0 for what the context holds.
        cache_bytes: memory for the conversations that are kept.
    """

    waiting: int = 64
    seconds: float = 600.0
    max_tokens: int = 0
    cache_bytes: int = 1 << 30


class ServedModel:
    """Starts the model's process, again when it has gone or its files are others, and answers by it.

    All methods are for the thread of one event loop.

    Attributes:
        name: the base's name for clients; an adapter's is ``NAME:ADAPTER``.
        ready: what is known of the loaded model; None while there is none.
        error: what kept it from loading.
    """

    def __init__(self, lab: Lab, limits: Limits, log: Callable[[str], None]) -> None:
        self._lab = lab
        self._limits = limits
        self._log = log
        self.name = clean(lab.root.name, keep_newlines=False) or "lab"
        self.metrics = Metrics(lambda: self.waiting, lambda: int(self._turn.locked()))
        self.waiting = 0
        self._turn = asyncio.Lock()  # first come, first served
        self._recent = 1.0  # seconds that an answer took of late
        self.ready: Ready | None = None
        self.error: LabError | None = None
        self._process: ModelProcess | None = None
        self._loading: asyncio.Future[None] | None = None
        self._files: object = None
        self._known: tuple[object, bool] | None = None  # files, and whether they are a whole model
        self._failed_at = 0.0
        self._recipe = lab.recipe

    # Who there is

    def models(self) -> dict[str, str]:
        """The names that clients may use now, each with its adapter (or "")."""
        folder = self._lab.folder.onnx_dir
        stamp = _stamp(folder)
        if self._known is None or self._known[0] != stamp:
            self._known = stamp, _whole(folder)
        if not self._known[1]:
            return {}
        refused = self.ready.refused if self.ready is not None and self._files == stamp else {}
        there = [name for name in self._lab.adapters() if name not in refused]
        return {self.name: BASE, **{f"{self.name}:{adapter}": adapter for adapter in there}}

    @property
    def created(self) -> int:
        """When the model was made, in seconds since 1970."""
        try:
            return int((self._lab.folder.onnx_dir / "genai_config.json").stat().st_mtime)
        except OSError:
            return 0

    @property
    def fingerprint(self) -> str:
        """Changes with the model's files."""
        return f"fp_{zlib.crc32(repr(self._files).encode()):08x}"

    # The process

    async def load(self) -> ModelProcess:
        """The model's process with the lab's model of now in it; started, and waited for, where there is none.

        Raises:
            Refusal: there is no model that can be used.
        """
        folder = self._lab.folder.onnx_dir
        stamp = _stamp(folder)
        process = self._process
        gone = process is None or not process.alive
        changed = stamp != self._files
        tried = self.error is not None and not changed and time.monotonic() - self._failed_at < _AGAIN_SECONDS
        if tried:
            assert self.error is not None
            raise self._unusable(self.error)
        if gone or changed or self.error is not None:
            if process is not None:
                why = "its files have changed" if changed else "its process has gone"
                self._log(f"The model is loaded again: {why}.")
                self._process = None
                await asyncio.to_thread(process.close)
            self._files, self.ready, self.error = stamp, None, None
            try:
                check_model(folder, self._lab.folder)
                self._recipe = self._lab.recipe
                process = self._start(folder)
            except LabError as error:
                self._fail(error)
                raise self._unusable(error) from None
        assert process is not None
        assert self._loading is not None
        await asyncio.shield(self._loading)
        if self.error is not None:
            raise self._unusable(self.error)
        return process

    def _start(self, folder: Path) -> ModelProcess:
        loop = asyncio.get_running_loop()
        loaded = self._loading = loop.create_future()
        recipe = self._recipe

        def over(event: Ready | Error) -> None:
            if loaded is not self._loading:
                return  # of a process that was ended
            if isinstance(event, Ready):
                self.ready = event
            else:
                self._fail(event.error)
            loaded.set_result(None)

        def hear(event: ProtocolMessage) -> None:  # in a thread of the child's
            if isinstance(event, Ready | Error):
                loop.call_soon_threadsafe(over, event)

        load = Load(
            str(folder),
            recipe.chat.context_tokens,
            recipe.data.template,
            BASE,
            recipe.data.response_field,
            self._limits.cache_bytes,
        )
        self.metrics.starts.inc()
        self._process = ModelProcess(load, hear)
        return self._process

    def _fail(self, error: LabError) -> None:
        self.error, self._failed_at = error, time.monotonic()
        self._log(" ".join(part for part in (error.title, error.detail, error.hint) if part))

    def _unusable(self, error: LabError) -> Refusal:
        return Refusal(503, f"{error.title} {MORE}", error.code or "model_unusable")

    async def close(self) -> None:
        """End the process and free its memory."""
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.close)

    # Answers

    async def answer(self, wanted: Wanted, hear: Hear) -> None:
        """Answer a request when its turn comes. Cancelling the task ends it, wherever it is.

        Raises:
            Refusal: there is no such model, it cannot be used, or too many wait.
            LabError: the model failed, or it cannot read this.
        """
        if wanted.model not in self.models() and wanted.model != self.name:
            raise self._no_model(wanted.model)
        async with self._its_turn():
            began = time.monotonic()
            process = await self.load()
            adapter = self.models().get(wanted.model)
            if adapter is None:
                raise self._no_model(wanted.model)
            settings = self._settings(wanted)
            choices = [prompt for prompt in wanted.prompts for _ in range(wanted.choices)]
            for index, prompt in enumerate(choices):
                asked = self._with_system({**prompt, "adapter": adapter})
                varied = settings.changed(seed=(settings.seed + index) % 2**63)
                left = began + self._limits.seconds - time.monotonic()
                await self._one(process, asked, varied, left, partial(hear, index))
            self._recent = 0.8 * self._recent + 0.2 * (time.monotonic() - began)

    def _no_model(self, name: str) -> Refusal:
        there = ", ".join(self.models()) or "none"
        refused = self.ready.refused if self.ready is not None else {}
        adapter = name.removeprefix(f"{self.name}:")
        why = f" The adapter does not fit the model: {refused[adapter]}" if adapter in refused else ""
        return Refusal(
            404,
            f"The model {name[:200]!r} does not exist. There are: {there}.{why}",
            "model_not_found",
            param="model",
        )

    def _settings(self, wanted: Wanted) -> Sampling:
        """What the request says, and the lab where it says nothing."""
        seed = secrets.randbits(63) if wanted.seed is None else wanted.seed
        settings = replace(Sampling.from_recipe(self._recipe.chat), **wanted.settings, seed=seed)
        context = self.ready.context_tokens if self.ready is not None else settings.max_new_tokens
        most = self._limits.max_tokens or context
        return replace(settings, max_new_tokens=min(settings.max_new_tokens, most))

    def _with_system(self, prompt: dict[str, object]) -> dict[str, object]:
        """A conversation behind the lab's system message, if it has none of its own."""
        messages, system = prompt.get("messages"), self._recipe.chat.system
        if not isinstance(messages, list) or not system or messages[0]["role"] == "system":
            return prompt
        return {**prompt, "messages": [{"role": "system", "content": system}, *messages]}

    @asynccontextmanager
    async def _its_turn(self) -> AsyncIterator[None]:
        if self._turn.locked() and self.waiting >= self._limits.waiting:
            raise Refusal(
                429,
                f"{self.waiting} requests wait already.",
                "queue_full",
                headers={"Retry-After": str(self._likely_wait())},
            )
        self.waiting += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise Refusal(
                503,
                f"The turn of this request did not come within {self._limits.seconds:g} s.",
                "queue_timeout",
                headers={"Retry-After": str(self._likely_wait())},
            ) from None
        finally:
            self.waiting -= 1
        self.metrics.waited.observe(time.monotonic() - began)
        try:
            yield
        finally:
            self._turn.release()

    def _likely_wait(self) -> int:
        """Seconds until those who wait now are answered, for ``Retry-After``."""
        return int(min(60, max(1, self._recent * (self.waiting + 1) / 2)))

    async def _one(
        self,
        process: ModelProcess,
        prompt: dict[str, object],
        settings: Sampling,
        seconds: float,
        hear: Callable[[Token | Done], None],
    ) -> None:
        """One answer, which is ended after so many seconds, or with this task."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Finished | Error] = loop.create_future()
        stopped = False

        def take(message: ProtocolMessage) -> None:
            if isinstance(message, Finished | Error):
                over.set_result(message)
            elif isinstance(message, Token | Done) and not stopped:
                hear(message)

        def listen(message: ProtocolMessage) -> None:  # in a thread of the child's
            if isinstance(message, Finished | Error | Token | Done):
                loop.call_soon_threadsafe(take, message)

        cancel = process.ask([prompt], settings.as_dict(), listen)
        out_of_time = loop.call_later(max(0.0, seconds), cancel)
        try:
            await self._ended(process, over, max(0.0, seconds))
        except asyncio.CancelledError:
            stopped = True
            cancel()
            # The next one's turn comes when this answer has ended, however often this task is told to.
            rest = asyncio.ensure_future(self._ended(process, over, 0.0))
            while not rest.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(rest)
            raise
        finally:
            out_of_time.cancel()
        ended = over.result()
        if isinstance(ended, Error):
            raise ended.error

    async def _ended(
        self, process: ModelProcess, over: asyncio.Future[Finished | Error], seconds: float
    ) -> None:
        """Wait until an answer has ended; a process that does not obey the end of its time is ended."""
        done, _ = await asyncio.wait({over}, timeout=seconds + _UNHEARD_SECONDS)
        if not done:
            self._log("The model's process did not obey, and was ended.")
            await asyncio.to_thread(process.close)
            await asyncio.wait({over})


def _whole(folder: Path) -> bool:
    try:
        check_model(folder)
    except LabError:
        return False
    return True


def _stamp(folder: Path) -> object:
    """Changes when a file of the model does."""
    patterns = ("*.onnx*", "*.json", "adapters/*.onnx_adapter", "merged/*/*.onnx*")
    files = [file for pattern in patterns for file in folder.glob(pattern)]
    found = []
    for file in sorted(files):
        try:
            stat = file.stat()
        except OSError:
            continue
        found.append((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)
