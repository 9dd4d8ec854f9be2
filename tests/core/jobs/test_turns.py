"""A line: first come, first served; nothing is given to two; who is gone counts no more; all can see it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Cancelled
from core.events import RecordingReporter
from core.hardware import GpuReading
from core.jobs import Job, gpu
from core.jobs.turns import Ahead, Ticket, _join, _served, tickets, turn

GPUS = [GpuReading(number, "A GPU", 80 << 30, 0, None, f"GPU-{number}") for number in range(4)]


def ticket(wants: list[str], count: int = 1) -> Ticket:
    return Ticket(0, "/labs/one", "quantize-001", os.getpid(), "", tuple(wants), count)


class Waits(Exception):
    """Raised in place of waiting."""


def refuse(line: Ahead) -> None:
    raise Waits(line.place, [each.job for each in line.at_work], [each.job for each in line.before])


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.integers(1, 3), st.booleans()),
        min_size=1,
        max_size=7,
    )
)
def test_nothing_is_given_to_two_and_nobody_is_overtaken(
    tmp_path_factory: pytest.TempPathFactory, jobs: list[tuple[set[str], int, bool]]
) -> None:
    place = tmp_path_factory.mktemp("line")
    waiting, has = [], {}
    with ExitStack() as stack:
        for wants, count, leaves in jobs:
            joined = _join(place, ticket(sorted(wants), min(count, len(wants))), 0o600)
            assert joined is not None
            path, handle, mine = joined
            waiting.append((path, handle, mine))
            for each in [*waiting]:
                given_now, line = _served(place, each[2], each[1])
                assert not given_now or not line.before
                if given_now:
                    waiting.remove(each)
                    has[each[2].number] = given_now
                    stack.callback(os.close, each[1])
            every = [name for names in has.values() for name in names]
            assert len(every) == len(set(every))
            for _, _, late in waiting:  # whoever waits does so for those at work, or for one who came earlier
                free = set(late.wants) - set(every)
                earlier = [
                    each for _, _, each in waiting if each.number < late.number and each.competes_with(late)
                ]
                assert len(free) < late.count or earlier
            if leaves and has:
                gone = next(iter(has))
                next(place.glob(f"{gone:06d}-*")).unlink()
                del has[gone]
        for _, handle, _ in waiting:
            os.close(handle)


def test_the_line_is_seen_and_who_is_gone_counts_no_more(tmp_path: Path) -> None:
    with turn(tmp_path, ["a"], 1, lab=Path("/w/one"), job="quantize-001", waiting=refuse) as given_first:
        assert given_first == ("a",)
        second = _join(tmp_path, ticket(["a", "b"], 2), 0o600)
        assert second is not None
        with (
            pytest.raises(Waits) as told,
            turn(tmp_path, ["b"], 1, lab=Path("/w/three"), job="third-001", waiting=refuse),
        ):
            pass
        assert told.value.args == (2, [], ["quantize-001"]), "b is free, but who waits for it came earlier"
        assert [(each.number, each.has) for each in tickets(tmp_path)] == [(1, ("a",)), (2, ())]
        os.close(second[1])  # as when its process is killed
        with turn(tmp_path, ["b"], 1, lab=Path("/w/three"), job="third-001", waiting=refuse) as given_third:
            assert given_third == ("b",)
    assert tickets(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def workshop(root: Path, text: str) -> list[Job]:
    """Three seats of a workshop."""
    (root / "workshop.toml").write_text(text)
    return [Job(root / f"seat-0{number}/jobs/finetune-001") for number in (1, 2, 3)]


def test_seats_without_gpus_compute_as_many_at_once_as_the_host_allows(tmp_path: Path) -> None:
    one, two, three = workshop(tmp_path, "at_once = 2\n")
    report = RecordingReporter(cancelled=True)
    with gpu.held([], 1, one, report), gpu.held([], 1, two, report):
        assert report.events == []
        with pytest.raises(Cancelled), gpu.held([], 1, three, report):
            pass
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "turns").glob("*.ticket")} == {0o644}
    phase = report.events[-1]["phase"]
    assert phase == "waiting for a turn, place 1: finetune-001 of seat-01, finetune-001 of seat-02 at work"
    with gpu.held([], 1, three, report):
        pass


@pytest.mark.parametrize("text", ["", "at_once = 0", 'at_once = "two"', "at_once = ", "[at_once]"])
def test_without_a_limit_nobody_waits(tmp_path: Path, text: str) -> None:
    one, two, three = workshop(tmp_path, text)
    report = RecordingReporter(cancelled=True)
    with gpu.held([], 1, one, report), gpu.held([], 1, two, report), gpu.held([], 1, three, report):
        assert report.events == []


def test_seats_are_spread_over_the_gpus_and_the_next_waits_for_all_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = workshop(tmp_path, "")
    seen = []
    report = RecordingReporter(cancelled=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with gpu.held(GPUS[:2], 1, one, report):
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        with gpu.held(GPUS[:2], 1, two, report):
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
            with pytest.raises(Cancelled), gpu.held(GPUS[:2], 1, three, report):
                pass
    assert seen == ["GPU-0", "GPU-1"]
    assert "place 1: finetune-001 of seat-01, finetune-001 of seat-02 at work" in report.events[-1]["phase"]


def test_where_the_workshops_line_cannot_be_written_the_work_goes_on_and_says_so(
    tmp_path: Path,
) -> None:
    one, *_ = workshop(tmp_path, "at_once = 1")
    (tmp_path / "turns").touch()
    report = RecordingReporter()
    with gpu.held([], 1, one, report):
        pass
    assert [event["text"] for event in report.events] == [
        f"{tmp_path / 'turns'} cannot be written: this job takes no turn."
    ]
