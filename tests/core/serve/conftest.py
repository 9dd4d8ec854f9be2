"""Servers of tiny models, started once for these tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from core import Lab
from core.serve.model import Limits
from core.serve.server import ModelServer
from tests.core.chat.conftest import (  # fixtures
    Reference as Reference,
)
from tests.core.chat.conftest import built_llama as built_llama
from tests.core.chat.conftest import llama_checkpoint as llama_checkpoint
from tests.core.chat.conftest import long_llama as long_llama
from tests.core.chat.conftest import reference as reference


def lab_of(model: Path, root: Path) -> Lab:
    """A lab whose optimized model is a copy of this one."""
    settings = {"chat.max_new_tokens": 12, "chat.context_tokens": 16384}
    lab = Lab.create(root, settings=settings)
    lab.folder.onnx_dir.parent.mkdir(parents=True)
    shutil.copytree(model, lab.folder.onnx_dir)
    return lab


def client_of(server: ModelServer, key: str = "none") -> OpenAI:
    """The official client, which tries nothing again."""
    return OpenAI(base_url=server.url, api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="session")
def served(built_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """The tiny Llama as ``lab``, with ``lab:one`` and ``lab:two``; 12 tokens an answer unless asked otherwise."""
    lab = lab_of(built_llama, tmp_path_factory.mktemp("served") / "lab")
    with ModelServer(lab, port=0, limits=Limits(cache_bytes=1 << 26)) as server:
        server.wait_ready(60)
        yield server


@pytest.fixture(scope="session")
def client(served: ModelServer) -> Iterator[OpenAI]:
    with client_of(served) as client:
        yield client


@pytest.fixture
def own(built_llama: Path, tmp_path: Path) -> Lab:
    """A lab that a test may change."""
    return lab_of(built_llama, tmp_path / "lab")


@pytest.fixture
def long_lab(long_llama: Path, tmp_path: Path) -> Lab:
    """A lab whose model ends no answer."""
    return lab_of(long_llama, tmp_path / "lab")


@pytest.fixture(scope="session")
def endless(long_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A model whose answers end at their limit only; two requests may wait, for three seconds."""
    lab = lab_of(long_llama, tmp_path_factory.mktemp("endless") / "lab")
    with ModelServer(lab, port=0, limits=Limits(waiting=2, seconds=3)) as server:
        server.wait_ready(60)
        yield server


@pytest.fixture(scope="session")
def endless_client(endless: ModelServer) -> Iterator[OpenAI]:
    with client_of(endless) as client:
        yield client
