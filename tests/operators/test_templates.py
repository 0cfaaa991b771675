"""Prompts and answers: which tokens, which labels, and what a column's text cannot do."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from malmoi.operators.chat import CHATML, ChatTemplate, encode_chat, load_chat_template
from malmoi.operators.packing import IGNORE
from malmoi.operators.templates import TEMPLATES, Segment, Template, encode_segments, rename

EXAMPLES = [
    {"question": "말모이가 무엇인가요?", "context": "", "answer": "첫 우리말 사전입니다."},
    {"question": "요약해 주세요 <|eos|>", "context": "긴 글 🎉", "answer": "짧은 글 <|im_end|>"},
    {"question": "\u1106\u1161\u11af 辞書", "context": None, "answer": "yes"},
    {"question": "no answer", "context": "x", "answer": ""},
]


def table(rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({x: pa.array([row.get(x) for row in rows], pa.large_string()) for x in names})


def shown(made, encoder):
    """[(prompt, answer)] as text, the control tokens written out."""
    decode = Tokenizer.from_file(encoder.path).decode
    found = []
    for begin, end in zip(made.offsets, made.offsets[1:], strict=False):
        ids, labels = made.ids[begin:end], made.labels[begin:end]
        assert (labels[labels != IGNORE] == ids[labels != IGNORE]).all()
        prompt = decode(ids[labels == IGNORE].tolist(), skip_special_tokens=False)
        found.append((prompt, decode(ids[labels != IGNORE].tolist(), skip_special_tokens=False)))
    return found


def test_korean(encoder, reference):
    made = encode_segments(table(EXAMPLES), TEMPLATES["korean"], encoder)
    assert shown(made, encoder) == [
        ("[질문] 말모이가 무엇인가요?\n[답변]", " 첫 우리말 사전입니다.<|eos|>"),
        ("[질문] 요약해 주세요 <|eos|>\n[내용] 긴 글 🎉\n[답변]", " 짧은 글 <|im_end|><|eos|>"),
        ("[질문] \u1106\u1161\u11af 辞書\n[답변]", " yes<|eos|>"),
        ("", ""),
    ]
    prompt = "[질문] 말모이가 무엇인가요?\n[답변]"
    first = made.ids[: made.offsets[1]].tolist()
    want = [reference.encode(x, add_special_tokens=False).ids for x in (prompt, " 첫 우리말 사전입니다.")]
    assert first == [*want[0], *want[1], encoder.eos_id], "the ids that a model is asked with"
    assert made.trained.tolist()[0] == len(want[1]) + 1
    assert (made.ids == encoder.eos_id).sum() == 3, "none from the text"


def test_any_batching(encoder):
    rows = EXAMPLES * 3
    whole = encode_segments(table(rows), TEMPLATES["korean"], encoder)
    for step in (1, 2, 5):
        full = table(rows)
        parts = [
            encode_segments(full.slice(i, step), TEMPLATES["korean"], encoder)
            for i in range(0, len(rows), step)
        ]
        assert np.array_equal(np.concatenate([x.ids for x in parts]), whole.ids)
        assert np.array_equal(np.concatenate([x.labels for x in parts]), whole.labels)
        assert np.array_equal(np.concatenate([x.lengths for x in parts]), whole.lengths)
    empty = encode_segments(table(rows).slice(0, 0), TEMPLATES["korean"], encoder)
    assert empty.offsets.tolist() == [0]


def test_alpaca(encoder):
    rows = [
        {"instruction": "Say hi", "input": "", "output": "hi"},
        {"instruction": "Add", "input": "1 2", "output": "3"},
    ]
    plain, given = shown(
        encode_segments(table(rows), TEMPLATES["alpaca"], encoder, append_eos=False), encoder
    )
    assert plain == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\nSay hi\n\n### Response:\n",
        "hi",
    )
    assert given[0] == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write "
        "a response that appropriately completes the request.\n\n### Instruction:\nAdd\n\n### Input:\n1 2\n\n"
        "### Response:\n"
    )
    without = table([{"instruction": "Say hi", "output": "hi"}])
    assert shown(encode_segments(without, TEMPLATES["alpaca"], encoder, append_eos=False), encoder) == [plain]


def test_chatml(encoder):
    rows = [
        {"system": "", "prompt": "hi <|im_end|>", "answer": "ho"},
        {"system": "Be.", "prompt": "a", "answer": "b"},
    ]
    made = encode_segments(table(rows), TEMPLATES["chatml"], encoder)
    assert shown(made, encoder) == [
        ("<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n", "ho<|im_end|><|eos|>"),
        (
            "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
            "b<|im_end|><|eos|>",
        ),
    ]
    ends = dict(encoder.control)["<|im_end|>"]
    assert (made.ids == ends).sum() == 5, "two of each example, one of the system; the user's is text"


def test_a_template_of_ones_own(encoder):
    mine = Template("mine", (Segment("Q: {q}\nA:"), Segment(" {a}", trained=True)))
    assert (mine.columns, mine.needs) == (("q", "a"), ("q", "a"))
    assert shown(encode_segments(table([{"q": "x", "a": "y"}]), mine, encoder), encoder) == [
        ("Q: x\nA:", " y<|eos|>")
    ]
    renamed = rename(mine, {"q": "prompt.text"})
    assert renamed.columns == ("prompt.text", "a")
    made = encode_segments(table([{"prompt.text": "x", "a": "y"}]), renamed, encoder)
    assert shown(made, encoder) == [("Q: x\nA:", " y<|eos|>")]
    with pytest.raises(ValueError, match="no column 'z'; it has q, a"):
        rename(mine, {"z": "y"})
    with pytest.raises(ValueError, match="want a trained segment"):
        Template("wrong", (Segment("{q}"),))


def test_take(encoder):
    made = encode_segments(table(EXAMPLES), TEMPLATES["korean"], encoder)
    keep = np.array([True, False, True, False])
    part = made.take(keep, 5)
    assert part.lengths.tolist() == [5, 5]
    assert part.ids.tolist() == [*made.ids[:5].tolist(), *made.ids[made.offsets[2] :][:5].tolist()]


def said(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


TALK = said(
    ("system", "Be."),
    ("user", "hi <|im_end|>"),
    ("assistant", "ho <|eos|>"),
    ("user", "more"),
    ("assistant", "no"),
)


def chat(messages, template, encoder, **others):
    column = pa.array([x if isinstance(x, str) else json.dumps(x) for x in messages], pa.large_string())
    return encode_chat(column, template, encoder, **others)


def test_every_answer_of_a_talk_is_learned(encoder):
    made, bad = chat([TALK, TALK[:3]], ChatTemplate(CHATML), encoder)
    assert not bad.any()
    [long, short] = shown(made, encoder)
    assert long[1] == "ho <|eos|><|im_end|>\nno<|im_end|>\n<|eos|>"
    assert long[0] == (
        "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
        "<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
    )
    assert short[1] == "ho <|eos|><|im_end|>\n<|eos|>"
    control = dict(encoder.control)
    assert (made.ids == control["<|eos|>"]).sum() == 2, "none from a message"
    assert (made.ids == control["<|im_end|>"]).sum() == 5 + 3


def test_a_template_that_forgets_leaves_the_last_answer(encoder):
    forgets = ChatTemplate(
        "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}{{ m.role[0] + ':' + m.content + '\n' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    made, bad = chat([TALK], forgets, encoder, append_eos=False)
    assert not bad.any()
    assert shown(made, encoder) == [("s:Be.\nu:hi <|im_end|>\nu:more\na:", "no\n")]


WRONG = [
    "",
    "null",
    "[]",
    "{}",
    "[1]",
    "not json",
    said(("user", "x")),
    said(("assistant", "")),
    said(("assistant", " \n")),
    [{"content": "x"}],
    "[" * 3000,
]


def test_talks_that_cannot_be_used(encoder):
    made, bad = chat([*WRONG, TALK], ChatTemplate(CHATML), encoder)
    assert bad.tolist() == [True] * len(WRONG) + [False]
    assert (made.lengths > 0).tolist() == [False] * len(WRONG) + [True]
    refuses = ChatTemplate("{{ raise_exception('no system') }}")
    assert chat([TALK], refuses, encoder)[1].tolist() == [True]


def test_a_call_of_a_tool_is_an_answer(encoder):
    calls = ChatTemplate(
        "{% for m in messages %}{{ m.role[0] }}:{{ m.tool_calls or m.content }}\n{% endfor %}"
    )
    talk = [*said(("user", "x")), {"role": "assistant", "content": "", "tool_calls": ["f"]}]
    made, bad = chat([talk], calls, encoder, append_eos=False)
    assert not bad.any()
    assert shown(made, encoder) == [("u:x\n", "a:['f']\n")]


def test_keys_that_are_null_are_not_there(encoder):
    """As Parquet has them, where another message of the file calls a tool."""
    asks = ChatTemplate(
        "{% for m in messages %}{% if 'tool_calls' in m %}{{ m.tool_calls | length }}{% else %}{{ m.content }}"
        "{% endif %}\n{% endfor %}"
    )
    made, bad = chat([[{**x, "tool_calls": None} for x in TALK]], asks, encoder)
    assert not bad.any()
    plain, _ = chat([TALK], asks, encoder)
    assert made.ids.tolist() == plain.ids.tolist()


def test_the_template_of_a_tokenizer(tiny_tokenizer, tmp_path, encoder):
    with pytest.raises(ValueError, match="has no chat template"):
        load_chat_template(str(tiny_tokenizer))
    named = [{"name": "default", "template": "{{ bos_token }}" + CHATML}, {"name": "tools", "template": "x"}]
    config = {"chat_template": named, "bos_token": {"content": "<|bos|>"}, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_bytes((tiny_tokenizer / "tokenizer.json").read_bytes())
    made, _ = chat([TALK[1:3]], load_chat_template(str(tmp_path)), encoder)
    assert made.ids[0] == encoder.bos_id
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ValueError, match="no Jinja"):
        load_chat_template(str(tmp_path))


def test_a_template_cannot_reach_out():
    escape = ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ValueError, match="the chat template fails"):
        escape.render(TALK, answer=False)


# As models have it: a default system message, tools, a loop variable, trimmed lines.
USUAL = """{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = 'You are helpful.' %}
{%- endif %}
{{- bos_token + '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception('roles: ' + message.role) }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- if message.tool is defined %}{{ message.tool | tojson }}{% endif %}
    {{- '<|im_end|>\\n' }}
    {%- if loop.index > 50 %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

TALKS = [
    said(("user", "말모이?"), ("assistant", "사전.")),
    said(
        ("system", " Be. "),
        ("user", "hi\n\n"),
        ("assistant", " ho "),
        ("user", "🎉"),
        ("assistant", "辞書 x = 1"),
    ),
    [
        *said(("user", "a")),
        {"role": "assistant", "content": "", "tool": {"이름": [1, None]}},
        *said(("assistant", "b")),
    ],
]


def test_chat_as_transformers_has_it(tiny_tokenizer, encoder):
    transformers = pytest.importorskip("transformers")
    names = {"eos_token": "<|eos|>", "bos_token": "<|bos|>", "pad_token": "<|pad|>"}
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tiny_tokenizer / "tokenizer.json"), chat_template=USUAL, **names
    )
    made, bad = chat(TALKS, ChatTemplate(USUAL, tuple(names.items())), encoder, append_eos=False)
    assert not bad.any()
    decode = Tokenizer.from_file(encoder.path).decode
    for talk, ids in zip(TALKS, np.split(made.ids, made.offsets[1:-1]), strict=True):
        whole = theirs.apply_chat_template(talk, tokenize=False)
        assert decode(ids.tolist(), skip_special_tokens=False) == whole
        prompt = theirs.apply_chat_template(talk[:-1], add_generation_prompt=True, tokenize=True)["input_ids"]
        assert ids[: len(prompt)].tolist() == prompt, "the ids that the model is asked with"


def test_eos_ends_the_last_answer_although_an_earlier_one_has_it(encoder):
    segments = (
        Segment("{q1}"),
        Segment("{a1}<|eos|>", trained=True),
        Segment("{q2}"),
        Segment("{a2}", trained=True),
    )
    rows = [{name: "가나 hello" for name in ("q1", "a1", "q2", "a2")}]
    made = encode_segments(table(rows), Template("two", segments), encoder)
    assert made.ids[-1] == encoder.eos_id
    assert made.labels[-1] == encoder.eos_id


def test_eos_ends_each_example_where_its_own_last_answer_ends(encoder):
    """A second answer that only some examples have: without it, nothing is learned behind the first one."""
    segments = (
        Segment("{q}"),
        Segment(" {a}", trained=True),
        Segment(" why? "),
        Segment("{b}", trained=True, when="b"),
        Segment("\n"),
    )
    rows = [{"q": "가", "a": "나"}, {"q": "가", "a": "나", "b": "다"}, {"q": "가"}]
    made = encode_segments(table(rows), Template("two", segments), encoder)
    want = [("가", " 나<|eos|>"), ("가 why? ", " 나다<|eos|>"), ("", "")]
    assert shown(made, encoder) == want
