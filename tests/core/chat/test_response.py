"""What a question's events give to one who comes late, or is interrupted."""

from __future__ import annotations

from core.chat.protocol import Finished, Token
from core.chat.response import ChatEvent, Response, Turn


def answered(stopped: list[str] | None = None) -> Response:
    """An response whose events have all come."""
    said = stopped if stopped is not None else []
    response = Response(Turn("Where?"), lambda *_: None, None, lambda: said.append("stop"))
    for message in (Token("", "Here"), Token("", "."), Finished()):
        response.hear(message)
    return response


def test_an_answer_that_was_over_at_once_is_shown_whole() -> None:
    response = answered()
    assert response.over
    shown: list[ChatEvent] = []
    response.follow(shown.append)
    assert [event.text for event in shown if isinstance(event, Token)] == ["Here", "."]
    assert isinstance(shown[-1], Finished)


def test_an_interruption_stops_the_answer_and_shows_the_rest() -> None:
    response = Response(Turn("Where?"), lambda *_: None, None, lambda: response.hear(Finished()))
    response.hear(Token("", "Here"))
    response.hear(Token("", "."))
    shown: list[str] = []

    def show(event: ChatEvent) -> None:
        shown.append(event.type)
        if len(shown) == 1:
            raise KeyboardInterrupt

    response.follow(show)
    assert shown == ["token", "token", "finished"]


def test_an_interruption_at_the_very_end_ends_too() -> None:
    stopped: list[str] = []
    response = answered(stopped)

    def show(event: ChatEvent) -> None:
        if isinstance(event, Finished):
            raise KeyboardInterrupt

    response.follow(show)
    assert stopped == []  # there was nothing left to stop
