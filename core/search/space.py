"""What a search chooses from, what each choice weighs, and the limits that a person states. Arithmetic only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from core.algorithms import ALGORITHMS
from core.errors import RequestError
from core.formats import duration, human_bytes, listed, number
from core.language import told
from core.model.auto import Settled
from core.model.folder import ModelFacts
from core.model.tensors import GROUP_SIZES, HEADS, rounded_matrices
from core.model.weights import BITS, tensor_entries
from core.quantize.stage import HEAD_BITS

USUAL_GROUPS = (128, 64, 32)
"""The groups that are tried, where they divide the matrices."""

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Kinds of layers that read one input: they have the same bits, as the graph packs them into one node or computes
them side by side."""

_HEADER = 110
"""Bytes that the header of a weight file takes for a tensor, beside its name."""


@dataclass(frozen=True)
class WeightForm:
    """How weights are packed: it alone decides on a model's size and on its speed.

    Attributes:
        eight_bit: kinds of layers that have 8 bits, as ``quantize.eight_bit_layers`` names them.
    """

    bits: int
    group_size: int
    eight_bit: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A name that no other form has, for keys."""
        return f"{self.bits}-{self.group_size}-{'+'.join(self.eight_bit)}"


@dataclass(frozen=True)
class Candidate:
    """A way to round weights, and the form that they get."""

    algorithm: str
    form: WeightForm

    @property
    def values(self) -> dict[str, Any]:
        """The settings of ``lab.toml`` that make it."""
        return {
            "quantize.algorithm": self.algorithm,
            "quantize.bits": self.form.bits,
            "quantize.group_size": self.form.group_size,
            "quantize.eight_bit_layers": ",".join(self.form.eight_bit),
        }

    def put_into(self, recipe: Settled) -> Settled:
        """A recipe with these settings."""
        keys = {name.partition(".")[2]: value for name, value in self.values.items()}
        return replace(recipe, quantize=replace(recipe.quantize, **keys))

    @property
    def title(self) -> str:
        """For people, on one line."""
        parts = {"algorithm": self.algorithm, "bits": self.form.bits, "group": self.form.group_size}
        if not self.form.eight_bit:
            return told("{algorithm}, {bits} bits, groups of {group}", **parts)
        return told(
            "{algorithm}, {bits} bits, groups of {group}, {layers} in 8",
            layers="+".join(self.form.eight_bit),
            **parts,
        )


@dataclass(frozen=True)
class SearchLimits:
    """What a person asks of the result; None: anything.

    Attributes:
        size: bytes of the quantized weights, at most.
        loss: how much perplexity on held-out records may rise above the float model's, as a share of it.
        speed: tokens a second that the ONNX model gives here, at least.
        seconds: how long the search may take.
    """

    size: int | None = None
    loss: float | None = None
    speed: float | None = None
    seconds: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchLimits:
        """What :meth:`as_dict` gave; what is no number is no limit."""
        kept = {key: data.get(key) for key in ("size", "loss", "speed", "seconds")}
        return cls(**{key: value for key, value in kept.items() if isinstance(value, int | float)})  # type: ignore[arg-type]

    @property
    def words(self) -> str:
        """For people: what is asked for; empty for nothing."""
        said = [
            told("at most {size}", size=human_bytes(self.size)) if self.size is not None else "",
            told("at most {share:g} % worse", share=100 * self.loss) if self.loss is not None else "",
            told("at least {speed} tokens/s", speed=number(self.speed)) if self.speed is not None else "",
            told("within {time}", time=duration(self.seconds)) if self.seconds is not None else "",
        ]
        return listed(filter(None, said))

    def broken_by(self, size: float | None, loss: float | None, speed: float | None) -> str:
        """Which limit these figures break, in words; empty for none. What is not known breaks none."""
        if self.size is not None and size is not None and size > self.size:
            return told("{size} is too large", size=human_bytes(size))
        if self.loss is not None and loss is not None and loss > self.loss:
            return told("{share:.1f} % worse is too much", share=100 * loss)
        if self.speed is not None and speed is not None and speed < self.speed:
            return told("{speed:.1f} tokens/s is too slow", speed=speed)
        return ""


_SIZES = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9} | {
    "kib": 2**10, "mib": 2**20, "gib": 2**30
}  # fmt: skip
_TIMES = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z%]*)\s*")


def _parts(text: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(told("{text!r} is no number with a unit", text=text))
    return float(match[1]), match[2].lower()


def read_size(text: str) -> int:
    """Bytes: ``2.5GB``, ``900 MB``, ``1.2GiB``. Raises ValueError for what is no size."""
    value, unit = _parts(text)
    if unit not in _SIZES or value <= 0:
        raise ValueError(told("{text!r} is no size: write it as 2.5GB, 900MB or 1.2GiB", text=text))
    return round(value * _SIZES[unit])


def read_loss(text: str) -> float:
    """A share: ``1%`` or ``1`` is 0.01. Raises ValueError for what is no share."""
    value, unit = _parts(text)
    if unit not in ("", "%") or value > 1000:
        raise ValueError(told("{text!r} is no share: write it as 1%", text=text))
    return value / 100


def read_speed(text: str) -> float:
    """Tokens a second. Raises ValueError for what is none."""
    value, unit = _parts(text)
    if unit or value <= 0:
        raise ValueError(told("{text!r} is no number of tokens a second: write it as 20", text=text))
    return value


def read_seconds(text: str) -> float:
    """A time: ``20m``, ``90 s``, ``1.5h``. Raises ValueError for what is none."""
    value, unit = _parts(text)
    if unit not in _TIMES or value <= 0:
        raise ValueError(told("{text!r} is no time: write it as 20m, 90s or 1.5h", text=text))
    return value * _TIMES[unit]


READERS = {"size": read_size, "loss": read_loss, "speed": read_speed, "seconds": read_seconds}
"""How each limit is read from what a person types."""


def kinds_of(facts: ModelFacts) -> list[tuple[str, ...]]:
    """The kinds of layers that can have 8 bits, in the model's order; those of :data:`TOGETHER` at once."""
    names = dict.fromkeys(
        module.rpartition(".")[2] for module in rounded_matrices(facts) if module not in HEADS
    )
    kinds: list[tuple[str, ...]] = []
    for name in names:
        unit = next(
            (tuple(each for each in unit if each in names) for unit in TOGETHER if name in unit), (name,)
        )
        if unit not in kinds:
            kinds.append(unit)
    return kinds


def fitting_groups(facts: ModelFacts, wanted: Sequence[int] = ()) -> list[int]:
    """The groups to try, the largest first: those wanted, or the usual ones, that divide every matrix.

    Raises:
        RequestError: one that is wanted does not divide every matrix, or none fits.
    """
    widths = set(rounded_matrices(facts).values())
    fits = [size for size in sorted(GROUP_SIZES, reverse=True) if all(width % size == 0 for width in widths)]
    for size in wanted:
        if size not in fits:
            raise RequestError(
                told("Groups of {size} do not divide the model's weights.", size=size),
                told(
                    "{path}: its matrices have {names} inputs.",
                    path=facts.path,
                    names=", ".join(map(str, sorted(widths))),
                ),
                told("Those that do: {names}.", names=", ".join(map(str, fits))) if fits else "",
                code="model.group-size",
            )
    usual = [size for size in fits if size in USUAL_GROUPS]
    found = sorted(wanted, reverse=True) if wanted else usual or fits[:1]
    if not found:
        raise RequestError(
            told("No group size divides the model's weights."),
            told(
                "{path}: its matrices have {names} inputs.",
                path=facts.path,
                names=", ".join(map(str, sorted(widths))),
            ),
            code="model.group-size",
        )
    return found


def forms_of(
    groups: Sequence[int], mixed: Sequence[tuple[str, ...]], *, eight: bool = True
) -> list[WeightForm]:
    """The forms to try.

    Args:
        mixed: kinds of layers in the order in which 8 bits help most; each form has one more of them.
        eight: whether 8 bits for all are tried as well.
    """
    steps: list[tuple[str, ...]] = [()]
    for kind in mixed:
        steps.append((*steps[-1], *kind))
    forms = [WeightForm(4, group, names) for names in steps for group in groups]
    return [*forms, *([WeightForm(8, groups[0])] if eight else [])]


def size_of(facts: ModelFacts, form: WeightForm) -> int:
    """Bytes of the weight file that a model gets in this form, to within a few KiB: nothing is run for it."""
    entries = tensor_entries(facts.path)
    modules = rounded_matrices(facts)
    total = 0
    for name, entry in entries.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and module in modules:
            bits = _bits(module, form)
            total += (
                _packed(entry.shape, bits, form.group_size, BITS[entry.dtype] // 8)
                + 3 * len(name)
                + 3 * _HEADER
            )
        else:
            total += entry.end - entry.start + len(name) + _HEADER
    if "lm_head" in modules and "lm_head.weight" not in entries:  # tied: it is no longer the embeddings then
        dtype = {"float32": 4}.get(facts.dtype, 2)
        rows = facts.embedding_rows or facts.vocab_size
        total += _packed((rows, facts.hidden_size), HEAD_BITS, form.group_size, dtype) + 3 * _HEADER
    return total


def _bits(module: str, form: WeightForm) -> int:
    return HEAD_BITS if module in HEADS or module.rpartition(".")[2] in form.eight_bit else form.bits


def _packed(shape: tuple[int, ...], bits: int, group: int, scale: int) -> int:
    rows, columns = shape
    groups = -(-columns // group)
    return rows * (columns * bits // 8 + groups * scale + -(-groups * bits // 8))


def algorithms_to_try(wanted: Iterable[str] = ()) -> list[str]:
    """The algorithms to try, the likeliest to win first, so that the others meet it early.

    Raises:
        RequestError: there is none of a name.
    """
    wanted = list(wanted)
    known = [name for name, each in ALGORITHMS.items() if each.olive]
    for name in wanted:
        if name not in known:
            raise RequestError(
                told("There is no algorithm {name} to try.", name=repr(name)),
                hint=told("There are: {names}.", names=", ".join(known)),
                code="search.algorithm",
            )
    return [name for name in known if name in wanted or not wanted]


def front(points: Mapping[int, tuple[float, float]]) -> list[int]:
    """Of points by their number, each of a size and a loss, those that no other beats in both; the smallest first."""
    found: list[int] = []
    best = float("inf")
    for name in sorted(points, key=lambda each: points[each]):
        if points[name][1] < best:
            found.append(name)
            best = points[name][1]
    return found
