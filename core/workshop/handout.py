"""A page for each seat, to print or to send: where the lab is, what is done in which step, and whom to ask."""

from __future__ import annotations

from pathlib import Path

from core.files import write_atomic
from core.formats import rough_duration
from core.stages import default_stages
from core.text import clean, command
from core.workshop.folder import Workshop
from core.workshop.plan import READING, RoomPlan, plan

_TEMPLATE = Path(__file__).with_name("handout.html.j2")

_STEPS = {
    "check": ("Check", "Read what it found. A WARN does not stop you.", "Press F4 for the next step."),
    "data": (
        "Data",
        "Look at some records as the model will see them. What it learns to say is underlined.",
        "Which words of an answer would the model not say by itself?",
    ),
    "quantize": (
        "Quantize",
        "Press F8. The weights are stored in 4 bits in place of 16; AWQ looks at your records to see which matter.",
        "How much smaller is the model, and how often does it still expect the same next word?",
    ),
    "finetune": (
        "Finetune",
        "Press F8. An adapter beside the model learns your records; the model stays as it is.",
        "Does the held-out loss fall? Does it still fall at the end?",
    ),
    "optimize": (
        "Optimize",
        "Press F8. The model becomes an ONNX graph, the adapter a file beside it.",
        "How many of the questions does the tuned model answer as in the records, and how many the base?",
    ),
    "chat": (
        "Chat",
        "Ask a question of the records. Switch the adapter off and ask again.",
        "What did the adapter learn, and what did the model know before?",
    ),
    "upload": (
        "Upload",
        "If you have an Azure Machine Learning workspace, register the result; else press k to take it with you.",
        "",
    ),
}


def write_handouts(workshop: Workshop) -> list[Path]:
    """Write every seat's page anew, and return their paths. It reads the records for the times: seconds."""
    made = plan(workshop)
    paths = []
    for name in workshop.seat_names():
        path = workshop.handouts_dir / f"{name}.html"
        write_atomic(path, handout(workshop, name, made))
        paths.append(path)
    return paths


def handout(workshop: Workshop, seat: str, made: RoomPlan) -> str:
    """A seat's page as HTML: one sheet of paper."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    times = {step.name: step for step in made.steps}
    stages = [name for name in default_stages() if name in _STEPS]
    steps = []
    for name in ("check", "data", *stages, "chat", "upload"):
        title, what, question = _STEPS[name]
        planned = times.get(name)
        seconds = 60 * READING[name] if name in READING else (planned.alone_s if planned else None)
        steps.append({"title": title, "what": what, "question": question,
                      "time": "" if seconds is None else rough_duration(seconds)})  # fmt: skip
    lab = workshop.root / seat
    text: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        seat=seat,
        folder=clean(str(lab), keep_newlines=False),
        wizard=clean(command(lab), keep_newlines=False),
        check=clean(command("check", lab), keep_newlines=False),
        status=clean(command("status", lab), keep_newlines=False),
        steps=steps,
        minutes=workshop.minutes,
        waits=made.at_once < made.seats,
    )
    return text
