"""The story game: its turns, its memory, undo, save and load, and a scripted game on a tiny model."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GAME = Path(__file__).resolve().parents[2] / "examples" / "adventure.py"


@pytest.fixture(scope="module")
def game() -> Any:
    spec = importlib.util.spec_from_file_location("adventure", GAME)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["adventure"] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("words", "turn"),
    [
        ("open the door", "> You open the door."),
        ("I Open the door!", "> You open the door!"),
        ("you run", "> You run."),
        ('"Who is there?"', '> You say "Who is there?"'),
        ("> Look  around", "> You look around."),
    ],
)
def test_what_is_typed_becomes_a_turn(game: Any, words: str, turn: str) -> None:
    assert game.player_turn(words) == turn


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The door opens. Behind it there is a", "The door opens."),
        ('"Come in," he says. "Now!" And then', '"Come in," he says. "Now!"'),
        ("  no end at all", "no end at all"),
        ("It costs 3.50 euros", "It costs 3.50 euros"),
    ],
)
def test_a_partial_sentence_is_cut(game: Any, text: str, kept: str) -> None:
    assert game.whole_sentences(text) == kept


def test_the_model_reads_the_opening_and_the_last_turns(game: Any) -> None:
    asked: list[tuple[str, int]] = []

    def ask(prompt: str, number: int) -> str:
        asked.append((prompt, number))
        return f"Answer {number}. And"

    story = game.Story("A room.")
    for words in ("wait", "look", "sing"):
        story.take_turn(words, ask, 1)
    assert asked[-1] == ("A room.\n> You look.\nAnswer 1.\n> You sing.\n", 2)
    story.turns.pop()
    assert story.take_turn("sing", ask, 1) == "Answer 3."


def test_an_empty_answer_is_drawn_anew(game: Any) -> None:
    answers = iter(["", " ", "At last."])
    assert game.Story("A room.").take_turn("wait", lambda prompt, number: next(answers), 5) == "At last."
    assert game.Story("A room.").take_turn("wait", lambda prompt, number: "", 5) == "Nothing happens."


@pytest.mark.parametrize("content", ["[]", "{", '{"opening": 1, "turns": [], "drawn": 0}', '{"turns": [["a"]]}'])
def test_what_is_no_story_is_not_loaded(game: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "story.json").write_text(content)
    with pytest.raises(ValueError):
        game.Story.load(tmp_path / "story.json")


def test_a_game_is_played_saved_and_loaded(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    import tiny_language

    bundle = tiny_language.bundle(tmp_path / "bundle")
    script = "open the door\nundo\nundo\nopen the door\nsave story.json\nlook\nload story.json\nload other.json\nquit\n"
    command = [sys.executable, str(GAME), str(bundle.path), "--max-tokens", "8"]
    played = subprocess.run(command, input=script, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (played.returncode, played.stderr) == (0, "")
    story = json.loads((tmp_path / "story.json").read_text(encoding="utf-8"))
    assert [action for action, _ in story["turns"]] == ["> You open the door."]
    for line in ("Taken back: > You open the door.", "There is nothing to take back.", "Saved: story.json", "Loaded: "):
        assert line in played.stdout
    assert "It cannot be loaded: " in played.stdout


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(GAME), "nobody"]
    played = subprocess.run(command, input="look\n", capture_output=True, text=True, cwd=tmp_path, check=False)
    assert played.returncode == 4
    assert "nobody" in played.stderr
