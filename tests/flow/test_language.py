"""A text file becomes a model that writes: adapt, generate, evaluate, predict, on a model of a few thousand weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import tiny_language

from budwood import flow
from budwood.cli.adapt import show
from budwood.cli.screen import Screen
from budwood.cli.serve import sample
from budwood.core.errors import UsageError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    folder = tmp_path_factory.mktemp("writing")
    data = folder / "stories.txt"
    data.write_text("<|endoftext|>".join(tiny_language.CORPUS), encoding="utf-8")
    return folder, flow.adapt(data, base=str(tiny_language.gpt2(folder / "base")), store=folder / "models")


def test_the_task_is_told_by_the_file_and_the_base_model_is_the_baseline(written) -> None:
    _, result = written
    assert (result.task, result.method, result.metric) == ("text_generation", "full", "token_probability")
    assert result.baseline.method == "base"
    assert result.score > result.baseline.score
    assert result.ci[0] <= result.score <= result.ci[1]
    assert result.ci[1] - result.ci[0] < result.score
    for item in (result, result.baseline):
        low, high = item.intervals["perplexity"]
        assert low <= item.metrics["perplexity"] <= high
    assert "perplexity" in result.verdict
    assert (result.path / "onnx" / "model.onnx").exists()


def test_it_writes_the_same_with_the_same_seed_and_stops_before_a_text(written) -> None:
    folder, _ = written
    store = folder / "models"
    first, second = flow.generate("stories", "Story 3.", n=2, seed=5, max_tokens=20, store=store)
    assert first.text.startswith("Story 3.")
    assert first.text != second.text
    again = flow.generate("stories", "Story 3.", n=2, seed=5, max_tokens=20, store=store)
    assert [item.text for item in again] == [first.text, second.text]
    (cut,) = flow.generate("stories", "Story 3.", seed=5, max_tokens=20, stop=["."], include_prefix=False, store=store)
    assert "." not in cut.text
    with pytest.raises(UsageError, match="top_p"):
        flow.generate("stories", "x", top_p=2.0, store=store)


def test_what_was_learnt_is_measured_on_other_texts(written) -> None:
    folder, result = written
    found = flow.evaluate("stories", folder / "stories.txt", store=folder / "models")
    low, high = found.intervals["perplexity"]
    assert low < found.metrics["perplexity"] < high
    assert found.to_json()["intervals"]["perplexity"] == (low, high)
    assert found.metrics["perplexity"] < 1 / result.baseline.score
    assert found.metrics["rows_seen_in_training"] > 0
    (answer,) = flow.predict("stories", ["Story 3."], store=folder / "models")
    assert answer["tokens"] > 0


SERVE = """
import json, sys, urllib.request
from pathlib import Path
from budwood.core.bundle import Bundle
from budwood.serving.server import Served, start
with start([Served("stories", "1", Bundle.open(Path(sys.argv[1])))]) as server:
    def post(path, **body):
        data, kind = json.dumps(body).encode(), {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data, kind)) as reply:
            return json.load(reply)
    plain = post("/predict", text="Story 3.", max_tokens=20, seed=5)
    found = post("/v1/completions", prompt="Story 3.", max_tokens=20, seed=5)
heavy = sorted(sys.modules.keys() & {"torch", "transformers", "sklearn", "scipy"})
print(json.dumps([plain["text"], found["choices"][0]["text"], heavy]))
"""


def test_it_is_served_without_the_training_libraries_and_writes_the_same(written) -> None:
    folder, result = written
    assert (result.path / "golden.json").exists()
    command = [sys.executable, "-c", SERVE, str(result.path)]
    reply = subprocess.run(command, capture_output=True, text=True, check=False)
    assert reply.returncode == 0, reply.stderr
    (expected,) = flow.generate(
        "stories", "Story 3.", max_tokens=20, seed=5, include_prefix=False, store=folder / "models"
    )
    assert json.loads(reply.stdout) == [expected.text, expected.text, []]


def test_the_command_and_the_card_show_the_perplexity_with_its_interval(
    written, capsys: pytest.CaptureFixture[str]
) -> None:
    _, result = written
    with Screen(False, "") as screen:
        show(screen, result)
    printed, told = capsys.readouterr()
    low, high = result.intervals["perplexity"]
    assert "Perplexity" in printed
    assert f"{result.metrics['perplexity']:.3f} [{low:.3f}, {high:.3f}]" in printed
    assert "budwood shrink" not in printed + told
    assert 'budwood generate stories "…"' in told
    card = (result.path / "README.md").read_text(encoding="utf-8")
    assert "budwood generate stories 'Once upon a time'" in card
    assert f"Perplexity: {result.metrics['perplexity']:.3f} (95 % interval {low:.3f} to {high:.3f})." in card


def test_the_program_of_the_card_writes_without_budwood(written) -> None:
    _, result = written
    card = (result.path / "README.md").read_text(encoding="utf-8")
    program = card.partition("```python\n")[2].partition("```")[0]
    command = [sys.executable, "-c", program]
    reply = subprocess.run(command, capture_output=True, text=True, check=False, cwd=result.path)
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout.startswith("Once upon a time")
    assert "budwood" not in program


def test_the_line_to_paste_has_the_beginning_of_a_text(written) -> None:
    folder, _ = written
    entry = flow.entry("stories", folder / "models")
    text = sample(entry)["text"]
    assert isinstance(text, str)
    assert 1 < len(text.split()) <= 8
