"""Forms made from the recipe's declared options: one line an option, checked while it is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import DescendantBlur, DescendantFocus, Key
from textual.message import Message
from textual.widgets import Input, OptionList, Select

from core.errors import LabError
from core.files import MANIFEST
from core.folder import LabFolder
from core.language import _, ngettext, shown, words_of
from core.model.auto import Chosen, Facts, RecordCount, Resolved, resolve
from core.options import AUTO, Option
from core.recipe import Recipe, find_option
from tui.glyphs import ascii_only, glyph
from tui.labels import label, label_within
from tui.session import value_of
from tui.widgets.button import Button
from tui.widgets.line import Line
from tui.widgets.safe import Plain, content


class Picker(Select[Any], inherit_bindings=False):
    """A choice that opens on Enter or space, so that the arrows go from field to field.

    A letter opens it too and looks for it in the list: to who stands in a field it is no key that starts or stops.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "show_overlay", "Choose", show=False)]

    def __init__(self, choices: Sequence[tuple[str, Any]], value: Any, *, id: str) -> None:
        super().__init__(
            [(_searched(text), item) for text, item in choices],
            value=value,
            allow_blank=False,
            compact=True,
            id=id,
        )

    def on_mount(self) -> None:
        """Its sign where there is ASCII alone."""
        if ascii_only():
            for arrow in self.query(".arrow"):
                arrow.update("v")  # type: ignore[attr-defined]

    def on_key(self, event: Key) -> None:
        """A letter opens the list and is looked for there."""
        if event.is_printable and event.key != "space" and not self.expanded:
            event.stop()
            event.prevent_default()
            self.action_show_overlay()
            self.query_one("SelectOverlay", OptionList).post_message(Key(event.key, event.character))

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        """Letters are for the list."""
        return character is not None and character.isprintable()

    def relabel(self, choices: Sequence[tuple[str, Any]]) -> None:
        """Say the same choices in other words."""
        value = self.value
        with self.prevent(Select.Changed):
            self.set_options([(_searched(text), item) for text, item in choices])
            for shown in (choices[-1][1], value):  # the words of the value are drawn when it changes
                self.value = shown


def _searched(text: str) -> Text:
    """What stands in the list; Textual looks for letters in texts of this kind alone."""
    return Text(content(text).plain)


class Field(Horizontal):
    """One option: its name, its control, and in a line what it is."""

    DEFAULT_CSS = """
    Field { height: 1; }
    Field .field-name { width: 19; height: 1; padding: 0 0 0 1; }
    Field .field-help { width: 1fr; height: 1; padding: 0 0 0 2; color: $text-muted;
        text-wrap: nowrap; text-overflow: ellipsis; }
    Field Input, Field Picker { width: 29; }
    Field.-wide Input, Field.-wide Picker { width: 1fr; max-width: 84; }
    Field.-wide .field-help { display: none; }
    Field:focus-within .field-name { background: $primary; color: $background; text-style: bold; }
    Field:ansi:focus-within .field-name { background: ansi_default; color: ansi_default; text-style: bold reverse; }
    Field.-wrong .field-name { color: $text-error; text-style: bold; }
    """

    def __init__(self, option: Option, value: Any, words: Callable[[Any], str] | None = None) -> None:
        super().__init__(classes="-wide" if option.wide else "")
        self.option = option
        self.problem = ""
        self._words = words or option.words
        self._chosen: Chosen | None = None
        self._said = Plain(_(option.help), classes="field-help")
        self._start = value
        self.control = self._make()
        self.seen: Any = self.control.value if isinstance(self.control, Input) else value

    def _make(self) -> Input | Picker:
        name = f"set-{self.option.section}-{self.option.key}"
        if self.option.kind is bool:
            return Picker([(_("yes"), True), (_("no"), False)], self._start, id=name)
        if self.option.choices:
            return Picker(self._pairs(), self._start, id=name)
        return Line(
            self._typed(self._start),
            placeholder=AUTO if self.option.auto else "",
            compact=True,
            id=name,
            select_on_focus=False,
        )

    def _pairs(self) -> list[tuple[str, Any]]:
        pairs = [(_(self._words(item)), item) for item in self.option.choices]
        return [(self._auto_words(), AUTO), *pairs] if self.option.auto else pairs

    def _auto_words(self) -> str:
        known = self._chosen is not None and self._chosen.value is not None
        return f"{AUTO} ({shown(self._chosen.words)})" if self._chosen and known else AUTO

    def _typed(self, value: Any) -> str:
        """A value as it stands in the line; an empty line is "auto", whose value shows through."""
        return "" if self.option.auto and value == AUTO else self.option.typed(value)

    def compose(self) -> ComposeResult:
        yield Plain(label(self.option.key), classes="field-name")
        yield self.control
        yield self._said

    def tell(self, chosen: Chosen | None) -> None:
        """Show what "auto" is here and why; None where the option is not "auto" now."""
        if not self.option.auto:
            return
        self._said.show(_(self.option.help) if chosen is None else chosen.reason)
        if chosen is None or chosen == self._chosen:
            return  # the words of "auto" stay, for who goes back to it
        if isinstance(self.control, Picker) and self.control.expanded:
            return  # its list is open: another time
        self._chosen = chosen
        if isinstance(self.control, Input):
            self.control.placeholder = self._auto_words()
        else:
            self.control.relabel(self._pairs())

    @property
    def help(self) -> str:
        """What the option is and what may stand there; or what is wrong with what stands there."""
        if self.problem:
            return f"{label(self.option.key)}: {self.problem}"
        told = _(self.option.help)
        if not (self.option.choices or self.option.kind in (bool, str)):
            told = f"{told} ({shown(self.option.expected)})"
        if self._chosen is not None and self._is_auto():
            told = f"{told}. {self._auto_words()}: {shown(self._chosen.reason)}"
        place = _("In lab.toml: [{section}] {key}", section=self.option.section, key=self.option.key)
        return f"{told}. {place}"

    def _is_auto(self) -> bool:
        try:
            return bool(self.value() == AUTO)
        except ValueError:
            return False

    def value(self) -> Any:
        """The value as it stands. Raises ValueError if it is not possible."""
        if isinstance(self.control, Input):
            return self.option.parse(self.control.value)
        return self.control.value

    def check(self) -> bool:
        """Whether the value is possible; marks the row if it is not."""
        try:
            self.value()
            self.problem = ""
        except ValueError as error:
            self.problem = shown(words_of(error))
        self.set_class(bool(self.problem), "-wrong")
        return not self.problem

    def put(self, value: Any) -> None:
        """Show another value, unless the user is in this field."""
        if self.control.has_focus or value == self._start:
            return
        self._start = value
        if isinstance(self.control, Input):
            self.control.value = self._typed(value)
        else:
            self.control.value = value

    def replace(self, value: Any) -> None:
        """Show another value, whatever stands there."""
        self._start = value
        self.control.value = self._typed(value) if isinstance(self.control, Input) else value


@dataclass(frozen=True)
class Follows:
    """What follows another model by itself.

    Attributes:
        before: the model that it was.
        changes: each automatic value that is another now: the option's key, what it was, what it is.
        known: whether the new model is known, so that all of them are.
        compared: whether the model that it was is known, so that there was something to follow.
    """

    before: str
    changes: tuple[tuple[str, str, str], ...]
    known: bool
    compared: bool = True

    @classmethod
    def of(cls, before: Recipe, was: Resolved, now: Resolved) -> Follows:
        """What differs between two recipes of which one follows the other."""
        old = {each.option: each for each in was.chosen}
        pairs = [(old[each.option], each) for each in now.chosen if each.option in old]
        return cls(
            before.model.source,
            tuple(
                (each.option.partition(".")[2], past.words, each.words)
                for past, each in pairs
                if None not in (past.value, each.value) and past.value != each.value
            ),
            all(each.value is not None or past.value is None for past, each in pairs),
            any(past.value is not None for past, _now in pairs),
        )

    @property
    def words(self) -> str:
        """The same for people."""
        arrow = glyph("to")
        told = ", ".join(f"{label_within(key)} {old} {arrow} {new}" for key, old, new in self.changes)
        same = _("No automatic value is another.") if self.compared else ""
        sentences = [
            _("Another model than {before}.", before=self.before),
            _("What follows by itself: {told}.", told=told) if told else same,
            "" if self.known else _("More will follow once the model is here."),
            _("What was set by hand stays."),
        ]
        return " ".join(filter(None, sentences))


class Form(Vertical):
    """Fields for some of the recipe's options; those named in ``more`` are folded away.

    Args:
        recipe: where the first values come from.
        main, more: options as ``section.key``.
        words: what is said for the choices of an option, where that depends on the machine.
    """

    DEFAULT_CSS = """
    Form { height: auto; }
    Form #form-help { height: auto; min-height: 1; max-height: 3; color: $text-muted; padding: 0 1; }
    Form #form-help.-wrong { color: $text-error; text-style: bold; }
    Form #more { height: auto; display: none; }
    Form.-open #more { display: block; }
    Form #follows { height: auto; display: none; padding: 0 1; }
    Form #followed { color: $text-warning; }
    Form #fold { margin: 0 0 0 1; background: $background; }
    Form.-roomy Field { height: auto; }
    Form.-roomy .field-help { height: auto; text-wrap: wrap; }
    """

    class Edited(Message):
        """A value was changed by the user, or more is known of what is "auto"."""

    class Left(Message):
        """A field was left or a choice made, and these values are not the recipe's, by ``section.key``."""

        def __init__(self, values: dict[str, Any]) -> None:
            super().__init__()
            self.values = values

    class Known(Message):
        """What the files tell of the model and the records; None where they do not."""

        def __init__(self, key: object, facts: Facts | None, records: RecordCount | None) -> None:
            super().__init__()
            self.key, self.facts, self.records = key, facts, records

    def __init__(
        self,
        recipe: Recipe,
        main: Sequence[str],
        more: Sequence[str] = (),
        words: Mapping[str, Callable[[Any], str]] | None = None,
    ) -> None:
        super().__init__()
        given = words or {}
        self.fields = {
            name: Field(find_option(name), value_of(recipe, name), given.get(name)) for name in (*main, *more)
        }
        self._main, self._more = tuple(main), tuple(more)
        self._of: tuple[Path, Recipe] | None = None
        self._asked: object = None
        self._known: tuple[object, Facts | None, RecordCount | None] | None = None
        self._settled: tuple[Recipe, Resolved] | None = None
        self.follows: Follows | None = None
        self._by_hand = False
        self._fold = Button(_("+ More settings"), id="fold")
        self._followed = Plain(id="followed")
        self._help = Plain(id="form-help")

    def compose(self) -> ComposeResult:
        for name in self._main:
            yield self.fields[name]
        if self._more:
            yield self._fold
            with Vertical(id="more"):
                for name in self._more:
                    yield self.fields[name]
        yield self._help
        with Horizontal(id="follows"):
            yield self._followed
            yield Button(_("Undo"), id="undo", key="u")

    def values(self) -> dict[str, Any]:
        """Every value, by ``section.key``. Raises ValueError if one is not possible."""
        found = {}
        for name, field in self.fields.items():
            try:
                found[name] = field.value()
            except ValueError as error:
                field.check()
                raise ValueError(f"{label(field.option.key)}: {shown(words_of(error))}") from None
        return found

    def typed(self) -> dict[str, Any] | None:
        """Every value, by ``section.key``; None while one is impossible."""
        try:
            return self.values()
        except ValueError:
            return None

    def choose(self, values: Mapping[str, Any]) -> None:
        """Change these choices as if the user had."""
        for name, value in values.items():
            control = self.fields[name].control
            if control.value != value:
                control.value = value

    def show_field(self, name: str) -> None:
        """Put the focus into this field, which may be folded away."""
        if name in self._more:
            self._by_hand = True
            self.unfold(True)
        self.call_after_refresh(self.fields[name].control.focus)

    def first_wrong(self) -> Field | None:
        """The first field with an impossible value."""
        return next((field for field in self.fields.values() if not field.check()), None)

    def put(self, recipe: Recipe) -> None:
        """Show the values of a recipe that was changed elsewhere."""
        for name, field in self.fields.items():
            field.put(value_of(recipe, name))

    def set(self, values: Mapping[str, Any]) -> None:
        """Put these values, by ``section.key``, into their fields, whatever stands there."""
        for name, value in values.items():
            if name in self.fields:
                self.fields[name].replace(value)

    def tell(self, chosen: Iterable[Chosen]) -> None:
        """Show what is "auto" here and why, beside the fields that are."""
        told = {each.option: each for each in chosen}
        for name, field in self.fields.items():
            field.tell(told.get(name))
            if field.has_focus_within:
                self._tell(field)

    def follow(self, root: Path, recipe: Recipe) -> None:
        """Show what is "auto" for a lab and its recipe, with what stands in the form.

        What files tell of the model and the records is read in a thread, once for each model and file.
        """
        self._of = (root, recipe)
        self._tell_auto()

    def resolved(self) -> Resolved | None:
        """What the form's values come to; None while one is impossible or the files have not been read."""
        if self._of is None:
            return None
        root, recipe = self._of
        try:
            recipe = recipe.with_values(self.values())
        except (ValueError, LabError):
            return None
        key = _key(root, recipe)
        if key != self._asked:
            self._asked = key
            self._read(key, root, recipe)
        return resolve(recipe, *self._known[1:]) if self._known and self._known[0] == key else None

    @property
    def waiting(self) -> bool:
        """Whether what is "auto" is still being read."""
        return self._asked is not None and (self._known is None or self._known[0] != self._asked)

    @work(thread=True, exit_on_error=False, group="facts")
    def _read(self, key: object, root: Path, recipe: Recipe) -> None:
        from core.data.records import remembered
        from core.model.auto import facts_at_hand

        lab = LabFolder(root)
        self.post_message(self.Known(key, facts_at_hand(lab, recipe), remembered(recipe, root)))

    def on_form_known(self, event: Form.Known) -> None:
        """The files have been read."""
        event.stop()
        if event.key == self._asked:
            self._known = (event.key, event.facts, event.records)
            self._tell_auto()
            self.post_message(self.Edited())

    def _tell_auto(self) -> None:
        if (
            any(field.option.auto for field in self.fields.values())
            and (found := self.resolved()) is not None
        ):
            self.tell(found.chosen)
            self._tell_what_follows(found)

    def _tell_what_follows(self, found: Resolved) -> None:
        """Where the model was changed: which automatic values are others now."""
        assert self._of is not None
        saved = self._of[1]
        if self.typed() is None or found.recipe.model != saved.model:
            return  # it is still being typed
        if self._settled is None or self._settled[0].model.source == saved.model.source:
            self._settled = saved, found
            self.follows = None
        else:
            self.follows = Follows.of(*self._settled, found)
        self._draw_follows()

    def _draw_follows(self) -> None:
        self.query_one("#follows").display = self.follows is not None
        self._followed.show(self.follows.words if self.follows is not None else "")

    def forget_change(self) -> None:
        """The other model is taken as it is: nothing is to be undone any more."""
        if self.follows is not None:
            self._settled, self.follows = None, None
            self._draw_follows()

    def undo(self) -> None:
        """The model that it was, with all that follows it."""
        if self.follows is not None:
            self.set({"model.source": self.follows.before})
            self.post_message(self.Left(self.unsaved()))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Unfold the rest, or fold it away; or take another model back."""
        if event.button.id == "undo":
            event.stop()
            self.undo()
        if event.button is self._fold:
            event.stop()
            self._by_hand = True
            self.unfold(not self.has_class("-open"))

    def show_all(self, room: bool) -> None:
        """Where there is room for all settings, all are shown until somebody folds or unfolds them."""
        self.set_class(room, "-roomy")
        if self._more and not self._by_hand and room != self.has_class("-open"):
            self.unfold(room)

    def unfold(self, open: bool) -> None:
        """Show the rest of the settings, or hide them."""
        self.set_class(open, "-open")
        self._fold.label(_("- Fewer settings") if open else _("+ More settings"))

    def on_input_changed(self, event: Input.Changed) -> None:
        """Check while it is typed."""
        self._edited(event)

    def on_select_changed(self, event: Select.Changed) -> None:
        """A choice was made: it is whole, and kept at once, as is what comes with it."""
        if self._edited(event) and (typed := self.unsaved()):
            self.post_message(self.Left(typed))

    def _edited(self, event: Input.Changed | Select.Changed) -> bool:
        """Whether it was the user who changed the field."""
        event.stop()
        field = next((f for f in self.fields.values() if f.control is event.control), None)
        if field is not None and field.control.value != field.seen:
            field.seen = field.control.value
            field.check()
            self._tell_auto()
            self._tell(field)
            self.post_message(self.Edited())
            return True
        return False

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Tell what the field is."""
        if event.widget is self._fold:
            self._help.show(
                ngettext(
                    "{n} more setting, which seldom needs a change.",
                    "{n} more settings, which seldom need a change.",
                    len(self._more),
                )
            )
            self._help.set_class(False, "-wrong")
        field = next((f for f in self.fields.values() if event.widget in f.walk_children()), None)
        if field is not None:
            self._tell(field)

    def on_descendant_blur(self, event: DescendantBlur) -> None:
        """What was typed is to be kept. An impossible value is not: it stays marked until it is put right."""
        if any(field.control is event.widget for field in self.fields.values()) and (typed := self.unsaved()):
            self.post_message(self.Left(typed))

    def unsaved(self) -> dict[str, Any]:
        """What was typed and is possible, where it is not what the recipe says."""
        if self._of is None:
            return {}
        possible = {name: field.value() for name, field in self.fields.items() if field.check()}
        return {name: value for name, value in possible.items() if value != value_of(self._of[1], name)}

    def _tell(self, field: Field) -> None:
        if field.problem or field.has_focus_within:
            self._help.show(field.help)
            self._help.set_class(bool(field.problem), "-wrong")


def _key(root: Path, recipe: Recipe) -> object:
    """What has to be read anew when it changes: model, data, what was counted, what was quantized."""
    lab = LabFolder(root)
    stamps = []
    for path in (lab.records_path, lab.quantized_dir / MANIFEST):
        try:
            stamps.append(path.stat().st_mtime_ns)
        except OSError:
            stamps.append(0)
    return (root, recipe.model, recipe.data, *stamps)
