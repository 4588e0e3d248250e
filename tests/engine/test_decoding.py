"""Choosing tokens, whole characters, stop strings: what is shown must not depend on where tokens begin and end."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budwood.core.errors import UsageError
from budwood.engine.decoding import Detokenizer, Sampling, StopStrings, Writer, choose, cut_at

NONE = np.empty(0, np.int64)
LOGITS = np.log(np.asarray([0.5, 0.25, 0.15, 0.1]))


def draws(count: int = 4000, logits: np.ndarray = LOGITS, seen: np.ndarray = NONE, **options) -> np.ndarray:
    random = np.random.default_rng(0)
    settings = Sampling(**{"temperature": 1.0, **options})
    return np.bincount([choose(logits, settings, random, seen) for _ in range(count)], minlength=len(logits)) / count


def test_tokens_are_drawn_by_their_probability():
    np.testing.assert_allclose(draws(), [0.5, 0.25, 0.15, 0.1], atol=0.03)


def test_temperature_sharpens_and_zero_takes_the_likeliest():
    np.testing.assert_allclose(draws(temperature=0.5), np.asarray([0.25, 0.0625, 0.0225, 0.01]) / 0.345, atol=0.03)
    assert draws(50, temperature=0.0).tolist() == [1, 0, 0, 0]


def test_top_k_and_top_p_keep_the_likeliest_only():
    np.testing.assert_allclose(draws(top_k=2), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(draws(top_p=0.75), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    assert draws(50, top_p=0.4).tolist() == [1, 0, 0, 0]
    assert np.count_nonzero(draws(top_k=3, top_p=0.6)) == 2


def test_top_p_finds_the_nucleus_in_a_flat_vocabulary_too():
    flat = np.zeros(5000)
    assert (draws(6000, flat, top_p=0.5) > 0).sum() <= 2500
    assert draws(300, flat, top_p=0.999).max() < 0.05


def test_a_repetition_penalty_lowers_tokens_that_occurred_whatever_their_sign():
    logits = np.asarray([2.0, 1.5, -1.0])
    assert draws(20, logits, np.asarray([0]), temperature=0.0, repetition_penalty=2.0).argmax() == 1
    assert draws(20, np.asarray([-1.0, -1.2]), np.asarray([0]), temperature=0.0, repetition_penalty=2.0).argmax() == 1


def test_forbidden_tokens_are_never_chosen():
    assert choose(LOGITS, Sampling(temperature=0.0), np.random.default_rng(0), NONE, (0, 1)) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 1.5),
        ("max_tokens", 0),
        ("min_tokens", 999),
        ("seed", -1),
        ("stop", ("",)),
        ("repetition_penalty", 0),
        ("max_tokens", True),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", ((1, 101.0),)),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", tuple((at, 1.0) for at in range(301))),
        ("alternatives", 21),
    ],
)
def test_a_senseless_option_is_refused_by_name(field, value):
    with pytest.raises(UsageError) as caught:
        Sampling(**{field: value})
    assert caught.value.where == field


def pushed(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    filter_ = StopStrings(stops)
    shown = ""
    for piece in pieces:
        text, stopped = filter_.push(piece)
        shown += text
        if stopped:
            return shown, True
    return shown + filter_.flush(), False


def test_a_stop_string_across_pieces_is_never_shown_in_part():
    assert pushed(("\nUser:",), ["Hello", "\n", "Us", "er", ": no"]) == ("Hello", True)
    assert pushed(("\nUser:",), ["Hello", "\n", "Us", "ing it"]) == ("Hello\nUsing it", False)
    assert StopStrings(("END",)).push("the EN") == ("the ", False)


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_what_is_shown_does_not_depend_on_the_pieces(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert pushed(tuple(stops), pieces) == pushed(tuple(stops), [*text])
    shown, stopped = pushed(tuple(stops), pieces)
    assert text.startswith(shown)
    assert stopped == any(stop in text for stop in stops)
    assert not any(stop in shown for stop in stops)


def decode_bytes(ids) -> str:
    return bytes(ids).decode(errors="replace")


@given(st.text(max_size=30))
def test_pieces_of_bytes_are_whole_characters_and_add_up(text):
    prompt, raw = list(b"ab"), text.encode()
    detokenizer = Detokenizer(decode_bytes, prompt)
    pieces = [detokenizer.push(byte) for byte in raw]
    assert "".join(pieces) + detokenizer.flush() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    detokenizer = Detokenizer(decode_bytes, [])
    assert detokenizer.push(0xF0) == ""
    assert detokenizer.flush() == "\ufffd"


def test_a_space_that_the_tokenizer_strips_from_a_text_is_kept_between_prompt_and_text():
    words = {1: " Once", 2: " upon"}
    detokenizer = Detokenizer(lambda ids: "".join(words[i] for i in ids).removeprefix(" "), [1])
    assert detokenizer.push(2) == " upon"


def writer(options: Sampling, ends=(0,)) -> Writer:
    return Writer(0, [65], options, decode_bytes, ends)


def one_hot(token: int) -> np.ndarray:
    return np.where(np.arange(128) == token, 10.0, 0.0)


def test_a_text_ends_by_its_end_token_its_stop_string_or_its_length():
    found = writer(Sampling(temperature=0.0))
    assert found.take(one_hot(66)).text == "B"
    assert found.take(one_hot(0)).finish == "stop"
    assert found.tokens == 1
    found = writer(Sampling(temperature=0.0, stop=("CD",)))
    assert [found.take(one_hot(ord(letter))).text for letter in "BCD"] == ["B", "", ""]
    assert found.finish == "stop"
    found = writer(Sampling(temperature=0.0, max_tokens=2, stop=("CD",)))
    assert [found.take(one_hot(ord(letter))).text for letter in "BC"] == ["B", "C"]
    assert found.finish == "length"


def test_the_end_token_waits_for_min_tokens():
    found = writer(Sampling(temperature=0.0, min_tokens=2))
    for _ in range(2):
        assert found.take(one_hot(0)).finish is None
    assert found.take(one_hot(0)).finish == "stop"


def test_a_text_is_cut_at_a_string_or_a_pattern():
    assert cut_at("one. two. three", ".") == "one"
    assert cut_at("one 1 two", re.compile(r"\d")) == "one "
    assert cut_at("none", "x") == cut_at("none", None) == "none"


def test_presence_and_frequency_penalties_are_those_of_openai():
    logits = np.asarray([2.0, 1.6, 0.9, 0.0])
    options = Sampling(temperature=0.0, presence_penalty=0.5)
    assert choose(logits, options, np.random.default_rng(0), NONE, (), {0: 3}) == 1
    options = Sampling(temperature=0.0, frequency_penalty=0.5)
    assert choose(logits, options, np.random.default_rng(0), NONE, (), {0: 1, 1: 1}) == 0
    assert choose(logits, options, np.random.default_rng(0), NONE, (), {0: 2, 1: 2}) == 0
    assert choose(logits, options, np.random.default_rng(0), NONE, (), {0: 3, 1: 2}) == 2
    # What the prompt says is not counted, what was written is.
    found = writer(Sampling(temperature=0.0, presence_penalty=2.0))
    flat = np.zeros(128)
    flat[[65, 66]] = [1.5, 1.0]
    assert [found.take(flat).text for _ in range(2)] == ["A", "B"]


def test_a_bias_is_added_and_one_of_no_token_is_refused():
    assert choose(LOGITS, Sampling(temperature=0.0, logit_bias=((3, 5.0),)), np.random.default_rng(0), NONE) == 3
    drawn = draws(200, logit_bias=((0, -100.0),))
    assert drawn[0] == 0
    with pytest.raises(UsageError) as caught:
        choose(LOGITS, Sampling(logit_bias=((4, 1.0),)), np.random.default_rng(0), NONE)
    assert caught.value.where == "logit_bias"


def test_log_probabilities_are_those_of_the_model_whatever_the_options():
    logits = np.log(np.asarray([0.1, 0.2, 0.3, 0.4]))
    options = Sampling(temperature=3.0, top_k=1, alternatives=3, logit_bias=((0, 100.0),), presence_penalty=1.0)
    found = Writer(0, [3], options, decode_bytes, ())
    (only,) = found.take(logits).chosen
    assert only.token == 0
    assert only.log == pytest.approx(np.log(0.1))
    assert [token for token, _ in only.likeliest] == [3, 2, 1]
    np.testing.assert_allclose([log for _, log in only.likeliest], np.log([0.4, 0.3, 0.2]))
    assert writer(Sampling()).take(one_hot(66)).chosen == ()
    (plain,) = writer(Sampling(temperature=0.0, alternatives=0)).take(one_hot(66)).chosen
    assert (plain.token, plain.likeliest) == (66, ())


@given(st.text("abé", max_size=12), st.lists(st.text("abé", min_size=1, max_size=3), max_size=2), st.booleans())
def test_tokens_come_with_the_piece_that_shows_them(text, stops, answers):
    options = Sampling(temperature=0.0, alternatives=0, stop=tuple(stops))
    found = Writer(0, [65], options, decode_bytes, (0,), answers=answers)
    raw = list(("  " * answers + text).encode())
    pieces = []
    for byte in [*raw, 0]:
        pieces.append(found.take(np.where(np.arange(256) == byte, 10.0, 0.0)))
        if found.finish is not None:
            break
    shown = "".join(piece.text for piece in pieces)
    chosen = [item for piece in pieces for item in piece.chosen]
    assert [item.token for item in chosen] == raw[: len(chosen)]
    assert bytes(item.token for item in chosen).decode(errors="ignore").strip(" ").startswith(shown)
    assert all(piece.text or piece.finish for piece in pieces if piece.chosen)
    at = 0
    for piece in pieces:
        at += len(piece.text)
        assert all(item.start <= at for item in piece.chosen)
    for item in chosen:
        assert item.start <= len(shown)
    if not any(stop in text for stop in stops):
        assert len(chosen) == len(raw)
