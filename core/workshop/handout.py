"""A page for each seat, to print or to send: where the lab is, what is done in which step, and whom to ask."""

from __future__ import annotations

from pathlib import Path

from core.files import write_atomic
from core.formats import rough_duration
from core.language import N_, RIGHT_TO_LEFT, _, in_use, shown
from core.stages import default_stages
from core.text import clean, command
from core.workshop.folder import Workshop
from core.workshop.plan import READING, RoomPlan, plan

_TEMPLATE = Path(__file__).with_name("handout.html.j2")

_STEPS = {
    "check": (
        N_("Check"),
        N_("Read what it found. A WARN does not stop you."),
        N_("Press F4 for the next step."),
    ),
    "data": (
        N_("Data"),
        N_("Look at some records as the model will see them. What it learns to say is underlined."),
        N_("Which words of an answer would the model not say by itself?"),
    ),
    "quantize": (
        N_("Quantize"),
        N_(
            "Press F8. The weights are stored in 4 bits in place of 16; AWQ looks at your records to see which matter."
        ),
        N_("How much smaller is the model, and how often does it still expect the same next word?"),
    ),
    "finetune": (
        N_("Finetune"),
        N_("Press F8. An adapter beside the model learns your records; the model stays as it is."),
        N_("Does the held-out loss fall? Does it still fall at the end?"),
    ),
    "optimize": (
        N_("Optimize"),
        N_("Press F8. The model becomes an ONNX graph, the adapter a file beside it."),
        N_("How many of the questions does the tuned model answer as in the records, and how many the base?"),
    ),
    "chat": (
        N_("Chat"),
        N_("Ask a question of the records. Switch the adapter off and ask again."),
        N_("What did the adapter learn, and what did the model know before?"),
    ),
    "upload": (
        N_("Upload"),
        N_(
            "If you have an Azure Machine Learning workspace, register the result; else press k to take it with you."
        ),
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
        steps.append(
            {
                "title": _(title),
                "what": _(what),
                "question": _(question) if question else "",
                "time": "" if seconds is None else shown(rough_duration(seconds)),
            }
        )
    lab = workshop.root / seat
    text: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        seat=seat,
        folder=clean(str(lab), keep_newlines=False),
        wizard=clean(command(lab), keep_newlines=False),
        check=clean(command("check", lab), keep_newlines=False),
        status=clean(command("status", lab), keep_newlines=False),
        steps=steps,
        waits=made.at_once < made.seats,
        words=_words_of_page(seat, workshop.minutes),
        language=in_use(),
        direction="rtl" if in_use() in RIGHT_TO_LEFT else "ltr",
    )
    return text


def _words_of_page(seat: str, minutes: int) -> dict[str, str]:
    return {
        "title": _("OlivePress workshop"),
        "about": _(
            "From a language model to a small one that answers as your records do, in about {minutes} minutes.",
            minutes=minutes,
        ),
        "begin": _("Begin"),
        "open": _(
            "Open a terminal on the machine of the workshop, at least 80 columns wide and 24 lines high, and type:"
        ),
        "keys": _("Keys: F8 runs a step, F4 goes to the next, F2 is help, q leaves."),
        "back": _(
            "A job goes on when you leave or when the line breaks: the same command brings you back to it."
        ),
        "steps": _("The steps"),
        "waits": _(
            "There are more seats than can compute at once. A job that waits says at which place in the line it is, "
            "and begins by itself."
        ),
        "wrong": _("If something goes wrong"),
        "code": _("What to do stands with the error, and so does a code such as disk.full."),
        "host": _(
            "Tell your host that you are {seat}, and the code: a prepared result of any step can be put into your "
            "lab, and you go on from there.",
            seat=seat,
        ),
        "where": _("These say where you are:"),
    }
