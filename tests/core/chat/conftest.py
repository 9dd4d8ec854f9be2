"""Tiny chat models in ONNX, with adapters, built once for these tests."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.chat import ChatSession
from tests.tiny_models import make_tiny


def build(checkpoint: Path, folder: Path, precision: str = "int4", seeds: tuple[int, ...] = (1, 2)) -> Path:
    """An ONNX model of a checkpoint with random adapters ``one``, ``two``, … for it."""
    import torch
    from onnxruntime_genai.models.builder import create_model

    from core.files import digest
    from core.onnx.adapters import add_adapter
    from core.onnx.build import open_graph

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        create_model("", str(checkpoint), str(folder), precision, "cpu", str(folder.parent / "cache"))
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
