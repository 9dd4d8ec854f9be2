"""A room of people in the same lab: a folder with a lab a seat, prepared, watched and collected by its host."""

from __future__ import annotations

from core.workshop.collect import collect
from core.workshop.folder import Workshop
from core.workshop.prepare import Wishes, prepare
from core.workshop.rescue import rescue, reset
from core.workshop.room import check_room
from core.workshop.watch import SeatStatus, seats_status

__all__ = [
    "SeatStatus",
    "Wishes",
    "Workshop",
    "check_room",
    "collect",
    "prepare",
    "rescue",
    "reset",
    "seats_status",
]
