"""How a step is divided over several GPUs, and how many of them a finetune uses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import MachineError, RequestError
from core.finetune.gpus import Work, gpus_that_pay, rows_at_once, settled_gpus, shares

STEPS = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9))


@given(STEPS, st.data())
def test_every_record_of_a_step_is_one_ranks(step: tuple[int, int, int], data: st.DataObject) -> None:
    size, accumulation, ranks = step
    # The last batch of a round may be short.
    batches = [data.draw(st.integers(1, size)) for _ in range(accumulation)]
    every = [shares(batches, rank, ranks) for rank in range(ranks)]
    for at, rows in enumerate(batches):
        assert sorted(place for mine in every for place in mine[at]) == list(range(rows))
        for mine in every:
            assert len(mine[at]) <= rows_at_once(size, accumulation, ranks), (
                "more at once than memory is counted for"
            )
            assert len({b - a for a, b in zip(mine[at], mine[at][1:], strict=False)}) <= 1, (
                "at even distances"
            )
    loads = [sum(map(len, mine)) for mine in every]
    # Whole batches are dealt out where they can be, and those may differ.
    assert max(loads) - min(loads) <= (1 if accumulation % ranks else size * accumulation)


def test_one_rank_has_all() -> None:
    assert shares([3, 2], 0, 1) == [[0, 1, 2], [0, 1]]


BIG = 4.0 * 3.8e9 * 1024
"""The work of a record of 1024 tokens for a model of 3.8 billion weights."""


@pytest.mark.parametrize(
    ("work", "there", "pays"),
    [
        (Work(1000, 8, 1, BIG), 4, 4),
        (Work(1000, 8, 1, BIG), 1, 1),
        (Work(1000, 8, 1, BIG), 0, 1),
        (Work(1000, 8, 1, BIG), 3, 3),
        (Work(1000, 8, 1, BIG), 8, 4),  # one record of 1024 tokens is too little
        (Work(1000, 6, 1, BIG), 5, 3),  # four of them would leave one with two records all the same
        (Work(1000, 2, 1, 4 * BIG), 8, 2),
        (Work(1000, 1, 4, 4 * BIG), 8, 4),
        (Work(60, 8, 1, BIG), 4, 1),  # 20 s on one: several take longer to start than they save
        (
            Work(10_000, 16, 1, 4.0 * 135e6 * 64),
            4,
            1,
        ),  # a small model waits for its kernels, not for its arithmetic
    ],
)
def test_auto_takes_as_many_as_make_the_training_shortest(work: Work, there: int, pays: int) -> None:
    assert gpus_that_pay(work, there) == pays
    assert settled_gpus("auto", there, work) == pays


def settled(asked: int, there: int, batch: int = 8) -> int:
    return settled_gpus(asked, there, Work(100, batch, 1, 0.0))


def test_a_number_is_what_is_taken_or_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert settled(1, 0) == 1
    assert settled(3, 4) == 3
    with pytest.raises(MachineError, match="not 4 GPUs") as few:
        settled(4, 2)
    assert (few.value.code, few.value.exit_status) == ("gpu.count", 4)
    assert "there is 2 GPUs" not in few.value.detail
    assert "finetune.gpus = 2" in few.value.hint
    with pytest.raises(MachineError, match="not 2 GPUs") as none:
        settled(2, 0)
    assert "no NVIDIA GPU" in none.value.detail
    with pytest.raises(RequestError) as idle:
        settled(4, 4, batch=3)
    assert (idle.value.code, idle.value.hint) == (
        "gpu.idle",
        "Set finetune.gpus = 3, or raise finetune.batch_size.",
    )
