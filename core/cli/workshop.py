"""``olivepress workshop``: a room of people in the same lab, prepared, watched, rescued and collected by its host."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.parser import add_folder, add_json, add_set, folder_word, parse_settings, whole_number
from core.language import N_, _, shown
from core.stages import STAGES

if TYPE_CHECKING:
    from rich.text import Text

    from core.workshop import SeatStatus, Workshop
    from core.workshop.plan import RoomPlan

_LOOK_S = 1.0
_STATES = {"ready": N_("ready"), "waiting": N_("waiting"), "unreadable": N_("unreadable")}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and what it does, each with options of its own."""
    parser = commands.add_parser(
        "workshop",
        help=_("a room of people in the same lab: prepare, status, rescue, reset, collect"),
        description=_("A room of people in the same lab: a folder with a lab a seat, for its host."),
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_prepare(actions)

    action = actions.add_parser("status", help=_("which step every seat is at, and what fails where"))
    add_folder(action, _("the workshop's folder (default: here)"))
    action.add_argument("--watch", action="store_true", help=_("go on looking, until Ctrl-C"))
    add_json(action)
    action.set_defaults(run=status)

    action = actions.add_parser(
        "rescue",
        help=_("put the prepared result of a stage into a seat's lab"),
        description=_(
            "Put the prepared result of a stage, and of those before it, into a seat's lab. A job at "
            "work there is stopped. What the reference lab lacks is made first."
        ),
    )
    _add_seat(action)
    makes = [each.name for each in STAGES.values() if each.makes]
    action.add_argument("--stage", required=True, choices=makes, help=_("the stage"))
    add_json(action)
    action.set_defaults(run=rescue)

    action = actions.add_parser("reset", help=_("give a seat a new lab; what was there is set aside"))
    _add_seat(action)
    add_json(action)
    action.set_defaults(run=reset)

    action = actions.add_parser(
        "collect", help=_("gather every seat's report, with one page and a table over all")
    )
    add_folder(action, _("the workshop's folder (default: here)"))
    add_json(action)
    action.set_defaults(run=collect)


def _add_prepare(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "prepare",
        help=_("the model once, a lab a seat, prepared results, a plan, and what will fail"),
        description=_(
            "Make a workshop's folder: the model and the records once, read-only, a lab a seat, and "
            "a reference lab whose stages are run, so that their results can be handed out and their "
            "times are known. Then look at what of the room will fail. Given again it makes what is "
            "missing."
        ),
    )
    parser.add_argument("folder", metavar="DIR", type=folder_word, help=_("the workshop's folder"))
    parser.add_argument("--seats", type=whole_number, metavar="N", help=_("how many labs"))
    parser.add_argument("--model", metavar="SRC", help=_("as for a new lab (default: rehearsal)"))
    parser.add_argument(
        "--data", metavar="FILE", help=_("training records (default: the bundled travel questions)")
    )
    parser.add_argument("--steps", type=whole_number, metavar="N", help=_("training steps of every seat"))
    parser.add_argument(
        "--records", type=whole_number, metavar="N", help=_("learn from so many of the records")
    )
    parser.add_argument(
        "--minutes", type=whole_number, metavar="N",
        help=_("how long the lab may take (default: 35); given without --steps, it limits them"),
    )  # fmt: skip
    parser.add_argument(
        "--at-once", type=whole_number, metavar="N",
        help=_("jobs that may compute at once where there is no GPU (default: what cores and memory " "allow)"),
    )  # fmt: skip
    parser.add_argument(
        "--rehearsal", action="store_true", help=_("short: 40 steps, for a machine without a GPU")
    )
    parser.add_argument(
        "--own-accounts",
        action="store_true",
        help=_("the attendees have accounts of their own on this machine"),
    )
    parser.add_argument("--no-results", action="store_true", help=_("do not run the reference lab now"))
    parser.add_argument("--check", action="store_true", help=_("only look at what will fail"))
    add_set(parser, _("a recipe value of every seat, such as quantize.algorithm=rtn"))
    add_json(parser)
    parser.set_defaults(run=prepare)


def _add_seat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=folder_word, help=_("the workshop's folder"))
    parser.add_argument("seat", metavar="SEAT", help=_("its name or number: seat-03, or 3"))


def prepare(options: argparse.Namespace) -> int:
    """Make the workshop, then tell the plan and what will fail; exit status 4 if something will."""
    from core.check.types import overall
    from core.cli.check import print_checks
    from core.cli.show import EventPrinter, StderrReporter, print_json
    from core.errors import MachineError
    from core.text import clean, command
    from core.workshop import Wishes, Workshop, check_room
    from core.workshop import prepare as make
    from core.workshop.plan import plan

    if options.check:
        workshop = Workshop.open(options.folder)
    else:
        wishes = Wishes(
            seats=options.seats,
            model=options.model,
            data=Path(options.data) if options.data else None,
            settings=parse_settings(options.set),
            steps=options.steps,
            records=options.records,
            minutes=options.minutes,
            at_once=options.at_once,
            rehearsal=options.rehearsal,
            own_accounts=options.own_accounts,
        )
        workshop = make(
            options.folder, wishes, StderrReporter(), results=not options.no_results, on_event=EventPrinter()
        )
    made = plan(workshop)
    checks = check_room(workshop, made)
    good = overall(checks)
    if options.json:
        print_json(
            {
                "workshop": str(workshop.root),
                "seats": workshop.seat_names(),
                "plan": made.as_dict(),
                "ok": good,
                "checks": [check.as_dict() for check in checks],
                "handouts": str(workshop.handouts_dir),
            }
        )
        return 0 if good else MachineError.exit_status
    print_checks(checks)
    print()
    _print_plan(made)
    if not options.check:
        print()
        print(
            _(
                "Made {seats} labs in {root}",
                seats=workshop.seats,
                root=clean(str(workshop.root), keep_newlines=False),
            )
        )
        print(
            _(
                "A page for each seat: {path}",
                path=clean(str(workshop.handouts_dir), keep_newlines=False),
            )
        )
        print(
            _("Watch the room: {command}", command=command("workshop", "status", options.folder, "--watch"))
        )
    return 0 if good else MachineError.exit_status


def _print_plan(made: RoomPlan) -> None:
    """The times, a step a line."""
    from core.cli.show import cells, padded
    from core.formats import rough_duration

    def words(seconds: float | None) -> str:
        return "?" if seconds is None else shown(rough_duration(seconds))

    rows = [(_("step"), _("alone"), _("all {seats}", seats=made.seats), "")]
    for step in made.steps:
        how = (
            _("to read and talk") if step.reading else _("measured here") if step.measured else _("estimated")
        )
        rows.append((_(step.title), words(step.alone_s), words(step.room_s), f"   {how}"))
    end = {
        True: N_("of {minutes} min, it fits"),
        False: N_("of {minutes} min, it does not fit"),
        None: N_("of {minutes} min"),
    }[made.fits]
    rows.append((_("together"), "", words(made.total_s), f"   {_(end, minutes=made.minutes)}"))
    first, second, third = (
        max(least, *(cells(row[column]) for row in rows)) for column, least in enumerate((12, 8, 10))
    )
    for name, alone, room, rest in rows:
        print(f"{padded(name, first)} {_right(alone, second)} {_right(room, third)}{rest}")


def _right(text: str, width: int) -> str:
    from core.cli.show import cells

    return " " * (width - cells(text)) + text


def status(options: argparse.Namespace) -> int:
    """Every seat on a line; with ``--watch`` again and again."""
    import sys

    from core.cli.show import colours, print_json
    from core.jobs.turns import tickets
    from core.workshop import Workshop, seats_status

    workshop = Workshop.open(options.folder)

    def as_told(seats: list[SeatStatus]) -> dict[str, object]:
        line = [
            {"seat": Path(each.lab).name, "job": each.job, "since": each.since, "has": list(each.has)}
            for each in tickets(workshop.line_dir)
        ]
        return {"workshop": str(workshop.root), "seats": [each.as_dict() for each in seats], "line": line}

    if not options.watch:
        seats = seats_status(workshop)
        if options.json:
            print_json(as_told(seats))
        else:
            _print_seats(seats)
        return 0
    if not options.json and colours(sys.stdout):
        _watch_live(workshop)
        return 0
    before: list[SeatStatus] = []
    while True:
        seats = seats_status(workshop)
        changed = [each for each in seats if each not in before]
        if changed and options.json:
            print_json(as_told(seats))
        else:
            _print_seats(changed)
        before = seats
        time.sleep(_LOOK_S)


def _print_seats(seats: list[SeatStatus]) -> None:
    from core.cli.show import padded, say

    for each in seats:
        word, style, rest = _words(each)
        say((padded(word, 11), style), f" {rest}".rstrip(), head=f"{each.seat:<9}{each.step:<10}")


def _words(seat: SeatStatus) -> tuple[str, str, str]:
    """A seat's state with its colour, and the rest of its line."""
    from core.cli.show import STATES, TONES, phase_words, progress_words
    from core.text import clean

    rest = shown(seat.note)
    if seat.title or seat.code:
        rest = f"{shown(seat.title)} ({seat.code})" if seat.code else shown(seat.title)
    elif seat.state not in ("ready", "unreadable"):
        rest = progress_words(phase_words({"phase": seat.phase}), seat.done, seat.total, seat.eta_s)
    if seat.prepared:
        rest += ("; " if rest else "") + _("prepared: {stages}", stages=", ".join(seat.prepared))
    tones = {**TONES, "crashed": "bold red", "waiting": "yellow", "unreadable": "yellow", "ready": "dim"}
    word = {**STATES, **_STATES}.get(seat.state, "")
    return _(word) or seat.state, tones.get(seat.state, ""), clean(rest, keep_newlines=False)


def _watch_live(workshop: Workshop) -> None:
    """The seats on a terminal, drawn over until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    from core.workshop import seats_status

    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_drawn(seats_status(workshop), console.width), refresh=True)
            time.sleep(_LOOK_S)


def _drawn(seats: list[SeatStatus], width: int) -> Text:
    from rich.text import Text

    from core.cli.show import padded

    lines = []
    for each in seats:
        word, style, rest = _words(each)
        line = Text.assemble(f"{each.seat:<9}{each.step:<10}", (padded(word, 11), style), f" {rest}")
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return Text("\n").join(lines)


def rescue(options: argparse.Namespace) -> int:
    """Put prepared results into a seat's lab, and say what was changed there."""
    from core.cli.show import EventPrinter, print_json, say
    from core.text import clean
    from core.workshop import Workshop
    from core.workshop import rescue as help_seat

    done = help_seat(Workshop.open(options.folder), options.seat, options.stage, EventPrinter())
    if options.json:
        print_json(done.as_dict())
        return 0
    if done.stopped:
        print(_("{job} was stopped.", job=done.stopped))
    if done.recipe_aside:
        print(
            _(
                "Its recipe could not be read: it is in {path} now.",
                path=clean(done.recipe_aside, keep_newlines=False),
            )
        )
    for name, (was, now) in done.settings.items():
        say(clean(_("{name} is {now}, it was {was}", name=name, now=now, was=was), keep_newlines=False))
    if done.kept:
        print(
            _(
                "{seat} has made the same itself, and keeps it: {names}.",
                seat=done.seat,
                names=", ".join(done.kept),
            )
        )
    if done.stages:
        print(_("{seat} has the prepared result of {names}.", seat=done.seat, names=", ".join(done.stages)))
    return 0


def reset(options: argparse.Namespace) -> int:
    """Give a seat a new lab."""
    from core.cli.show import print_json
    from core.text import clean
    from core.workshop import Workshop
    from core.workshop import reset as renew

    workshop = Workshop.open(options.folder)
    aside = renew(workshop, options.seat)
    name = workshop.seat(options.seat).root.name
    if options.json:
        print_json({"seat": name, "aside": str(aside) if aside else None})
        return 0
    print(_("{name} has a new lab.", name=name))
    if aside is not None:
        print(_("What was there: {path}", path=clean(str(aside), keep_newlines=False)))
    return 0


def collect(options: argparse.Namespace) -> int:
    """Gather the reports."""
    from core.cli.show import print_json
    from core.text import clean
    from core.workshop import Workshop
    from core.workshop import collect as gather

    page = gather(Workshop.open(options.folder))
    if options.json:
        print_json({"page": str(page), "table": str(page.with_name("table.csv"))})
        return 0
    print(_("Open {page}", page=clean(str(page), keep_newlines=False)))
    return 0
