"""The languages: every text marked and translated, with the same places for values, and fitting where it stands."""

from __future__ import annotations

import ast
import re
import runpy
import string
from pathlib import Path

import pytest
from babel.messages.catalog import Message
from babel.messages.pofile import read_po

from core import language
from core.language import LANGUAGES, N_, _, ngettext, wordless
from tests.texts import literals, shadowed, unmarked, unmatched

ROOT = Path(__file__).resolve().parents[2]
LOCALE = ROOT / "core" / "locale"
TOOL = runpy.run_path(str(ROOT / "tools" / "texts.py"))  # tools are programs, and no package
EVERY = [*(ROOT / "core").rglob("*.py"), *(ROOT / "tui").rglob("*.py")]
OTHERS = [code for code in LANGUAGES if code != "en"]
DONE = (
    "core/algorithms.py",
    "core/assessments.py",
    "core/chat/commands.py",
    "core/cli",
    "core/formats.py",
    "core/options.py",
    "core/recipe.py",
    "core/report.py",
    "core/report_page.py",
    "core/results.py",
    "core/space.py",
    "core/stages.py",
    "core/stale.py",
    "core/takeaway.py",
    "tui",
)
"""Where every text is marked."""
COMPLETE = ("tui",)
"""Where every text has to be translated; of those used elsewhere alone what is not is shown in English."""
LATER = ("tui/plain.py",)
"""Modules there whose own texts are shown in English until they are translated."""
ENGLISH = ("crash.py", "child.py")
"""Modules of these places that speak English alone: what is told of an error of the wizard."""
UNTRANSLATED = frozenset(
    {
        *("Esc", "Enter", "Space"),  # names of keys
        *("Press", "Choose"),  # of bindings that no footer has
        *("Step {}", "go to step {}"),  # the same
        "Traceback (most recent call last):",
        "there is no screen to show it on",  # an error that is caught
        "{} GPUs {}/{} GiB{}",
        "GPU {}/{} GiB{}",
        "{}{} vCPU, {} GB, {}",
        "load ahead",  # a thread
        "Compute:",  # how a line of core begins
        "left behind",  # a kind, for programs
        "tab: complete",  # for readline
        *(
            "olivepress {}",
            "olivepress COMMAND [DIR] ...",
            "olivepress search [DIR] --finetune [--within TIME] [--tries N]",
        ),
        "[NAME VALUE]",
        *("held-out pair", "held-out answer", "held-out record", "held-out row"),  # keys of
        *("calibration row", "further choice", "training row"),  # core.formats.counted
    }
)
"""Texts that are the same in every language."""


def catalog(code: str) -> dict[tuple[object, str | None], Message]:
    with (LOCALE / f"{code}.po").open("rb") as file:
        return {(each.id, each.context): each for each in read_po(file, locale=code) if each.id}


def forms(text: object) -> tuple[str, ...]:
    return tuple(map(str, text)) if isinstance(text, tuple | list) else (str(text),)


def places(text: str) -> list[tuple[str, str, str]]:
    """The places for values; of a text with other braces, the braces."""
    try:
        found = [
            (name, spec or "", conv or "")
            for _text, name, spec, conv in string.Formatter().parse(text)
            if name
        ]
    except ValueError:
        return [("{", "", "")] * text.count("{")
    return sorted(found)


@pytest.fixture(scope="module")
def marked() -> set[tuple[object, str | None]]:
    return {(each.id, each.context) for each in TOOL["marked"]() if each.id}


@pytest.fixture(scope="module")
def wanted() -> set[tuple[object, str | None]]:
    """What is to be translated in every language."""
    every = [each for each in TOOL["marked"](COMPLETE) if each.id]
    return {
        (each.id, each.context) for each in every if any(name not in LATER for name, _line in each.locations)
    }


@pytest.mark.parametrize("code", OTHERS)
def test_every_marked_text_is_translated_and_nothing_else_is(
    code: str, marked: set[tuple[object, str | None]], wanted: set[tuple[object, str | None]]
) -> None:
    found = catalog(code)
    assert set(found) == marked, "make texts brings the catalogues up to date"
    assert [key for key, each in found.items() if key in wanted and not all(forms(each.string))] == []
    assert [key for key, each in found.items() if each.fuzzy] == []


@pytest.mark.parametrize("code", OTHERS)
def test_a_translation_has_the_places_lines_and_edges_of_its_text(code: str) -> None:
    for (id, _context), message in catalog(code).items():
        english = forms(id)[-1]
        for text in filter(None, forms(message.string)):
            assert places(text) == places(english), text
            assert text.count("\n") == english.count("\n"), text
            assert (text[:1].isspace(), text[-1:].isspace()) == (
                english[:1].isspace(),
                english[-1:].isspace(),
            ), text


@pytest.mark.parametrize("code", OTHERS)
def test_what_the_program_reads_was_made_from_what_people_edit(code: str) -> None:
    with (LOCALE / f"{code}.po").open("rb") as file:
        assert TOOL["compiled"](read_po(file, locale=code)) == (LOCALE / f"{code}.mo").read_bytes()


def test_every_text_is_marked_and_none_is_put_together() -> None:
    files = [
        path
        for name in DONE
        for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
        if path.name not in ENGLISH
    ]
    assert [line for path in files for line in unmarked(path, UNTRANSLATED)] == []
    assert [line for path in EVERY for line in shadowed(path)] == []


def test_each_text_is_given_its_values_and_no_others() -> None:
    assert [line for path in EVERY for line in unmatched(path)] == []


def test_no_marked_text_is_overlooked(marked: set[tuple[object, str | None]]) -> None:
    known = {text for id, _context in marked for text in forms(id)}
    overlooked = [found for path in EVERY for found in literals(path) if found[1] not in known]
    assert [found for found in overlooked if not wordless(found[1])] == []


def test_a_language_is_chosen_by_variable_or_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(language.VARIABLE, "de_AT.UTF-8")
    assert language.wanted("fa") == "de"
    monkeypatch.delenv(language.VARIABLE)
    assert language.wanted("fa") == "fa"
    assert language.wanted("xx") == "en"


def test_values_come_in_after_translation_and_a_number_has_its_form() -> None:
    language.use("ru")
    assert _("No text {name}.", name="{x}") == "No text {x}.", "what is not known stays English"
    told = [ngettext("(traceback of {n} line)", "(traceback of {n} lines)", n) for n in (1, 2, 5, 21)]
    assert told == [
        "(трассировка: 1 строка)",
        "(трассировка: 2 строки)",
        "(трассировка: 5 строк)",
        "(трассировка: 21 строка)",
    ]
    assert (_(""), N_("Log"), _("Log")) == ("", "Log", "Журнал")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"LANG": "de_DE.UTF-8"}, "de"),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "ru_RU"}, "ru"),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "ru_RU", "LC_ALL": "es_ES@euro"}, "es"),
        ({"LANG": "de_DE.UTF-8", "LANGUAGE": "fr:vi:ru"}, "vi"),
        ({"LANG": "fr_FR.UTF-8", "LANGUAGE": "de"}, "de"),
        ({"LANG": "C.UTF-8", "LANGUAGE": "de"}, "en"),
        ({"LANG": "POSIX"}, "en"),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANGUAGE": "de"}, "en"),
        ({"LANG": "fr_FR.UTF-8"}, "en"),
        ({"LANG": "en_GB.UTF-8", "LANGUAGE": "en_GB:en"}, "en"),
        ({}, "en"),
    ],
)
def test_the_locale_chooses_where_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], code: str
) -> None:
    for name in (language.VARIABLE, "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert language.wanted() == code
    assert language.wanted("fa") == "fa"
    monkeypatch.setenv(language.VARIABLE, "es")
    assert language.wanted("fa") == "es"
    language.ask("vi")
    assert language.wanted("fa") == "vi"


def test_the_users_own_setting_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(language.VARIABLE)
    monkeypatch.setenv("OLIVEPRESS_CONFIG", str(tmp_path))
    for text, code in (('language = "fa"', "fa"), ("language = 3", "en"), ("not toml", "en")):
        (tmp_path / "wizard.toml").write_text(text)
        monkeypatch.setenv("LANG", "C")
        assert language.wanted() == code


def test_no_list_is_joined_by_an_english_word() -> None:
    """:func:`core.language.all_of` and ``any_of`` say it in the language in use."""
    joined = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in EVERY
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == "join"
        and isinstance(node.value, ast.Constant)
        and re.search(r"[a-z]{2}", str(node.value.value))
    ]
    assert [place for place in joined if not place.startswith("core/errors.py")] == [], (
        "of a setting as it is typed"
    )
