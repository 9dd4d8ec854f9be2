"""Which architectures are built right: the table in docs/optimize.md, made anew.

``python -m benchmarks.architectures``: a minute. For every shape of ``tests/core/optimize/shapes.py`` a tiny random
model is made and built in float32, and its logits are compared with PyTorch's in a short text and in one that is
longer than the window and the original context of long ropes. Then what is refused, with its reason.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(OLIVE_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    """Print both tables in Markdown."""
    import transformers

    from core.model.architectures import ARCHITECTURES, REFUSED, UNTRIED, judge
    from core.model.folder import read_config
    from core.stage_context import versions
    from tests.core.optimize.shapes import LENGTHS, SHAPES, distances, graph_of
    from tests.tiny_models import make_tiny

    transformers.utils.logging.set_verbosity_error()
    print(
        ", ".join(f"{name} {number}" for name, number in versions("onnxruntime-genai", "onnxruntime").items())
    )
    short, long = LENGTHS
    print(f"\n| model_type | shape | largest difference, {short} tokens | {long} tokens |\n|---|---|---|---|")
    for name, (arch, options) in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            quiet = io.StringIO()
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                checkpoint = make_tiny(arch, Path(folder) / "model", **options)
                apart = distances(checkpoint, graph_of(checkpoint, Path(folder), "fp32"))
            config = read_config(checkpoint)
            assert judge(config).state != REFUSED, name
            print(f"| `{config['model_type']}` | {name} | {apart[0]:.0e} | {apart[1]:.0e} |", flush=True)
    print("\n| model_type | |\n|---|---|")
    for kind, known in ARCHITECTURES.items():
        if known.state == UNTRIED:
            print(f"| `{kind}` | untried: the builder knows it, and optimize verifies what it makes |")
        elif known.state == REFUSED:
            print(f"| `{kind}` | refused: {known.reason} |")


if __name__ == "__main__":
    main()
