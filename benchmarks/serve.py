"""Serving speed: a bare onnxruntime-genai loop against `olivepress serve` over HTTP, same model, prompts and run.

    python benchmarks/serve.py LAB [--tokens 128] [--rounds 7]

LAB is a lab with an ONNX model. The server is a process of its own, asked by the `openai` client with streaming, as
programs ask it; the time is taken where the client hands out the pieces. Rounds alternate, each asks something new,
and the base answers. Then 32 clients ask at once for 32 tokens each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ.update(OLIVE_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.chat import Bare, Timing, question

CLIENTS = 32


def streamed(client: Any, model: str, text: str, tokens: int) -> Timing:
    """Time to the first piece (s), steps after it (the end token's too), and the seconds they took."""
    began = time.perf_counter()
    first = ended = 0.0
    usage = finish = None
    for chunk in client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        max_tokens=tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        now = time.perf_counter()
        if chunk.choices and chunk.choices[0].delta.content and not first:
            first = now
        if chunk.choices and chunk.choices[0].finish_reason:
            ended, finish = now, chunk.choices[0].finish_reason
        usage = chunk.usage or usage
    if not first or usage is None:
        raise SystemExit(f"The model answers {text!r} with nothing; take another model.")
    return first - began, usage.completion_tokens - 1 + (finish == "stop"), ended - first


def at_once(client: Any, model: str) -> tuple[float, int]:
    """Seconds until all of many clients that ask at once are answered, and the tokens that they got."""
    counts: list[int] = []

    def ask(number: int) -> None:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question(number)}],
            max_tokens=32,
            temperature=0,
        )
        counts.append(answer.usage.completion_tokens)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(counts) != CLIENTS:
        raise SystemExit(f"only {len(counts)} of {CLIENTS} clients were answered")
    return time.perf_counter() - began, sum(counts)


def main() -> int:
    """Run and print; with ``--json`` one object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("lab", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from openai import OpenAI

    from core import Lab

    lab = Lab.open(options.lab)
    command = [sys.executable, "-m", "core.cli", "serve", str(options.lab), "--port", "0", "--json"]
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))}
    results: dict[str, list[Timing]] = {"bare": [], "served": []}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    ) as server:
        try:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            client, model = OpenAI(base_url=told["url"], api_key="none", max_retries=0), told["models"][0]
            bare = Bare(lab.folder.onnx_dir, lab.recipe.chat.context_tokens)
            for number in range(options.rounds + 1):  # the first round warms up and does not count
                for name in ("bare", "served") if number % 2 else ("served", "bare"):
                    text = question(number)
                    found = (
                        bare.ask(text, options.tokens)
                        if name == "bare"
                        else streamed(client, model, text, options.tokens)
                    )
                    if number:
                        results[name].append(found)
            seconds, tokens = at_once(client, model)
        finally:
            server.terminate()
    first = {name: statistics.median(item[0] for item in rounds) for name, rounds in results.items()}
    speed = {
        name: sum(item[1] for item in rounds) / sum(item[2] for item in rounds)
        for name, rounds in results.items()
    }
    report = {
        "lab": str(options.lab),
        "rounds": options.rounds,
        "steps": sum(item[1] for item in results["served"]),
        "bare_tokens_per_s": round(speed["bare"], 1),
        "served_tokens_per_s": round(speed["served"], 1),
        "ratio": round(speed["served"] / speed["bare"], 3),
        "bare_first_token_ms": round(first["bare"] * 1000, 1),
        "served_first_token_ms": round(first["served"] * 1000, 1),
        "clients": CLIENTS,
        "clients_s": round(seconds, 2),
        "clients_tokens_per_s": round(tokens / seconds, 1),
    }
    if options.json:
        print(json.dumps(report))
        return 0
    for name, value in report.items():
        print(f"{name.replace('_', ' '):24}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
