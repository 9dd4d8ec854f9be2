"""Record the wizard in a real run on the rehearsal model: ``docs/pictures/recording.svg``, which moves by itself.

    python docs/make_recording.py

It trains 60 steps. The checks are those of this machine, and the jobs do their work. Waiting is shortened: of a
job there is a picture at its start, some while it runs, and its end.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from make_pictures import small  # noqa: E402

from core.lab import Lab  # noqa: E402
from tui.app import OlivePressApp  # noqa: E402

FILE = ROOT / "docs" / "pictures" / "recording.svg"
SECONDS = 2.0
"""How long a picture stands."""
MOST = 4
"""Pictures of a job while it runs."""


async def record(root: Path) -> list[str]:
    """The pictures of a walk through check, data, quantize and finetune."""
    app = OlivePressApp(root)
    frames: list[str] = []
    lab = Lab.open(root)

    def look() -> None:
        frames.append(small(app.export_screenshot(title="olivepress")))

    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(10)  # for the checks of this machine
        look()
        await pilot.press("f4")
        await pilot.pause(4)
        look()
        for job in ("quantize", "finetune"):
            await pilot.press("f4")
            await pilot.pause(2)
            look()
            await pilot.press("f8")
            seen: list[str] = []
            while not any(each.id.startswith(job) and not each.active for each in lab.jobs()):
                await pilot.pause(2)
                seen.append(small(app.export_screenshot(title="olivepress")))
            frames += seen[:: max(1, -(-len(seen) // MOST))]
            await pilot.pause(3)
            look()
    return frames


def moving(frames: list[str]) -> str:
    """The pictures one after the other, each for as long, over and over."""
    length, share = SECONDS * len(frames), 100 / len(frames)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 994 635.6"><style>',
        # Where nothing moves, as in a preview, the last picture stands.
        f".frame {{ animation: shown {length:g}s step-end infinite }} .frame:not(:last-child) {{ visibility: hidden }}",
        f"@keyframes shown {{ 0% {{ visibility: visible }} {share:.4g}% {{ visibility: hidden }} }}</style>",
    ]
    for place, frame in enumerate(frames):
        own = re.sub(r'(?<=[".#])t-(?=[a-z])|(?<=\s\.)t-(?=[a-z])', f"f{place}-", frame)
        delay = f"animation-delay: {place * SECONDS - length:g}s"
        parts.append(f'<g class="frame" style="{delay}">{own}</g>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Make the recording."""
    os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "OLIVEPRESS_LANGUAGE": "en"}
    os.environ.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as folder:
        root = Path(folder) / "my-lab"
        Lab.create(root, settings={"finetune.steps": 60})
        FILE.write_text(moving(asyncio.run(record(root))), encoding="utf-8")
    print(f"{FILE.relative_to(ROOT)}: {FILE.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
