"""Make the pictures of the wizard in ``docs/pictures``, from labs whose jobs are written by hand.

    python docs/make_pictures.py [--lab DIR]

With ``--lab`` the chat screen is shown on a lab that went through all steps, and asked one question.
The screens are drawn by the real program; only the figures of the jobs are those of ``tests/tui/labs.py``.
"""

# ruff: noqa: E402 - the terminal is described before Textual looks at it

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", OLIVEPRESS_GUIDE="off")
os.environ.pop("NO_COLOR", None)

import tui.machine_load
from core.lab import Lab
from tests.tui.conftest import screen_text
from tests.tui.labs import END, job_in, made
from tui.app import OlivePressApp
from tui.lab_watch import seconds

PICTURES = ROOT / "docs" / "pictures"
PLAIN: dict[str, tuple[str, str, str]] = {
    # name: step, state of its job (empty: none), words that show that all is drawn
    "check": ("check", "", "can run the lab"),
    "data": ("data", "", "to learn"),
    "quantize": ("quantize", "", "Run Quantize"),
    "quantize-done": ("quantize", "succeeded", "8/32"),
    "finetune-running": ("finetune", "running", "8/100"),
    "finetune-failed": ("finetune", "failed", "no such file"),
    "optimize-done": ("optimize", "succeeded", "8/12"),
    "upload": ("upload", "", "olivepress"),
}


async def draw(
    lab: Lab,
    step: str,
    words: str,
    out: Path,
    size: tuple[int, int] = (80, 24),
    keys: Callable[..., object] | None = None,
) -> None:
    """One picture, once these words are on the screen."""
    app = OlivePressApp(lab.root, step)
    async with app.run_test(size=(80, 24)) as pilot:
        for _ in range(600):
            await pilot.pause(0.05)
            if words in screen_text(app) and app.screen.focused is not None:
                break
        else:
            raise SystemExit(f"{out.name}: {words!r} did not come\n{screen_text(app)}")
        if keys is not None:
            await keys(pilot)  # type: ignore[misc]
        await pilot.pause(0.5)
        text = app.export_screenshot(title="olivepress")
    # A picture in a repository fetches nothing: the reader's own fixed-width font will do.
    text = re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)
    text = text.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono")
    out.write_text(text, encoding="utf-8")
    print(out.relative_to(ROOT))


async def ask(pilot: object) -> None:
    """A question to the tuned model, and its answer."""
    app = pilot.app  # type: ignore[attr-defined]
    await pilot.press(*"What should I see in Chicago?".replace(" ", "~").replace("~", " "))  # type: ignore[attr-defined]
    await pilot.press("enter")  # type: ignore[attr-defined]
    for _ in range(600):
        await pilot.pause(0.1)  # type: ignore[attr-defined]
        if "tokens/s" in screen_text(app):
            return


def main() -> int:
    """Make them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lab", help="a finished lab, for the picture of the chat")
    options = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    time.time = lambda: seconds(END) or 0.0
    tui.machine_load.read = lambda: "GPU 7.3/80 GiB 97%"
    folder = Path(tempfile.mkdtemp(prefix="olivepress-pictures-"))
    os.environ["HOME"] = str(folder)
    os.environ["XDG_CONFIG_HOME"] = str(folder / ".config")
    try:
        for name, (step, state, words) in PLAIN.items():
            lab = Lab.create(folder / name / "travel-lab", settings={"finetune.steps": 100})
            os.chdir(lab.root)
            if step == "upload":
                made(lab, ("quantize", "finetune", "optimize"))
            job = job_in(lab, step, state) if state else None
            os.environ["HOME"] = str(lab.root.parent)
            asyncio.run(draw(lab, step, words, PICTURES / f"{name}.svg"))
            if job is not None:
                job.let_go()
    finally:
        os.chdir(ROOT)
        shutil.rmtree(folder, ignore_errors=True)
    if options.lab:
        lab = Lab.open(options.lab)
        os.environ["HOME"] = str(lab.root.parent)
        os.chdir(lab.root)
        asyncio.run(draw(lab, "chat", "Enter sends", PICTURES / "chat.svg", keys=ask))
    return 0


if __name__ == "__main__":
    sys.exit(main())
