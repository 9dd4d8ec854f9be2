"""A conversation is written alike by the lab, by Jinja and by Go's templates."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.export.prompts import TurnPieces, turns_of
from core.model.messages import Message, text_of
from core.model.prompt_format import PromptFormat, prompt_format
from core.model.template import ChatTemplate
from core.model.text import ModelText
from core.model.tokenizer import ModelTokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PLAIN = ("", "Question: {prompt}\nAnswer: {response}", "{{Q}} {system} {prompt} => {response}<|end|>")
LETTERS = st.text("abc XYZ{}<>|\"'\\\n", min_size=1, max_size=20).map(str.strip).filter(bool)


def prompts(template: str, recipe: str = "auto") -> PromptFormat:
    from tokenizers import Tokenizer, models

    text = ModelText(template=template, eos="<|im_end|>", bos="<bos>")
    return prompt_format(text, ModelTokenizer(Tokenizer(models.BPE())), recipe)


BRACES = "\ue000"


def go(template: str, messages: list[tuple[str, str]]) -> str:
    """What Go would write: as much of its template language as ours uses."""
    system = next((content for role, content in messages if role == "system"), "")
    template = template.replace('{{ "{{" }}', BRACES)  # before what people said stands in it
    first, text = True, ""
    body = re.fullmatch(
        r"\{\{ \$first := true \}\}\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)",
        template,
        re.DOTALL,
    )
    assert body is not None
    asked, said = body[1].split('{{ else if eq .Role "assistant" }}')
    asked = asked.removeprefix('{{ if eq .Role "user" }}')
    cases = re.fullmatch(
        r"\{\{ if not \$first \}\}(.*)\{\{ else if \$\.System \}\}(.*)\{\{ else \}\}(.*)\{\{ end \}\}(.*)",
        asked,
        re.DOTALL,
    )
    assert cases is not None
    for role, content in messages:
        if role == "user":
            text += (cases[2] if system else cases[3]) if first else cases[1]
            text = text.replace("{{ $.System }}", system) + content
            first = False
        elif role == "assistant":
            text += said.replace("{{ .Content }}", "") + content
    return (text + body[2]).replace(BRACES, "{{")


CASES = [(CHATML, "auto"), (GEMMA, "auto"), *(("", each or "auto") for each in PLAIN[:2])]


@pytest.mark.parametrize(("template", "recipe"), CASES)
@given(system=st.none() | LETTERS, said=st.lists(LETTERS, min_size=1, max_size=5))
def test_jinja_and_go_write_what_the_lab_writes(
    template: str, recipe: str, system: str | None, said: list[str]
) -> None:
    lab = prompts(template, recipe)
    turns = turns_of(lab)
    assert turns is not None
    said = said if len(said) % 2 else said[:-1] or ["a"]
    told = [("user" if at % 2 == 0 else "assistant", each) for at, each in enumerate(said)]
    if system is not None:
        told.insert(0, ("system", system))
    messages = [Message(*each) for each in told]
    wanted = text_of(lab.opening(messages))
    assert turns.text(told) == wanted
    assert ChatTemplate(turns.jinja()).render(messages, generate=True) == wanted
    assert go(turns.go(), told) == wanted


@pytest.mark.parametrize(("template", "recipe"), CASES)
def test_an_answered_conversation_ends_as_in_training(template: str, recipe: str) -> None:
    lab = prompts(template, recipe)
    turns = turns_of(lab)
    assert turns is not None
    messages = [Message("user", "ask"), Message("assistant", "say")]
    assert ChatTemplate(turns.jinja()).render(messages) == text_of(lab.segments(messages))


def test_by_role() -> None:
    turns = turns_of(prompts(CHATML))
    assert turns is not None
    assert turns.by_role()["prompt"].endswith(
        "<|im_start|>user\n{Content}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert turns.by_role()["system"].startswith("<|im_start|>system\n{Content}")


def test_braces_of_a_template_are_no_go() -> None:
    turns = TurnPieces("", "", "{{ evil }} ", "\n", " -> ", " -> ", "")
    assert turns.go().count('{{ "{{" }}') == 1


def test_a_template_that_repeats_the_system_text_is_not_made_of_such_pieces() -> None:
    assert turns_of(prompts("", PLAIN[2])) is None
