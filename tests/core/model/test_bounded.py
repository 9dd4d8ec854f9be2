# ruff: noqa: E501 - templates stay whole
"""Templates of bad will: refused within a second and 100 MB; templates of good will: as jinja2 renders them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.model.bounded import STRIKES, BoundedEnvironment, TooMuch, render
from core.model.messages import Message
from core.model.template import ChatTemplate, TemplateError

ROOT = Path(__file__).resolve().parents[3]
TALK = (Message("user", "a"), Message("assistant", "b"))

# Each holds the one before twice: two to the power of sixty numbers, in sixty small lists.
LISTS = "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
LIST = "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}"
TUPLE = "{% set n = namespace(a=(1,)) %}{% for i in range(60) %}{% set n.a = (n.a, n.a) %}{% endfor %}"

HOSTILE: dict[str, str] = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "product": "{{ 'A' * 3000000000 }}",
    "product of a list": "{{ ([1] * 3000000000)|length }}",
    "product swapped": "{{ 2000000000 * 'A' }}",
    "doubled": "{% set n = namespace(a='A') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "doubled with +": "{% set n = namespace(a='A') %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "doubled in a block": "{% set n = namespace(a='A') %}{% for i in range(60) %}{% set b %}{{ n.a }}{{ n.a }}{% endset %}{% set n.a = b %}{% endfor %}",
    "doubled by a macro": "{% macro d(s) %}{{ s }}{{ s }}{% endmacro %}{% set n = namespace(a='A') %}{% for i in range(60) %}{% set n.a = d(n.a) %}{% endfor %}",
    "doubled list": "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "macros calling twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(80) }}",
    "macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for a in [1,2] recursive %}{{ loop([1,2]) }}{% endfor %}",
    "recursive wide": "{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "power": "{{ 10 ** 1000000000 }}",
    "powers": "{% set n = namespace(a=7) %}{% for i in range(99) %}{% set n.a = n.a * n.a %}{% endfor %}",
    "percent": "{{ '%999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (999999999, 1) }}",
    "format filter": "{{ '%999999999d'|format(1) }}",
    "percent many": "{{ ('%9999d' * 100000) % ((1,) * 100000) }}",
    "str.format": "{{ '{:999999999}'.format(1) }}",
    "nested format": "{{ '{:{w}}'.format(1, w=999999999) }}",
    "format repeated": "{% set s = 'x' * 1000000 %}{{ ('{0}' * 5000).format(s) }}",
    "format_map": "{{ '{a:999999999}'.format_map({'a': 1}) }}",
    "ljust": "{{ 'a'.ljust(999999999) }}",
    "zfill": "{{ 'a'.zfill(999999999) }}",
    "center": "{{ 'a'|center(999999999) }}",
    "center m": "{{ 'a'.center(999999999) }}",
    "expandtabs": "{{ '\\t'.expandtabs(999999999) }}",
    "replace": "{% set s = 'a' * 5000000 %}{{ s.replace('', s) }}",
    "replace f": "{% set s = 'a' * 5000000 %}{{ s|replace('a', s) }}",
    "join": "{% set s = 'a' * 5000000 %}{{ s.join(range(99999)|map('string')) }}",
    "join f": "{% set s = 'a' * 5000000 %}{{ range(99999)|join(s) }}",
    "join str": "{% set s = 'a' * 5000000 %}{{ s|join(s) }}",
    "indent": "{% set s = '\\n' * 5000000 %}{{ s|indent(9999) }}",
    "indent 2": "{{ 'a\\nb'|indent(999999999) }}",
    "tojson": "{{ [[[1]]]|tojson(indent=999999999) }}",
    "tojson wide": "{% set n = namespace(a=[1]) %}{% for i in range(90) %}{% set n.a = [n.a] %}{% endfor %}{{ ([n.a]*2000)|tojson(indent=9999) }}",
    "shared lists": LIST + "{{ n.a }}",
    "shared json": LIST + "{{ n.a|tojson }}",
    "shared compared": LISTS + "{{ n.a == n.b }}",
    "shared compared by test": LISTS + "{{ n.a is eq n.b }}",
    "shared in": LISTS + "{{ n.a in [n.b] }}",
    "shared index": LISTS + "{{ [n.b].index(n.a) }}",
    "shared tuples hashed": TUPLE + "{{ {n.a: 1} }}",
    "shared tuples looked up": TUPLE + "{{ {'x': 1}[n.a] }}",
    "shared tuples got": TUPLE + "{{ {'x': 1}.get(n.a) }}",
    "shared tuples unique": TUPLE + "{{ [n.a]|unique|list }}",
    "shared dict()": TUPLE + "{{ dict([(n.a, 1)]) }}",
    "namespace shown": LIST + "{{ n }}",
    "views shown": LIST + "{{ {'a': n.a}.items() }}",
    "deep list": "{% set n = namespace(a=[1]) %}{% for i in range(99999) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a }}",
    "deep tuple hashed": "{% set n = namespace(a=(1,)) %}{% for i in range(90000) %}{% set n.a = (n.a,) %}{% endfor %}{{ {n.a: 1} }}",
    "deep lazy": "{% set n = namespace(a=[1]) %}{% for i in range(90000) %}{% set n.a = n.a|map('string') %}{% endfor %}{{ n.a|list }}",
    "deep reverse": "{% set n = namespace(a=[1]) %}{% for i in range(90000) %}{% set n.a = n.a|select %}{% endfor %}",
    "lists kept": "{% set n = namespace(a=[]) %}{% for i in range(9999) %}{% set n.a = n.a + [range(99999)|list] %}{% endfor %}",
    "texts kept": "{% set n = namespace(a=[]) %}{% for i in range(9999) %}{% set n.a = n.a + ['é' * 1000000] %}{% endfor %}",
    "split": "{% set s = 'a,' * 7000000 %}{{ s.split(',')|length }}",
    "split ws": "{% set s = 'a ' * 7000000 %}{{ s.split()|length }}",
    "splitlines": "{% set s = 'a\\n' * 7000000 %}{{ s.splitlines()|length }}",
    "list of text": "{% set s = 'é' * 4000000 %}{{ s|list|length }}",
    "batch": "{{ [1]|batch(999999999, 'x')|list }}",
    "slice": "{{ [1]|slice(999999999)|list }}",
    "round": "{{ 1.5|round(999999999, 'ceil') }}",
    "sum of lists": "{{ ([[1]] * 90000)|sum(start=[])|length }}",
    "sum of lists by attribute": "{{ ([{'a': [1]}] * 90000)|sum(start=[], attribute='a')|length }}",
    "in a text": "{% set s = 'a' * 9000000 %}{% for i in range(90000) %}{% if 'b' in s %}{% endif %}{% endfor %}",
    "worst search": "{% set s = 'a' * 9000000 %}{% set t = 'a' * 50 ~ 'b' ~ 'a' * 49 %}{% for i in range(9000) %}{% if t in s %}{% endif %}{% endfor %}",
    "worst rfind": "{% set s = 'a' * 8000000 %}{% set t = 'b' ~ 'a' * 100000 %}{% for i in range(9000) %}{{ s.rfind(t) }}{% endfor %}",
    "worst strip": "{% set s = 'a' * 5000000 %}{% set t = 'bcdefgh' * 100000 ~ 'a' %}{% for i in range(9000) %}{{ s.strip(t)|length }}{% endfor %}",
    "upper": "{% set s = 'a' * 9000000 %}{% for i in range(90000) %}{% set t = s.upper() %}{% endfor %}",
    "compare": "{% set s = 'a' * 6000000 %}{% set t = 'a' * 6000000 %}{% for i in range(90000) %}{% if s == t %}{% endif %}{% endfor %}",
    "in list": "{% set s = range(99999)|list %}{% for i in range(90000) %}{% if 'b' in s %}{% endif %}{% endfor %}",
    "in range": "{% for i in range(90000) %}{% if 'b' in range(99999) %}{% endif %}{% endfor %}",
    "sort": "{% for i in range(90000) %}{% set x = range(99999)|sort %}{% endfor %}",
    "slices": "{% set s = range(99999)|list %}{% for i in range(90000) %}{% set t = s[1:] %}{% endfor %}",
    "slices of text": "{% set s = 'a' * 9000000 %}{% for i in range(90000) %}{% set t = s[1:] %}{% endfor %}",
    "to_bytes": "{{ (5).to_bytes(999999999, 'big') }}",
    "punycode": "{% set s = 'é' * 900000 %}{{ s.encode('punycode') }}",
    "translate": "{% set s = 'a' * 900000 %}{{ s.translate({97: s}) }}",
    "long loop body": "{% for i in range(99999) %}" + "{% set a = 1 %}" * 9000 + "{% endfor %}",
    "long text in a loop": "{% for i in range(99999) %}" + "lorem ipsum " * 9000 + "{% endfor %}",
    "literal in a loop": "{% for i in range(99999) %}{% set a = [" + "1," * 60000 + "] %}{% endfor %}",
    "lipsum": "{{ lipsum(99999999) }}",
    "urlize": "{{ 'a'|urlize }}",
    "cycler": "{% set c = cycler('a') %}{% for i in range(99999) %}{% for i in range(99999) %}{{ c.next() }}{% endfor %}{% endfor %}",
    "changed": LISTS + "{% for i in [1,2] %}{{ loop.changed(n.a if i == 1 else n.b) }}{% endfor %}",
    "message": "{{ raise_exception('A' * 10000000) }}",
    "strftime": "{{ strftime_now('%Y' * 4000000) }}",
    "escape": "{% set s = '<' * 15000000 %}{{ s|e }}",
    "compile time": "{% if 'x'|center(999999999) %}{% endif %}",
    "constant": "{{ 'x'|indent(99999999) }}{{ 10**9**9 }}",
    "much text": "a" * 300000,
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "minus": "{{ " + "-" * 5000 + "1 }}",
    "attributes": "{{ a" + ".a" * 50000 + " }}",
    "plus": "{{ 1" + "+1" * 50000 + " }}",
    "ifs": "{% if a %}" * 3000 + "{% endif %}" * 3000,
    "dict view minus": "{% for i in range(9000) %}{% set x = dict.fromkeys(range(99999)).keys() - [] %}{% endfor %}",
    "autoescape": "{% autoescape true %}{% set s = '<' * 15000000 %}{{ s }}{% endautoescape %}",
    "markup times": "{{ ('<'|e) * 3000000000 }}",
    "markup join": "{% set s = 'a'*5000000 %}{{ ('<'|e).join([s]*5000) }}",
    "markup percent": "{{ ('%999999999d'|safe) % 1 }}",
    "markup format": "{{ ('{:999999999}'|safe).format(1) }}",
    "call block": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}{% macro r(n) %}{% if n %}{% call m() %}{{ r(n-1) }}{% endcall %}{% endif %}{% endmacro %}{{ r(60) }}",
    "filter block": "{% filter indent(999999999) %}a\nb{% endfilter %}",
    "block self": "{% block a %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endblock %}",
    "self": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "map call": "{{ range(99999)|map('upper')|map('replace', '', 'a' * 100000)|join }}",
    "groupby": "{% for i in range(9999) %}{% set x = range(99999)|map('string')|groupby('length') %}{% endfor %}",
    "generation": "{% generation %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endgeneration %}",
    "loop length": "{% for i in range(9000) %}{% for j in range(99999)|map('string') %}{{ loop.length }}{% break %}{% endfor %}{% endfor %}",
    "default": "{% for i in range(99999) %}{% for j in range(99999) %}{{ a|default('b') }}{% endfor %}{% endfor %}",
    "wordcount": "{% set s = 'a ' * 7000000 %}{% for i in range(9999) %}{{ s|wordcount }}{% endfor %}",
    "title": "{% set s = 'a ' * 2000000 %}{% for i in range(9999) %}{{ s|title|length }}{% endfor %}",
    "trim": "{% set s = ' ' * 15000000 %}{% for i in range(9999) %}{{ s|trim }}{% endfor %}",
    "capitalize": "{% set s = 'a ' * 2000000 %}{% for i in range(9999) %}{{ s|capitalize|length }}{% endfor %}",
}


JUDGE = """
import json, resource, sys, time
from core.model.messages import Message
from core.model.template import ChatTemplate, TemplateError

talk = (Message("user", "a"), Message("assistant", "b"))
ChatTemplate("{{ messages|tojson }}").render(talk)
told = {}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, text in json.load(sys.stdin).items():
    began = time.process_time()
    try:
        said = None if ChatTemplate(text).render(talk) is not None else ""
    except TemplateError as error:
        said = str(error)
    told[name] = (said, time.process_time() - began)
    print(name, file=sys.stderr, flush=True)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(json.dumps([grown, told]))
"""


def test_templates_of_bad_will_are_refused_in_a_second_and_100_mb() -> None:
    done = subprocess.run(
        [sys.executable, "-c", JUDGE],
        input=json.dumps(HOSTILE),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, (done.stderr or "none").splitlines()[-1]
    grown, told = json.loads(done.stdout)
    assert grown < 100
    for name, (said, seconds) in told.items():
        assert said, f"{name} was rendered"
        assert said.startswith("the model's chat template "), name
        assert len(said) < 700, name
        assert seconds < 1, name


def test_what_was_refused_often_is_not_tried_again() -> None:
    template = ChatTemplate(HOSTILE["nested ranges"] + "{# of its own #}")
    for _ in range(STRIKES + 1):
        with pytest.raises(TemplateError, match="too many steps"):
            template.render(TALK)
    environment = BoundedEnvironment()
    once = environment.from_string("{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}")
    for _ in range(STRIKES):
        assert render(once, {"n": 3}) == ""
        with pytest.raises(TooMuch):
            render(once, {"n": 99_999})
    with pytest.raises(TooMuch):
        render(once, {"n": 3})


def test_a_long_conversation_may_take_longer() -> None:
    loops = (
        "{% for m in messages %}{% for n in messages[-20:] %}{% if m.content in n.content %}{% endif %}"
        "{% endfor %}{{ m.content|trim|replace('?', '!') }}{% endfor %}"
    )
    talk = [Message("user" if n % 2 == 0 else "assistant", "What is that? " * 40) for n in range(2_000)]
    assert ChatTemplate(loops).render(talk).count("What") == 80_000


BENIGN = [
    "{% for m in messages %}{{ m.role }}: {{ m['content'] }}{{ eos }}\n{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }} {{ loop.last }}{% else %}none{% endfor %}",
    "{% for m in messages[::-1] %}{{ m.content.strip().split('\\n')[-1]|upper }}{% endfor %}",
    "{% set n = namespace(x='', l=[]) %}{% for m in messages %}{% set n.x = n.x ~ m.content %}{% set n.l = n.l + [m.role] %}{% endfor %}{{ n.x }}{{ n.l }}{{ n.l|join(', ') }}",
    "{% macro say(m, end='.') %}[{{ m.content|default('-', true) }}{{ end }}]{{ caller() if caller else '' }}{% endmacro %}{{ messages|map('upper') is iterable }}{% for m in messages %}{{ say(m) }}{% call say(m, end='!') %}x{% endcall %}{% endfor %}",
    "{{ messages|map(attribute='content')|join('|') }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ messages|rejectattr('role', 'in', ['user'])|list|tojson }}",
    "{{ messages[0].content if messages and 'a' in messages[0].content else 'no' }}{{ 'b' not in (messages|string) }}{{ nothing }}{{ nothing is defined }}",
    "{{ messages[1:]|length }}{{ (messages|first).content[:3] }}{{ (messages|last)['content'][1:][::-1] }}{{ messages[-1:] }}",
    "{{ {'a': messages|length, 'b': {'c': [1, 2.5, none, true]}} }}{{ {'a': 1}.items()|list }}{% for k, v in {'x': 1, 'y': 2}|dictsort %}{{ k }}={{ v }}{% endfor %}",
    "{{ '%s has %03d' % (messages[0].role, 7) }}{{ '{} and {:>4}'.format('a', 5) }}{{ '%s'|format('x') }}{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ 7 % 3 }}{{ [1] * 2 }}{{ 5 - 2 }}{{ 7 // 2 }}{{ 1 + 2.5 }}",
    "{{ messages|tojson(indent=2) }}{{ messages[0].content|trim|length }}{{ messages[0].content|replace('a', 'bb')|title|capitalize|lower }}",
    "{{ 'a,b,c'.split(',') }}{{ ', '.join(['x', 'y']) }}{{ 'abc'.replace('b', 'xx') }}{{ 'x'.ljust(5) }}|{{ 'aXbX'.rstrip('X').partition('X') }}{{ 'abc'.startswith('ab') }}{{ 'a\\tb'.expandtabs(2) }}{{ 'a b'.split() }}{{ 'a\\nb'.splitlines() }}",
    "{{ [3, 1, 2]|sort }}{{ [1, 1, 2]|unique|list }}{{ [1, 2, 3]|sum }}{{ [1, 2, 3]|batch(2)|list }}{{ [3, 1]|max }}{{ [3, 1]|min }}{{ [1, 2]|reverse|list }}{{ 'abc'|reverse }}{{ 'abc'|list }}{{ 1.256|round(2) }}{{ -3|abs }}{{ '7'|int + 1 }}",
    "{% set b %}{% for m in messages %}{{ m.role }}{% endfor %}{% endset %}{{ b }}{% filter upper %}x{{ b }}{% endfilter %}{{ 'a\\nb'|indent(2) }}{{ '<b>'|e }}{{ '<b>'|safe }}",
    "{% for a in [[1, [2]], [3]] recursive %}{{ loop(a) if a is sequence else a }},{% endfor %}{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}{% set j = joiner(';') %}{{ j() }}a{{ j() }}b",
    "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% if loop.changed(m.role) %}*{% endif %}{% endfor %}{{ 1 < 2 < 3 }}{{ 1 in [1, 2] }}{{ (1, 2) == (1, 2) }}{{ 'a' is in 'abc' }}{{ 3 is ge 2 }}{{ dict(a=1) }}{{ range(3)|list }}",
    "{% block a %}in {{ messages|count }}{% endblock %}{{ self.a() }}{% with x = 1 %}{{ x }}{% endwith %}{{ messages|groupby('role')|length }}{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.keys()|list }}{{ [1, 2].index(2) }}{{ [1, 1].count(1) }}{{ ns is undefined }}",
]


@pytest.mark.parametrize("text", BENIGN)
def test_templates_of_good_will_are_rendered(text: str) -> None:
    environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    talk = [{"role": "user", "content": "an apple?"}, {"role": "assistant", "content": "yes,\na pear"}]
    assert render(environment.from_string(text), {"messages": talk, "eos": "</s>"})


@pytest.mark.parametrize("text", BENIGN)
@settings(max_examples=15)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text()}
        ),
        max_size=4,
    )
)
def test_templates_of_good_will_are_rendered_as_jinja2_does(text: str, talk: list[dict[str, str]]) -> None:
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "extensions": [loopcontrols]}
    plain, bounded = ImmutableSandboxedEnvironment(**options), BoundedEnvironment(**options)
    values = {"messages": talk, "eos": "</s>"}

    def outcome(work: Callable[[], str]) -> tuple[type[Exception] | None, str]:
        try:
            return None, work()
        except Exception as error:
            return type(error), str(error)

    wanted = outcome(lambda: plain.from_string(text).render(values))
    assert outcome(lambda: render(bounded.from_string(text), values)) == wanted
