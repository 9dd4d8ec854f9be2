"""Greedy answers from an ONNX model folder through onnxruntime-genai, timed. Only for a job's process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import LabError, StageError
from core.files import read_json
from core.language import told
from core.optimize.trusted import CONFIG_FILE, check_onnx_folder
from core.text import first_line


@contextmanager
def _explained(title: str, where: str = "") -> Iterator[None]:
    """The runtime raises its own RuntimeError for any fault of a file: told as a stage's, with its first line."""
    try:
        yield
    except LabError:
        raise  # a request to stop, which may come at any moment
    except Exception as error:
        raise StageError(
            title, told("{where}{error}", where=where, error=first_line(error)), code="optimize.verify"
        ) from error


@dataclass(frozen=True)
class TimedAnswer:
    """What was generated.

    Attributes:
        ids: the new tokens, the end token included where one came.
        first_s: seconds from the prompt's first token to the answer's first.
        rest_s: seconds for all further tokens.
    """

    ids: list[int]
    first_s: float
    rest_s: float


class OnnxSession:
    """A loaded model folder; adapters are loaded by name from their files."""

    def __init__(self, folder: Path) -> None:
        """Load.

        Raises:
            StageError: onnxruntime-genai refuses the model.
            RequestError: the folder asks for more than a text model needs.
        """
        check_onnx_folder(folder)
        from core.optimize.genai import import_genai, open_model

        self._og = og = import_genai()
        with _explained(told("The ONNX model cannot be loaded."), f"{folder}: "):
            self._model = open_model(folder)
            self.tokenizer = og.Tokenizer(self._model)
        self._adapters = og.Adapters(self._model)
        ends = (read_json(folder / CONFIG_FILE) or {}).get("model", {}).get("eos_token_id", [])
        self.ends = set(ends if isinstance(ends, list) else [ends])

    def load_adapter(self, path: Path, name: str) -> None:
        """Make an adapter file known under a name. Raises :class:`StageError` if the runtime refuses it."""
        with _explained(told("The adapter file cannot be loaded."), f"{path}: "):
            self._adapters.load(str(path), name)

    def _generator(self, tokens: int, adapter: str | None) -> Any:
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=tokens, do_sample=False)
        generator = self._og.Generator(self._model, params)
        if adapter is not None:
            generator.set_active_adapter(self._adapters, adapter)
        return generator

    def answer(self, prompt: Sequence[int], most: int, adapter: str | None = None) -> TimedAnswer:
        """Generate greedily up to ``most`` tokens or an end token.

        Raises:
            StageError: the model fails while it runs, or gives no numbers.
        """
        import numpy as np

        with _explained(told("The ONNX model fails while it answers.")):
            generator = self._generator(len(prompt) + most, adapter)
            start = time.perf_counter()
            generator.append_tokens(np.asarray(prompt, dtype=np.int32))
            ids = [self._next(generator)]
            middle = time.perf_counter()
            while ids[-1] not in self.ends and len(ids) < most and not generator.is_done():
                ids.append(self._next(generator))
            return TimedAnswer(ids, middle - start, time.perf_counter() - middle)

    def logits(self, ids: Sequence[int], adapter: str | None = None) -> Any:
        """What the model makes of a text it is given: float32 logits [len(ids), vocabulary].

        Raises:
            StageError: the model fails while it runs.
        """
        return next(self.read([ids], len(ids) + 1, adapter))

    def read(self, pieces: Sequence[Sequence[int]], tokens: int, adapter: str | None = None) -> Iterator[Any]:
        """Read a text piece by piece; the logits of each piece, float32 [len(piece), vocabulary].

        Args:
            tokens: room for so many, those of all pieces at least.

        Raises:
            StageError: the model fails while it reads.
        """
        import numpy as np

        with _explained(told("The ONNX model fails while it reads.")):
            generator = self._generator(tokens, adapter)
            for piece in pieces:
                generator.append_tokens(np.asarray(piece, dtype=np.int32))
                yield np.asarray(generator.get_output("logits"), dtype=np.float32)[0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, without its end token."""
        import numpy as np

        kept = [number for number in ids if number not in self.ends]
        return str(self.tokenizer.decode(np.asarray(kept, dtype=np.int32))) if kept else ""

    @staticmethod
    def _next(generator: Any) -> int:
        generator.generate_next_token()
        return int(generator.get_next_tokens()[0])
