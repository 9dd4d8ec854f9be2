"""The plain mode: the wizard's seven steps as questions and answers on lines, for screen readers and dumb terminals.

No box, no colour, nothing drawn over. It reads lines and prints lines, so it works through a pipe as well. What it
shows and does comes from where the screens and the commands have it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.parser import parse, parse_settings
from core.cli.show import EventPrinter, StderrReporter, on_screen, order_lines, print_error
from core.errors import Cancelled, Help, LabError, Use, said, text_of
from core.language import N_, _, shown, words_of
from core.recipe import on_form
from core.remote.asked import STAGES_THERE
from core.searched import KINDS
from core.stages import STAGES, default_stages, result_lines
from core.text import clean, visible
from tui.lab_watch import LabWatch
from tui.session import Session, value_of
from tui.steps import Step, first_step, step_named, steps

if TYPE_CHECKING:
    from core.data.preview import Piece
    from core.data.survey import DataReport
    from core.jobs import Job
    from core.model.auto import Chosen
    from core.recipe import Recipe
    from tui.screens.stage.controller import StageController, StageState
    from tui.snapshot import Snapshot

_HOW = N_(
    "Enter takes what is offered; ? lists the other answers, and explains the step. Ctrl-C stops what runs, after a\n"
    "question; q leaves, and a job that runs goes on."
)
_MORE = N_("findings lists them all")
_LOG_LINES = 20
_WIDE = 10_000


class _Left(Exception):
    """The user wants to leave."""


@dataclass(frozen=True)
class Offer:
    """What can be answered.

    Attributes:
        word: what is typed for it; its beginning will do.
        says: what it does, as the wizard's button says it.
        do: does it, with the words behind it; the result is where to go on, None for here.
    """

    word: str
    says: str
    do: Callable[[str], Step | None]


def run_plain(folder: str | Path) -> int:
    """Lead through a lab's steps by lines; the exit status is that of the last step that did something.

    End of input ends it as ``q`` does. Ctrl-C at a question asks whether to leave, which is status 130.
    """
    order_lines()
    # What asks the terminal whether it may colour, redraw or edit is told no: our prints, readline, every child.
    os.environ["TERM"] = "dumb"
    if sys.stdin is None:  # the caller closed it
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - it is this process's input
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    with redirect_stderr(sys.stdout):  # one conversation, in order, whatever becomes of it in a pipe
        return PlainWizard(Path(folder)).run()


class PlainWizard:
    """The conversation.

    Attributes:
        status: the exit status, as the commands have it, of the last step that did something.
    """

    def __init__(self, root: Path) -> None:
        self.session = Session(root)
        self.status = 0
        self._watch = LabWatch(self.session.folder, lambda snapshot: None, lambda: None)
        self._controllers: dict[str, StageController] = {}
        self._report: DataReport | None = None
        self._advice: Sequence[str | Help] = ()

    # The conversation

    def run(self) -> int:
        """Talk until the user leaves or the input ends; returns the exit status."""
        print(
            _(
                "OlivePress, by lines. Lab: {root}\n{how}",
                root=clean(str(self.session.root), keep_newlines=False),
                how=_HOW,
            )
        )
        step = first_step(self._look())
        try:
            while True:
                step = self._visit(step)
        except _Left:
            pass
        except EOFError:
            print("\n" + _("End of input."))
        except KeyboardInterrupt:
            print()
            self.status = Cancelled.exit_status
        active = self._look().active
        if active is not None:
            print(self.session.goes_on(active.id))
        return self.status

    def _look(self) -> Snapshot:
        self._watch.look()
        self._watch.look()  # what is stale is read from the second look on
        return self._watch.snapshot()

    def _visit(self, step: Step) -> Step:
        """Show a step, and take answers until one leads to another step."""
        print(
            _(
                "\nStep {number} of {count}: {title}\n{about}",
                number=step.number,
                count=len(steps()),
                title=step.title,
                about=step.about,
            )
        )
        self._advice = ()
        shows = {"check": self._check, "data": self._data, "chat": self._chat}.get(step.name, self._stage)
        self._trying(lambda: shows(step))
        while True:
            goal = self._answered(step)
            if goal is not None:
                if goal.number > 1 and not self.session.exists:
                    self._trying(self.session.lab)  # made on leaving the first step, as in the wizard
                    if not self.session.exists:
                        continue
                return goal

    def _answered(self, step: Step) -> Step | None:
        """One question and what was answered; None to stay here."""
        try:
            answers = self._answers(step)
            helps = self._helps(step)
            answers = [*answers, *helps] if answers[0].word == "next" else [*helps, *answers]
            typed = self._ask(_("\n{says} (Enter) > ", says=answers[0].says))
        except KeyboardInterrupt:
            if not _can_be_asked() or self._agreed("\n" + _("Leave?")):
                raise
            return None
        word, _space, rest = typed.partition(" ")
        if word.isdecimal() and not rest:
            number = int(word)
            if 1 <= number <= len(steps()):
                return steps()[number - 1]
        common = [
            Offer("back", _("the step before"), lambda __: steps()[max(0, step.number - 2)]),
            Offer(
                "set", _("set KEY=VALUE changes a setting of lab.toml"), lambda words: self._set(step, words)
            ),
            Offer("help", _("this list, and what the step is about"), lambda __: self._help(step, every)),
            Offer("quit", _("leave; a job that runs goes on"), self._leave),
        ]
        every = [*answers, *common]
        if not word:
            chosen: Offer | None = answers[0]
        elif word == "?":
            chosen = every[-2]
        else:
            fitting = [each for each in every if each.word.startswith(word.lower())]
            chosen = next((each for each in fitting if each.word == word.lower()), next(iter(fitting), None))
        if chosen is None:
            print(
                _(
                    "{word} is not understood. ? lists the answers.",
                    word=repr(clean(word, keep_newlines=False)[:40]),
                )
            )
            return None
        act, goal = chosen.do, None

        def do() -> None:
            nonlocal goal
            goal = act(rest.strip())

        self._trying(do)
        return goal

    def _trying(self, do: Callable[[], object]) -> None:
        """Do something; what goes wrong is told, and decides the exit status until something else is done."""
        try:
            do()
        except LabError as error:
            print_error(error)
            self.status, self._advice = error.exit_status, error.advice
        except KeyboardInterrupt:
            if not _can_be_asked():
                raise
            print("\n" + _("Stopped."))
            self.status = Cancelled.exit_status
        except (EOFError, _Left):
            raise
        except Exception as error:  # whatever it is, it is told and not the end of the conversation
            print(
                _(
                    "That did not work. {name}: {error}",
                    name=type(error).__name__,
                    error=clean(shown(words_of(error))),
                )
            )
            self.status = 1

    def _leave(self, _: str) -> None:
        raise _Left

    def _ask(self, question: str) -> str:
        answer = input(on_screen(question))
        if not sys.stdin.isatty():
            print(clean(answer))  # nobody sees it typed
        return answer.strip()

    def _agreed(self, question: str) -> bool:
        return self._ask(f"{question} [y/N] ").lower() in ("y", "yes")

    def _help(self, step: Step, answers: list[Offer]) -> None:
        from tui.help import TOPICS

        topic = TOPICS.get(step.name)
        if topic is not None:
            print(topic.happens)
            for name, meaning in topic.numbers.items():
                print(f"  {name}: {meaning}")
            print(topic.good)
            for said in (topic.why, topic.question):
                print(said)
            if step.name in default_stages():  # those of the others name keys of the screen
                print(topic.otherwise)
        print(_("Answers ({word} is Enter; the first letters do):", word=answers[0].word))
        for each in answers:
            print(f"  {each.word:<9} {each.says}")
        print(
            f"  {'1 … ' + str(len(steps())):<9} {', '.join(f'{each.number} {each.title}' for each in steps())}"
        )

    def _next(self, step: Step) -> Offer:
        goal = steps()[step.number]
        return Offer("next", _("Next: {title}", title=goal.title), lambda __: goal)

    # What an error advises

    def _helps(self, step: Step) -> list[Offer]:
        """The answers for what the last error advises: what the wizard has as buttons."""
        from tui.actions import helps_of

        def mends(part: Help) -> Callable[[str], Step | None]:
            return lambda __: self._mend(step, part)

        found = helps_of(self._advice, step.name if step.name in STAGES else "")
        return [
            Offer(f"mend{number if number > 1 else ''}", text, mends(part))
            for number, (text, part) in enumerate(found, 1)
        ]

    def _mend(self, step: Step, part: Help) -> Step | None:
        """Do it; the result is the step to go to."""
        self._advice = ()
        if isinstance(part, Use):
            if part.values:
                self.session.save(dict(part.values))
                self._changed(step, *part.values)
                if step.name in STAGES:
                    self._run(step)
            else:
                self._ask_each((part.option,))
                self._changed(step, part.option)
        elif part.name == "run":
            first = next((word for word in part.words if word in STAGES), step.name)
            if first != step.name:
                return step_named(first)
            self._run(step, checked="--no-check" not in part.words)
        elif part.name in ("cancel", "logs"):
            job = self.session.lab().job(part.words[0])
            if part.name == "cancel":
                job.cancel()
            self._follow(job)
        elif part.name in ("login", "workspaces", "clean"):
            self._command(part.name)
        elif part.name == "data" and "--accept" in part.words:
            from core.cli.data import accept

            accept(self.session.folder.recipe_path, self.session.root, self._recipe())
        elif part.name in ("data", "check", "chat", "upload"):
            return step_named(part.name)
        return None

    # Settings

    def _set(self, step: Step, words: str) -> None:
        recipe = self.session.save(parse_settings([words]))
        name = words.partition("=")[0].strip()
        print(f"{name} = {clean(str(value_of(recipe, name)), keep_newlines=False)}")
        self._changed(step, name)

    def _changed(self, step: Step, *names: str) -> None:
        """Look at the records again where what is set says another thing of them."""
        if step.name == "data" and any(name.startswith(("data.", "model.")) for name in names):
            self._data(step)

    def _settings(self, step: Step, *sections: str) -> None:
        """Ask for each setting of a form; Enter keeps it."""
        usual, further = on_form(sections)
        print(_("Enter keeps what stands in brackets. A full stop leaves the rest as it is."))
        if (
            self._ask_each(usual)
            and further
            and self._agreed(_("More settings, {count} of them?", count=len(further)))
        ):
            self._ask_each(further)
        self._changed(step, *usual)

    def _ask_each(self, names: tuple[str, ...]) -> bool:
        """Ask for each of these; False where the rest was left."""
        from core.recipe import find_option
        from tui.labels import label

        for name in names:
            option = find_option(name)
            print(f"{label(option.key)} ({name}): {_(option.help)}")
            while True:
                recipe = self.session.recipe()
                value = option.typed(value_of(recipe, name))
                chosen = self._settled(recipe).get(name)
                known = f" ({option.typed(chosen.value)})" if chosen and chosen.value is not None else ""
                shown_value = clean(value + known, keep_newlines=False)
                choices = ", ".join(map(str, option.choices))
                offered = shown_value
                if choices:
                    offered = _("{value}, of {choices}", value=shown_value, choices=choices)
                typed = self._ask(f"  [{offered}] ")
                if typed in ("", "."):
                    break
                try:
                    self.session.save({name: option.parse(typed)})
                    break
                except ValueError as error:
                    print(f"  {clean(shown(words_of(error)), keep_newlines=False)}.")
                except LabError as error:
                    print_error(error)
            if typed == ".":
                return False
        return True

    def _settled(self, recipe: Recipe) -> Mapping[str, Chosen]:
        """What the settings that are "auto" come to, by option."""
        from core.data.records import remembered
        from core.model.auto import facts_at_hand, resolve

        root = self.session.root
        found = resolve(recipe, facts_at_hand(self.session.folder, recipe), remembered(recipe, root))
        return {each.option: each for each in found.chosen}

    # What can be answered

    def _answers(self, step: Step) -> list[Offer]:
        """The answers of a step; the first is what Enter takes."""
        if step.name == "check":
            return [
                self._next(step),
                Offer("again", _("look again"), lambda __: self._check(step)),
            ]
        if step.name == "data":
            return self._data_answers(step)
        if step.name == "chat":
            missing = step.missing(self._look())
            if missing is not None:
                return [
                    Offer(
                        "go",
                        _("Go to {number} {title}", number=missing.number, title=missing.title),
                        lambda __: missing,
                    )
                ]
            return [
                Offer("talk", _("Talk to the model; /quit comes back here"), lambda __: self._talk()),
                self._next(step),
                Offer(
                    "evaluate",
                    _("measure every form of the model on held-out records"),
                    lambda words: self._command("evaluate", *words.split()),
                ),
            ]
        return self._stage_answers(step)

    # Check

    def _check(self, step: Step) -> None:
        from core.check import run_checks
        from core.cli.check import print_checks
        from tui.screens.check import CheckState, as_here

        found = [as_here(each, self.session) for each in run_checks(self.session.root)]
        print_checks(found)
        state = CheckState(tuple(found), over=True)
        print(state.headline.plain)
        self.status = 0 if state.worst != "FAIL" else 4

    # Data

    def _data(self, step: Step) -> None:
        from core.cli.data import print_findings, print_report
        from core.data.survey import summary

        self._report = None
        self._report = report = summary(self.session.root, self._recipe(), StderrReporter())
        print_report(report)
        if report.to_confirm and report.proposal is not None:
            proposal = report.proposal
            print(
                _(
                    "To confirm: {mapping} ({why}).",
                    mapping=clean(shown(proposal.mapping.words())),
                    why=clean(shown(proposal.why)),
                )
            )
        print_findings(report, more=_(_MORE))
        self.status = 0 if report.ok else 2

    def _data_answers(self, step: Step) -> list[Offer]:
        report = self._report
        answers = [
            self._next(step),
            Offer("again", _("look again"), lambda __: self._data(step)),
            Offer("row", _("row N shows a row as the model sees it"), self._row),
            Offer("settings", _("another file, template or fields"), lambda __: self._settings(step, "data")),
        ]
        if report is None:
            return [answers[3], *answers[:3]]
        if report.to_confirm and report.proposal is not None:
            answers.insert(0, Offer("accept", _("Use the proposal"), lambda __: self._accept(step)))
        if report.findings:
            answers.append(Offer("findings", _("list all findings"), lambda __: self._findings()))
        if report.cleanable:
            answers.append(Offer("clean", _("write a clean copy"), lambda __: self._clean(step)))
        return answers

    def _recipe(self) -> Recipe:
        """The recipe. Raises what is wrong with it."""
        recipe = self.session.recipe()
        if self.session.broken is not None:
            raise self.session.broken
        return recipe

    def _accept(self, step: Step) -> None:
        if self._report is not None and self._report.proposal is not None:
            self.session.save(self._report.proposal.settings())
            self._data(step)

    def _findings(self) -> None:
        from core.cli.data import print_findings

        if self._report is not None:
            print_findings(self._report, None)

    def _clean(self, step: Step) -> None:
        """Write a copy without rows that have findings, and use it if that is wanted."""
        from core.data.clean import clean_path, write_clean
        from core.data.types import WARNINGS
        from tui.figures import counted

        report = self._report
        if report is None:
            return
        all_of_them = True
        if report.findings.blocking and len(report.findings) > report.findings.blocking:
            all_of_them = self._agreed(
                _("Leave out rows that are only doubtful as well, such as duplicates?")
            )
        path = clean_path(self.session.root, report.path)
        done = write_clean(report, path, keep=() if all_of_them else WARNINGS, progress=StderrReporter())
        print(
            _(
                "{kept} in {file}. {left_out} left out, with the reason, in {other}.",
                kept=counted(done.kept, "row"),
                file=done.path.name,
                left_out=counted(done.left_out, "row"),
                other=done.left_out_path.name,
            )
        )
        if self._agreed(_("Use it in place of the old file?")):
            self.session.save({"data.file": done.path.name})
            self._data(step)

    def _row(self, words: str) -> None:
        from core.data.examples import resolve_data_file
        from core.data.pager import RowPager
        from core.data.preview import Previewer

        if not (words.isdecimal() and 0 < int(words) < 10**12):
            print(_("Write row and its number, such as: row 7"))
            return
        recipe = self._recipe()
        with RowPager(resolve_data_file(recipe, self.session.root)) as pager:
            rows = pager.rows(int(words) - 1, 1)
        if not rows:
            print(_("There is no such row."))
            return
        row = rows[0]
        print(
            _(
                "Row {words}, line {line} of {file}",
                words=words,
                line=row.line,
                file=clean(row.file, keep_newlines=False),
            )
        )
        seen = Previewer(self.session.root, recipe).row(row.fields) if row.problem is None else None
        for each in [row.problem] if row.problem else seen.problems if seen else ():
            print(
                _(
                    "It cannot be used: {message}; {fix}",
                    message=clean(shown(each.message)),
                    fix=clean(shown(each.fix)),
                )
            )
            if each.quote is not None:
                print(f"  {each.quote}")
        if seen is not None:
            self._pieces(seen.pieces, _("It learns to say:"))
            self._pieces([piece for piece in seen.rejected if piece.trained], _("It learns to say less:"))
        print()

    def _pieces(self, found: Sequence[Piece], of_learnt: str) -> None:
        learnt = None
        for piece in found:
            if piece.trained is not learnt:
                learnt = piece.trained
                print("\n" + (of_learnt if learnt else _("The model reads:")))
            print(visible(piece.text), end="")

    # Chat

    def _chat(self, step: Step) -> None:
        snapshot = self._look()
        missing = step.missing(snapshot)
        if missing is not None:
            print(
                _(
                    "This step starts from what step {number} makes. Do {title} first.",
                    number=missing.number,
                    title=missing.title,
                )
            )

    def _talk(self) -> None:
        from core.chat import ChatSession
        from core.cli.chat import say_if_older
        from core.cli.chat_lines import LineChat
        from core.stale import older_answers

        lab = self.session.lab()
        print(_("Loading the model."))
        with ChatSession.open(lab) as session:
            ready = session.wait_ready()
            say_if_older(older_answers(lab.folder, lab.recipe), (session.adapter,), lab.root)
            self.status = LineChat(lab, session, ready).run()

    # Stages

    def _controller(self, name: str) -> StageController:
        if name not in self._controllers:
            from tui.screens.stage.controller import StageController
            from tui.screens.stage.texts import TEXTS, StageTexts

            texts = TEXTS.get(name, StageTexts())
            if name == "upload":
                from tui.screens.upload import STOPPED, run_label

                texts = StageTexts(run=run_label, stopped=STOPPED)
            self._controllers[name] = StageController(STAGES[name], self.session, texts)
        return self._controllers[name]

    def _state(self, name: str) -> tuple[StageState, dict[str, Any]]:
        """What the stage's screen would show, and the settings on its form."""
        from core.check.durations import expected_seconds

        controller, snapshot = self._controller(name), self._look()
        recipe = self.session.recipe()
        typed = {each: value_of(recipe, each) for each in sum(on_form(STAGES[name].form), ())}
        known = {
            each: chosen.value for each, chosen in self._settled(recipe).items() if chosen.value is not None
        }
        if STAGES[name].computes:
            controller.takes = expected_seconds(self.session.root, name)
        return controller.state(snapshot, typed, known, _WIDE), typed

    def _stage(self, step: Step) -> None:
        from tui.actions import advice_of

        state, _typed = self._state(step.name)
        for words in (state.stale, state.note):
            if words:
                print(clean(shown(words)))
        if state.job is not None:
            print(getattr(state.headline, "plain", state.headline))
            if state.error is not None:
                self._advice = advice_of(state.error)
                what = (shown(text_of(state.error, key)) for key in ("title", "detail"))
                for part in filter(None, (*what, said(self._advice))):
                    print(clean(part))
            self._result(step, state.job.result if state.job.state == "succeeded" else None)
        if step.name == "upload":
            self._take()
            self._upload()

    def _take(self) -> None:
        """What there is to take along, and how."""
        from core.takeaway import TITLE, takeaway

        found = takeaway(self.session.folder)
        if found is not None:
            print("\n".join([f"{_(TITLE)}.", *found.lines()]))

    def _result(self, step: Step, numbers: Mapping[str, Any] | None) -> None:
        """A result in a sentence, then the figures that matter most."""
        if not numbers:
            return
        judged = STAGES[step.name].assessment(numbers).text
        if judged:
            print(judged)
        for name, value in result_lines(step.name, numbers, main=True):
            print(f"  {name}: {value}")

    def _stage_answers(self, step: Step) -> list[Offer]:
        state, _typed = self._state(step.name)
        answers = []
        if state.run:
            answers.append(Offer("run", state.run, lambda __: self._run(step)))
        if state.active:
            answers.append(Offer("watch", _("Wait until it is over"), lambda __: self._watch_job(step)))
        elif state.next and state.goal is not None:
            goal = state.goal
            answers.insert(0, Offer("next", state.next, lambda __: goal))
        if step.name in STAGES_THERE and not state.active:
            answers.append(
                Offer(
                    "where",
                    _(
                        "where NAME: run on that machine of the Azure ML workspace; where here: on this one; "
                        "without a name they are listed"
                    ),
                    lambda words: self._where(step, words),
                )
            )
        if step.number < len(steps()) and all(each.word != "next" for each in answers):
            answers.append(self._next(step))
        form = STAGES[step.name].form
        answers.append(
            Offer("settings", _("its settings, one by one"), lambda __: self._settings(step, *form))
        )
        if state.job is not None:
            answers.append(Offer("log", _("the end of its log"), lambda __: self._log(step)))
            answers.append(
                Offer("figures", _("all figures of the result"), lambda __: self._command("show", step.name))
            )
        if step.name in KINDS:
            kind = ("--finetune",) if step.name == "finetune" else ()
            answers.append(
                Offer(
                    "search",
                    _("look for the best settings, as search --within 20m; search --pick best takes them"),
                    lambda words: self._command("search", *kind, *words.split()),
                )
            )
        if step.name == "upload":
            answers += self._azure_answers()
            if not self._signed_in():
                answers.sort(key=lambda each: each.word != "login")  # it comes first, as on the screen
        return answers

    def _where(self, step: Step, name: str) -> None:
        """Choose where the step's runs go."""
        if not name:
            self._command("compute")
            return
        there = "" if name.lower() == "here" else name
        self._controller(step.name).where = there
        if there:
            where = clean(there, keep_newlines=False)
            print(_("{step} runs on {compute} of Azure ML.", step=step.title, compute=where))
        else:
            print(_("{step} runs on this machine.", step=step.title))

    def _sent(self, step: Step, compute: str) -> bool:
        """Show what a run elsewhere would send and cost; whether it may be sent."""
        self._command("run", step.name, "--on", "azureml", "--compute", compute, "--dry-run")
        return self._agreed(_("Send it to {compute}?", compute=clean(compute, keep_newlines=False)))

    def _run(self, step: Step, *, checked: bool = True) -> None:
        """Start the stage, after a question where it would replace a result, and wait for it."""
        self._advice = ()
        state, typed = self._state(step.name)
        if not state.can_run:
            print(clean(shown(state.note)))
            return
        controller = self._controller(step.name)
        replaced = controller.would_replace(typed)
        if replaced and not self._agreed(
            _("A run replaces {replaced}, once it has succeeded. Run and replace?", replaced=replaced)
        ):
            return
        compute = controller.compute(state.job)
        if compute and not self._sent(step, compute):
            return
        self._follow(controller.start(self._look(), typed, checked=checked))

    def _watch_job(self, step: Step) -> None:
        job = self.session.lab().newest(step.name)
        if job is not None:
            self._follow(job)

    def _follow(self, job: Job) -> None:
        """Tell what a job does until it is over, and what came of it."""
        printer, told = EventPrinter(), 0
        while True:
            try:
                for event in islice(job.follow(), told, None):
                    told += 1
                    printer(event)
                break
            except KeyboardInterrupt:
                self._stop(job)
        error = job.error()
        if error is not None:
            raise error
        self.status = 0
        self._result(step_named(job.stage), job.result)

    def _stop(self, job: Job) -> None:
        """Ask whether the job is to stop. Where nobody can be asked, Ctrl-C means it."""
        if not job.active:
            return
        print()
        if _can_be_asked():
            print(_("Stop {job}? {stopped}", job=job.id, stopped=self._controller(job.stage).texts.stopped))
            try:
                answer = self._ask(_("y stops it, Enter lets it run > ")).lower()
            except KeyboardInterrupt:  # pressed once more: it is meant
                answer = "y"
                print()
            if answer not in ("y", "yes"):
                print(_("{job} goes on.", job=job.id))
                return
        if job.active:
            job.cancel()

    def _log(self, step: Step) -> None:
        job = self.session.lab().newest(step.name)
        for line in job.log_tail(_LOG_LINES) if job is not None else ():
            print(line)

    # Upload

    def _azure_answers(self) -> list[Offer]:
        return [
            Offer("login", _("Sign in"), lambda __: self._command("login")),
            Offer(
                "workspace",
                _("workspace NAME chooses the workspace; without a name they are listed"),
                lambda words: self._command("workspaces", *(("--use", words) if words else ())),
            ),
            Offer("dry", _("Dry run: what would be sent"), lambda __: self._command("upload", "--dry-run")),
        ]

    @staticmethod
    def _signed_in() -> str:
        from tui.screens.upload import who

        return who()

    def _upload(self) -> None:
        from core.upload.contents import collect
        from tui.figures import counted, human_bytes

        print(self._signed_in() or _("Nobody is signed in to Azure."))
        try:
            goes = collect(self.session.folder, self.session.recipe())
        except LabError:  # said by whoever tries to send it
            return
        print(
            _(
                "{files}, {size}, would go; dry lists them.",
                files=counted(len(goes.items), "file"),
                size=human_bytes(goes.total),
            )
        )

    def _command(self, name: str, *words: str) -> None:
        """Do what a command does."""
        place = () if name == "login" else (str(self.session.root),)
        options = parse([name, *place, *words])
        self.status = int(options.run(options))


def _can_be_asked() -> bool:
    """Whether a person types the answers."""
    return sys.stdin.isatty()
