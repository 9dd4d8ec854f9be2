"""Chat speed: a bare onnxruntime-genai loop against OlivePress's chat, same model, prompts and run.

    python benchmarks/chat.py [MODEL_DIR] [--tokens 128] [--rounds 5]

MODEL_DIR is a folder with genai_config.json; without one, a random 12-layer Llama-like int4 model of
about 200 million weights is built first (its words mean nothing, its speed does). Rounds alternate, the
median of each side counts. Ours is timed where a reader of the chat stands: in this process, at the
other end of the pipe. Each round asks something new, so that nothing is in the cache.
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

os.environ.setdefault("OLIVE_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

WORDS = [
    "rivers",
    "museums",
    "castles",
    "islands",
    "markets",
    "gardens",
    "bridges",
    "harbours",
    "forests",
    "lakes",
]


def question(number: int) -> str:
    """A question that differs from the others in its first words, so that no cache helps."""
    word = WORDS[number % len(WORDS)]
    return f"{word} {number}: name the most beautiful {word} of Europe, and say in which country they lie."


def build_model(folder: Path) -> Path:
    """A random model large enough that the work is in the model."""
    from onnxruntime_genai.models.builder import create_model

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
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        create_model("", str(checkpoint), str(folder / "model"), "int4", "cpu", str(folder / "cache"))
    config = folder / "model" / "genai_config.json"
    data = json.loads(config.read_text())
    data["model"]["eos_token_id"] = [data["model"]["vocab_size"] - 1]  # random words should not end early
    config.write_text(json.dumps(data))
    return folder / "model"


class Bare:
    """The shortest loop that streams text."""

    def __init__(self, model_dir: Path, context: int) -> None:
        import onnxruntime_genai as og

        from core.chat.conversation import Conversation, Tokens, read_genai_config

        self._model = og.Model(str(model_dir))
        self._tokenizer = og.Tokenizer(self._model)
        self._render = Conversation(
            model_dir, Tokens(model_dir, self._tokenizer), "{prompt}\n{response}"
        ).render
        found = read_genai_config(model_dir)["model"]["eos_token_id"]
        self._ends = set(found if isinstance(found, list) else [found])
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=context, do_sample=False)
        self._generator = og.Generator(self._model, params)
        self._generator.append_tokens(self._tokenizer.encode("warm"))

    def ask(self, text: str, tokens: int) -> tuple[float, float, int]:
        """Time to the first token (s), tokens a second after it, and the number of tokens."""
        generator = self._generator
        generator.rewind_to(0)
        prompt = self._render([{"role": "user", "content": text}])
        stream = self._tokenizer.create_stream()
        began = time.perf_counter()
        generator.append_tokens(self._tokenizer.encode(prompt))
        first = last = 0.0
        count = 0
        while not generator.is_done() and count < tokens:
            generator.generate_next_token()
            token = generator.get_next_tokens()[0]
            if token in self._ends:
                break
            stream.decode(token)
            last = time.perf_counter()
            first = first or last
            count += 1
        return first - began, (count - 1) / (last - first) if count > 1 else 0.0, count


def ours(session: object, text: str, tokens: int) -> tuple[float, float, int]:
    """The same of OlivePress's chat, timed at the receiving end."""
    from core.chat import ChatSession
    from core.chat.protocol import Done, Token

    assert isinstance(session, ChatSession)
    arrived: list[float] = []
    count = 0
    began = time.perf_counter()
    for event in session.begin_alone(text, (None,), temperature=0.0, max_new_tokens=tokens):
        if isinstance(event, Token):
            arrived.append(time.perf_counter())
        elif isinstance(event, Done):
            count = event.new_tokens
    spent = arrived[-1] - arrived[0]
    return arrived[0] - began, (count - 1) / spent if spent > 0 else 0.0, count


def main() -> int:
    """Run and print; with ``--json`` one object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from core.chat import ChatSession

    with contextlib.ExitStack() as stack:
        model = options.model
        if model is None:
            model = build_model(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        session = stack.enter_context(ChatSession(model))
        ready = session.wait_ready()
        bare = Bare(model, ready.context_tokens)
        results: dict[str, list[tuple[float, float, int]]] = {"bare": [], "ours": []}
        for number in range(options.rounds + 1):
            for name in ("bare", "ours") if number % 2 else ("ours", "bare"):
                ask = bare.ask if name == "bare" else lambda text, tokens: ours(session, text, tokens)
                found = ask(question(number), options.tokens)
                if number:  # the first round warms up
                    results[name].append(found)
    first, speed = (
        {name: statistics.median(item[place] for item in rounds) for name, rounds in results.items()}
        for place in (0, 1)
    )
    # Ratios within a round: whatever else the machine did then, it did to both.
    pairs = list(zip(results["bare"], results["ours"], strict=True))
    report = {
        "model": str(options.model or "random Llama-like, 12 layers, hidden 1024, int4"),
        "rounds": options.rounds,
        "tokens": statistics.median(item[2] for item in results["ours"]),
        "bare_tokens_per_s": round(speed["bare"], 1),
        "ours_tokens_per_s": round(speed["ours"], 1),
        "ratio": round(statistics.median(right[1] / left[1] for left, right in pairs), 3),
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
