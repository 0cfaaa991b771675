"""Log-likelihoods in batches against one model call for each token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_model

from malmoi.pipeline.errors import MalmoiError
from malmoi.training.scoring import (
    Request,
    encode_pair,
    gather,
    pair_request,
    plan_batches,
    score,
    score_batch,
)

CLOSE = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    return make_model(tmp_path_factory.mktemp("scoring") / "model", tiny_tokenizer)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def encode(tiny_tokenizer):
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_file=str(tiny_tokenizer / "tokenizer.json"))
    return lambda text: list(made.encode(text))


def request(tokens, start):
    return Request(np.asarray(tokens, np.int32), start)


def random_requests(count, seed=0, longest=60, vocab=600):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size = int(rng.integers(2, longest + 1))
        found.append(request(rng.integers(vocab, size=size), int(rng.integers(1, size))))
    return found


def slow(model, request):
    """One call of the model for each scored token, with nothing after it and nothing beside it."""
    total = 0.0
    for at in range(request.start, len(request.tokens)):
        ids = torch.tensor(request.tokens[:at].astype(np.int64))[None]
        with torch.no_grad():
            logits = model(ids).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[int(request.tokens[at])])
    return total


@pytest.mark.parametrize("batch_tokens", [1, 150, 10**6])
def test_batches_equal_one_by_one(model, batch_tokens):
    requests = random_requests(24)
    want = [slow(model, x) for x in requests]
    np.testing.assert_allclose(score(model, requests, batch_tokens), want, **CLOSE)


def test_one_token_and_the_whole(model):
    requests = [request([5, 6], 1), request(range(3, 60), 1), request(range(3, 60), 56)]
    np.testing.assert_allclose(score(model, requests), [slow(model, x) for x in requests], **CLOSE)


def test_absolute_positions_and_no_padding_token():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=600, n_embd=32, n_layer=2, n_head=2, n_positions=64)).eval()
    requests = random_requests(10, seed=1)
    np.testing.assert_allclose(score(model, requests), [slow(model, x) for x in requests], **CLOSE)


def test_a_trained_prompt_stands_before_the_tokens(folder):
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    requests = random_requests(8, seed=2, longest=40)
    np.testing.assert_allclose(score(model, requests), [slow(model, x) for x in requests], **CLOSE)


def test_requests_that_differ_in_the_last_token_share_a_row(model):
    context = [7, 8, 9, 10]
    requests = [request([*context, last], start) for last in (1, 2, 3, 4) for start in (4, 2)]
    batches = plan_batches(requests)
    assert sum(len(batch.rows) for batch in batches) == 2
    np.testing.assert_allclose(score(model, requests), [slow(model, x) for x in requests], **CLOSE)


def test_longest_first_within_the_budget():
    requests = random_requests(40, seed=3)
    batches = plan_batches(requests, 100)
    lengths = [len(row.inputs) for batch in batches for row in batch.rows]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len(x.rows) == 1 or len(x.rows) * len(x.rows[0].inputs) <= 100 for x in batches)
    owners = sorted(number for batch in batches for row in batch.owners for number in row)
    assert owners == list(range(40))


@settings(deadline=None, max_examples=15)
@given(order=st.permutations(range(8)), batch_tokens=st.integers(1, 400))
def test_any_order_and_any_batching_give_the_same(model, order, batch_tokens):
    requests = random_requests(8, seed=4)
    want = score(model, requests)
    got = score(model, [requests[i] for i in order], batch_tokens)
    np.testing.assert_allclose(got, want[order], **CLOSE)


def test_batches_may_be_scored_apart(model):
    requests = random_requests(12, seed=5)
    batches = plan_batches(requests, 120)
    apart = [score_batch(model, batch.rows) for batch in reversed(batches)][::-1]
    assert np.array_equal(gather(batches, apart, 12), score(model, requests, 120))


def test_nothing_to_score():
    assert score(None, []).shape == (0,)


@pytest.mark.parametrize("start", [0, 3, -1])
def test_a_request_scores_something_after_something(start):
    with pytest.raises(ValueError, match=f"got start={start}"):
        request([1, 2, 3], start)


@pytest.mark.parametrize(
    ("context", "continuation", "moved"),
    [
        ("the words of a", " text", ("the words of a", " text")),
        ("답변: ", " 예", ("답변:", "  예")),
        ("줄\n\n", "다음", ("줄", "\n\n다음")),
        ("말모이는 사전이다.", " 漢字と😀", ("말모이는 사전이다.", " 漢字と😀")),
        ("\u1106\u1161\u11af NFD", " \u1112\u1161\u11ab", ("\u1106\u1161\u11af NFD", " \u1112\u1161\u11ab")),
    ],
)
def test_a_pair_is_the_whole_cut_where_the_context_ends(encode, context, continuation, moved):
    first, rest = encode_pair(encode, context, continuation, 0)
    assert first + rest == encode(context + continuation)
    assert len(first) == len(encode(moved[0]))


def test_an_empty_context_is_the_prefix_token(encode):
    assert encode_pair(encode, "", "예", 1) == ([1], encode("예"))
    with pytest.raises(ValueError, match="bos or eos"):
        encode_pair(encode, "", "예", None)
    with pytest.raises(ValueError, match="not empty"):
        encode_pair(encode, "", "", 1)


def test_a_context_of_white_space_alone(encode):
    assert encode_pair(encode, " \n", "예", 1) == ([1], encode(" \n예"))


def test_a_merge_across_the_border_leaves_the_last_token():
    ids = {"ab": [9], "a": [1], "abc": [9, 3], "xa": [5, 1], "xab": [5, 9]}
    assert encode_pair(lambda text: ids[text], "xa", "b", 0) == ([5], [9])
    with pytest.raises(ValueError, match="one token together"):
        encode_pair(lambda text: ids[text], "a", "b", 0)


def test_what_is_too_long_is_cut_from_the_left():
    made, cut = pair_request([1, 2, 3, 4], [5, 6], 3)
    assert (made.tokens.tolist(), made.start, cut) == ([3, 4, 5, 6], 2, 2)
    made, cut = pair_request([1, 2, 3, 4], [5, 6], 5)
    assert (made.tokens.tolist(), made.start, cut) == ([1, 2, 3, 4, 5, 6], 4, 0)
    made, cut = pair_request([1, 2, 3, 4], [5, 6, 7], 3)
    assert (made.tokens.tolist(), made.start, cut) == ([4, 5, 6, 7], 1, 3)
    with pytest.raises(MalmoiError, match="4 tokens does not fit a window of 3"):
        pair_request([1, 2], [3, 4, 5, 6], 3)
