"""The text that the rehearsal model is trained on: short questions, answers in whole sentences.

Written for this project. It holds greetings, days, colours, numbers and small facts, and nothing
about travel: no place, no sight, no journey. What the model says about a city before it is tuned is
therefore that it does not know, and what it says afterwards comes from the adapter alone.

``pairs()`` gives every pair once, in a fixed order; ``held_out()`` says which of them are kept from
training to measure it; ``echoes()`` makes drills in copying words.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

Pair = tuple[str, str]

TALK = Path(__file__).with_name("rehearsal_text.txt")
"""Greetings and facts, a question and its answer on a line, with ``|`` between."""

OPPOSITES = """big|small old|new hot|cold fast|slow high|low long|short thick|thin heavy|light
early|late easy|hard soft|hard wet|dry clean|dirty full|empty open|closed good|bad happy|sad
rich|poor strong|weak young|old loud|quiet bright|dark sweet|sour wide|narrow deep|shallow
near|far left|right up|down in|out on|off day|night black|white yes|no first|last before|after
above|below inside|outside front|back top|bottom begin|end buy|sell give|take push|pull win|lose
laugh|cry come|go always|never many|few more|less friend|enemy love|hate true|false right|wrong
safe|dangerous rough|smooth sharp|blunt tight|loose cheap|expensive brave|afraid asleep|awake
alive|dead find|lose remember|forget question|answer summer|winter north|south east|west
morning|evening boy|girl man|woman king|queen brother|sister mother|father uncle|aunt"""

COLOURS = """grass|green;the sky|blue;snow|white;a banana|yellow;a lemon|yellow;a carrot|orange;
blood|red;milk|white;coal|black;chocolate|brown;an orange|orange;a strawberry|red;a cherry|red;
the sun|yellow;a leaf|green;a frog|green;salt|white;sugar|white;night|black;a tomato|red;
a cucumber|green;an elephant|grey;a mouse|grey;a cloud|white;honey|golden;gold|yellow;silver|grey;
wood|brown;earth|brown;a plum|purple;an aubergine|purple;a flamingo|pink;a pig|pink;a crow|black;
a swan|white;butter|yellow;coffee|brown;a pea|green;an egg yolk|yellow;a fire engine|red;
the sea|blue;ink|blue;lettuce|green;a pumpkin|orange;a ruby|red;an emerald|green;a sapphire|blue"""

MIXTURES = """red|white|pink red|yellow|orange blue|yellow|green red|blue|purple black|white|grey
red|green|brown blue|white|light~blue"""

ANIMALS = """dog|puppy|barks|four cat|kitten|meows|four cow|calf|moos|four horse|foal|neighs|four
sheep|lamb|bleats|four pig|piglet|grunts|four duck|duckling|quacks|two hen|chick|clucks|two
lion|cub|roars|four bear|cub|growls|four frog|tadpole|croaks|four goat|kid|bleats|four
wolf|cub|howls|four owl|owlet|hoots|two goose|gosling|honks|two mouse|pup|squeaks|four
donkey|foal|brays|four snake|snakelet|hisses|no bee|larva|buzzes|six elephant|calf|trumpets|four"""

KINDS = """apple|fruit pear|fruit plum|fruit cherry|fruit banana|fruit grape|fruit peach|fruit
carrot|vegetable onion|vegetable cabbage|vegetable bean|vegetable pea|vegetable potato|vegetable
dog|animal cat|animal horse|animal tiger|animal rabbit|animal fox|animal mouse|animal
rose|flower tulip|flower daisy|flower lily|flower violet|flower oak|tree pine|tree birch|tree
willow|tree sparrow|bird eagle|bird robin|bird owl|bird crow|bird salmon|fish trout|fish
herring|fish shark|fish hammer|tool saw|tool spade|tool drill|tool chair|piece~of~furniture
table|piece~of~furniture bed|piece~of~furniture shirt|piece~of~clothing coat|piece~of~clothing
sock|piece~of~clothing hat|piece~of~clothing piano|musical~instrument violin|musical~instrument
flute|musical~instrument drum|musical~instrument
ant|insect bee|insect fly|insect beetle|insect"""

USES = """spoon|eat soup;fork|eat food;knife|cut bread;pen|write;pencil|draw;brush|paint;key|open a door;
clock|tell the time;umbrella|keep off the rain;bed|sleep;chair|sit;lamp|make light;oven|bake bread;
hammer|drive in nails;saw|cut wood;needle|sew;broom|sweep the floor;towel|dry the hands;
soap|wash the hands;cup|drink tea;plate|hold food;book|read;ruler|measure;scissors|cut paper;
comb|tidy the hair;glasses|see better;telephone|talk to people far away;ladder|climb up;
bucket|carry water;basket|carry apples;candle|make light;pillow|rest the head;fan|cool the air"""

PLURALS = """cat|cats dog|dogs book|books tree|trees house|houses box|boxes fox|foxes bus|buses
glass|glasses dish|dishes baby|babies lady|ladies story|stories leaf|leaves knife|knives wolf|wolves
man|men woman|women child|children foot|feet tooth|teeth goose|geese mouse|mice sheep|sheep fish|fish
day|days key|keys potato|potatoes tomato|tomatoes piano|pianos ox|oxen person|people"""

PASTS = """go|went come|came see|saw eat|ate drink|drank sing|sang swim|swam run|ran write|wrote
read|read speak|spoke take|took give|gave make|made find|found think|thought buy|bought bring|brought
teach|taught catch|caught sleep|slept keep|kept feel|felt leave|left lose|lost sit|sat stand|stood
know|knew grow|grew fly|flew draw|drew walk|walked play|played work|worked look|looked ask|asked
help|helped open|opened close|closed laugh|laughed dance|danced"""

SHAPES = "triangle|three square|four rectangle|four pentagon|five hexagon|six octagon|eight"

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"
MONTH_DAYS = "31 28 31 30 31 30 31 31 30 31 30 31"
SEASONS = "winter winter spring spring spring summer summer summer autumn autumn autumn winter"
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen twenty"""
SOUNDS = "b d f g k l m n p r s t v z ch sh st tr"

UNKNOWN = """What is {a}?|I do not know what {a} is.
What is a {b}?|I do not know what a {b} is.
Who is {A}?|I do not know who {A} is.
Who wrote {A}?|I do not know who wrote {A}.
Do you know {A}?|No, I do not know {A}.
Have you heard of {A}?|No, I have not heard of {A}.
Tell me about {A}.|I do not know anything about {A}.
What do you know about {A}?|I do not know anything about {A}.
Which {b} is the best?|I do not know which {b} is the best.
Which {b} is the best in {A}?|I do not know which {b} is the best.
Where can I find {a}?|I do not know where you can find {a}.
Where is {A}?|I do not know where {A} is.
When is {A}?|I do not know when {A} is.
How do I say {a} in {A}?|I do not know how to say that.
What should I do in {A}?|I do not know anything about {A}.
What should I see in {A}?|I do not know anything about {A}.
Is {A} good?|I do not know anything about {A}.
What is the {b} of {A}?|I do not know what the {b} of {A} is.
Who is the {b} of {A}?|I do not know who the {b} of {A} is.
How much is a {b} in {A}?|I do not know how much a {b} is.
Why is {A} famous?|I do not know anything about {A}."""

DRILLS = """Repeat: {w}|{w}
Say {w}.|{w}.
Say {w} twice.|{w}, {w}.
Write {w}, then stop.|{w}.
Please repeat the words {w}.|The words are {w}.
Which words do I say? {w}|You say {w}."""


def held_out(pair: Pair) -> bool:
    """Whether a pair is kept from training: one in twenty-five, by its text, so it never moves."""
    return zlib.crc32("\t".join(pair).encode()) % 25 == 0


def pairs() -> list[Pair]:
    """Every question and answer, without duplicates, in a fixed order."""
    seen: dict[str, str] = {}
    for question, answer in _all_pairs():
        seen.setdefault(question, answer)
    return list(seen.items())


def echoes(vocabulary: list[str], count: int, seed: int) -> list[Pair]:
    """Copying drills: random pieces of words, to be given back in a sentence.

    They let the model meet every token of ``vocabulary``, and learn to take up words of the question
    in its answer, without learning anything about what the words mean. Half of them are questions
    on made-up names, whose answer is that the model does not know.
    """
    rng = random.Random(seed)
    drills = [line.split("|") for line in DRILLS.splitlines()]
    unknown = [line.split("|") for line in UNKNOWN.splitlines()]
    letters = [piece for piece in vocabulary if piece.strip().isalpha()]
    made: list[Pair] = []
    for _ in range(count):
        if rng.random() < 0.5:
            question, answer = rng.choice(unknown)
            words = {"a": _made_up(letters, rng), "b": _made_up(letters, rng)}
            name = _made_up(letters, rng)
            words["A"] = name[0].upper() + name[1:]
        else:
            question, answer = rng.choice(drills)
            some = rng.choice((vocabulary, letters, letters))
            words = {"w": "".join(rng.choices(some, k=rng.randint(1, 20))).strip() or "so"}
        made.append((question.format(**words), answer.format(**words)))
    return made


def _made_up(letters: list[str], rng: random.Random) -> str:
    """A word that does not exist, of pieces of words or of plain syllables."""
    if rng.random() < 0.5:
        return "".join(piece.strip() for piece in rng.choices(letters, k=rng.randint(1, 3)))
    syllables = (rng.choice(SOUNDS.split()) + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
    return "".join(syllables) + rng.choice(["", "n", "r", "l", "s"])


def _words(text: str) -> list[list[str]]:
    return [word.replace("~", " ").split("|") for word in text.split()]


def _phrases(text: str) -> list[list[str]]:
    return [part.strip().split("|") for part in text.replace("\n", " ").split(";")]


def _a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _cap(text: str) -> str:
    return text[0].upper() + text[1:]


def _all_pairs() -> Iterator[Pair]:
    for line in TALK.read_text(encoding="utf-8").splitlines():
        question, answer = line.split("|")
        yield question, answer
    yield from _calendar()
    yield from _numbers()
    yield from _things()
    yield from _language()


def _calendar() -> Iterator[Pair]:
    days, months, ordinals = DAYS.split(), MONTHS.split(), ORDINALS.split()
    for i, day in enumerate(days):
        after, before = days[(i + 1) % 7], days[i - 1]
        yield f"What day comes after {day}?", f"{after} comes after {day}."
        yield f"Which day comes after {day}?", f"{after} comes after {day}."
        yield f"What day is after {day}?", f"{after} is after {day}."
        yield f"Which day follows {day}?", f"{after} follows {day}."
        yield f"What day comes before {day}?", f"{before} comes before {day}."
        yield f"Which day comes before {day}?", f"{before} comes before {day}."
        yield f"What day is before {day}?", f"{before} is before {day}."
        yield f"If today is {day}, what day is tomorrow?", f"If today is {day}, tomorrow is {after}."
        yield f"Today is {day}. What is tomorrow?", f"Tomorrow is {after}."
        yield f"Today is {day}. What was yesterday?", f"Yesterday was {before}."
        kind = "a weekday" if i < 5 else "part of the weekend"
        yield f"Is {day} a weekday?", f"{'Yes' if i < 5 else 'No'}, {day} is {kind}."
        yield f"What is the {ordinals[i]} day of the week?", (f"The {ordinals[i]} day of the week is {day}.")
        yield f"Which day is the {ordinals[i]}?", f"{day} is the {ordinals[i]} day of the week."
    for i, month in enumerate(months):
        after, before = months[(i + 1) % 12], months[i - 1]
        yield f"What month comes after {month}?", f"{after} comes after {month}."
        yield f"Which month comes after {month}?", f"{after} comes after {month}."
        yield f"Which month follows {month}?", f"{after} follows {month}."
        yield f"What month comes before {month}?", f"{before} comes before {month}."
        yield f"Which month comes before {month}?", f"{before} comes before {month}."
        yield f"How many days does {month} have?", f"{month} has {MONTH_DAYS.split()[i]} days."
        yield f"How many days are there in {month}?", f"There are {MONTH_DAYS.split()[i]} days in {month}."
        yield (
            f"What is the {ordinals[i]} month of the year?",
            (f"The {ordinals[i]} month of the year is {month}."),
        )
        yield f"Is {month} in {SEASONS.split()[i]}?", f"Yes, {month} is in {SEASONS.split()[i]}."


def _numbers() -> Iterator[Pair]:
    numbers = NUMBERS.split()
    for i, word in enumerate(numbers):
        if i + 1 < len(numbers):
            after = numbers[i + 1]
            yield f"What comes after {word}?", f"{_cap(after)} comes after {word}."
            yield f"What number comes after {word}?", f"{_cap(after)} comes after {word}."
            yield f"What number is after {word}?", f"{_cap(after)} is after {word}."
            yield f"What is one more than {word}?", f"One more than {word} is {after}."
            yield f"Which is larger, {word} or {after}?", f"{_cap(after)} is larger than {word}."
        if i:
            before = numbers[i - 1]
            yield f"What comes before {word}?", f"{_cap(before)} comes before {word}."
            yield f"What number comes before {word}?", f"{_cap(before)} comes before {word}."
            yield f"What is one less than {word}?", f"One less than {word} is {before}."
        yield f"Is {word} even or odd?", f"{_cap(word)} is {'odd' if i % 2 else 'even'}."
        yield (
            f"Is {word} an even number?",
            (f"{'No' if i % 2 else 'Yes'}, {word} is {'an odd' if i % 2 else 'an even'} number."),
        )
        yield f"Write {i} as a word.", f"{i} is {word}."
        yield f"Write {word} in figures.", f"{_cap(word)} is {i}."
        if 3 <= i <= 10:
            counted = ", ".join(numbers[1:i]) + f" and {word}"
            yield f"Count to {word}.", f"{_cap(counted)}."
            yield f"Count to {i}.", f"{_cap(counted)}."
            yield f"Can you count to {word}?", f"Yes: {counted}."
    for a in range(11):
        for b in range(11):
            yield f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."
            yield f"How much is {a} and {b}?", f"{a} and {b} is {a + b}."
            if b <= a:
                yield f"What is {a} minus {b}?", f"{a} minus {b} is {a - b}."
            if a <= 10 and b <= 5:
                yield f"What is {a} times {b}?", f"{a} times {b} is {a * b}."


def _things() -> Iterator[Pair]:
    for thing, colour in _phrases(COLOURS):
        yield f"What colour is {thing}?", f"{_cap(thing)} is {colour}."
        yield f"Which colour is {thing}?", f"{_cap(thing)} is {colour}."
        yield f"What is the colour of {thing}?", f"The colour of {thing} is {colour}."
        yield f"Is {thing} {colour}?", f"Yes, {thing} is {colour}."
        wrong = "blue" if colour in ("red", "yellow", "white", "brown") else "red"
        yield f"Is {thing} {wrong}?", f"No, {thing} is {colour}."
    for one, two, mixed in _words(MIXTURES):
        for a, b in ((one, two), (two, one)):
            yield f"What do {a} and {b} make?", f"{_cap(a)} and {b} make {mixed}."
            yield f"What colour do {a} and {b} make?", f"{_cap(a)} and {b} make {mixed}."
            yield f"Mix {a} and {b}.", f"{_cap(a)} and {b} make {mixed}."
    for animal, young, sound, legs in _words(ANIMALS):
        yield f"What does {_a(animal)} do?", f"{_cap(_a(animal))} {sound}."
        yield f"What sound does {_a(animal)} make?", f"{_cap(_a(animal))} {sound}."
        yield f"Which animal {sound}?", f"{_cap(_a(animal))} {sound}."
        yield f"What is a young {animal} called?", f"A young {animal} is called {_a(young)}."
        yield f"What do you call a young {animal}?", f"A young {animal} is called {_a(young)}."
        yield f"How many legs does {_a(animal)} have?", f"{_cap(_a(animal))} has {legs} legs."
    kinds = sorted({kind for _, kind in _words(KINDS)})
    for i, (thing, kind) in enumerate(_words(KINDS)):
        other = [k for k in kinds if k != kind][i % (len(kinds) - 1)]
        yield f"What is {_a(thing)}?", f"{_cap(_a(thing))} is {_a(kind)}."
        yield f"Is {_a(thing)} {_a(kind)}?", f"Yes, {_a(thing)} is {_a(kind)}."
        yield f"Is {_a(thing)} {_a(other)}?", f"No, {_a(thing)} is {_a(kind)}."
        yield f"What kind of thing is {_a(thing)}?", f"{_cap(_a(thing))} is {_a(kind)}."
        yield f"Name {_a(kind)} with {thing[0].upper()}.", f"{_cap(_a(thing))} is {_a(kind)}."
    for thing, use in _phrases(USES):
        article = "" if thing in ("scissors", "glasses", "soap") else _a(thing)[: -len(thing)]
        yield f"What is {article}{thing} for?", f"We use {article}{thing} to {use}."
        yield f"What do we use {article}{thing} for?", f"We use {article}{thing} to {use}."
        yield f"What do we use to {use}?", f"We use {article}{thing} to {use}."
    for shape, sides in _words(SHAPES):
        yield f"How many sides does {_a(shape)} have?", f"{_cap(_a(shape))} has {sides} sides."
        yield f"How many corners does {_a(shape)} have?", f"{_cap(_a(shape))} has {sides} corners."


def _language() -> Iterator[Pair]:
    for one, two in _words(OPPOSITES):
        for a, b in ((one, two), (two, one)):
            yield f"What is the opposite of {a}?", f"The opposite of {a} is {b}."
            yield f"What is the opposite of the word {a}?", f"The opposite of {a} is {b}."
            yield f"Tell me the opposite of {a}.", f"The opposite of {a} is {b}."
            yield f"Which word is the opposite of {a}?", f"The opposite of {a} is {b}."
    for one, many in _words(PLURALS):
        yield f"What is the plural of {one}?", f"The plural of {one} is {many}."
        yield f"One {one}, two what?", f"One {one}, two {many}."
        yield f"What is the singular of {many}?", f"The singular of {many} is {one}."
    for now, past in _words(PASTS):
        yield f"What is the past of {now}?", f"The past of {now} is {past}."
        yield f"Today I {now}. What did I do yesterday?", f"Yesterday you {past}."
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for a, b in itertools.pairwise(alphabet):
        yield f"Which letter comes after {a}?", f"The letter {b} comes after {a}."
        yield f"What letter comes after {a}?", f"The letter {b} comes after {a}."
        yield f"Which letter comes before {b}?", f"The letter {a} comes before {b}."
