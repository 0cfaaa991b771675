"""Mixture plans by hand-computed figures, and repetitions against a slow, obvious loop."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.mixture import group_weights, plan_mixture, repetitions

SIZES = {"한국어 웹": 100, "漢字 문서": 300, "english": 1600, "": 0}
KEEP_ALL = {"한국어 웹": 1.0, "漢字 문서": 1.0, "english": 2.0, "": 0.0}


def plan(sizes, **settings):
    return plan_mixture(list(sizes), [1] * len(sizes), list(sizes.values()), **settings)


def targets(made):
    return {group.name: group.target for group in made.groups}


def test_weights():
    assert group_weights(SIZES) == {"한국어 웹": 0.05, "漢字 문서": 0.15, "english": 0.8, "": 0.0}
    assert group_weights(SIZES, "given", KEEP_ALL) == {
        "한국어 웹": 0.25,
        "漢字 문서": 0.25,
        "english": 0.5,
        "": 0.0,
    }
    assert group_weights({}) == {}
    assert group_weights({"a": 0}) == {"a": 0.0}


def test_temperature_direction_and_formula():
    sizes = {"ko": 100, "en": 10_000}
    assert group_weights(sizes, "temperature", temperature=1.0) == group_weights(sizes)
    half = group_weights(sizes, "temperature", temperature=2.0)
    assert half["ko"] == pytest.approx(10 / 110)
    alpha = group_weights(sizes, "temperature", temperature=1 / 0.3)
    assert alpha["ko"] == pytest.approx(100**0.3 / (100**0.3 + 10_000**0.3))
    assert group_weights(sizes, "temperature", temperature=1e9)["ko"] == pytest.approx(0.5)


def test_unimax():
    sizes = {"ko": 10, "ja": 50, "en": 1000}
    # budget 300, 2 epochs: 100 each wanted; ko capped at 20; then 140 each: ja capped at 100; en has the rest
    shares = group_weights(sizes, "unimax", max_epochs=2, budget=300)
    assert shares == {"ko": 20 / 300, "ja": 100 / 300, "en": 180 / 300}
    assert group_weights(sizes, "unimax", max_epochs=100, budget=300) == dict.fromkeys(sizes, 1 / 3)
    made = plan(sizes, method="unimax", max_epochs=2, budget=300)
    assert (targets(made), made.total, made.feasible) == ({"ko": 20, "ja": 100, "en": 180}, 300, True)
    free = plan(sizes, method="unimax", max_epochs=3)
    assert targets(free) == {"ko": 30, "ja": 150, "en": 880}
    assert targets(plan(sizes, method="unimax")) == sizes
    # the cap is in whole units: 1.5 epochs of 1 are 1
    assert targets(plan({"a": 1, "b": 1, "c": 99}, method="unimax", max_epochs=1.5, budget=9)) == {
        "a": 1,
        "b": 1,
        "c": 7,
    }


def test_what_cannot_be_met_is_said():
    sizes = {"ko": 1_000_000, "en": 9_000_000}
    made = plan(sizes, method="given", weights={"ko": 0.5, "en": 0.5}, budget=6_000_000, max_epochs=2)
    assert made.shortfalls == (
        "ko: wants 3,000,000 bytes, has 1,000,000 x 2 epochs = 2,000,000; short by 1,000,000",
        "in all: wants 6,000,000 bytes, gets 5,000,000; short by 1,000,000",
    )
    assert not made.feasible
    assert targets(made) == {"ko": 2_000_000, "en": 3_000_000}
    one = plan({"ko": 10}, budget=25, unit="tokens")
    assert one.shortfalls[0] == "ko: wants 25 tokens, has 10 x 1 epoch = 10; short by 15"
    assert plan({"ko": 10, "en": 30}, method="unimax", budget=100, max_epochs=2).total == 80


def test_no_budget_is_the_largest_total_that_meets_the_shares():
    made = plan({"ko": 100, "en": 1000}, method="given", weights={"ko": 0.1, "en": 0.3}, max_epochs=2)
    assert (targets(made), made.limited_by, made.feasible) == ({"ko": 200, "en": 600}, "ko", True)
    assert [group.epochs for group in made.groups] == [2.0, 0.6]
    # as written, not as floats: 0.3 is three times 0.1
    exact = plan({"a": 100, "b": 300, "c": 600}, method="given", weights={"a": 0.1, "b": 0.3, "c": 0.6})
    assert targets(exact) == {"a": 100, "b": 300, "c": 600}
    warm = plan({"ko": 100, "en": 10_000}, method="temperature", temperature=2.0)
    assert targets(warm) == {"ko": 100, "en": 1000}
    # half an epoch of one document is none of it, not nothing of all
    half = plan({"ko": 1, "en": 100}, method="temperature", temperature=2.0, max_epochs=0.5, unit="documents")
    assert (targets(half), half.limited_by) == ({"ko": 0, "en": 5}, "ko")
    empty = plan({"ko": 0, "en": 100}, method="given", weights={"ko": 1.0, "en": 1.0})
    assert targets(empty) == {"ko": 0, "en": 100}
    assert empty.shortfalls == ("ko: wants a share of 0.5, has no bytes; it is left out",)


def test_as_is():
    made = plan(SIZES, max_epochs=4.0)
    assert (targets(made), made.total, made.feasible) == (SIZES, 2000, True)
    assert targets(plan(SIZES, max_epochs=0.5))["english"] == 800
    assert targets(plan(SIZES, budget=1001)) == {"한국어 웹": 50, "漢字 문서": 150, "english": 801, "": 0}
    assert targets(plan(SIZES, budget=4000, max_epochs=2)) == {name: 2 * size for name, size in SIZES.items()}
    assert plan({}).total == 0
    assert plan({"a": 0}, budget=5).shortfalls == ("in all: wants 5 bytes, gets 0; short by 5",)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (
            {"weights": {"englsh": 1}, "method": "given"},
            "no group 'englsh' in the data; did you mean 'english'",
        ),
        (
            {"weights": {"english": 1}, "method": "given"},
            "no weight for '한국어 웹', '漢字 문서', ''; write 0",
        ),
        ({"weights": KEEP_ALL | {"": -1.0}, "method": "given"}, "want a finite number >= 0, got -1"),
        ({"weights": dict.fromkeys(SIZES, 0.0), "method": "given"}, "at least one above 0"),
        ({"weights": KEEP_ALL}, "only method 'given' takes them, got method 'as_is'"),
        ({"method": "unimaxx"}, "unknown 'unimaxx'; did you mean 'unimax'"),
        ({"temperature": 0.0}, "temperature: want more than 0, got 0.0"),
        ({"max_epochs": 0.0}, "max_epochs: want more than 0, got 0.0"),
        ({"budget": 0}, "budget: want at least 1, got 0"),
    ],
)
def test_refused(settings_, message):
    with pytest.raises(ValueError, match=message.replace("'", ".")):
        plan(SIZES, **settings_)


def slow_repetitions(codes, sizes, targets, keys, quality):
    copies = [0] * len(codes)
    for group, target in enumerate(targets):
        rows = [row for row in range(len(codes)) if codes[row] == group]
        total = sum(sizes[row] for row in rows)
        if total == 0:
            continue
        rest = target % total
        rows.sort(
            key=lambda row: (-quality[row] if quality[row] == quality[row] else np.inf, keys[row], sizes[row])
        )
        for row in rows:
            copies[row] = target // total
        used = 0
        for row in rows:
            used += sizes[row]
            if rest == 0 or used > rest:
                break
            copies[row] += 1
    return copies


DOCUMENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 9),
        st.integers(0, 2**64 - 1),
        st.sampled_from([0.0, 0.5, 1.0, float("nan")]),
    ),
    max_size=20,
    unique_by=lambda document: document[2],
)


@given(DOCUMENTS, st.lists(st.integers(0, 60), min_size=3, max_size=3), st.booleans(), st.randoms())
@settings(max_examples=200, deadline=None)
def test_repetitions(documents, wanted, by_quality, random):
    codes, sizes, keys, quality = (
        (list(column) for column in zip(*documents, strict=True)) if documents else [[]] * 4
    )
    scores = np.array(quality) if by_quality else None
    found = repetitions(
        np.array(codes, np.int32),
        np.array(sizes, np.int64),
        np.array(wanted),
        np.array(keys, np.uint64),
        scores,
    )
    assert found.dtype == np.int32
    assert found.tolist() == slow_repetitions(
        codes, sizes, wanted, keys, quality if by_quality else [0.0] * len(codes)
    )
    order = list(range(len(codes)))
    random.shuffle(order)
    shuffled = repetitions(
        np.array(codes, np.int32)[order],
        np.array(sizes, np.int64)[order],
        np.array(wanted),
        np.array(keys, np.uint64)[order],
        None if scores is None else scores[order],
    )
    assert shuffled.tolist() == found[order].tolist()
    more = repetitions(
        np.array(codes, np.int32),
        np.array(sizes, np.int64),
        np.array(wanted) + 7,
        np.array(keys, np.uint64),
        scores,
    )
    assert (more >= found).all()


def test_whole_epochs_and_the_fraction():
    codes = np.array([0, 0, 0, 1], np.int32)
    sizes = np.array([10, 10, 10, 5], np.int64)
    keys = np.array([3, 1, 2, 9], np.uint64)
    assert repetitions(codes, sizes, np.array([60, 5]), keys).tolist() == [2, 2, 2, 1]
    assert repetitions(codes, sizes, np.array([50, 4]), keys).tolist() == [1, 2, 2, 0]
    assert repetitions(codes, sizes, np.array([49, 14]), keys).tolist() == [1, 2, 1, 2]
    quality = np.array([0.9, 0.1, 0.5, 0.0])
    assert repetitions(codes, sizes, np.array([20, 5]), keys, quality).tolist() == [1, 0, 1, 1]
    assert repetitions(codes[:0], sizes[:0], np.array([1]), keys[:0]).tolist() == []


def test_repetitions_refuses():
    one = np.array([0])
    with pytest.raises(ValueError, match=r"want 0\.\.0, got 1\.\.1"):
        repetitions(np.array([1]), one, one, one)
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        repetitions(one, one, one, np.array([1, 2]))
    with pytest.raises(ValueError, match="0 or more, got -1 and 0"):
        repetitions(one, np.array([-1]), one, one)


@given(
    st.dictionaries(st.text(max_size=3), st.integers(0, 10**12), min_size=1, max_size=6),
    st.integers(1, 10**13),
)
@settings(max_examples=100, deadline=None)
def test_plan_balances(sizes, budget):
    for method in ("as_is", "temperature", "unimax"):
        made = plan(sizes, method=method, temperature=3.0, max_epochs=1.5, budget=budget)
        assert made.total == sum(targets(made).values()) <= budget
        assert made.feasible == (made.total == budget)
        for group in made.groups:
            assert group.target <= group.size * Fraction(3, 2)
