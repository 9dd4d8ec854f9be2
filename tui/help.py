"""F2: what this screen is about, what its numbers mean and what to do if one is bad; then every key with what it does.

The keys are made from the one list of actions, what is good and bad from the bounds that the sentences on results
go by, so neither can be out of date.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content

from core.assessments import HARDLY, LEARNT, SAME_WORDS
from core.language import N_, _
from core.user_dirs import config_dir
from tui.keys import DATA, GLOBAL, LOG, STAGE, Action, key_names
from tui.screens.dialogs import Dialog, Scrolled
from tui.steps import Step
from tui.theme import QUIET
from tui.widgets.safe import Hanging, Plain


@dataclass(frozen=True)
class Topic:
    """What F2 tells of a step.

    Attributes:
        happens: what happens here.
        numbers: what each number on the screen means, by its label.
        good: what is good and what is bad.
        otherwise: what to do if it is bad.
        why: what stands behind it, in plain words; with the next two it is the step's guide.
        question: one to think about.
        look: what to look at in the numbers.
    """

    happens: str
    numbers: Mapping[str, str]
    good: str
    otherwise: str
    why: str = ""
    question: str = ""
    look: str = ""


_BOUNDS: Mapping[str, float] = {
    **{f"good{bits}": round(100 * good) for bits, (good, _poor) in SAME_WORDS.items()},
    **{f"poor{bits}": round(100 * poor) for bits, (_good, poor) in SAME_WORDS.items()},
    "learnt": LEARNT,
    "hardly": HARDLY,
}
"""The bounds that the sentences name."""

_PREPARED = {N_("Prepared result, put here"): N_("not run in this lab: the host of a workshop put it here")}

TOPICS: Mapping[str, Topic] = {
    "check": Topic(
        N_(
            "Python, packages, GPU, memory, disk, model and data are looked at side by side, each for a few seconds."
            " Nothing is changed. It looks again when a setting is another."
        ),
        {
            "OK": N_("fine"),
            "WARN": N_("it goes on, but read it"),
            "FAIL": N_("a step could not work; its button would refuse"),
            "SKIP": N_("could not be looked at, or need not be"),
            N_("Memory, disk"): N_("what each step needs, beside what is free"),
            N_("Time"): N_("an estimate; the run buttons correct it by what earlier runs took"),
        },
        N_("Good: no FAIL. A WARN of the GPU alone means that it will be slow, not that it will fail."),
        N_("Mark the line to see what to do. Press c to copy all of it for somebody who can help."),
        N_(
            "Olive is a toolkit that takes a model through passes: each pass is one change of it, such as rounding its"
            " weights or writing it as a graph. This lab runs some of them one after the other. Each needs memory, disk"
            " and time, so all of that is looked at first, before an hour is spent in vain."
        ),
        N_("Which step will need the most memory here, and why that one?"),
        N_("The lines of memory, disk and time: what each step needs, beside what there is."),
    ),
    "data": Topic(
        N_(
            "The records are read and shown as the model will see them. What it learns to say is underlined; special"
            " tokens are reversed. Your file is not changed."
        ),
        {
            N_("Rows"): N_("the records; some are held out, to measure with what was not learnt"),
            N_("Tokens"): N_("pieces of words, as this model counts: all, the median and the longest"),
            N_("Cut off"): N_(
                "tokens beyond the longest record that the settings allow; they are not learnt"
            ),
            N_("Findings"): N_("rows that cannot be used, or are doubtful, by file and line"),
        },
        N_("Good: no findings, nothing cut off, the answer underlined and the question not."),
        N_(
            "Press f for the findings, one by one. Press a to use the fields and the template that are proposed. Raise"
            " the longest record if answers are cut off."
        ),
        N_(
            "A model learns what stands in its records: their tone, their length, their mistakes. Each record becomes a"
            " conversation in the form that the model was trained on, and only the answer is learnt. Some records are"
            " held out, so that what is measured later was never learnt."
        ),
        N_("If you asked one of these questions in other words, should the model give the same answer?"),
        N_("Tokens: the median and the longest. Findings: rows that cannot be used."),
    ),
    "quantize": Topic(
        N_(
            "The model is fetched if need be, and its weights are rounded to few bits, layer by layer; AWQ and GPTQ"
            " look at some of your records to see which weights matter. The result is opened and compared with the"
            " float model."
        ),
        {
            N_("Algorithm"): N_("how weights are rounded"),
            N_("Bits"): N_("for each weight: 4 is a quarter of 16, 8 is half"),
            N_("Group size"): N_(
                "so many weights share a scale: fewer is nearer to the float model and a little larger"
            ),
            N_("Perplexity"): N_(
                "before and after, on held-out records: among how many words it wavers; lower is better"
            ),
            N_("Same next word"): N_(
                "how often both models expect the same next word, exactly: the same token"
            ),
            N_("Records looked at"): N_("by AWQ and GPTQ; they should be like what the model will read"),
            **_PREPARED,
        },
        N_(
            "At 4 bits {good4} of 100 same next words are good, fewer than {poor4} of 100 are poor; at 8 bits {good8}"
            " of 100 and {poor8} of 100. Perplexity rose by 13 % in two real models."
        ),
        N_(
            "Choose awq+gptq, or awq+signround where there is a GPU; halve the group size; give more records of the"
            " kind that it will read; or take 8 bits."
        ),
        N_(
            "Why before the tuning: the adapter is then trained on the very weights that will run, and learns to make"
            " up for what rounding lost; and the training needs far less memory. AWQ looks at activations, the"
            " numbers that flow through the model while it reads your records. Where they are large, a weight's error"
            " is multiplied. So it scales those weights up before rounding, and scales what flows into them down by"
            " the same: the model computes the same, with less error where it matters."
        ),
        N_("With 4 bits a weight has 16 values to choose from. Why does the model still speak?"),
        N_("Same next word, and perplexity before and after: what it cost. Size: what it gained."),
    ),
    "finetune": Topic(
        N_(
            "The quantized model stays as it is; a small adapter beside it learns your records, a batch of them in"
            " each step. Stop whenever you like: it finishes its step and keeps a checkpoint, and the next run goes"
            " on there."
        ),
        {
            N_("Held-out loss"): N_(
                "how surprised it is by records it never learnt, before and after; this one counts"
            ),
            N_("Training"): N_("in the curve: the loss on the records that it learns"),
            N_("Held-out preferred right"): N_(
                "of held-out pairs: how often the preferred answer has become the likelier one"
            ),
            N_("Margin, held out"): N_(
                "of these pairs: how much more likely the preferred one has become than the other"
            ),
            N_("Steps"): N_("how often the adapter was changed"),
            N_("Went on from step"): N_("where a stopped run was taken up"),
            N_("Stopped early, of steps"): N_("how many there were to be; see stop_early"),
            N_("A step took"): N_("the time of one step"),
            N_("Tokens/s"): N_("how fast it learns"),
            N_("Records"): N_("that it learns from"),
            N_("Adapter weights"): N_("how many numbers are learnt"),
            N_("GPUs"): N_("how many shared the records of each step"),
            N_("Rate"): N_("the learning rate at this moment: it rises, then falls"),
            N_("Gradient"): N_(
                "how strongly a step pulls; one that leaps again and again means too high a rate"
            ),
            **_PREPARED,
        },
        N_(
            "Good: less than {learnt:.0%} of the held-out loss is left. Bad: more than {hardly:.0%} is left; or it"
            " rises again while that of training still falls: then records are learnt by heart."
        ),
        N_(
            "Hardly learnt: more steps, more records, or a higher rank. Rose again: fewer steps, or more records. The"
            " loss leaps or is nan: a lower learning rate."
        ),
        N_(
            "LoRA puts two narrow matrices beside each large one and trains these alone: a small part of the weights."
            " The model itself is frozen, so the adapter stays a file of its own. Several can share one model, each"
            " can be switched on and off while you chat, and without it you have the model as it was."
        ),
        N_("The training loss falls further than the held-out loss. What does the difference tell?"),
        N_("Held-out loss, before and after. In the curve: does it still fall at the end, or rise again?"),
    ),
    "optimize": Topic(
        N_(
            "The model becomes an ONNX graph for the device that will run it, and the adapter a file beside it. Then"
            " graph and PyTorch are asked the same, with the adapter and without; a graph that answers otherwise is not"
            " kept."
        ),
        {
            N_("Provider"): N_("what computes in ONNX Runtime: the CPU, CUDA, DirectX and others"),
            N_("Precision"): N_("of the weights in the graph"),
            N_("Adapter"): N_("the one that was put beside it"),
            N_("Tried here"): N_("whether it was asked anything on this machine"),
            N_("Answers as PyTorch's, base"): N_(
                "answers that are PyTorch's, but for a near tie or int8's own rounding"
            ),
            N_("Questions asked again"): N_("of the records that were learnt"),
            N_("Divergence of merged from unmerged"): N_(
                "what folding the adapter in has changed; near 0 is nothing"
            ),
            N_("Right, base and tuned"): N_("so many of them were answered as in the records"),
            **_PREPARED,
        },
        N_(
            "Good: all answers agree, and the tuned model answers most questions as trained, the base does not. Where"
            " the answers of the records are long and free, few come word for word: compare in Chat."
        ),
        N_(
            "Nothing answered as trained: go back to Finetune, with more steps. Not tried here: ask it a question where"
            " it will run. Answers differ: precision fp32, or quantize again."
        ),
        N_(
            "ONNX is a file format for computations: a graph of operations with their weights, which needs neither"
            " Python nor PyTorch. ONNX Runtime runs such a graph on many kinds of devices. The adapter's matrices"
            " become inputs of the graph, so one graph serves every adapter. And since a graph can be wrong and look"
            " right, it has to answer as PyTorch does before it is kept."
        ),
        N_("What can you do with a graph that you cannot do with a Python program?"),
        N_(
            "Answers as PyTorch's: all of them should agree. Right, base and tuned: what the adapter changed."
        ),
    ),
    "chat": Topic(
        N_(
            "The ONNX model runs on this machine and answers. The adapter can be switched off to hear the base, and"
            " both can be asked at once. What is said stays in the lab's folder."
        ),
        {
            N_("Context"): N_("how many tokens of the conversation the model holds, of how many it can"),
            N_("Tokens/s"): N_("how fast it writes"),
            N_("Perplexity"): N_(
                "in an evaluation: how surprised it is by the records' own answers; lower is better"
            ),
            N_("Loss"): N_(
                "in an evaluation: how surprised it is by the record's own answer; lower is better"
            ),
        },
        N_(
            "Good: the tuned model answers in the way of your records, and ends. In an evaluation its loss is below the"
            " base's."
        ),
        N_(
            "It repeats itself: set a repetition penalty of 1.1, or train fewer steps. It answers as the base does: see"
            " whether the adapter is on, then train more."
        ),
        N_(
            "ONNX Runtime GenAI runs here. It reads your words as tokens, works out how likely each next token is,"
            " takes one, and begins again. What it has read it keeps, so a second question costs less than the first."
            " With the adapter off you hear the model as it was."
        ),
        N_("Ask something that no record tells of. What changed there, and is that good?"),
        N_("The same question with the adapter and without; tokens a second with each."),
    ),
    "upload": Topic(
        N_(
            "What the lab made is sent to your Azure Machine Learning workspace and registered with a version and tags."
            " Nothing leaves this machine before you press Upload; d shows what would go."
        ),
        {
            N_("Model"): N_("the name in the workspace"),
            N_("Version"): N_("the next free one, unless you named it"),
            N_("Workspace"): N_("where it is registered"),
            N_("Files"): N_("how many belong to it"),
            N_("Size"): N_("of all of them"),
            N_("Sent now"): N_("what was not there yet: an upload that broke off goes on where it was"),
        },
        N_("Good: it says that it is registered."),
        N_(
            "Nobody signed in: press s. No workspace: press w. Refused: the error says which right is missing. Too"
            " slow: stop it, and go on later; what has arrived is kept."
        ),
        N_(
            "A registry is for models what a package index is for programs: a name, versions that never change, tags,"
            " and who put them there. Others fetch or deploy exactly this version, and can go back to the one before."
        ),
        N_("What would you write into the tags, so that in a year somebody can tell how it was made?"),
        N_("Size and sent now: what is there already is not sent twice. The version that it will get."),
    ),
}
"""By the step's name; of a step that is added from outside its two sentences are told."""


class HelpScreen(Dialog[None]):
    """What the step is about, the keys, here and in the log, and where to change them."""

    CSS_PATH = "screens/dialogs.tcss"
    AUTO_FOCUS = "Scrolled"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,f2,question_mark", "close", N_("Close"), show=False)
    ]

    def __init__(self, step: Step, keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._step, self._keymap = step, keymap

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -help"):
            yield Plain(_("{title}: help  (Esc closes)", title=self._step.title), classes="dialog-title")
            with Scrolled(classes="dialog-text"):
                yield Hanging(Content("\n").join([about(self._step), Content(""), self._keys()]))

    def _keys(self) -> Content:
        lines: list[Content] = [
            Content.styled(_("Keys"), "bold"),
            _line(_("Tab, arrows"), _("from field to field")),
            _line("Enter", _("press what has the focus, open a choice")),
            _line(_("1 to 7"), _("go to a step")),
            *(self._of(action) for action in GLOBAL),
            Content(""),
            Content.styled(_("In the log (press l, or Tab to it)"), "bold"),
            *(self._of(action) for action in LOG),
            Content(""),
            Content.styled(_("In the data step"), "bold"),
            *(self._of(action) for action in DATA),
            Content(""),
            Content.styled(_("In the step with the model"), "bold"),
            *(self._of(action) for action in STAGE),
            Content(""),
            Content.styled(
                _("Letters and digits are text while a field has the focus: Esc leaves it."),
                QUIET,
            ),
            Content.styled(_("Your own keys: put for example"), QUIET),
            Content('  [keys]\n  run = "f8,g"'),
            Content.styled(
                _("into {path}. Names of actions:", path=config_dir() / "wizard.toml"),
                QUIET,
            ),
            Content(
                "  "
                + ", ".join(action.id for action in (*GLOBAL, *LOG, *DATA, *STAGE))
                + ", "
                + _("step1 to step7")
            ),
        ]
        return Content("\n").join(lines)

    def _of(self, action: Action) -> Content:
        return _line(key_names(self._keymap.get(action.id, action.keys)), _(action.help))

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss(None)


def about(step: Step) -> Content:
    """What a step is about, what its numbers mean, what is good and bad, what to do."""
    topic = TOPICS.get(step.name)
    if topic is None:
        return Content(step.about)
    lines: list[Content] = [
        Content(_(topic.happens)),
        Content(""),
        Content.styled(_("What the numbers mean"), "bold"),
        *(Content.assemble((f"  {_(label)}: ", "bold"), _(text)) for label, text in topic.numbers.items()),
        Content(""),
        Content.styled(_("What is good and what is bad"), "bold"),
        Content(_(topic.good, **_BOUNDS)),
        Content(""),
        Content.styled(_("What to do if it is bad"), "bold"),
        Content(_(topic.otherwise)),
    ]
    return Content("\n").join(lines)


def _line(keys: str, help: str) -> Content:
    return Content.assemble((f"  {keys:<14}", "bold"), help)
