"""A model taken layer by layer: read from its files, run on the calibration rows, and let go.

Only the embeddings, the norms and one layer are in memory at a time, on the GPU if there is one, so
a model needs neither the memory of the machine nor that of the GPU for all of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from olive.common.hf.wrapper import ModelWrapper
from torch import Tensor, nn

from core.errors import RequestError
from core.language import told
from core.model.weights import tensor_entries


@dataclass
class CalibrationBatch:
    """Some calibration rows, padded on the right to one length.

    Attributes:
        ids: token ids, (rows, tokens).
        real: 1 for tokens, 0 for padding, (rows, tokens).
        hidden: what goes into the next layer, (rows, tokens, width).
        exact: the same from float layers alone, where it is wanted and another one.
        calls: for each layer the arguments that the model hands it beside the hidden states.
    """

    ids: Tensor
    real: Tensor
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    exact: Tensor | None = None
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


def batches(
    rows: Sequence[Sequence[int]], tokens: int, pad: int = 0, probe: int = 2
) -> list[CalibrationBatch]:
    """Rows as batches of at most ``tokens`` tokens, short rows together; the first holds few rows.

    Args:
        probe: rows in the first batch, for checks that need only a little.
    """
    order = sorted((list(row) for row in rows if len(row)), key=len, reverse=True)
    made: list[CalibrationBatch] = []
    while order:
        longest = len(order[0])
        count = max(1, tokens // longest)
        count = min(count, probe) if not made else count
        part, order = order[:count], order[count:]
        ids = torch.full((len(part), longest), pad, dtype=torch.long)
        real = torch.zeros(len(part), longest, dtype=torch.long)
        for number, row in enumerate(part):
            ids[number, : len(row)] = torch.tensor(row)
            real[number, : len(row)] = 1
        made.append(CalibrationBatch(ids, real))
    return made


class LayerwiseModel:
    """A causal language model whose layers are loaded one after the other.

    Args:
        path: the model's folder.
        dtype: in which it computes; None for the checkpoint's own.
        whole: the model as transformers has loaded it, whose weights are taken in place of the files'.

    Attributes:
        wrapper: Olive's view of it; layers that are not loaded hold no weights.
        dtype: of the checkpoint's weights.
        compute: in which it computes.
    """

    def __init__(
        self,
        path: Path,
        device: str = "cpu",
        *,
        dtype: torch.dtype | None = None,
        trust_remote_code: bool = False,
        whole: Any = None,
    ) -> None:
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM

        self.path = path
        self.device = torch.device(device)
        if whole is None:
            files = {name: entry.file for name, entry in tensor_entries(path).items()}
            self._stored: set[str] = set(files)
            self._read: Callable[[Sequence[str]], dict[str, Tensor]] = partial(_from_files, files)
            config = AutoConfig.from_pretrained(
                str(path), trust_remote_code=trust_remote_code, local_files_only=True
            )
        else:
            state, config = whole.state_dict(), whole.config
            self._stored = set(state)
            self._read = lambda names: {name: state[name] for name in names}
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        model.eval()
        model.requires_grad_(False)
        self.model: Any = model
        self.wrapper = ModelWrapper.from_model(model)
        self.layers: list[nn.Module] = list(self.wrapper.get_layers(return_name=False))
        self.prefix: str = self.wrapper.get_layers()[1]
        self.head_name: str = self.wrapper.get_lm_head()[1]
        self.embedding_name: str = self.wrapper.get_embeds()[1][0]
        self.dtype = dtype_of(model.config)
        self.compute = dtype or self.dtype
        self.tied = bool(getattr(model.config, "tie_word_embeddings", False))
        self._names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        self._names += [name for name, _ in _persistent_buffers(model)]
        if whole is None:
            self._refuse_other_names()
        self._reader = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[dict[str, Tensor]]] | None = None

    def _refuse_other_names(self) -> None:
        head = self.head_name + ".weight"
        missing = [
            name for name in self._names if name not in self._stored and not (self.tied and name == head)
        ]
        if missing:
            raise UnknownNames(
                told("The model's weights do not have the names that its architecture gives them."),
                f"{self.path}: no {missing[0]}.",
                code="model.names",
            )

    # Loading

    def _layer_names(self, index: int) -> list[str]:
        start = f"{self.prefix}.{index}."
        return [name for name in self._names if name.startswith(start)]

    def _put(self, module: nn.Module, prefix: str, tensors: dict[str, Tensor]) -> None:
        state = {
            name.removeprefix(prefix): (
                tensor.to(self.device, self.compute) if tensor.is_floating_point() else tensor.to(self.device)
            )
            for name, tensor in tensors.items()
        }
        module.load_state_dict(state, strict=False, assign=True)
        module.requires_grad_(False)
        # Buffers that no file holds (rotary frequencies) follow.
        for owner in module.modules():
            for name, buffer in list(owner._buffers.items()):
                if buffer is not None and buffer.device != self.device:
                    owner._buffers[name] = buffer.to(self.device)

    def load_outer(self) -> None:
        """Load all that stands outside the layers but the output matrix."""
        inner = self.prefix + "."
        head = self.head_name + "."
        outer = [name for name in self._names if not name.startswith((inner, head))]
        tensors = self._read(outer)
        state = {
            name: tensor.to(self.device, self.compute) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
        self.model.load_state_dict(state, strict=False, assign=True)
        self.model.requires_grad_(False)
        self._move_outer(self.device, self.compute)

    def _outer_modules(self) -> Iterator[nn.Module]:
        inside = {id(module) for layer in self.layers for module in layer.modules()}
        inside.add(id(self.wrapper.get_lm_head(return_name=False)))
        for module in self.model.modules():
            if id(module) not in inside:
                yield module

    def _move_outer(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        for module in self._outer_modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None and not parameter.is_meta:
                    moved = nn.Parameter(parameter.data.to(device, dtype), requires_grad=False)
                    module._parameters[name] = moved
            for name, buffer in list(module._buffers.items()):
                if buffer is not None and not buffer.is_meta:
                    # Rotary frequencies and the like stay in the precision that the model gave them.
                    module._buffers[name] = buffer.to(device)

    def release_outer(self) -> None:
        """Bring what stands outside the layers back to the machine's memory, in the checkpoint's dtype."""
        self._move_outer(torch.device("cpu"), self.dtype)

    def load_layer(self, index: int) -> nn.Module:
        """Load a layer; the next one is read meanwhile."""
        layer = self.layers[index]
        if self._ahead is not None and self._ahead[0] == index:
            tensors = self._ahead[1].result()
        else:
            tensors = self._read(self._layer_names(index))
        self._ahead = None
        if index + 1 < len(self.layers):
            self._ahead = (index + 1, self._reader.submit(self._read, self._layer_names(index + 1)))
        self._put(layer, f"{self.prefix}.{index}.", tensors)
        return layer

    def drop_layer(self, index: int) -> None:
        """Let go of a layer's weights."""
        self.layers[index].to("meta")

    def load_head(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """Load the output matrix; where it is tied, a copy of the embeddings."""
        head: nn.Linear = self.wrapper.get_lm_head(return_name=False)
        name = self.head_name + ".weight"
        source = name if name in self._stored else self.embedding_name + ".weight"
        names = {source: "weight"}
        if self.head_name + ".bias" in self._stored:
            names[self.head_name + ".bias"] = "bias"
        state = {
            names[key]: value.to(self.device, dtype or self.compute)
            for key, value in self._read(list(names)).items()
        }
        head.load_state_dict(state, assign=True)
        head.requires_grad_(False)
        return head

    def close(self) -> None:
        """End the reading thread."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    # Running

    def start(self, work: Sequence[CalibrationBatch]) -> None:
        """Fill in each batch's first hidden states and the arguments of every layer.

        The model runs with layers that do nothing but write down how they were called, so whatever
        an architecture computes before and around them (masks, positions, several rotary
        embeddings) comes from its own code.
        """
        current: list[CalibrationBatch] = []

        def recorder(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **options: Any) -> Any:
                batch = current[0]
                hidden = options.pop("hidden_states") if "hidden_states" in options else args[0]
                rest = args[1:] if args else ()
                if index == 0:
                    batch.hidden = hidden
                batch.calls.append((tuple(rest), options))
                return hidden

            return forward

        decoder = getattr(self.model, self.model.base_model_prefix, self.model)
        try:
            for index, layer in enumerate(self.layers):
                layer.forward = recorder(index)
            for batch in work:
                current[:] = [batch]
                batch.calls.clear()
                with torch.no_grad():
                    decoder(
                        input_ids=batch.ids.to(self.device),
                        attention_mask=batch.real.to(self.device),
                        use_cache=False,
                    )
        finally:
            for layer in self.layers:
                layer.__dict__.pop("forward", None)  # the class's own comes back

    def run_layer(self, index: int, batch: CalibrationBatch, layer: nn.Module | None = None) -> Tensor:
        """A layer's output for a batch's hidden states."""
        args, options = batch.calls[index]
        with torch.no_grad():
            out = (layer or self.layers[index])(batch.hidden, *args, **options)
        return out[0] if isinstance(out, tuple) else out

    def logits(self, batch: CalibrationBatch) -> Tensor:
        """What the model makes of a batch's hidden states behind the last layer.

        Its own code does it, so that a cap or a factor on the logits is there. The output matrix and all
        outside the layers must be loaded.
        """

        def forward(*args: Any, **options: Any) -> Tensor:
            return batch.hidden

        try:
            for layer in self.layers:
                layer.forward = forward
            with torch.no_grad():
                found: Tensor = self.model(
                    input_ids=batch.ids.to(self.device),
                    attention_mask=batch.real.to(self.device),
                    use_cache=False,
                ).logits
        finally:
            for layer in self.layers:
                layer.__dict__.pop("forward", None)
        return found

    def final_norm(self, hidden: Tensor) -> Tensor:
        """What the output matrix reads."""
        norm: nn.Module = self.wrapper.get_pre_head_layernorm(return_name=False)
        with torch.no_grad():
            return norm(hidden)


class UnknownNames(RequestError):
    """The checkpoint cannot be read layer by layer; transformers must load it as a whole."""


def _from_files(files: dict[str, Path], names: Sequence[str]) -> dict[str, Tensor]:
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(files[name], []).append(name)
    for file, wanted in by_file.items():
        with safe_open(str(file), framework="pt") as stream:
            for name in wanted:
                found[name] = stream.get_tensor(name)
    return found


def dtype_of(config: Any) -> torch.dtype:
    """The type that a model's configuration names for its weights."""
    dtype = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None) or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


def streamed_logits(
    path: Path, rows: Sequence[Sequence[int]], device: str, report: Any, *, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """The float model's logits for each row, (tokens, vocabulary), float32 on the CPU, one layer in memory.

    Raises:
        UnknownNames: the checkpoint must be loaded as a whole.
    """
    model = LayerwiseModel(path, device, dtype=dtype)
    try:
        model.load_outer()
        work = [
            CalibrationBatch(torch.tensor([list(row)]), torch.ones(1, len(row), dtype=torch.long))
            for row in rows
        ]
        model.start(work)
        for index in range(len(model.layers)):
            report.check_cancelled()
            report.progress(told("Asking the float model"), index, len(model.layers))
            model.load_layer(index)
            for batch in work:
                batch.hidden = model.run_layer(index, batch)
            model.drop_layer(index)
        model.load_head()
        made = [model.logits(batch)[0].float().cpu() for batch in work]
        report.progress(told("Asking the float model"), len(model.layers), len(model.layers))
        return made
    finally:
        model.close()
