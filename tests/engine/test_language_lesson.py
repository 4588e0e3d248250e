"""Learning to write: documents stay apart, prompts are not learnt, and a killed run ends with the same weights."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_language  # noqa: E402

from budwood.core.errors import BundleError, DataError, UsageError  # noqa: E402
from budwood.core.step import silent  # noqa: E402
from budwood.engine.generator import Shape  # noqa: E402
from budwood.engine.language_lesson import (  # noqa: E402
    Course,
    Samples,
    Schedule,
    documents_of,
    learn,
    lora_merged,
    lora_wrapped,
    schedule_for,
)
from budwood.engine.language_model import (  # noqa: E402
    likelihood,
    load_language_model,
    new_model,
    packed_loss,
    save_language_model,
)
from budwood.engine.packing import IGNORED, block_length, pack, segments  # noqa: E402
from budwood.engine.text_quality import unigram  # noqa: E402
from budwood.engine.vocabulary import Document, Vocabulary  # noqa: E402

SCHEDULE = Schedule(3e-3, 2, 64, 8, "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_language.gpt2(tmp_path_factory.mktemp("gpt2") / "model")


@pytest.fixture(scope="module")
def vocabulary(folder) -> Vocabulary:
    return Vocabulary.open(folder)


@pytest.fixture(scope="module")
def documents(vocabulary) -> list[Document]:
    return documents_of(vocabulary, [{"text": text} for text in tiny_language.CORPUS])


def test_no_token_is_lost_or_learnt_twice(documents):
    for random in (None, np.random.default_rng(0)):
        blocks = pack(segments(documents, 32, random), 32)
        learnt = blocks.targets != IGNORED
        assert learnt.sum() == sum(len(document.ids) - 1 for document in documents)
        for number in range(3):
            at = blocks.documents == number
            pairs = set(zip(blocks.ids[at].tolist(), blocks.targets[at].tolist(), strict=True))
            ids = documents[number].ids
            assert pairs == set(pairwise(ids))
        assert (pack(segments(documents, 256, random), 256).targets != IGNORED).mean() > 0.9


def test_documents_of_a_block_do_not_see_each_other(folder, documents):
    model = load_language_model(folder)
    alone = [likelihood(model, [document], 128).nats[0] for document in documents[:6]]
    together = likelihood(model, documents[:6], 128)
    assert len(pack(segments(documents[:6], 128), 128)) < 6
    np.testing.assert_allclose(together.nats, alone, rtol=1e-5)
    joined = Document(documents[0].ids + documents[1].ids, documents[0].learnt + documents[1].learnt)
    assert abs(likelihood(model, [joined], 128).nats[0] - sum(alone[:2])) > 0.1


def test_only_answers_are_learnt(folder, vocabulary):
    document = vocabulary.document({"prompt": "Where is it?\n", "completion": "On the table."})
    text = vocabulary.decode([i for i, learnt in zip(document.ids, document.learnt, strict=True) if learnt])
    assert text == "On the table."
    assert document.ids[-1] == vocabulary.ends[0]
    assert document.ids[: document.learnt.index(True)] == vocabulary.encode_prompt("Where is it?\n")
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    turns = vocabulary.document({"messages": [*chat, {"role": "user", "content": "Bye"}, chat[1]]})
    assert vocabulary.decode([i for i, learnt in zip(turns.ids, turns.learnt, strict=True) if learnt]) == " Hello Hello"
    asked = vocabulary.encode_chat(chat[:1])
    assert vocabulary.document({"messages": chat}).ids[: len(asked)] == asked
    assert vocabulary.decode(asked) == "User: Hi\nAssistant:"


def test_a_chat_in_chatml_where_the_vocabulary_has_its_tokens(folder, tmp_path):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for number, mark in enumerate(("<|im_start|>", "<|im_end|>")):
        token = {"id": 600 + number, "content": mark, "special": True}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        tokenizer["added_tokens"].append(token | flags)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [0, 0]}))
    vocabulary = Vocabulary.open(tmp_path)
    marks = [vocabulary.tokenizer.token_to_id(mark) for mark in ("<|im_start|>", "<|im_end|>")]
    typed = vocabulary.encode_chat([{"role": "user", "content": "<|im_end|>"}])
    assert [typed.count(mark) for mark in marks] == [2, 1]  # what a user types never ends a turn


def test_text_that_spells_the_end_token_is_text(vocabulary):
    ids = vocabulary.encode_prompt("<|endoftext|>")
    assert ids.count(vocabulary.start) == 1
    assert vocabulary.decode(ids) == "<|endoftext|>"


def test_parts_of_a_document_neither_begin_nor_end_it(vocabulary):
    part = vocabulary.document({"text": "the middle", "starts": False, "ends": False})
    assert vocabulary.start not in part.ids
    assert documents_of(vocabulary, [{"text": "", "starts": False}]) == []


def test_it_learns_and_beats_the_words_frequencies(folder, documents, tmp_path):
    model = load_language_model(folder)
    held, rest = documents[:20], documents[20:]
    before = likelihood(model, held, 64)
    done = learn(model, rest, held, SCHEDULE._replace(epochs=6), seed=0, work=tmp_path, progress=silent)
    after = likelihood(model, held, 64)
    plain = unigram([item.ids for item in rest], [item.ids[1:] for item in held], model.config.vocab_size)
    assert after.perplexity < 0.8 * plain.perplexity < 0.8 * before.perplexity
    assert done.best_score == pytest.approx(-np.log(after.perplexity))


def weights(model) -> bytes:
    return b"".join(item.detach().numpy().tobytes() for item in model.parameters())


class Killed(BaseException):
    """As sudden as a signal that nobody handles."""


def test_a_run_that_was_killed_ends_with_the_very_same_weights(folder, documents, vocabulary, tmp_path):
    held, rest = documents[:10], documents[10:60]

    def run(work: Path, kill_after: int | None = None) -> bytes:
        model = load_language_model(folder)
        count = 0

        def progress(what: str, done: int, total: int, note: str) -> None:
            nonlocal count
            count += 1
            if count == kill_after:
                raise Killed

        samples = Samples(vocabulary, Shape.read(folder), ["The"], work / "samples.json")
        learn(model, rest, held, SCHEDULE, seed=5, work=work, progress=progress, samples=samples, save_seconds=0.0)
        assert len(samples.read()) == 2
        return weights(model)

    for folder_name in ("whole", "killed"):
        (tmp_path / folder_name).mkdir()
    whole = run(tmp_path / "whole")
    for after in (1, 3, 2):
        with pytest.raises(Killed):
            run(tmp_path / "killed", after)
    assert run(tmp_path / "killed") == whole


def test_long_corpora_are_judged_more_than_once_a_reading(documents, monkeypatch):
    from budwood.engine import language_lesson

    monkeypatch.setattr(language_lesson, "JUDGED_EVERY", 5)
    course = Course.of(documents, 32, 4, seed=0)
    assert course.parts > 1
    parts = [len(list(course.batches(part))) for part in range(course.parts)]
    assert parts == [course.steps] * course.parts
    assert course.steps <= 5
    first = np.concatenate([batch.ids for part in range(course.parts) for batch in course.batches(part)])
    again = np.concatenate([batch.ids for part in range(course.parts) for batch in course.batches(part)])
    assert (first == again).all()


def test_lora_trains_few_weights_and_merges_into_an_ordinary_model(folder, documents, tmp_path):
    model = load_language_model(folder)
    before = likelihood(model, documents[:10], 64).perplexity
    lora_wrapped(model, seed=0, rank=4)
    trained = [item for item in model.parameters() if item.requires_grad]
    assert 0 < sum(item.numel() for item in trained) < 0.2 * model.parameter_count
    learn(model, documents[10:], [], SCHEDULE, seed=0, work=tmp_path / "work", progress=silent)
    tuned = likelihood(model, documents[:10], 64).perplexity
    lora_merged(model)
    save_language_model(model, tmp_path / "saved")
    merged = likelihood(load_language_model(tmp_path / "saved"), documents[:10], 64).perplexity
    assert merged == pytest.approx(tuned, rel=1e-4)
    assert merged < 0.9 * before


def test_the_loss_is_that_of_transformers(folder, documents):
    model = load_language_model(folder)
    ids = torch.tensor([documents[0].ids])
    expected = model.whole[0](input_ids=ids, labels=ids).loss.item()
    assert packed_loss(model, pack(segments(documents[:1], 64), 64)).item() == pytest.approx(expected, rel=1e-5)


def test_a_new_model_is_the_same_for_the_same_texts_and_spells_any_text(tmp_path):
    for name in ("a", "b"):
        new_model(tiny_language.CORPUS, tmp_path / name, seed=1)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    vocabulary = Vocabulary.open(tmp_path / "a")
    assert vocabulary.decode(vocabulary.encode("Ünïcödé 中文 🎉\n\t")) == "Ünïcödé 中文 🎉\n\t"
    with pytest.raises(DataError, match="too few"):
        new_model(["short"], tmp_path / "c")
    with pytest.raises(UsageError, match="there is a model already"):
        new_model(tiny_language.CORPUS, tmp_path / "a")


def test_a_saved_model_opens_in_plain_transformers(folder, tmp_path):
    from budwood.engine.transformers_import import quiet_transformers

    save_language_model(load_language_model(folder), tmp_path)
    model = quiet_transformers().AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (model.lm_head.weight == model.transformer.wte.weight).all()


def test_a_model_that_is_no_generator_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(BundleError, match="cannot load a causal language model"):
        load_language_model(tmp_path)


def test_the_schedule_is_by_size_and_length(folder, documents):
    model = load_language_model(folder)
    new, old = schedule_for(model, documents, 256, new=True), schedule_for(model, documents, 256, new=False)
    assert new.learning_rate > old.learning_rate
    assert new.block == old.block == block_length(documents, 256) <= 160
    assert new.epochs > old.epochs
