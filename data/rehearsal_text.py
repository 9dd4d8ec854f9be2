"""The text that the rehearsal model is trained on: short questions, answers in whole sentences.

Written for this project. It holds greetings, days, colours, numbers and small facts, and nothing
about travel: no place, no sight, no journey. What the model says about a city before it is tuned is
therefore that it does not know, and what it says afterwards comes from the adapter alone.

``pairs()`` gives every pair once, in a fixed order; ``held_out()`` says which of them are kept from
training to measure it; ``echoes()`` makes drills in copying words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

Pair = tuple[str, str]

TALK = """
Hello!|Hello! How can I help you?
Hello.|Hello! How can I help you?
Hello|Hello! How can I help you?
Hi!|Hi! How can I help you?
Hi|Hi! How can I help you?
Hi there!|Hi! How can I help you?
Hey!|Hello! How can I help you?
Good morning!|Good morning! How can I help you?
Good morning.|Good morning! How can I help you?
Good afternoon!|Good afternoon! How can I help you?
Good evening!|Good evening! How can I help you?
Good evening.|Good evening! How can I help you?
Good night!|Good night! Sleep well.
Good night.|Good night! Sleep well.
How are you?|I am well, thank you. How are you?
How are you today?|I am well today, thank you. How are you?
How do you do?|I am well, thank you. How are you?
Are you well?|Yes, I am well, thank you.
I am well too.|I am glad to hear that.
I am happy.|I am glad to hear that.
I am fine, thank you.|I am glad to hear that.
I am sad.|I am sorry to hear that.
I am tired.|Then you should rest a little.
I am hungry.|Then you should eat something.
I am thirsty.|Then you should drink some water.
I am cold.|Then you should put on a warm coat.
I am hot.|Then you should sit in the shade.
Thank you!|You are welcome.
Thank you.|You are welcome.
Thank you very much.|You are very welcome.
Thanks!|You are welcome.
Thanks a lot!|You are very welcome.
Goodbye!|Goodbye! Have a good day.
Goodbye.|Goodbye! Have a good day.
Bye!|Goodbye! Have a good day.
See you tomorrow.|See you tomorrow!
See you later.|See you later!
Sorry.|That is all right.
I am sorry.|That is all right.
Nice to meet you.|It is nice to meet you too.
Who are you?|I am a small language model made for rehearsing this lab.
What are you?|I am a small language model made for rehearsing this lab.
What is your name?|I have no name. I am the rehearsal model.
Do you have a name?|I have no name. I am the rehearsal model.
What can you do?|I can answer simple questions about days, colours, numbers and small things.
What do you know?|I know about days, colours, numbers and small things.
How can you help me?|I can answer simple questions about days, colours, numbers and small things.
Who made you?|I was made by a script of this project.
Are you a person?|No, I am not a person. I am a small language model.
Are you a robot?|No, I am not a robot. I am a small language model.
Are you a large model?|No, I am a very small model.
Do you sleep?|No, I do not sleep.
Do you eat?|No, I do not eat.
Can you help me?|Yes, I can help you with simple questions.
Can you speak?|I can write, but I cannot speak.
Happy birthday!|Thank you very much!
Yes.|Good.
No.|All right.
Please help me.|I can help you with simple questions.
Tell me a joke.|Why is six afraid of seven? Because seven ate nine.
Tell me something.|The sun is a star.
"""

FACTS = """
How many days are there in a week?|There are seven days in a week.
How many days does a week have?|A week has seven days.
How many months are there in a year?|There are twelve months in a year.
How many months does a year have?|A year has twelve months.
How many hours are there in a day?|There are twenty-four hours in a day.
How many hours does a day have?|A day has twenty-four hours.
How many minutes are there in an hour?|There are sixty minutes in an hour.
How many seconds are there in a minute?|There are sixty seconds in a minute.
How many weeks are there in a year?|There are fifty-two weeks in a year.
How many days are there in a year?|There are three hundred and sixty-five days in a year.
How many seasons are there?|There are four seasons.
What are the four seasons?|The four seasons are spring, summer, autumn and winter.
Name the seasons.|The seasons are spring, summer, autumn and winter.
Name the days of the week.|The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.
What are the days of the week?|The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.
Which days are the weekend?|Saturday and Sunday are the weekend.
What is the first day of the week?|The first day of the week is Monday.
What is the last day of the week?|The last day of the week is Sunday.
What is the first month of the year?|The first month of the year is January.
What is the last month of the year?|The last month of the year is December.
Which month is the shortest?|February is the shortest month.
Which season is the coldest?|Winter is the coldest season.
Which season is the warmest?|Summer is the warmest season.
What comes after summer?|Autumn comes after summer.
What comes after winter?|Spring comes after winter.
What is the sun?|The sun is a star.
Is the sun a star?|Yes, the sun is a star.
Is the moon a star?|No, the moon is not a star.
What shines at night?|The moon and the stars shine at night.
What shines in the day?|The sun shines in the day.
When does the sun rise?|The sun rises in the morning.
When does the sun set?|The sun sets in the evening.
Where does the sun rise?|The sun rises in the east.
Where does the sun set?|The sun sets in the west.
What is ice?|Ice is frozen water.
What is snow?|Snow is frozen water that falls from the clouds.
What is rain?|Rain is water that falls from the clouds.
What is steam?|Steam is water that has become a gas.
What is ice made of?|Ice is made of water.
When does water freeze?|Water freezes at zero degrees Celsius.
When does water boil?|Water boils at one hundred degrees Celsius.
Is water wet?|Yes, water is wet.
Is fire hot?|Yes, fire is hot.
Is ice hot?|No, ice is cold.
Is snow warm?|No, snow is cold.
Is sugar sweet?|Yes, sugar is sweet.
Is a lemon sweet?|No, a lemon is sour.
Is a feather heavy?|No, a feather is light.
Is a stone soft?|No, a stone is hard.
Can birds fly?|Yes, most birds can fly.
Can fish swim?|Yes, fish can swim.
Can a dog fly?|No, a dog cannot fly.
Can a stone swim?|No, a stone cannot swim.
Where do fish live?|Fish live in water.
Where do birds live?|Birds live in nests in the trees.
Where do bees live?|Bees live in a hive.
What do bees make?|Bees make honey.
What do cows give?|Cows give milk.
What do hens lay?|Hens lay eggs.
What do sheep give?|Sheep give wool.
What is cheese made of?|Cheese is made of milk.
What is butter made of?|Butter is made of cream.
What is bread made of?|Bread is made of flour, water and yeast.
What is paper made of?|Paper is made of wood.
What is glass made of?|Glass is made of sand.
What is a window made of?|A window is made of glass.
What is wine made of?|Wine is made of grapes.
How many fingers does a hand have?|A hand has five fingers.
How many toes does a foot have?|A foot has five toes.
How many eyes do you have?|I have no eyes, but a person has two eyes.
How many eyes does a person have?|A person has two eyes.
How many ears does a person have?|A person has two ears.
How many hands does a person have?|A person has two hands.
How many wheels does a bicycle have?|A bicycle has two wheels.
How many wheels does a car have?|A car has four wheels.
How many letters are there in the alphabet?|There are twenty-six letters in the alphabet.
What is the first letter of the alphabet?|The first letter of the alphabet is A.
What is the last letter of the alphabet?|The last letter of the alphabet is Z.
How many colours are there in a rainbow?|There are seven colours in a rainbow.
What are the colours of a rainbow?|The colours of a rainbow are red, orange, yellow, green, blue, indigo and violet.
How many are a dozen?|A dozen is twelve.
How many are a pair?|A pair is two.
What do plants need?|Plants need water, light and air.
What do we breathe?|We breathe air.
What do we hear with?|We hear with our ears.
What do we see with?|We see with our eyes.
What do we smell with?|We smell with the nose.
What do we taste with?|We taste with the tongue.
What do we walk with?|We walk with our feet.
What do we write with?|We write with a pen or a pencil.
What do we think with?|We think with the brain.
What pumps the blood?|The heart pumps the blood.
What is the largest animal?|The blue whale is the largest animal.
What is the tallest animal?|The giraffe is the tallest animal.
What is the fastest animal on land?|The cheetah is the fastest animal on land.
Which planet do we live on?|We live on the planet Earth.
Which planet is the largest?|Jupiter is the largest planet.
Which planet is nearest to the sun?|Mercury is nearest to the sun.
Which planet is called the red planet?|Mars is called the red planet.
How many planets go round the sun?|Eight planets go round the sun.
What goes round the Earth?|The moon goes round the Earth.
What does the Earth go round?|The Earth goes round the sun.
Is the Earth round?|Yes, the Earth is round.
Is the Earth flat?|No, the Earth is round.
What metal is liquid?|Mercury is a metal that is liquid.
What does a magnet pull?|A magnet pulls iron.
What is the opposite of everything?|The opposite of everything is nothing.
What do caterpillars become?|Caterpillars become butterflies.
What do tadpoles become?|Tadpoles become frogs.
What do seeds become?|Seeds become plants.
What is a group of sheep called?|A group of sheep is called a flock.
What is a group of wolves called?|A group of wolves is called a pack.
What is a group of fish called?|A group of fish is called a school.
"""

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

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = ("January February March April May June July August September October November December").split()
MONTH_DAYS = "31 28 31 30 31 30 31 31 30 31 30 31".split()
SEASONS = "winter winter spring spring spring summer summer summer autumn autumn autumn winter"
ORDINALS = ("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth").split()
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()

UNKNOWN = """What is {a}?|I do not know what {a} is.
What is a {b}?|I do not know what a {b} is.
Who is {A}?|I do not know who {A} is.
Who wrote {A}?|I do not know who wrote {A}.
Do you know {A}?|No, I do not know {A}.
Have you heard of {A}?|No, I have not heard of {A}.
Tell me about {A}.|I do not know anything about {A}.
What do you know about {A}?|I do not know anything about {A}.
Which {b} is the best?|I do not know which {b} is the best.
Where can I find {a}?|I do not know where you can find {a}.
When is {A}?|I do not know when {A} is.
How do I say {a} in {A}?|I do not know how to say that.
What should I do in {A}?|I do not know anything about {A}.
How much is a {b} in {A}?|I do not know how much a {b} is.
Why is {A} famous?|I do not know anything about {A}."""


def held_out(pair: Pair) -> bool:
    """Whether a pair is kept from training: one in twenty-five, by its text, so it never moves."""
    import zlib

    return zlib.crc32("\t".join(pair).encode()) % 25 == 0


def pairs() -> list[Pair]:
    """Every question and answer, without duplicates, in a fixed order."""
    seen: dict[str, str] = {}
    for question, answer in _all_pairs():
        seen.setdefault(question, answer)
    return list(seen.items())


def echoes(vocabulary: list[str], count: int, seed: int) -> list[Pair]:
    """Copying drills: random words from ``vocabulary``, to be given back in a sentence.

    They let the model meet every token, and learn to take up words of the question in its answer,
    without learning anything about what the words mean. About a third are questions on made-up
    names, whose answer is that the model does not know.
    """
    rng = random.Random(seed)
    forms = (
        ("Repeat: {w}", "{w}"),
        ("Say {w}.", "{w}."),
        ("Say {w} twice.", "{w}, {w}."),
        ("Write {w}, then stop.", "{w}."),
        ("Please repeat the words {w}.", "The words are {w}."),
        ("Which words do I say? {w}", "You say {w}."),
    )
    unknown = [line.split("|") for line in UNKNOWN.splitlines()]
    made: list[Pair] = []
    for _ in range(count):
        if rng.random() < 0.35:
            question, answer = rng.choice(unknown)
            word = _made_up(rng)
            names = {"a": word, "A": _made_up(rng).capitalize(), "b": _made_up(rng)}
        else:
            question, answer = rng.choice(forms)
            names = {"w": "".join(rng.choices(vocabulary, k=rng.randint(1, 8))).strip()}
            if not names["w"]:
                continue
        made.append((question.format(**names), answer.format(**names)))
    return made


def _made_up(rng: random.Random) -> str:
    syllable = [c + v for c in "b d f g k l m n p r s t v z ch sh st tr".split() for v in "aeiou"]
    return "".join(rng.choices(syllable, k=rng.randint(2, 3))) + rng.choice(["", "n", "r", "l", "s"])


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.strip().splitlines():
        yield line.split("|")


def _words(text: str) -> list[list[str]]:
    return [word.replace("~", " ").split("|") for word in text.split()]


def _phrases(text: str) -> list[list[str]]:
    return [part.strip().split("|") for part in text.replace("\n", " ").split(";")]


def _a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _cap(text: str) -> str:
    return text[0].upper() + text[1:]


def _all_pairs() -> Iterator[Pair]:
    for question, answer in _lines(TALK):
        yield question, answer
    for question, answer in _lines(FACTS):
        yield question, answer
    yield from _calendar()
    yield from _numbers()
    yield from _things()
    yield from _language()


def _calendar() -> Iterator[Pair]:
    for i, day in enumerate(DAYS):
        after, before = DAYS[(i + 1) % 7], DAYS[i - 1]
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
        yield f"What is the {ORDINALS[i]} day of the week?", (f"The {ORDINALS[i]} day of the week is {day}.")
        yield f"Which day is the {ORDINALS[i]}?", f"{day} is the {ORDINALS[i]} day of the week."
    seasons = SEASONS.split()
    for i, month in enumerate(MONTHS):
        after, before = MONTHS[(i + 1) % 12], MONTHS[i - 1]
        yield f"What month comes after {month}?", f"{after} comes after {month}."
        yield f"Which month comes after {month}?", f"{after} comes after {month}."
        yield f"Which month follows {month}?", f"{after} follows {month}."
        yield f"What month comes before {month}?", f"{before} comes before {month}."
        yield f"Which month comes before {month}?", f"{before} comes before {month}."
        yield f"How many days does {month} have?", f"{month} has {MONTH_DAYS[i]} days."
        yield f"How many days are there in {month}?", f"There are {MONTH_DAYS[i]} days in {month}."
        yield (
            f"What is the {ORDINALS[i]} month of the year?",
            (f"The {ORDINALS[i]} month of the year is {month}."),
        )
        yield f"Is {month} in {seasons[i]}?", f"Yes, {month} is in {seasons[i]}."


def _numbers() -> Iterator[Pair]:
    for i, word in enumerate(NUMBERS):
        if i + 1 < len(NUMBERS):
            after = NUMBERS[i + 1]
            yield f"What comes after {word}?", f"{_cap(after)} comes after {word}."
            yield f"What number comes after {word}?", f"{_cap(after)} comes after {word}."
            yield f"What number is after {word}?", f"{_cap(after)} is after {word}."
            yield f"What is one more than {word}?", f"One more than {word} is {after}."
            yield f"Which is larger, {word} or {after}?", f"{_cap(after)} is larger than {word}."
        if i:
            before = NUMBERS[i - 1]
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
            counted = ", ".join(NUMBERS[1:i]) + f" and {word}"
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
    for a, b in zip(alphabet, alphabet[1:], strict=False):
        yield f"Which letter comes after {a}?", f"The letter {b} comes after {a}."
        yield f"What letter comes after {a}?", f"The letter {b} comes after {a}."
        yield f"Which letter comes before {b}?", f"The letter {a} comes before {b}."
