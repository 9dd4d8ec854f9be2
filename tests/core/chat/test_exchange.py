"""What a question's events give to one who comes late, or is interrupted."""

from __future__ import annotations

from core.chat.answer import Turn
from core.chat.exchange import ChatEvent, Exchange
from core.chat.protocol import Finished, Token


def answered(stopped: list[str] | None = None) -> Exchange:
    """An exchange whose events have all come."""
    said = stopped if stopped is not None else []
    exchange = Exchange(Turn("Where?"), lambda *_: None, None, lambda: said.append("stop"))
    for message in (Token(1, "", "Here"), Token(1, "", "."), Finished(1)):
        exchange.hear(message)
    return exchange


def test_an_answer_that_was_over_at_once_is_shown_whole() -> None:
    exchange = answered()
    assert exchange.over
    shown: list[ChatEvent] = []
    exchange.follow(shown.append)
    assert [event.text for event in shown if isinstance(event, Token)] == ["Here", "."]
    assert isinstance(shown[-1], Finished)


def test_an_interruption_stops_the_answer_and_shows_the_rest() -> None:
    exchange = Exchange(Turn("Where?"), lambda *_: None, None, lambda: exchange.hear(Finished(1)))
    exchange.hear(Token(1, "", "Here"))
    exchange.hear(Token(1, "", "."))
    shown: list[str] = []

    def show(event: ChatEvent) -> None:
        shown.append(event.type)
        if len(shown) == 1:
            raise KeyboardInterrupt

    exchange.follow(show)
    assert shown == ["token", "token", "finished"]


def test_an_interruption_at_the_very_end_ends_too() -> None:
    stopped: list[str] = []
    exchange = answered(stopped)

    def show(event: ChatEvent) -> None:
        if isinstance(event, Finished):
            raise KeyboardInterrupt

    exchange.follow(show)
    assert stopped == []  # there was nothing left to stop
