"""The language in which the program speaks to people: which it is, and its texts.

A text is written in English where it is shown, in ``_()``; values come in by name after it was translated::

    _("{job} is running.", job=view.id)
    ngettext("{n} record", "{n} records", count)

A constant is marked with :func:`N_` where it stands and translated with ``_()`` where it is shown, so that the
language can change while the program runs. The translations are gettext catalogues, ``core/locale/de.po`` and its
like; ``make texts`` brings them up to date and compiles them. What programs read is English in every language:
``--json``, codes, names of commands, files and keys.

What is written where nobody knows who will read it (an error, a finding, the reason of a choice) is a :class:`Told`:
English, for programs, files and logs, and :func:`shown` gives it in the language of whoever looks at it::

    raise MachineError(told("{path} does not fit: {free} are free.", path=path, free=human_bytes(free)))
    Plain(shown(error.title))
"""

from __future__ import annotations

import gettext
import numbers
import os
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

from core.user_dirs import user_setting

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

WHO_ORDERS = ("auto", "wizard", "terminal")
"""Who joins and orders letters that are read from the right; ``auto``: we do, unless the terminal is known to do it."""

VARIABLE = "OLIVEPRESS_LANGUAGE"
"""The environment variable that chooses the language, by its code."""

_LOCALE = Path(__file__).parent / "locale"
_SPEC = re.compile(r"0?[1-9]?,?(?:\.\d)?[a-zA-Z%]?")
"""How a value may be written: none of these makes a text much longer."""
_DEEPEST = 8
"""How far texts may stand within texts."""


class _Missing(gettext.NullTranslations):
    """Tells that a catalogue has no such text."""

    def gettext(self, message: str) -> str:
        raise KeyError(message)

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        raise KeyError(msgid1)

    def pgettext(self, context: str, message: str) -> str:
        raise KeyError(message)


_chosen = "en"
_asked = ""
_texts: gettext.NullTranslations = _Missing()


def _(message: str, /, **values: Any) -> str:
    """A text in the language that is in use, with ``values`` in the places that have their names."""
    try:
        text = _texts.gettext(message) if message else ""  # the empty text is the catalogue's head
    except KeyError:
        text = message
    return text.format(**_all_shown(values)) if values else text


def ngettext(one: str, many: str, n: int, /, **values: Any) -> str:
    """A text in the form that goes with the number ``n``, which it may name as ``{n}``."""
    try:
        text = _texts.ngettext(one, many, n)
    except KeyError:
        text = one if n == 1 else many
    return text.format(**_all_shown({"n": n, **values}))


def pgettext(context: str, message: str, /, **values: Any) -> str:
    """A text that means different things in different places, by the place that ``context`` names."""
    try:
        text = _texts.pgettext(context, message)
    except KeyError:
        text = message
    return text.format(**_all_shown(values)) if values else text


def _all_shown(values: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        name: words_of(value) if isinstance(value, BaseException) else value for name, value in values.items()
    }
    return {name: shown(value) if isinstance(value, Told) else value for name, value in given.items()}


class Embedded:
    """What may stand in a text and is neither text nor number, such as a button."""


class Told(str):
    """An English text that remembers what it was made from, so that :func:`shown` can say it in another language.

    Attributes:
        message: the text as it is marked, with the names of its values in braces.
        values: what stands in those places: texts, numbers, and what helps with an error.
        many: the form for many; empty where there is one form.
        n: the number that decides between them.
    """

    __slots__ = ("many", "message", "n", "values")

    message: str
    values: Mapping[str, object]
    many: str
    n: int

    def __new__(
        cls, text: str, message: str, values: Mapping[str, object], many: str = "", n: int = 0
    ) -> Told:
        self = super().__new__(cls, text)
        self.message, self.values, self.many, self.n = message, dict(values), many, n
        return self

    def __reduce__(self) -> tuple[type[Told], tuple[object, ...]]:
        return Told, (str(self), self.message, self.values, self.many, self.n)

    def __copy__(self) -> Told:
        return self

    def __deepcopy__(self, memo: object) -> Told:
        return self


_WRITTEN: Mapping[str, Callable[[object], str]] = {
    "s": str,
    "r": repr,
    "c": lambda value: f"{str(value)[:1].upper()}{str(value)[1:]}",
    "d": lambda value: str(value).rstrip("."),
}
"""How a value may be written in a text, by what stands behind ``!``."""


class _English(string.Formatter):
    def convert_field(self, value: Any, conversion: Any) -> Any:
        return _WRITTEN[conversion](value) if conversion else value


def told(message: str, /, **values: object) -> Told:
    """A text whose language is that of whoever looks at it; until then, and for programs, it is English.

    Values are texts, numbers, other texts of this kind, and what helps with an error; an exception is what it says,
    and anything else is taken as text. ``{fix!c}`` begins with a capital letter, ``{detail!d}`` ends without its dot.
    """
    return Told(_English().format(message, **values) if values else message, message, _kept(values))


def told_n(one: str, many: str, n: int, /, **values: object) -> Told:
    """:func:`told` in the form that goes with the number ``n``, which it may name as ``{n}``."""
    every = {"n": n, **values}
    return Told(_English().format(one if n == 1 else many, **every), one, _kept(every), many, n)


def all_of(names: Iterable[object]) -> str:
    """Several with "and" between them, in the language of whoever looks at it."""
    return _several(N_("{these} and {last}"), names)


def any_of(names: Iterable[object]) -> str:
    """Several with "or" between them, in the language of whoever looks at it."""
    return _several(N_("{these} or {last}"), names)


def _several(form: str, names: Iterable[object]) -> str:
    plain = [value if isinstance(value, str) else str(value) for value in map(_plain, names)]
    return reduce(lambda these, last: told(form, these=these, last=last), plain) if plain else ""


def _kept(values: Mapping[str, object]) -> dict[str, object]:
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    if isinstance(value, str | int | float | Embedded):
        return value
    if isinstance(value, BaseException):
        return words_of(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)


def words_of(error: BaseException) -> str:
    """What an exception says: a :class:`Told` where it was raised with one, which ``str`` would lose."""
    said = error.args[0] if error.args else ""
    return said if isinstance(said, Told) and said == str(error) else str(error)


def wordless(message: str) -> bool:
    """Whether a message has no words of its own, such as ``{path}: {reason}``: it is the same in every language."""
    return not re.search(r"[^\W\d_]", re.sub(r"\{[^{}]*\}", "", message))


def shown(text: str) -> str:
    """A text for whoever looks at it: a :class:`Told` in the language in use, with its values; any other as it is.

    What no catalogue has, or has with other places for values, is shown in English: a text may have been read
    from a file that anybody wrote, so nothing of it is looked up or evaluated.
    """
    return "".join(map(str, pieces(text)))


def pieces(text: str, *, english: bool = False) -> list[object]:
    """:func:`shown` in its pieces: words, and between them the values that are neither text nor number."""
    return _pieces(text, english, 0)


def _pieces(text: str, english: bool, depth: int) -> list[object]:
    if not isinstance(text, Told):
        return [text]
    english = english or _chosen == "en"
    if english and not any(isinstance(value, Embedded) for value in text.values.values()):
        return [str(text)]
    message = _message(text, english) if depth < _DEEPEST else None
    found = None if message is None else _filled(message, text.values, english, depth)
    # A file may say one thing and remember another: what is in no catalogue has to be what the text says.
    if english or wordless(text.message):
        said = _filled(message or "", text.values, True, depth)
        found = found if said is not None and "".join(map(str, said)) == text else None
    return [str(text)] if found is None else found


def _message(text: Told, english: bool) -> str | None:
    """What is filled with the values; None where the catalogue does not have it."""
    if english:
        return text.many if text.many and text.n != 1 else text.message
    if wordless(text.message):
        return text.message
    try:
        if text.many:
            return _texts.ngettext(text.message, text.many, text.n)
        return _texts.gettext(text.message) if text.message else None
    except (KeyError, TypeError, OverflowError):
        return None


def _filled(message: str, values: Mapping[str, object], english: bool, depth: int) -> list[object] | None:
    """A message with its values; None where it asks for one that there is not, or for anything but a value."""
    if not values:  # then braces are what they are
        return None if _fields(message) else [message]
    found: list[object] = []
    try:
        for words, name, spec, conversion in string.Formatter().parse(message):
            found.append(words)
            if name is None:
                continue
            if name not in values or (conversion or "s") not in _WRITTEN or not _SPEC.fullmatch(spec or ""):
                return None
            value = values[name]
            if conversion:
                whole = (
                    "".join(map(str, _pieces(value, english, depth + 1))) if isinstance(value, str) else value
                )
                found.append(format(_WRITTEN[conversion](whole), spec or ""))
            elif isinstance(value, Embedded):
                found.append(value)
            elif isinstance(value, str):
                found += [format(value, spec)] if spec else _pieces(value, english, depth + 1)
            else:
                written = format(value, spec or "")
                grouped = "," in (spec or "") and not english
                found.append(written.replace(",", "\N{NO-BREAK SPACE}") if grouped else written)
    except (ValueError, TypeError, OverflowError):
        return None
    return found


def _fields(message: str) -> bool:
    try:
        return any((name or "").isidentifier() for _, name, _, _ in string.Formatter().parse(message))
    except ValueError:
        return False


def changed(text: str, change: Callable[[str], str]) -> str:
    """A text that went through a function; of a :class:`Told` so do the texts in it, and it stays one."""
    if not isinstance(text, Told):
        return change(text)
    values = {
        name: changed(value, change) if isinstance(value, str) else value
        for name, value in text.values.items()
    }
    return Told(change(str(text)), text.message, values, text.many, text.n)


def with_helps(text: str, change: Callable[[Any], object]) -> str:
    """A text in which what helps is another: of a :class:`Told` each value that is neither text nor number."""
    if not isinstance(text, Told) or not any(isinstance(value, Embedded) for value in text.values.values()):
        return text
    values = {
        name: change(value) if isinstance(value, Embedded) else value for name, value in text.values.items()
    }
    message = _message(text, english=True) or ""
    found = _filled(message, values, english=True, depth=0)
    return text if found is None else Told("".join(map(str, found)), text.message, values, text.many, text.n)


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
    global _chosen, _texts
    if code not in LANGUAGES:
        raise KeyError(code)
    texts: gettext.NullTranslations = _Missing()
    if code != "en":
        with (_LOCALE / f"{code}.mo").open("rb") as file:
            texts = gettext.GNUTranslations(file)
        texts.add_fallback(_Missing())
    _texts, _chosen = texts, code


def in_use() -> str:
    """The code of the language that is spoken."""
    return _chosen


def ask(code: str) -> None:
    """Want this language, whatever else names one: for this process and the jobs that it starts. Empty: want none."""
    global _asked  # noqa: PLW0603 - of the process, as the language in use is
    _asked = known(code)


def asked() -> str:
    """The code of the language that was asked for by name, which nothing else tells the next start; else empty."""
    return _asked


def wanted(setting: str | None = None) -> str:
    """The language that is wanted.

    That which was asked for (:func:`ask`), else that of ``OLIVEPRESS_LANGUAGE``, else of ``setting``, which is the
    user's own if it is not given, else of the locale; English where none of them names one that there is.
    """
    name = _asked or os.environ.get(VARIABLE) or (user_setting("language") if setting is None else setting)
    return (known(name) if name else _of_locale()) or "en"


def _of_locale() -> str:
    """The language of the person's locale, as gettext finds it; empty where there is none of ours."""
    find = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    locale = next(filter(None, find), "")
    if known(locale) == "" and locale.partition(".")[0] in ("", "C", "POSIX"):
        return ""  # LANGUAGE says nothing then
    several = os.environ.get("LANGUAGE") or locale
    return next(filter(None, map(known, several.split(":"))), "")


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Speak this language meanwhile. For what one thread does in front, and for processes that do one thing."""
    before = in_use()
    use(code)
    try:
        yield
    finally:
        use(before)


def known(name: str) -> str:
    """The code of the language that ``de``, ``de_AT.UTF-8`` or ``de-AT`` names; empty where there is none."""
    code = re.split(r"[-_.@]", name, maxsplit=1)[0].lower()
    return code if code in LANGUAGES else ""
