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
from core.user_dirs import config_dir
from tui.keys import DATA, GLOBAL, LOG, STAGE, Action, key_names
from tui.screens.dialogs import Dialog, Scrolled
from tui.steps import Step
from tui.widgets.safe import Plain


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


def _of_100(share: float) -> str:
    return f"{round(100 * share)} of 100"


_PREPARED = {"Prepared result, put here": "not run in this lab: the host of a workshop put it here"}

TOPICS: Mapping[str, Topic] = {
    "check": Topic(
        "Python, packages, GPU, memory, disk, model and data are looked at side by side, each for a few seconds."
        " Nothing is changed. It looks again when a setting is another.",
        {
            "OK": "fine",
            "WARN": "it goes on, but read it",
            "FAIL": "a step could not work; its button would refuse",
            "SKIP": "could not be looked at, or need not be",
            "Memory, disk": "what each step needs, beside what is free",
            "Time": "an estimate; the run buttons correct it by what earlier runs took",
        },
        "Good: no FAIL. A WARN of the GPU alone means that it will be slow, not that it will fail.",
        "Mark the line: what to do stands below the list. Press c to copy all of it for somebody who can help.",
        "Olive is a toolkit that takes a model through passes: each pass is one change of it, such as rounding its"
        " weights or writing it as a graph. This lab runs some of them one after the other. Each needs memory, disk"
        " and time, so all of that is looked at first, before an hour is spent in vain.",
        "Which step will need the most memory here, and why that one?",
        "The lines of memory, disk and time: what each step needs, beside what there is.",
    ),
    "data": Topic(
        "The records are read and shown as the model will see them. What it learns to say is underlined; special"
        " tokens are reversed. Your file is not changed.",
        {
            "Rows": "the records; some are held out, to measure with what was not learnt",
            "Tokens": "pieces of words, as this model counts: all, the median and the longest",
            "Cut off": "tokens beyond the longest record that the settings allow; they are not learnt",
            "Findings": "rows that cannot be used, or are doubtful, by file and line",
        },
        "Good: no findings, nothing cut off, the answer underlined and the question not.",
        "Press f for the findings, one by one. Press a to use the fields and the template that are proposed. Raise"
        " the longest record if answers are cut off.",
        "A model learns what stands in its records: their tone, their length, their mistakes. Each record becomes a"
        " conversation in the form that the model was trained on, and only the answer is learnt. Some records are"
        " held out, so that what is measured later was never learnt.",
        "If you asked one of these questions in other words, should the model give the same answer?",
        "Tokens: the median and the longest. Findings: rows that cannot be used.",
    ),
    "quantize": Topic(
        "The model is fetched if need be, and its weights are rounded to few bits, layer by layer; AWQ and GPTQ look"
        " at some of your records to see which weights matter. The result is opened and compared with the float"
        " model.",
        {
            "Algorithm": "how weights are rounded",
            "Bits": "for each weight: 4 is a quarter of 16, 8 is half",
            "Group size": "so many weights share a scale: fewer is nearer to the float model and a little larger",
            "Perplexity": "before and after, on held-out records: among how many words it wavers; lower is better",
            "Same next word": "how often both models expect the same next word, exactly: the same token",
            "Records looked at": "by AWQ and GPTQ; they should be like what the model will read",
            **_PREPARED,
        },
        f"At 4 bits {_of_100(SAME_WORDS[4][0])} same next words are good, fewer than {_of_100(SAME_WORDS[4][1])} are"
        f" poor; at 8 bits {_of_100(SAME_WORDS[8][0])} and {_of_100(SAME_WORDS[8][1])}. Perplexity rose by 13 %"
        " in two real models.",
        "Choose awq+gptq; halve the group size; give more records of the kind that it will read; or take 8 bits.",
        "Why before the tuning: the adapter is then trained on the very weights that will run, and learns to make up"
        " for what rounding lost; and the training needs far less memory. AWQ looks at activations, the numbers that"
        " flow through the model while it reads your records. Where they are large, a weight's error is multiplied."
        " So it scales those weights up before rounding, and scales what flows into them down by the same: the model"
        " computes the same, with less error where it matters.",
        "With 4 bits a weight has 16 values to choose from. Why does the model still speak?",
        "Same next word, and perplexity before and after: what it cost. Size: what it gained.",
    ),
    "finetune": Topic(
        "The quantized model stays as it is; a small adapter beside it learns your records, a batch of them in each"
        " step. Stop whenever you like: it finishes its step and keeps a checkpoint, and the next run goes on there.",
        {
            "Held-out loss": "how surprised it is by records it never learnt, before and after; this one counts",
            "Training": "in the curve: the loss on the records that it learns",
            "Held-out preferred right": "of held-out pairs: how often the preferred answer has become the likelier one",
            "Margin, held out": "of these pairs: how much more likely the preferred one has become than the other",
            "Steps": "how often the adapter was changed",
            "Went on from step": "where a stopped run was taken up",
            "Stopped early, of steps": "how many there were to be; see `stop_early`",
            "A step took": "the time of one step",
            "Tokens/s": "how fast it learns",
            "Records": "that it learns from",
            "Adapter weights": "how many numbers are learnt",
            "GPUs": "how many shared the records of each step",
            "Rate": "the learning rate at this moment: it rises, then falls",
            "Gradient": "how strongly a step pulls; one that leaps again and again means too high a rate",
            **_PREPARED,
        },
        f"Good: less than {LEARNT:.0%} of the held-out loss is left. Bad: more than {HARDLY:.0%} is left; or it rises"
        " again while that of training still falls: then records are learnt by heart.",
        "Hardly learnt: more steps, more records, or a higher rank. Rose again: fewer steps, or more records. The"
        " loss leaps or is nan: a lower learning rate.",
        "LoRA puts two narrow matrices beside each large one and trains these alone: a small part of the weights. The"
        " model itself is frozen, so the adapter stays a file of its own. Several can share one model, each can be"
        " switched on and off while you chat, and without it you have the model as it was.",
        "The training loss falls further than the held-out loss. What does the difference tell?",
        "Held-out loss, before and after. In the curve: does it still fall at the end, or rise again?",
    ),
    "optimize": Topic(
        "The model becomes an ONNX graph for the device that will run it, and the adapter a file beside it. Then"
        " graph and PyTorch are asked the same, with the adapter and without; a graph that answers otherwise is not"
        " kept.",
        {
            "Provider": "what computes in ONNX Runtime: the CPU, CUDA, DirectX and others",
            "Precision": "of the weights in the graph",
            "Adapter": "the one that was put beside it",
            "Tried here": "whether it was asked anything on this machine",
            "Answers as PyTorch's, base": "answers that are PyTorch's, but for a near tie or int8's own rounding",
            "Questions asked again": "of the records that were learnt",
            "Divergence of merged from unmerged": "what folding the adapter in has changed; near 0 is nothing",
            "Right, base and tuned": "so many of them were answered as in the records",
            **_PREPARED,
        },
        "Good: all answers agree, and the tuned model answers most questions as trained, the base does not. Where the"
        " answers of the records are long and free, few come word for word: compare in Chat.",
        "Nothing answered as trained: go back to Finetune, with more steps. Not tried here: ask it a question where"
        " it will run. Answers differ: precision fp32, or quantize again.",
        "ONNX is a file format for computations: a graph of operations with their weights, which needs neither Python"
        " nor PyTorch. ONNX Runtime runs such a graph on many kinds of devices. The adapter's matrices become inputs"
        " of the graph, so one graph serves every adapter. And since a graph can be wrong and look right, it has to"
        " answer as PyTorch does before it is kept.",
        "What can you do with a graph that you cannot do with a Python program?",
        "Answers as PyTorch's: all of them should agree. Right, base and tuned: what the adapter changed.",
    ),
    "chat": Topic(
        "The ONNX model runs on this machine and answers. The adapter can be switched off to hear the base, and both"
        " can be asked at once. What is said stays in the lab's folder.",
        {
            "Context": "how many tokens of the conversation the model holds, of how many it can",
            "Tokens/s": "how fast it writes",
            "Perplexity": "in an evaluation: how surprised it is by the records' own answers; lower is better",
            "Loss": "in an evaluation: how surprised it is by the record's own answer; lower is better",
        },
        "Good: the tuned model answers in the way of your records, and ends. In an evaluation its loss is below the"
        " base's.",
        "It repeats itself: set a repetition penalty of 1.1, or train fewer steps. It answers as the base does: see"
        " whether the adapter is on, then train more.",
        "ONNX Runtime GenAI runs here. It reads your words as tokens, works out how likely each next token is, takes"
        " one, and begins again. What it has read it keeps, so a second question costs less than the first. With the"
        " adapter off you hear the model as it was.",
        "Ask something that no record tells of. What changed there, and is that good?",
        "The same question with the adapter and without; tokens a second with each.",
    ),
    "upload": Topic(
        "What the lab made is sent to your Azure Machine Learning workspace and registered with a version and tags."
        " Nothing leaves this machine before you press Upload; d shows what would go.",
        {
            "Model": "the name in the workspace",
            "Version": "the next free one, unless you named it",
            "Workspace": "where it is registered",
            "Files": "how many belong to it",
            "Size": "of all of them",
            "Sent now": "what was not there yet: an upload that broke off goes on where it was",
        },
        "Good: it says that it is registered.",
        "Nobody signed in: press s. No workspace: press w. Refused: the error says which right is missing. Too slow:"
        " stop it, and go on later; what has arrived is kept.",
        "A registry is for models what a package index is for programs: a name, versions that never change, tags, and"
        " who put them there. Others fetch or deploy exactly this version, and can go back to the one before.",
        "What would you write into the tags, so that in a year somebody can tell how it was made?",
        "Size and sent now: what is there already is not sent twice. The version that it will get.",
    ),
}
"""By the step's name; of a step that is added from outside its two sentences are told."""


class HelpScreen(Dialog[None]):
    """What the step is about, the keys, here and in the log, and where to change them."""

    CSS_PATH = "screens/dialogs.tcss"
    AUTO_FOCUS = "Scrolled"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,f2,question_mark", "close", "Close", show=False)
    ]

    def __init__(self, step: Step, keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._step, self._keymap = step, keymap

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -help"):
            yield Plain(f"{self._step.title}: help  (Esc closes)", classes="dialog-title")
            with Scrolled(classes="dialog-text"):
                yield Plain(Content("\n").join([about(self._step), Content(""), self._keys()]))

    def _keys(self) -> Content:
        lines: list[Content] = [
            Content.styled("Keys", "bold"),
            _line("Tab, arrows", "from field to field"),
            _line("Enter", "press what has the focus, open a choice"),
            _line("1 to 7", "go to a step"),
            *(self._of(action) for action in GLOBAL),
            Content(""),
            Content.styled("In the log (press l, or Tab to it)", "bold"),
            *(self._of(action) for action in LOG),
            Content(""),
            Content.styled("In the data step", "bold"),
            *(self._of(action) for action in DATA),
            Content(""),
            Content.styled("In the step with the model", "bold"),
            *(self._of(action) for action in STAGE),
            Content(""),
            Content.styled(
                "Letters and digits are text while a field has the focus: Esc leaves it.", "$foreground 60%"
            ),
            Content.styled("Your own keys: put for example", "$foreground 60%"),
            Content('  [keys]\n  run = "f8,g"'),
            Content.styled(f"into {config_dir() / 'wizard.toml'}. Names of actions:", "$foreground 60%"),
            Content(
                "  " + ", ".join(action.id for action in (*GLOBAL, *LOG, *DATA, *STAGE)) + ", step1 to step7"
            ),
        ]
        return Content("\n").join(lines)

    def _of(self, action: Action) -> Content:
        return _line(key_names(self._keymap.get(action.id, action.keys)), action.help)

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss(None)


def about(step: Step) -> Content:
    """What a step is about, what its numbers mean, what is good and bad, what to do."""
    topic = TOPICS.get(step.name)
    if topic is None:
        return Content(step.about)
    lines: list[Content] = [
        Content(topic.happens),
        Content(""),
        Content.styled("What the numbers mean", "bold"),
        *(Content.assemble((f"  {label}: ", "bold"), text) for label, text in topic.numbers.items()),
        Content(""),
        Content.styled("What is good and what is bad", "bold"),
        Content(topic.good),
        Content(""),
        Content.styled("What to do if it is bad", "bold"),
        Content(topic.otherwise),
    ]
    return Content("\n").join(lines)


def _line(keys: str, help: str) -> Content:
    return Content.assemble((f"  {keys:<14}", "bold"), help)
