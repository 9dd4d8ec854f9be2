"""The split: by content, seeded, remembered."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data import load_examples
from core.data.similar import Sketches, content_words, plain, word_hashes, words
from core.data.split import SPLIT_FILE, Splitter
from core.data.survey import summary
from core.recipe import Recipe

THINGS = "bridge river museum castle market harbour tower temple garden station theatre library".split()  # noqa: SIM905
PLACES = "Huế Hanoi Kyoto Cairo Lisbon Isfahan Chicago Vienna Lima Oslo Bergen Turin Quito Accra".split()  # noqa: SIM905
SAME = [
    "How old is the {thing} of {place}?",
    "the {thing} of {place}: how old is it",
    "Please tell me, how OLD is {place}'s {thing}?",
]


def questions() -> list[tuple[str, str]]:
    """(which question, how it is asked): each of 168 questions in three ways."""
    return [
        (f"{thing} {place}", form.format(thing=thing, place=place))
        for thing in THINGS
        for place in PLACES
        for form in SAME
    ]


def sides(folder: Path, asked: list[str], **settings: object) -> dict[str, bool]:
    """For each question: is it held out?"""
    rows = [json.dumps({"prompt": text, "response": f"It was built in {i}."}) for i, text in enumerate(asked)]
    (folder / "a.jsonl").write_text("\n".join(rows))
    values = {"data.file": "a.jsonl", **{f"data.{key}": value for key, value in settings.items()}}
    split = load_examples(Recipe().with_values(values), folder)
    return {row.prompt: False for row in split.train} | {row.prompt: True for row in split.eval}


def test_a_question_in_other_words_stands_on_one_side(tmp_path: Path) -> None:
    found = sides(tmp_path, [text for _, text in questions()])
    by_question: dict[str, set[bool]] = {}
    for name, text in questions():
        by_question.setdefault(name, set()).add(found[text])
    assert all(len(sides) == 1 for sides in by_question.values())
    share = sum(found.values()) / len(found)
    assert share == pytest.approx(0.1, abs=0.02)


def test_other_questions_on_the_same_place_stand_on_both(tmp_path: Path) -> None:
    """So that the held-out part can be learnt from the rest: the questions on one place are not one cluster."""
    found = sides(tmp_path, [text for _, text in questions()], eval_fraction=0.3)
    mixed = [place for place in PLACES if len({out for text, out in found.items() if place in text}) == 2]
    assert len(mixed) > len(PLACES) / 2


def test_order_does_not_matter_and_the_seed_does(tmp_path: Path) -> None:
    asked = [text for _, text in questions()]
    first = sides(tmp_path, asked)
    (tmp_path / SPLIT_FILE).unlink()
    shuffled = asked[:]
    random.Random(1).shuffle(shuffled)
    assert sides(tmp_path, shuffled) == first
    assert sides(tmp_path, asked, seed=1) != first


def test_added_rows_move_no_old_row(tmp_path: Path) -> None:
    asked = [text for _, text in questions()]
    random.Random(3).shuffle(asked)
    before = sides(tmp_path, asked[:200])
    after = sides(tmp_path, asked)
    assert {text: after[text] for text in before} == before
    assert sum(after.values()) / len(after) == pytest.approx(0.1, abs=0.03)
    again = sides(tmp_path, asked[:200])  # and taking them away again moves none either
    assert again == before


def test_without_its_memory_the_split_would_have_moved(tmp_path: Path) -> None:
    """The test above can fail: a split by lot alone differs once rows are added."""
    asked = [text for _, text in questions()]
    random.Random(3).shuffle(asked)
    before = sides(tmp_path, asked[:200])
    (tmp_path / SPLIT_FILE).unlink()
    after = sides(tmp_path, asked)
    assert {text: after[text] for text in before} != before


def test_a_new_wording_joins_its_question(tmp_path: Path) -> None:
    asked = [text for _, text in questions()][::3]
    before = sides(tmp_path, asked)
    held_out = next(text for text, out in before.items() if out)
    reworded = "So please, " + held_out.replace("How old is", "is it old, and how old is")
    after = sides(tmp_path, [*asked, reworded])
    assert after[reworded]


def test_another_file_starts_anew(tmp_path: Path) -> None:
    sides(tmp_path, [text for _, text in questions()])
    memory = (tmp_path / SPLIT_FILE).read_text()
    sides(tmp_path, [f"Which {thing} is the tallest of {place}?" for thing in THINGS for place in PLACES])
    assert (tmp_path / SPLIT_FILE).read_text() != memory
    assert len((tmp_path / SPLIT_FILE).read_text()) < len(memory)


def test_a_damaged_memory_is_made_again(tmp_path: Path) -> None:
    asked = [text for _, text in questions()]
    first = sides(tmp_path, asked)
    (tmp_path / SPLIT_FILE).write_text(
        '{"v": 1, "files": {"a.jsonl": {"seed": 0, "fraction": 0.1, "train": "?"}}}'
    )
    assert sides(tmp_path, asked) == first


@pytest.mark.parametrize(
    ("fraction", "asked", "held_out"),
    [
        (0.0, ["a river", "a tower"], 0),
        (0.1, ["a river", "a tower"], 1),
        (0.9, ["a river", "a tower"], 1),
        (0.5, ["x"], 0),
    ],
)
def test_small_files(tmp_path: Path, fraction: float, asked: list[str], held_out: int) -> None:
    assert sum(sides(tmp_path, asked, eval_fraction=fraction).values()) == held_out


@given(
    asked=st.lists(st.integers(0, 4), min_size=1, max_size=25),
    fraction=st.sampled_from([0.05, 0.1, 0.5, 0.75, 0.9]),
    seed=st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_something_is_left_to_learn_from(asked: list[int], fraction: float, seed: int) -> None:
    splitter = Splitter()
    for number in asked:
        splitter.add(plain(SAME[number % 3].format(thing=THINGS[number], place=PLACES[number])))
    held_out = splitter.assign(fraction, seed)
    splitter.sketches.close()
    assert not held_out.all()
    assert len(set(asked)) > 1 or not held_out.any()


def test_limits_draw_by_the_seed_and_keep_the_sides(tmp_path: Path) -> None:
    asked = [text for _, text in questions()]
    whole = sides(tmp_path, asked)
    recipe = Recipe().with_values({"data.file": "a.jsonl"})
    part = load_examples(recipe, tmp_path, limit=40, eval_limit=7)
    assert (len(part.train), len(part.eval)) == (40, 7)
    assert not any(whole[row.prompt] for row in part.train)
    assert all(whole[row.prompt] for row in part.eval)
    assert load_examples(recipe, tmp_path, limit=40, eval_limit=7) == part
    assert len({row.line // 50 for row in part.train}) > 6  # from all over the file
    assert len(load_examples(recipe, tmp_path, limit=10_000).train) == len(whole) - sum(whole.values())


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": f"Q {i}?", "response": f"A {i}."} for i in range(60)],
        [{"text": f"The {thing} of {place} is old."} for thing in THINGS for place in PLACES[:5]],
        [{"instruction": f"Do {i}", "input": f"with {i * i}", "output": "done"} for i in range(60)],
        [
            {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i}"}]}
            for i in range(60)
        ],
    ],
)
def test_the_report_and_training_split_alike(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {"data.file": "a.jsonl"}
    if "text" in rows[0]:
        values["data.template"] = "<{text}>"
    report = summary(tmp_path, Recipe().with_values(values))
    memory = (tmp_path / SPLIT_FILE).read_text()
    split = load_examples(Recipe().with_values(values), tmp_path)
    assert (len(split.train), len(split.eval)) == (report.train, report.eval)
    assert split.eval
    assert (tmp_path / SPLIT_FILE).read_text() == memory


def test_few_questions_asked_often(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Tell me of {place}", "response": f"Fact {i}."} for i in range(20) for place in PLACES[:4]
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = load_examples(Recipe().with_values({"data.file": "a.jsonl"}), tmp_path)
    assert len({row.prompt for row in split.eval}) == 1
    assert not {row.prompt for row in split.eval} & {row.prompt for row in split.train}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What should I see in Rome?", "what can you SEE in rome"),
        ("Đến Huế nên xem gì?", "Tôi đến Huế thì nên xem những gì?"),
        ("در شیراز چه ببینم؟", "لطفا بگو من در شیراز چه ببینم"),
        ("Where are the museums?", "Where is the museum?"),
    ],
)
def test_content_words_are_the_same(one: str, other: str) -> None:
    assert set(content_words(plain(one))) == set(content_words(plain(other)))


def test_content_words_differ_where_the_question_does() -> None:
    assert set(content_words(plain("two days in Rome"))) != set(content_words(plain("three days in Rome")))
    assert content_words("what is it")  # never empty


def overlap(one: list[int], other: list[int]) -> float:
    return len(set(one) & set(other)) / len(set(one) | set(other))


@pytest.mark.parametrize("exact", [True, False])
def test_pairs_are_those_that_overlap(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    """Against all pairs compared one by one; by minima alone with the error that these have."""
    if not exact:
        monkeypatch.setattr("core.data.similar.EXACT_WORDS", 0)
        monkeypatch.setattr("core.data.similar._IN_MEMORY", 1000)  # the files on disk are used as well
    chance = random.Random(2)
    texts = [chance.choices(range(1 << 30), k=40) for _ in range(300)]
    for number in range(200):
        base = texts[number][:]
        for place in chance.sample(range(40), chance.choice([0, 1, 2, 8, 14])):
            base[place] = chance.randrange(1 << 30)
        texts.append(base)
    sketches = Sketches(pairs=False)
    for text in texts:
        sketches.add(text)
    found = {
        (int(a), int(b)) for left, right in sketches.pairs(0.8) for a, b in zip(left, right, strict=True)
    }
    wanted = {(i, j) for j in range(300, 500) for i in [j - 300] if overlap(texts[i], texts[j]) >= 0.8}
    slack = 0 if exact else 0.15
    assert len(wanted & found) >= (0.97 if exact else 0.85) * len(wanted)
    assert all(overlap(texts[i], texts[j]) >= 0.8 - 2 * slack for i, j in found)
    sketches.close()


def test_words_of_scripts_without_spaces() -> None:
    assert words("京都で何を") == list("京都で何を")
    assert words("xin chào, bạn!") == ["xin", "chào", "bạn"]
    assert word_hashes([], "?!") == word_hashes([], "?!")
