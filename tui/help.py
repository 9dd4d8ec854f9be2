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
    """

    happens: str
    numbers: Mapping[str, str]
    good: str
    otherwise: str


def _of_100(share: float) -> str:
    return f"{round(100 * share)} of 100"


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
        },
        f"At 4 bits {_of_100(SAME_WORDS[4][0])} same next words are good, fewer than {_of_100(SAME_WORDS[4][1])} are"
        f" poor; at 8 bits {_of_100(SAME_WORDS[8][0])} and {_of_100(SAME_WORDS[8][1])}. Perplexity rose by 13 %"
        " in two real models.",
        "Choose awq+gptq; halve the group size; give more records of the kind that it will read; or take 8 bits.",
    ),
    "finetune": Topic(
        "The quantized model stays as it is; a small adapter beside it learns your records, a batch of them in each"
        " step. Stop whenever you like: it finishes its step and keeps a checkpoint, and the next run goes on there.",
        {
            "Held-out loss": "how surprised it is by records it never learnt, before and after; this one counts",
            "Training": "in the curve: the loss on the records that it learns",
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
        },
        f"Good: less than {LEARNT:.0%} of the held-out loss is left. Bad: more than {HARDLY:.0%} is left; or it rises"
        " again while that of training still falls: then records are learnt by heart.",
        "Hardly learnt: more steps, more records, or a higher rank. Rose again: fewer steps, or more records. The"
        " loss leaps or is nan: a lower learning rate.",
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
        },
        "Good: all answers agree, and the tuned model answers most questions as trained, the base does not. Where the"
        " answers of the records are long and free, few come word for word: compare in Chat.",
        "Nothing answered as trained: go back to Finetune, with more steps. Not tried here: ask it a question where"
        " it will run. Answers differ: precision fp32, or quantize again.",
    ),
    "chat": Topic(
        "The ONNX model runs on this machine and answers. The adapter can be switched off to hear the base, and both"
        " can be asked at once. What is said stays in the lab's folder.",
        {
            "Context": "how many tokens of the conversation the model holds, of how many it can",
            "Tokens/s": "how fast it writes",
            "Similarity": "in an evaluation: how much of the words is as in the record, 0 to 1",
            "Loss": "in an evaluation: how surprised it is by the record's own answer; lower is better",
        },
        "Good: the tuned model answers in the way of your records, and ends. In an evaluation its loss is below the"
        " base's.",
        "It repeats itself: set a repetition penalty of 1.1, or train fewer steps. It answers as the base does: see"
        " whether the adapter is on, then train more.",
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
                yield Plain(Content("\n").join([*_about(self._step), Content(""), self._keys()]))

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


def _about(step: Step) -> list[Content]:
    topic = TOPICS.get(step.name)
    if topic is None:
        return [Content(step.about)]
    return [
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


def _line(keys: str, help: str) -> Content:
    return Content.assemble((f"  {keys:<14}", "bold"), help)
