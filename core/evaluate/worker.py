"""One variant in a process of its own, ``python -m core.evaluate.worker``: loaded, asked, and its memory measured.

What it is asked, as ``do``:

    open        load the model: {"onnx", "folder", "adapter", "name", "trust", "free"} to {"load_s", "how"}
    answer      {"ids", "most", "ends"} to the new {"ids"}, with {"first_s", "rest_s"}
    answers     {"prompts": [{"ids", "most"}], "ends"} to {"answers": [{"ids"}]}, at once and not timed: PyTorch alone
    score       {"ids", "learnt"} to the summed {"loss"} of the tokens that are learnt, and how many: {"tokens"}
    peak        the most memory that this process has had: {"ram_bytes"}, {"gpu_bytes"}
    reference   the float model's log-probabilities of {"rows"} into the file {"path"}
    layers      {"source", "quantized", "rows"} to the divergence when one layer alone is the quantized one: {"kl"}
    compare     a row against that file: {"row", "place", "path"} to sums over its places

The ONNX variants load no torch until they are compared, so that the peak is what the runtime takes.
"""

from __future__ import annotations

import inspect
import resource
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from core.errors import RequestError
from core.language import told
from core.process import Request, serve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from core.optimize.session import OnnxSession

Numbers = dict[str, Any]
_CHUNK = 64
"""Tokens that the runtime reads at once where all their logits are wanted."""


class Model(Protocol):
    """A loaded variant."""

    def answer(self, ids: Sequence[int], most: int, ends: Sequence[int]) -> Numbers:
        """Greedily up to ``most`` new tokens, or one of ``ends``; timed."""

    def answers(self, prompts: Sequence[Numbers], ends: Sequence[int]) -> list[Numbers]:
        """The same for several, without times."""

    def score(self, ids: Sequence[int], learnt: Sequence[bool]) -> Numbers:
        """The summed loss of the tokens that are learnt."""

    def logits(self, row: Sequence[int]) -> Any:
        """Float32 logits [tokens, vocabulary] as a torch tensor on the CPU."""


class TorchModel(Model):
    """A checkpoint in PyTorch, with a PEFT adapter or without."""

    def __init__(self, folder: Path, adapter: Path | None, *, trust: bool, free: int) -> None:
        """Load; packed weights are unpacked once where ``free`` bytes allow it, else at every use."""
        import torch

        from core.finetune.loss import Measure
        from core.model.folder import model_facts
        from core.olive.checkpoint import load_model, multiply_quickly, unpack_linears
        from core.quantize.verify import measuring_dtype, running_device

        device = running_device()
        dtype = measuring_dtype(device)
        facts = model_facts(folder)
        model = load_model(folder, device=device, dtype=dtype, trust_remote_code=trust)
        self.how = "float32" if dtype is not None else str(model.dtype).removeprefix("torch.")
        if facts.quantization is not None:
            whole = facts.parameters * (4 if dtype is not None else 2)
            if device != "cpu":
                free = int(torch.cuda.mem_get_info()[0])
            if 1.3 * whole + facts.weight_bytes < free:
                unpack_linears(model, model.dtype if dtype is None else dtype)
                self.how += ", unpacked"
            else:
                multiply_quickly(model)
        self.model: PreTrainedModel = model
        if adapter is not None:
            from core.finetune.lora_layer import load_lora

            load_lora(model, str(adapter))  # its layers stand in the model itself from now on
        self._measure = Measure(model)
        self._torch = torch
        self._device = next(model.parameters()).device
        self._tried = False
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def answer(self, ids: Sequence[int], most: int, ends: Sequence[int]) -> Numbers:
        start, made, first = time.perf_counter(), list[int](), 0.0
        for (token,) in self._greedy([ids], most):
            made.append(token)
            first = first or time.perf_counter() - start
            if token in ends:
                break
        return {"ids": made, "first_s": first, "rest_s": time.perf_counter() - start - first}

    def answers(self, prompts: Sequence[Numbers], ends: Sequence[int]) -> list[Numbers]:
        made: list[list[int]] = [[] for _ in prompts]
        for tokens in self._greedy([each["ids"] for each in prompts], max(each["most"] for each in prompts)):
            going = False
            for answer, token, prompt in zip(made, tokens, prompts, strict=True):
                if len(answer) < prompt["most"] and (not answer or answer[-1] not in ends):
                    answer.append(token)
                    going = going or (len(answer) < prompt["most"] and token not in ends)
            if not going:
                break
        return [{"ids": answer} for answer in made]

    def _greedy(self, prompts: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
        """The likeliest next token of each prompt, step by step; shorter prompts are padded on the left, unseen."""
        torch, device = self._torch, self._device
        width = max(map(len, prompts))
        given = torch.tensor([[0] * (width - len(each)) + list(each) for each in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts], device=device)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        keep = {"logits_to_keep": 1} if self._keeps else {}
        # One prompt has nothing that is not to be seen, and models without a mask run their quick way.
        past, padded = None, len(prompts) > 1
        for _ in range(most):
            with torch.inference_mode():
                out = self.model(
                    input_ids=given,
                    attention_mask=mask if padded else None,
                    position_ids=places,
                    past_key_values=past,
                    use_cache=True,
                    **keep,
                )
            past, chosen = out.past_key_values, out.logits[:, -1].argmax(-1)
            yield chosen.tolist()
            given = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
            places = places[:, -1:] + 1

    def score(self, ids: Sequence[int], learnt: Sequence[bool]) -> Numbers:
        from core.finetune.rows import TokenRow, collate

        if not self._tried:
            self._measure.try_out(self._torch.tensor([list(ids)], device=self._device))
            self._tried = True
        batch = collate([TokenRow(list(ids), list(learnt))], int(ids[0]), self._device)
        with self._torch.inference_mode():
            return {"loss": float(self._measure(batch)), "tokens": len(batch.targets)}

    def logits(self, row: Sequence[int]) -> Any:
        from core.quantize.quality import of_model

        return of_model(self.model)(row)


class OnnxModel(Model):
    """The deployed graph, through the runtime that the chat uses."""

    def __init__(self, folder: Path, adapter: Path | None, name: str) -> None:
        from core.optimize.session import OnnxSession

        self._session: OnnxSession = OnnxSession(folder)
        self._adapter = None if adapter is None else name
        self.how = "ONNX Runtime"
        if adapter is not None:
            self._session.load_adapter(adapter, name)

    def answer(self, ids: Sequence[int], most: int, ends: Sequence[int]) -> Numbers:
        found = self._session.answer(ids, most, self._adapter)  # ends as genai_config.json says
        return {"ids": found.ids, "first_s": found.first_s, "rest_s": found.rest_s}

    def answers(self, prompts: Sequence[Numbers], ends: Sequence[int]) -> list[Numbers]:
        return [self.answer(each["ids"], each["most"], ends) for each in prompts]

    def _read(self, ids: Sequence[int]) -> Iterator[Any]:
        pieces = [ids[at : at + _CHUNK] for at in range(0, len(ids), _CHUNK)]
        for piece, logits in zip(
            pieces, self._session.read(pieces, len(ids) + 1, self._adapter), strict=True
        ):
            if len(logits) != len(piece):
                raise RequestError(
                    told("The ONNX model tells nothing of the tokens that it reads."),
                    told("Its graph gives the logits of the last token alone."),
                    told("Run optimize again."),
                    code="onnx.config",
                )
            yield logits

    def score(self, ids: Sequence[int], learnt: Sequence[bool]) -> Numbers:
        import numpy as np

        total, tokens, place = 0.0, 0, 0
        for logits in self._read(ids[:-1]):
            wide = logits.astype(np.float64)
            for row in wide:
                place += 1
                if learnt[place]:
                    top = row.max()
                    total += float(np.log(np.exp(row - top).sum()) + top - row[ids[place]])
                    tokens += 1
        return {"loss": total, "tokens": tokens}

    def logits(self, row: Sequence[int]) -> Any:
        import numpy as np
        import torch

        return torch.from_numpy(np.concatenate(list(self._read(row))))


class Worker:
    """Answers the requests of :mod:`core.evaluate.stage`."""

    def __init__(self) -> None:
        self._model: Model | None = None

    def handle(self, request: Request) -> Numbers:
        """The result of one request. Raises LabError as what it does may."""
        ask = request.ask
        work = {
            "open": self._open,
            "answer": lambda ask: self._opened.answer(ask["ids"], ask["most"], ask["ends"]),
            "answers": lambda ask: {"answers": self._opened.answers(ask["prompts"], ask["ends"])},
            "score": lambda ask: self._opened.score(ask["ids"], ask["learnt"]),
            "peak": lambda ask: peak_memory(),
            "compare": self._compare,
        }
        if ask["do"] == "reference":
            return _write_reference(request)
        if ask["do"] == "layers":
            from core.evaluate.layers import kl_by_layer

            source, quantized = Path(ask["source"]), Path(ask["quantized"])
            report = request.reporter()
            return {"kl": kl_by_layer(source, quantized, ask["rows"], report, trust=ask["trust"])}
        return work[ask["do"]](ask)

    @property
    def _opened(self) -> Model:
        assert self._model is not None
        return self._model

    def _open(self, ask: Numbers) -> Numbers:
        folder, adapter = Path(ask["folder"]), Path(ask["adapter"]) if ask["adapter"] else None
        _import_all(ask["onnx"])
        start = time.perf_counter()
        model = (
            OnnxModel(folder, adapter, ask["name"])
            if ask["onnx"]
            else TorchModel(folder, adapter, trust=ask["trust"], free=ask["free"])
        )
        self._model = model
        return {"load_s": time.perf_counter() - start, "how": model.how}

    def _compare(self, ask: Numbers) -> Numbers:
        from safetensors import safe_open

        from core.events import Reporter
        from core.quantize.quality import compare

        row = ask["row"]
        with safe_open(ask["path"], "pt") as stream:
            expected = stream.get_tensor(str(ask["place"]))
        found = compare([expected], self._opened.logits, [row], Reporter())
        return {"quality": found.as_dict()}


_ONNX = ("numpy", "core.optimize.session", "core.optimize.genai")
_TORCH = ("transformers", "peft", "core.finetune.lora_layer", "core.olive.checkpoint", "core.quantize.verify")


def _import_all(onnx: bool) -> None:
    """Load the libraries first: how long a model takes is not to hold how long torch takes."""
    for name in _ONNX if onnx else _TORCH:
        import_module(name)
    if onnx:
        from core.optimize.genai import import_genai

        import_genai()


def _write_reference(request: Request) -> Numbers:
    from safetensors.torch import save_file

    from core.quantize.verify import float_logits, running_device

    ask = request.ask
    found = float_logits(
        Path(ask["folder"]), ask["rows"], request.reporter(), running_device(), bool(ask["trust"])
    )
    save_file({str(place): each.float().cpu().contiguous() for place, each in enumerate(found)}, ask["path"])
    return {}


def peak_memory() -> Numbers:
    """The most that this process has had in RAM, and on the GPU by torch's count where torch used one.

    Not getrusage(2): its maximum is that of the parent where that was larger, whose memory the child had for a moment.
    """
    import sys

    found: Numbers = {"ram_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    try:
        with open("/proc/self/status", encoding="ascii") as stream:
            line = next(line for line in stream if line.startswith("VmHWM:"))
        found["ram_bytes"] = int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu_bytes"] = int(torch.cuda.max_memory_allocated())
    return found


if __name__ == "__main__":
    serve(Worker().handle, grace_s=0)
