"""The language in which the program speaks to people: which it is, and its texts.

A text is written in English where it is shown, in ``_()``; values come in by name after it was translated::

    _("{job} is running.", job=view.id)
    ngettext("{n} record", "{n} records", count)

A constant is marked with :func:`N_` where it stands and translated with ``_()`` where it is shown, so that the
language can change while the program runs. The translations are gettext catalogues, ``core/locale/de.po`` and its
like; ``make texts`` brings them up to date and compiles them. What programs read is English in every language:
``--json``, codes, names of commands, files and keys.
"""

from __future__ import annotations

import gettext
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LANGUAGES: Mapping[str, str] = {
    "en": "English",
    "de": "Deutsch",
    "es": "Español",
    "fa": "فارسی",
    "ru": "Русский",
    "vi": "Tiếng Việt",
}
"""The languages there are, by their codes, each under its own name."""

RIGHT_TO_LEFT = frozenset({"fa"})
"""Those of them that are read from the right."""

VARIABLE = "OLIVEPRESS_LANGUAGE"
"""The environment variable that chooses the language, by its code."""

_LOCALE = Path(__file__).parent / "locale"
_chosen = "en"
_texts = gettext.NullTranslations()


def _(message: str, /, **values: Any) -> str:
    """A text in the language that is in use, with ``values`` in the places that have their names."""
    text = _texts.gettext(message) if message else ""  # the empty text is the catalogue's head
    return text.format(**values) if values else text


def ngettext(one: str, many: str, n: int, /, **values: Any) -> str:
    """A text in the form that goes with the number ``n``, which it may name as ``{n}``."""
    return _texts.ngettext(one, many, n).format(**{"n": n, **values})


def pgettext(context: str, message: str, /, **values: Any) -> str:
    """A text that means different things in different places, by the place that ``context`` names."""
    text = _texts.pgettext(context, message)
    return text.format(**values) if values else text


def N_(message: str, /) -> str:
    """A text that is to be translated where it is shown: it is only marked here."""
    return message


def Nn_(one: str, many: str, /) -> tuple[str, str]:
    """A text and its form for many that are to be translated by :func:`ngettext` where they are shown."""
    return one, many


def use(code: str) -> None:
    """Speak this language from now on.

    Raises:
        KeyError: there is no such language.
    """
    global _chosen, _texts  # noqa: PLW0603 - one process speaks one language
    if code not in LANGUAGES:
        raise KeyError(code)
    if code == "en":
        _texts = gettext.NullTranslations()
    else:
        with (_LOCALE / f"{code}.mo").open("rb") as file:
            _texts = gettext.GNUTranslations(file)
    _chosen = code


def in_use() -> str:
    """The code of the language that is spoken."""
    return _chosen


def wanted(setting: str = "") -> str:
    """The language that is wanted: that of ``OLIVEPRESS_LANGUAGE``, else that of ``setting``; else English."""
    name = os.environ.get(VARIABLE) or setting
    return (known(name) if name else "") or "en"


def known(name: str) -> str:
    """The code of the language that ``de``, ``de_AT.UTF-8`` or ``de-AT`` names; empty where there is none."""
    code = name.replace("-", "_").partition("_")[0].partition(".")[0].lower()
    return code if code in LANGUAGES else ""
