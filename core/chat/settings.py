"""How the next token is chosen: the recipe's ``[chat]`` options, checked, and changed while chatting."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

from core.errors import RequestError
from core.language import told
from core.recipe import OPTIONS, ChatSection


@dataclass(frozen=True)
class Sampling:
    """The settings of one answer. Temperature 0 takes the likeliest token each time (greedy)."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 50
    repetition_penalty: float = 1.0
    seed: int = 0
    max_new_tokens: int = 256

    @classmethod
    def from_recipe(cls, chat: ChatSection) -> Sampling:
        """The settings that a recipe asks for."""
        return cls(**{item.name: getattr(chat, item.name) for item in dataclasses.fields(cls)})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The settings there are."""
        return tuple(item.name for item in dataclasses.fields(cls))

    def changed(self, **values: Any) -> Sampling:
        """A copy with some settings replaced.

        Raises:
            RequestError: there is no such setting, or the value is impossible; says what would be right.
        """
        checked = {}
        for name, value in values.items():
            declared = OPTIONS["chat"][_known(name)]
            try:
                checked[name] = declared.parse(value) if isinstance(value, str) else declared.check(value)
            except ValueError as error:
                raise RequestError(
                    told("{name} cannot be set so.", name=name),
                    told("{error}.", error=error),
                    code="chat.setting",
                ) from None
        return dataclasses.replace(self, **checked)

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return dataclasses.asdict(self)


def _known(name: str) -> str:
    names = Sampling.names()
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = (
        told("Did you mean {near}?", near=near[0])
        if near
        else told("The settings are: {names}.", names=", ".join(names))
    )
    raise RequestError(told("There is no setting {name}.", name=name), "", hint, code="chat.setting")
