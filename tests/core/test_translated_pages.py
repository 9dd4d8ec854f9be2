"""A page in another language has what the English one has: a change of the one is not forgotten in the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from core.language import LANGUAGES, RIGHT_TO_LEFT

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ("README.md", "docs/tutorial.md")
ON_SCREEN = ("Go to", "HELD", "Leave", "Done", "done", "to do", "This machine can run the lab.",
             "No findings: every row can be used.")  # fmt: skip
"""What the tutorial says that stands on the screen, beside the buttons of the steps."""
STEPS = ("Data", "Quantize", "Finetune", "Optimize", "Chat")
OTHERS = sorted(set(LANGUAGES) - {"en"})
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def in_language(page: str, code: str) -> str:
    text = (ROOT / page).with_suffix(f".{code}.md").read_text(encoding="utf-8")
    # In a line from right to left, code that begins or ends with a sign has to say which way it goes.
    return re.sub(r'<code dir="ltr">(.*?)</code>', r"`\1`", text)


def outline(text: str) -> dict[str, object]:
    """What does not depend on the language: the kinds of lines in their order, links, pictures, keys, commands."""
    blocks = [
        (language, ["" if language == "text" else _command(line) for line in code.splitlines()])
        for language, code in FENCE.findall(text)
    ]
    prose = FENCE.sub("```", text)
    return {
        "headings": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "blocks": blocks,
        "pictures": re.findall(r"!\[[^\]]*\]\(([^)]+)\)", prose),
        "links": sorted(_english(each) for each in re.findall(r"(?<!!)\[[^\]]*\]\(([^)]+)\)", prose)),
        "list items": len(re.findall(r"^- ", prose, re.MULTILINE)),
        "table rows": len(re.findall(r"^\|", prose, re.MULTILINE)),
        "keys": re.findall(r"`(F\d+|Esc|[a-z,.])`", prose) if "tutorial" in prose[:600] else [],
        "commands": sorted(_command(each) for each in re.findall(r"`(olivepress [^`]+|make [^`]+)`", prose)),
    }


def _english(link: str) -> str:
    return re.sub(rf"\.({'|'.join(OTHERS)})\.md", ".md", link)


def _command(line: str) -> str:
    """A command without its comment, what it asks, and the language that it names."""
    line = re.sub(r"\s+# .*", "", line)
    return re.sub(r'"[^"]*"', '""', re.sub(r" --language \w+", "", line))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("code", OTHERS)
def test_a_translated_page_has_all_that_the_english_one_has(page: str, code: str) -> None:
    english = outline((ROOT / page).read_text(encoding="utf-8"))
    theirs = outline(in_language(page, code))
    for what, there in english.items():
        assert theirs[what] == there, f"{page} in {code}: {what}"


@pytest.mark.parametrize("code", ["en", *OTHERS])
def test_the_tutorial_names_what_is_on_the_screen_as_it_is_there(code: str) -> None:
    page = ROOT / "docs" / "tutorial.md"
    text = page.read_text(encoding="utf-8") if code == "en" else in_language("docs/tutorial.md", code)
    said = _texts(code)
    forward, run = said("Next: {title}"), said("Run {title}")
    names = [said(each) for each in ON_SCREEN]
    names += [forward.format(title=said(step)) for step in STEPS]
    names += [run.format(title=said(step)) for step in STEPS[1:4]]
    assert [each for each in names if f"`{each}`" not in text] == []


def _texts(code: str) -> Callable[[str], str]:
    if code == "en":
        return str
    with (ROOT / "core" / "locale" / f"{code}.po").open("rb") as file:
        catalog = read_po(file)

    def said(text: str) -> str:
        message = catalog.get(text)
        assert message is not None, text
        return str(message.string)

    return said


@pytest.mark.parametrize("page", PAGES)
def test_each_language_leads_to_the_others(page: str) -> None:
    name = Path(page).stem
    for code in ("en", *OTHERS):
        text = (ROOT / page).read_text(encoding="utf-8") if code == "en" else in_language(page, code)
        line = next(each for each in text.splitlines() if " · " in each)
        assert re.findall(r"\(([^)]+)\)", line) == [
            f"{name}.md" if each == "en" else f"{name}.{each}.md"
            for each in sorted(("en", *OTHERS))
            if each != code
        ]


@pytest.mark.parametrize("page", PAGES)
def test_right_to_left_is_for_prose_alone(page: str) -> None:
    for code in RIGHT_TO_LEFT:
        text = in_language(page, code)
        prose = FENCE.split(text)[:: FENCE.groups + 1]
        assert len(prose) > 2
        for part in prose:
            assert part.count('<div dir="rtl" markdown>') == part.count("</div>") == 1, part[:80]
        raw = (ROOT / page).with_suffix(f".{code}.md").read_text(encoding="utf-8")
        codes = re.findall(r"`([^`\n]+)`", FENCE.sub("", raw))
        turned = [each for each in codes if each.isascii() and not (each[0].isalnum() and each[-1].isalnum())]
        assert turned == [], "its signs would be read on the wrong side"
