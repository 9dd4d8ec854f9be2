"""Texts that are English for programs and logs, and in the viewer's language on the screen."""

from __future__ import annotations

import copy
import gettext
import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import language
from core.check.types import Check
from core.data.types import Finding, Quote
from core.errors import (
    Do,
    LabError,
    MachineError,
    Use,
    apart,
    error_from,
    has_help,
    hint_of,
    said,
    text_of,
    texts_of,
    with_other_helps,
    with_told,
)
from core.language import Told, _, all_of, any_of, changed, shown, told, told_n
from core.text import without_logins

GERMAN = {
    "Only {free} are free on {disk}.": "Auf {disk} sind nur {free} frei.",
    "{n} file": "{n} Datei",
    "Set {setting}, or: {command}": "Mit {command}, oder {setting} setzen",
    "A plain sentence.": "Ein einfacher Satz.",
    "{times:.1f} times": "{times:.1f}-mal",
    "{these} and {last}": "{these} und {last}",
    "{these} or {last}": "{these} oder {last}",
}


class Catalogue(gettext.GNUTranslations):
    """A catalogue of a few texts."""

    def __init__(self) -> None:
        self._fallback = None
        self.add_fallback(language._Missing())

    def gettext(self, message: str) -> str:
        return GERMAN.get(message) or language._Missing().gettext(message)

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        return self.gettext(msgid1) if n == 1 else self.gettext(msgid1).replace("Datei", "Dateien")


@pytest.fixture
def german(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_texts", Catalogue())
    monkeypatch.setattr(language, "_chosen", "de")


def free(disk: object = "/data") -> Told:
    return told("Only {free} are free on {disk}.", free=told_n("{n} file", "{n} files", 2), disk=disk)


def hint() -> Told:
    return told(
        "Set {setting}, or: {command}", setting=Use("finetune.rank", 4), command=Do.of("clean", "lab")
    )


def test_it_is_english_to_programs_and_german_to_who_reads_german(german: None) -> None:
    text = free(Path("/data"))
    assert text == "Only 2 files are free on /data."
    assert json.dumps({"t": text}) == '{"t": "Only 2 files are free on /data."}'
    assert f"{text}!" == "Only 2 files are free on /data.!"
    assert shown(text) == "Auf /data sind nur 2 Dateien frei."
    assert _("A plain sentence.") == shown(told("A plain sentence.")) == "Ein einfacher Satz."
    assert _("{why} (so)", why=text) == "Auf /data sind nur 2 Dateien frei. (so)"
    assert shown(told("{times:.1f} times", times=2.25)) == "2.2-mal"


def test_what_is_not_translated_stays_english_as_a_whole(german: None) -> None:
    assert shown(told("Nobody translated {what}.", what=free())) == (
        "Nobody translated Only 2 files are free on /data.."
    )
    assert shown("A plain sentence.") == "A plain sentence.", (
        "text of any other make is nobody's to translate"
    )


def test_thousands_are_divided_as_the_language_does(german: None) -> None:
    text = told("Only {free} are free on {disk}.", free=told("{n:,}", n=12345), disk="/")
    assert text == "Only 12,345 are free on /."
    assert shown(text) == "Auf / sind nur 12\N{NO-BREAK SPACE}345 frei."


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda text: pickle.loads(pickle.dumps(text))])
def test_it_survives_copies(again: Any, german: None) -> None:
    assert shown(again(free())) == "Auf /data sind nur 2 Dateien frei."
    assert shown(asdict(Check("disk", "FAIL", again(free())))["found"]).startswith("Auf")


def test_passwords_are_taken_out_of_values_too(german: None) -> None:
    text = without_logins(free("https://me:secret@host/x"))
    assert "secret" not in text + shown(text) + repr(pickle.dumps(text)) + json.dumps(with_told({"t": text}))
    assert shown(text) == "Auf https://***@host/x sind nur 2 Dateien frei."
    error = LabError(free("https://me:secret@host/x"), free("x"), hint())
    assert "secret" not in shown(error.title)
    assert shown(error.detail).startswith("Auf x")


def test_an_error_goes_through_json_and_is_shown_in_the_language_of_who_reads_it(german: None) -> None:
    error = MachineError(free(), told("A plain sentence."), (hint(), "."), code="disk.full")
    data = error.as_dict()
    again = error_from(json.loads(json.dumps(data)), 4)
    assert str(again) == str(error) == str(MachineError(str(error.title), str(error.detail), str(error.hint)))
    assert data["advice"] == ["Set ", error.as_dict()["advice"][1], ", or: ", data["advice"][3], "."]
    assert shown(again.title) == "Auf /data sind nur 2 Dateien frei."
    assert shown(again.detail) == "Ein einfacher Satz."
    assert said(again.advice) == "Mit olivepress clean lab, oder finetune.rank = 4 setzen."
    assert apart(again.advice) == (
        "Mit ", Do.of("clean", "lab"), ", oder ", Use("finetune.rank", 4), " setzen", "."
    )  # fmt: skip
    moved = with_other_helps(
        again.advice, lambda part: Do("clean", (), "other") if isinstance(part, Do) else part
    )
    assert said(moved) == "Mit olivepress clean other, oder finetune.rank = 4 setzen."
    assert "".join(map(str, moved)) == "Set finetune.rank = 4, or: olivepress clean other."


def test_an_error_of_plain_text_is_written_as_ever() -> None:
    assert LabError("a", "b", ("c ", Do("run")), code="x.y").as_dict() == {
        "code": "x.y",
        "title": "a",
        "detail": "b",
        "hint": "c olivepress run",
        "advice": ["c ", {"command": "run", "lab": "", "words": []}],
    }
    assert not has_help((told("A plain sentence."),))
    assert has_help((hint(),))


def test_findings_and_checks_keep_what_they_were_made_from(german: None) -> None:
    finding = Finding("a.jsonl", 3, "too-long", free(), "shorten it", 2, Quote("a", "b"))
    again = Finding.of_row(json.loads(json.dumps(finding.as_row())))
    assert again == finding
    assert shown(again.message) == "Auf /data sind nur 2 Dateien frei."
    assert shown(text_of(finding.as_dict(), "message")) == "Auf /data sind nur 2 Dateien frei."
    check = Check("disk", "FAIL", free(), hint()).as_dict()
    assert shown(text_of(check, "found")) == "Auf /data sind nur 2 Dateien frei."
    assert check["fix"] == "Set finetune.rank = 4, or: olivepress clean lab"
    notes = json.loads(json.dumps(with_told({"notes": [free(), "plain"]})))
    assert [shown(each) for each in texts_of(notes, "notes")] == [
        "Auf /data sind nur 2 Dateien frei.",
        "plain",
    ]


# --- from a folder that anybody wrote ---------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
messages = st.sampled_from([
    *GERMAN, "{x.__class__}", "{0!r}", "{n!s}", "{free:>999999999}", "{free:{disk}}", "{", "}", "{}", "",
]) | st.text(max_size=8)  # fmt: skip
names = st.sampled_from(
    ["free", "disk", "n", "setting", "command", "times", "x", "text", "message", "values"]
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.dictionaries(names, inner, max_size=3)
        | st.fixed_dictionaries({
            "text": st.text(max_size=5) | leaves,
            "message": messages | leaves,
            "values": st.dictionaries(names, inner, max_size=3) | leaves,
        }, optional={"many": messages | leaves, "n": leaves})
        | st.fixed_dictionaries({"command": leaves, "lab": leaves, "words": leaves})
        | st.lists(inner, max_size=2)
    ),
    max_leaves=8,
)  # fmt: skip


@given(told=st.dictionaries(st.sampled_from(["title", "detail", "advice"]), values) | values, text=leaves)
def test_whatever_a_file_says_nothing_is_raised_and_the_english_text_stays(told: Any, text: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_texts", Catalogue())
        patch.setattr(language, "_chosen", "de")
        data = {"title": "Title", "detail": text, "hint": "Hint", "told": told}
        error = error_from(data, 3)
        shown(error.title), shown(error.detail), said(error.advice)
        json.dumps(error.as_dict())
        Finding.of_row(["a", 1, "kind", told, text, 1, None])
        texts_of({"title": [text], "told": told}, "title")
        hint_of(data)
    assert error.title == "Title"
    assert error.detail == (without_logins(text) if isinstance(text, str) else "")
    assert error.hint == "Hint"


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ("{disk.__class__}", {"disk": "x"}),
        ("{disk!r}", {"disk": "x"}),
        ("{disk:>99999999}", {"disk": "x"}),
        ("{0}", {"0": "x"}),
        ("Only {free} are free on {disk}.", {"free": "x"}),
        ("Only {free} are free on {disk}.", {}),
        ("{times:.1f} times", {"times": "many"}),
    ],
)
def test_nothing_of_a_text_from_a_file_is_evaluated(
    message: str, values: dict[str, Any], german: None
) -> None:
    data = {"title": "English", "told": {"title": {"message": message, "values": values}}}
    assert shown(text_of(data, "title")) == "English"


def test_texts_within_texts_end_somewhere(german: None) -> None:
    deep: Any = "x"
    for _number in range(400):
        deep = {
            "text": "t",
            "message": "Only {free} are free on {disk}.",
            "values": {"free": deep, "disk": deep},
        }
    data = {"title": "English", "told": {"title": deep}}
    assert 0 < shown(text_of(data, "title")).count("Auf") < 2**10


@given(st.text(max_size=20), st.integers())
def test_a_change_keeps_what_it_is_made_from(value: str, n: int) -> None:
    text = changed(told("A {value} and {n}.", value=value, n=n), str.upper)
    assert isinstance(text, Told)
    assert (text, text.values) == (f"A {value} and {n}.".upper(), {"value": value.upper(), "n": n})


def test_a_text_within_another_begins_and_ends_as_it_must_there(german: None) -> None:
    text = told("{why!c}: {what!d}; {name!r}", why=told_n("{n} file", "{n} files", 1), what=free(), name="x")
    assert text == "1 file: Only 2 files are free on /data; 'x'"
    assert shown(text) == "1 Datei: Auf /data sind nur 2 Dateien frei; 'x'"
    small = told("{what!c}", what=told("a plain sentence."))
    assert (small, shown(small)) == ("A plain sentence.", "A plain sentence.")


def test_several_are_told_with_the_words_between_them(german: None) -> None:
    assert (all_of([]), all_of(["a"]), any_of([3, 4])) == ("", "a", "3 or 4")
    assert shown(all_of(["a", free("/x"), "c"])) == "a und Auf /x sind nur 2 Dateien frei. und c"
    assert (
        shown(told("Only {free} are free on {disk}.", free=any_of("ab"), disk="/y"))
        == "Auf /y sind nur a oder b frei."
    )
    assert all_of("abc") == "a and b and c"
