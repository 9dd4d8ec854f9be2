"""Tiny chat models in ONNX, with adapters, built once for these tests."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.chat import ChatSession
from tests.tiny_models import make_tiny

LONG = "Where does it end?"
"""A question to the model that ends no answer."""


def build(
    checkpoint: Path,
    folder: Path,
    precision: str = "int4",
    seeds: tuple[int, ...] = (1, 2),
    accuracy_level: int = 1,
) -> Path:
    """An ONNX model of a checkpoint with random adapters ``one``, ``two``, … for it.

    Args:
        accuracy_level: 1: adapters are inputs of the graph; 4: they stand inside it.
    """
    import torch

    from core.files import digest
    from core.optimize.adding import add_adapter
    from core.optimize.build import open_graph
    from core.optimize.genai_builder import build as build_graph

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        build_graph(
            checkpoint,
            folder,
            precision=precision,
            provider="CPUExecutionProvider",
            options={"accuracy_level": accuracy_level},
            work=folder.parent / "work",
        )
    layout = open_graph(folder, checkpoint, digest(folder / "model.onnx"))
    for name, seed in zip(("one", "two"), seeds, strict=False):
        torch.manual_seed(seed)
        rank = 2 * seed
        tensors = {
            key: torch.randn([rank if size is None else size for size in shape]) * 0.3
            for key, shape in layout.inputs().items()
        }
        add_adapter(folder, name, tensors, {"rank": rank, "alpha": rank})
    return folder


@pytest.fixture(scope="session")
def llama_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("chat") / "llama")


@pytest.fixture(scope="session")
def built_llama(llama_checkpoint: Path) -> Path:
    return build(llama_checkpoint, llama_checkpoint.parent / "onnx")


@pytest.fixture
def llama(built_llama: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(built_llama, tmp_path / "onnx"))


@pytest.fixture
def chat(built_llama: Path, tmp_path: Path) -> Iterator[ChatSession]:
    """A chat with the tiny Llama's base, 16 tokens an answer."""
    with ChatSession(built_llama, chats_dir=tmp_path / "chats") as session:
        session.set(max_new_tokens=16)
        session.wait_ready(60)
        yield session


@pytest.fixture(scope="session")
def long_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a long context that never ends an answer: the end tokens' logits are always 0."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("long")
    checkpoint = make_tiny("llama", folder / "llama", max_position_embeddings=16384)
    weights = load_file(checkpoint / "model.safetensors")
    for token in (0, 4):
        weights["lm_head.weight"][token] = 0
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    return build(checkpoint, folder / "onnx")


@pytest.fixture
def endless(long_llama: Path, tmp_path: Path) -> Iterator[ChatSession]:
    """A chat whose answers may have 12000 tokens."""
    with ChatSession(long_llama, context_tokens=16384, chats_dir=tmp_path / "chats") as session:
        session.set(max_new_tokens=12_000)
        session.wait_ready(60)
        yield session


class Reference:
    """The same model in this process, with the runtime's own tokenizer and template and no cache between questions."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai as og

        self._og: Any = og
        self._model = og.Model(str(folder))
        self._tokenizer = og.Tokenizer(self._model)
        self._adapters = og.Adapters(self._model)
        for name in ("one", "two"):
            self._adapters.load(str(folder / "adapters" / f"{name}.onnx_adapter"), name)
        from tokenizers import Tokenizer

        self._decoder = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        import json

        text = self._tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
        return [int(token) for token in self._tokenizer.encode(text)]

    def greedy(self, messages: list[dict[str, str]], count: int, adapter: str = "") -> str:
        import numpy as np

        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=512, do_sample=False)
        generator = self._og.Generator(self._model, params)
        if adapter:
            generator.set_active_adapter(self._adapters, adapter)
        generator.append_tokens(np.array(self.prompt_ids(messages), dtype=np.int32))
        found: list[int] = []
        while not generator.is_done() and len(found) < count:
            generator.generate_next_token()
            found.append(int(generator.get_next_tokens()[0]))
        ends = {0, 4}
        text: str = self._decoder.decode(
            [token for token in found if token not in ends], skip_special_tokens=False
        )
        return text


@pytest.fixture(scope="session")
def reference(built_llama: Path) -> Reference:
    return Reference(built_llama)
