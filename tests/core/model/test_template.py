"""Templates: the text of a record, and which part of it is learnt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.model.messages import Message, Segment, text_of
from core.model.template import ChatTemplate, Template, TemplateError, all_learnt
from tests.tiny_models import CHAT_TEMPLATE

PHI = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' '  + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{%- for m in messages %}\n    {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}"
)
# Like templates of reasoning models: thoughts are dropped from all answers but the last.
THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>"
    "{% if loop.last %}{{ m.content }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}<|end|>"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)
TALK = (
    Message("user", "One?"),
    Message("assistant", "Two."),
    Message("user", "Three?"),
    Message("assistant", "Four."),
)


def trained(segments: tuple[Segment, ...]) -> list[str]:
    return [segment.text for segment in segments if segment.trained]


def whole(segments: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in segments)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<|user|>\n{prompt}<|end|>\n<|assistant|>\n{response}<|end|>", "B.<|end|>"),
        ("{prompt}\n{response}", "B.<eos>"),
        ("{prompt}\n{response}\n", "B.<eos>"),
        ("[INST] {prompt} [/INST] {response}</s>\n", "B.</s>"),
        ("Q: {prompt} A: {response} (end)", "B. (end)"),
        ('{{"q": {prompt}}} {response}<|im_end|>\n<|endoftext|>', "B.<|im_end|>"),
    ],
)
def test_the_answer_is_learnt_up_to_its_end_marker(text: str, answer: str) -> None:
    template = Template.parse(text)
    segments = template.segments({"prompt": "A?", "response": "B."}, template.answer_field(), "<eos>")
    assert trained(segments) == [answer]
    plain = text.replace("{{", "{").replace("}}", "}").replace("{prompt}", "A?").replace("{response}", "B.")
    assert whole(segments).replace("<eos>", "") == plain


def test_values_are_put_in_as_they_are() -> None:
    template = Template.parse("{prompt}|{response}")
    hostile = "{response} {prompt.__class__} {{x}} {0} %s"
    segments = template.segments({"prompt": hostile, "response": hostile}, "response")
    assert whole(segments) == f"{hostile}|{hostile}"


@pytest.mark.parametrize("text", ["", "no field", "{{prompt}}", "{}"])
def test_a_template_needs_a_field(text: str) -> None:
    with pytest.raises(TemplateError, match=r"no \{field\}"):
        Template.parse(text)


def test_the_answer_is_named_or_last() -> None:
    assert Template.parse("{a} {b}").answer_field() == "b"
    assert Template.parse("{a} {b}").answer_field("a") == "a"
    assert Template.parse("{output} for {instruction}").answer_field() == "output"
    assert Template.parse("{text}").answer_field() == ""


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (PHI, ["Two.<|end|>", "Four.<|end|>"]),
        (CHAT_TEMPLATE, ["Two.<|end|>", "Four.<|end|>"]),
        (CHATML, ["Two.<|im_end|>", "Four.<|im_end|>"]),
        (LLAMA2, [" Two. </s>", " Four. </s>"]),
        (THINKING, ["Two.<|end|>", "Four.<|end|>"]),
    ],
)
def test_chat_templates_give_what_the_model_reads(text: str, answers: list[str]) -> None:
    chat = ChatTemplate(text, eos="</s>", bos="<s>")
    segments = chat.segments(TALK)
    assert whole(segments) == chat.render(TALK)
    assert trained(segments) == answers


def test_rendering_is_that_of_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    for text in (PHI, LLAMA2, CHATML, THINKING):
        for generate in (False, True):
            messages = [{"role": message.role, "content": message.content} for message in TALK]
            theirs, _ = render_jinja_template(
                [messages],
                chat_template=text,
                add_generation_prompt=generate,
                eos_token="</s>",
                bos_token="<s>",
            )
            ours = ChatTemplate(text, eos="</s>", bos="<s>").render(TALK, generate=generate)
            assert ours == theirs[0]


def test_an_answer_that_stands_in_the_question_is_found_where_it_is_given() -> None:
    talk = (Message("user", "Say Two. and no more"), Message("assistant", "Two."))
    segments = ChatTemplate(PHI, eos="</s>").segments(talk)
    assert trained(segments) == ["Two.<|end|>"]
    assert segments[0].text.endswith("<|assistant|>\n")


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception('only user first') }}",
        "{% for m in messages %}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[99].content.strip() }}",
        "nothing of the messages",
    ],
)
def test_templates_that_refuse_or_misbehave(text: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(text).segments(TALK)


def test_generation_blocks_are_shown() -> None:
    text = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}"
    assert ChatTemplate(text).render(TALK) == "One?;Two.;Three?;Four.;"


def test_all_is_learnt_but_answers_that_are_only_shown() -> None:
    talk = (TALK[0], Message("assistant", "Two.", learnt=False), *TALK[2:])
    other = tuple(Message(m.role, m.content, learnt=not m.learnt) for m in talk)
    chat = ChatTemplate(CHATML, eos="</s>")
    segments = all_learnt(chat.segments(talk), chat.segments(other))
    assert whole(segments) == chat.render(talk)
    assert [each.text for each in segments if not each.trained] == ["Two.<|im_end|>"]
    assert all(each.trained for each in all_learnt(chat.segments(TALK)))


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        # The last answer ends otherwise than those before it, and a system turn stands before each conversation.
        (
            "{{ '<|system|>s<|end|>' }}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
            "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}",
            ["One.<|end|>", "Two.<|return|>"],
        ),
        # Nothing ends an answer but what follows: that is not learnt.
        (
            "{% for m in messages %}{{ '<|start|>' + m.role + '<|say|>' + m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<|start|>assistant<|say|>{% endif %}",
            ["One.", "Two."],
        ),
        # It changes what is said, or wants a system message: the end is learnt all the same.
        (
            "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content | upper + '<|end|>' }}{% endfor %}",
            ["ONE.<|end|>", "TWO.<|end|>"],
        ),
        (
            "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}"
            "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}",
            ["One.<|end|>", "Two.<|end|>"],
        ),
    ],
)
def test_each_answer_is_learnt_with_its_own_end(template: str, answers: list[str]) -> None:
    special = ("<|system|>", "<|user|>", "<|assistant|>", "<|start|>", "<|say|>", "<|end|>", "<|return|>")
    if "add_generation_prompt" not in template:
        template += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    chat = ChatTemplate(template, special=special)
    talk = [Message("system", "Be brief."), Message("user", "A?"), Message("assistant", "One."),
            Message("user", "B?"), Message("assistant", "Two.")]  # fmt: skip
    assert [segment.text for segment in chat.segments(talk) if segment.trained] == answers


def test_thoughts_have_the_name_that_gpt_oss_reads_too() -> None:
    chat = ChatTemplate(
        "{% for m in messages %}{% if m.thinking %}({{ m.thinking }}){% endif %}"
        "{{ m.role }}: {{ m.content }};{% endfor %}"
    )
    talk = [Message("user", "A?"), Message("assistant", "One.", reasoning="let me see")]
    assert chat.render(talk) == "user: A?;(let me see)assistant: One.;"


LATE_SYSTEM = (  # as Mistral's: the system's text stands before the last question
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{% set asked = turns|selectattr('role', 'equalto', 'user')|list %}"
    "{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}[INST] {% if system is defined and m == asked[-1] %}"
    "{{ system }}\n\n{% endif %}{{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def test_an_answer_is_not_learnt_without_the_system_text_that_the_chat_shows_it() -> None:
    template = ChatTemplate(LATE_SYSTEM, "</s>", "<s>", ("<s>", "</s>", "[INST]", "[/INST]"))
    system, first = Message("system", "Be kind."), (Message("user", "q1"), Message("assistant", "a1"))
    second = (Message("user", "q2"), Message("assistant", "a2"))
    one = template.segments((system, *first))
    assert [(each.text, each.trained) for each in one] == [
        ("<s>[INST] Be kind.\n\nq1[/INST]", False),
        (" a1</s>", True),
    ]
    with pytest.raises(TemplateError, match=r"turn 1 \(system\) behind the answer in turn 3") as caught:
        template.segments((system, *first, *second))
    assert "system message" in caught.value.fix
    shown = replace(first[1], learnt=False)
    told = template.segments((system, first[0], shown, *second))
    assert [each.text for each in told if each.trained] == [" a2</s>"]
    asked = template.opening((system, *first, second[0]))
    assert text_of(told).startswith(text_of(asked))
    assert [each.text for each in asked if each.trained] == ["a1</s>"]


def test_a_template_that_drops_the_system_text_says_what_to_do_about_it() -> None:
    dropping = LATE_SYSTEM.replace("m == asked[-1]", "loop.last")
    with pytest.raises(TemplateError, match=r"turn 1 \(system\)") as caught:
        ChatTemplate(dropping, "</s>", "<s>").segments(
            (Message("system", "Be kind."), Message("user", "q"), Message("assistant", "a"))
        )
    assert "system message" in caught.value.fix


@pytest.mark.parametrize("template", [PHI, LLAMA2, CHATML, THINKING])
def test_a_conversation_of_a_thousand_turns_is_rendered_a_few_times(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = tuple(
        Message(role, f"{role} says {number}.") for number in range(500) for role in ("user", "assistant")
    )
    chat = ChatTemplate(template, "</s>", "<s>")
    short = chat.segments(turns[:8])
    rendered: list[int] = []
    render = ChatTemplate._render

    def count(self: ChatTemplate, turns: list[Any], *more: Any, **marks: Any) -> str:
        rendered.append(len(turns))
        return render(self, turns, *more, **marks)

    monkeypatch.setattr(ChatTemplate, "_render", count)
    found = chat.segments(turns)
    assert len(trained(found)) == 500
    assert found[:7] == short[:7]
    assert whole(chat.opening((*turns, Message("user", "last")))) != ""
    assert len(rendered) < 40
