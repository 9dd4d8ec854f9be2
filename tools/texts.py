"""Bring the translations up to date with the texts in the code: ``python tools/texts.py``, or ``make texts``.

The marked texts go into each language's ``core/locale/*.po``, which people edit; ``.mo`` beside it is what the program
reads. What is new or has changed is empty until somebody translates it.
"""

from __future__ import annotations

import ast
import io
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from core.language import LANGUAGES, wordless  # noqa: E402 - the tree that this file lies in, wherever it is called from

LOCALE = ROOT / "core" / "locale"
KEYWORDS = {
    "_": None,
    "N_": None,
    "Nn_": (1, 2),
    "ngettext": (1, 2),
    "pgettext": ((1, "c"), 2),
    "told": None,
    "told_n": (1, 2),
}
UNTOLD = (b'"POT-', b'"PO-', b'"Report-', b'"Last-', b'"Language-Team', b'"Generated', b'"Project')
"""Lines of a catalogue's head that tell nothing here, or would change with every run."""


def marked(rooms: tuple[str, ...] = ("core", "tui")) -> Catalog:
    """Every text that is marked in the code."""
    found = Catalog(project="OlivePress", charset="utf-8")
    for room in rooms:
        for name, _line, message, comments, context in extract_from_dir(
            ROOT / room, method_map=[("**.py", "python")], keywords=KEYWORDS, comment_tags=("Translators:",)
        ):
            if context is None and message not in called(ROOT / room / name):
                continue
            if isinstance(message, str) and wordless(message):
                continue
            # Without line numbers: they would change with every line of code.
            found.add(message, None, [(f"{room}/{name}", 0)], auto_comments=comments, context=context)
    return found


@cache
def called(path: Path) -> frozenset[object]:
    """The texts that are given to a function which marks them: Babel takes ``told.get("x")`` for one as well."""
    found: set[object] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        which = (
            KEYWORDS.get(node.func.id, ())
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            else ()
        )
        if isinstance(node, ast.Call) and which != ():
            texts = [each.value for each in node.args[: 2 if which else 1] if isinstance(each, ast.Constant)]
            found.add(tuple(texts) if which else texts[0] if texts else "")
    return frozenset(found)


def written(catalog: Catalog) -> bytes:
    """A catalogue as its file has it."""
    stream = io.BytesIO()
    write_po(stream, catalog, width=110, sort_output=True, include_lineno=False)
    lines = stream.getvalue().split(b"\n")
    return b"\n".join(line for line in lines if not line.startswith(UNTOLD))


def translated(message: Message) -> bool:
    """Whether a text has a translation in each of its forms."""
    text = message.string
    return all(text) if isinstance(text, tuple | list) else bool(text)


def compiled(catalog: Catalog) -> bytes:
    """A catalogue as the program reads it: without what is not translated, which is English then."""
    for each in [each for each in catalog if each.id and not translated(each)]:
        catalog.delete(each.id, each.context)
    catalog.creation_date = catalog.revision_date = datetime(
        2026, 1, 1, tzinfo=UTC
    )  # the same bytes each time
    stream = io.BytesIO()
    write_mo(stream, catalog)
    return stream.getvalue()


def main() -> int:
    """Write all of them, and tell what is still to be translated."""
    template = marked()
    LOCALE.mkdir(exist_ok=True)
    for code in LANGUAGES:
        if code == "en":
            continue
        path = LOCALE / f"{code}.po"
        if path.exists():
            with path.open("rb") as file:
                catalog = read_po(file, locale=code)
        else:
            catalog = Catalog(locale=code, project="OlivePress", charset="utf-8")
        catalog.update(template, no_fuzzy_matching=True)
        catalog.obsolete.clear()
        catalog.fuzzy = False
        catalog.header_comment = f"# OlivePress in {LANGUAGES[code]}. Terms: docs/glossary.md."
        path.write_bytes(written(catalog))
        missing = sum(not translated(each) for each in catalog if each.id)
        print(f"{code}: {len(catalog)} texts, {missing} to be translated")
        path.with_suffix(".mo").write_bytes(compiled(catalog))
    return 0


if __name__ == "__main__":
    sys.exit(main())
