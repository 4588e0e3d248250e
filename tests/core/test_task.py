"""What is said of an answer in a few words, for every kind of answer."""

import pytest

from budwood.core.task import brief


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"label": "refund", "text": "money back"}, "refund"),
        ({"labels": ["a", "b"]}, "a, b"),
        ({"labels": []}, "(none)"),
        ({"value": 1.23456, "uncertainty": 0.1}, "1.235"),
        ({"properties": {"NR": {"label": "1"}, "SR": {"value": 2.0}}}, "NR 1, SR 2"),
        ({"perplexity": 12.345, "text": "what was read"}, "perplexity 12.35"),
        ({"text": "what was written", "finish_reason": "stop"}, "what was written"),
    ],
)
def test_an_answer_in_a_few_words(answer: dict[str, object], words: str) -> None:
    assert brief(answer) == words
