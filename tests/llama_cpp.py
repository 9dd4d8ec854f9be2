"""llama.cpp itself (package xllamacpp), asked in a process of its own; tests that use it are skipped without it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PROGRAM = """
import json, sys
import xllamacpp

told = json.loads(sys.argv[1])
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel = told["model"], 1024, 1
settings.cpuparams.n_threads = 1
settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(each, 1.0) for each in told["adapters"]]
server = xllamacpp.Server(settings)
answer = getattr(server, told["call"])(told["ask"])
print(json.dumps(answer if isinstance(answer, dict) else json.loads(answer)))
"""


def _asked(model: Path, call: str, ask: dict[str, Any], adapters: Sequence[Path] = ()) -> dict[str, Any]:
    told = {"model": str(model), "adapters": [str(each) for each in adapters], "call": call, "ask": ask}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(told)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["choices"][0]
    return found


def answer(model: Path, question: str, *adapters: Path) -> str:
    """The likeliest answer of a chat."""
    ask = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 64}
    return str(_asked(model, "handle_chat_completions", ask, adapters)["message"]["content"]).strip()


def goes_on(model: Path, ids: list[int], count: int) -> list[tuple[int, float]]:
    """How it goes on behind some tokens: each token's number and the logarithm of its probability.

    Tokens that are no whole letter by themselves are not told.
    """
    ask = {"prompt": ids, "temperature": 0, "n_predict": count, "n_probs": 1, "ignore_eos": True}
    told = _asked(model, "handle_completions", ask)["logprobs"]["content"]
    return [(each["id"], each["logprob"]) for each in told]
