"""Chat speed: a bare onnxruntime-genai loop against OlivePress's chat, same model, prompts and run.

    python benchmarks/chat.py [MODEL_DIR] [--tokens 128] [--rounds 7] [--screen]

MODEL_DIR is a folder with genai_config.json; without one, a random 12-layer Llama-like int4 model of
about 200 million weights is built first (its words mean nothing, its speed does). Rounds alternate.
Ours is timed where a reader of the chat stands, in this process at the other end of the pipe; with --screen
where the answer is drawn, in the wizard at 80 by 24. Each round asks something new, so that nothing is in
the cache. The base answers, without an adapter.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.chat import ChatSession

os.environ.update(OLIVE_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Timing = tuple[float, int, float]
CITIES = ["Chicago", "Rome", "Lisbon", "Vienna", "Hanoi", "Cairo", "Oslo", "Quito", "Kyoto", "Dakar"]


def question(number: int) -> str:
    """A question that differs from the others in its first words, so that no cache helps."""
    return f"{number}. I go to {CITIES[number % len(CITIES)]} for a week. What should I see there, and when?"


def build_model(folder: Path) -> Path:
    """A random model large enough that the work is in the model."""
    from safetensors.torch import load_file, save_file

    from core.optimize.genai_builder import build
    from tests.tiny_models import make_tiny

    checkpoint = make_tiny(
        "llama",
        folder / "checkpoint",
        hidden=1024,
        layers=12,
        heads=16,
        kv_heads=8,
        intermediate=4096,
        max_position_embeddings=2048,
    )
    # Random words should not end an answer: the end tokens' logits become 0, below the likeliest's.
    weights = load_file(checkpoint / "model.safetensors")
    for token in (0, 4):
        weights["lm_head.weight"][token] = 0
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        build(
            checkpoint,
            folder / "model",
            precision="int4",
            provider="CPUExecutionProvider",
            options={},
            work=folder / "work",
        )
    return folder / "model"


class Bare:
    """The shortest loop that streams text."""

    def __init__(self, model_dir: Path, context: int) -> None:
        import onnxruntime_genai as og

        from core.model.prompt_format import read_prompt_format
        from core.optimize.trusted import check_config

        self._model = og.Model(str(model_dir))
        self._tokenizer = og.Tokenizer(self._model)
        self._prompts = read_prompt_format(model_dir)
        found = check_config(model_dir)["model"]["eos_token_id"]
        self._ends = set(found if isinstance(found, list) else [found])
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=context, do_sample=False)
        self._generator = og.Generator(self._model, params)
        self._generator.append_tokens(self._tokenizer.encode("warm"))

    def ask(self, text: str, tokens: int) -> Timing:
        """Time to the first token (s), steps after it (the end token's too), and the seconds they took."""
        generator = self._generator
        generator.rewind_to(0)
        from core.model.messages import Message

        prompt = self._prompts.prompt_ids([Message("user", text)])
        stream = self._tokenizer.create_stream()
        began = time.perf_counter()
        generator.append_tokens(prompt)
        first = last = 0.0
        steps = 0
        while not generator.is_done() and steps < tokens:
            generator.generate_next_token()
            token = generator.get_next_tokens()[0]
            if token not in self._ends:
                stream.decode(token)
            last = time.perf_counter()
            first = first or last
            steps += 1
            if token in self._ends:
                break
        return first - began, steps - 1, last - first


def ours(session: ChatSession, text: str, tokens: int) -> Timing:
    """The same of OlivePress's chat, timed at the receiving end."""
    from core.chat.protocol import Done, Token

    arrived: list[float] = []
    steps, ended = 0, 0.0
    began = time.perf_counter()
    for event in session.begin_alone(text, (None,), temperature=0.0, max_new_tokens=tokens):
        if isinstance(event, Token):
            arrived.append(time.perf_counter())
        elif isinstance(event, Done):
            steps = event.new_tokens - 1 + (event.stop == "end")
            ended = time.perf_counter()
    if not arrived:
        raise SystemExit(f"The model answers {text!r} with nothing; take another model.")
    return arrived[0] - began, steps, ended - arrived[0]


def by_pipe(session: ChatSession, model: Path, rounds: int, tokens: int) -> dict[str, list[Timing]]:
    """Both loops in turn; the first round warms up and does not count."""
    bare = Bare(model, session.wait_ready().context_tokens)
    results: dict[str, list[Timing]] = {"bare": [], "ours": []}
    for number in range(rounds + 1):
        for name in ("bare", "ours") if number % 2 else ("ours", "bare"):
            text = question(number)
            found = bare.ask(text, tokens) if name == "bare" else ours(session, text, tokens)
            if number:
                results[name].append(found)
    return results


async def on_screen(model: Path, rounds: int, tokens: int, bare: Bare) -> dict[str, list[Timing]]:
    """The same through the wizard's chat screen: timed from Enter to the first drawn word, and to the end."""
    import asyncio
    import shutil

    from core import Lab
    from tui.app import OlivePressApp
    from tui.screens.chat.transcript_view import AnswerView

    results: dict[str, list[Timing]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab.create(Path(folder) / "lab", settings={"chat.max_new_tokens": tokens})
        lab.folder.onnx_dir.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(model, lab.folder.onnx_dir)
        app = OlivePressApp(lab.folder.root, "chat")
        async with app.run_test(size=(80, 24)) as pilot:
            screen: Any = app.current
            while screen.controller.chat is None or screen.view.loading:
                await pilot.pause(0.05)
            await asyncio.to_thread(screen.controller.chat.set_adapter, None)
            for number in range(rounds + 1):
                screen.controller.chat.new()
                await screen.draw()
                screen.field.text = question(number)
                began = time.perf_counter()
                await pilot.press("enter")
                first = 0.0
                while screen.view.busy or (not first and screen.controller.chat.last is None):
                    views = list(screen.query(AnswerView))
                    if not first and views and views[-1].raw:
                        first = time.perf_counter()
                    await asyncio.sleep(0.001)
                answer = screen.controller.chat.last
                steps = answer.new_tokens - 1 + (answer.stop == "end")
                if not answer.new_tokens:
                    raise SystemExit(
                        f"The model answers {question(number)!r} with nothing; take another model."
                    )
                first = first or time.perf_counter()
                spent = time.perf_counter() - first
                await pilot.pause(0.5)  # the drawing is over: the bare loop has the machine for itself
                theirs = await asyncio.to_thread(bare.ask, question(number), tokens)
                if number:
                    results["ours"].append((first - began, steps, spent))
                    results["bare"].append(theirs)
    return results


def main() -> int:
    """Run and print; with ``--json`` one object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--screen", action="store_true", help="through the wizard's chat screen")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from core.chat import ChatSession
    from core.optimize.trusted import check_config

    with contextlib.ExitStack() as stack:
        model = options.model
        if model is None:
            model = build_model(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        if options.screen:
            import asyncio

            context = min(4096, check_config(model)["model"]["context_length"])
            results = asyncio.run(on_screen(model, options.rounds, options.tokens, Bare(model, context)))
        else:
            results = by_pipe(stack.enter_context(ChatSession(model)), model, options.rounds, options.tokens)
    first = {name: statistics.median(item[0] for item in rounds) for name, rounds in results.items()}
    # Over all rounds: single answers of a small model are too short to be timed.
    speed = {
        name: sum(item[1] for item in rounds) / sum(item[2] for item in rounds)
        for name, rounds in results.items()
    }
    pairs = zip(results["bare"], results["ours"], strict=True)
    report = {
        "model": str(options.model or "random Llama-like, 12 layers, hidden 1024, int4"),
        "rounds": options.rounds,
        "steps": sum(item[1] for item in results["ours"]),
        "bare_tokens_per_s": round(speed["bare"], 1),
        "ours_tokens_per_s": round(speed["ours"], 1),
        "ratio": round(speed["ours"] / speed["bare"], 3),
        "bare_first_token_ms": round(first["bare"] * 1000, 1),
        "ours_first_token_ms": round(first["ours"] * 1000, 1),
        "first_token_difference_ms": round(1000 * statistics.median(b[0] - a[0] for a, b in pairs), 1),
    }
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"model                {report['model']}")
    print(f"decode, bare loop    {report['bare_tokens_per_s']} tokens/s")
    print(f"decode, OlivePress   {report['ours_tokens_per_s']} tokens/s   ratio {report['ratio']}")
    print(f"first token, bare    {report['bare_first_token_ms']} ms")
    print(
        f"first token, ours    {report['ours_first_token_ms']} ms   {report['first_token_difference_ms']:+} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
