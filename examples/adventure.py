"""A story game in the terminal: you say what you do, and a text generator of your own says what happens.

First learn to write from stories that have the player's turns as `> You …` lines, then play:

    budwood adapt stories.txt --name stories
    python examples/adventure.py stories

In the game: `undo` takes the last turn back, `save FILE` and `load FILE` keep a story, `quit` ends it.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import budwood

OPENING = "You wake in a small room. There is a door in the north wall, and a lamp on the floor."
SENTENCE_END = re.compile(r"[.!?…][\"'”’)]*(?=\s|$)")
DRAWS = 3
"""How often an empty answer is drawn anew."""

Ask = Callable[[str, int], str]
"""What goes on from a prompt with a seed."""


@dataclass
class Story:
    """What has happened so far: turns of `[action, result]` after an opening."""

    opening: str
    turns: list[list[str]] = field(default_factory=list)
    drawn: int = 0
    """Answers so far, those that were taken back included: so the same action brings something new."""

    def prompt(self, action: str, memory: int) -> str:
        """What the model reads: the opening, the last `memory` turns, and the new action."""
        recent = self.turns[-memory:] if memory else []
        return "".join([self.opening, *(f"\n{said}\n{result}" for said, result in recent), f"\n{action}\n"])

    def take_turn(self, words: str, ask: Ask, memory: int) -> str:
        """Do something, and return what comes of it."""
        action = player_turn(words)
        result = ""
        for _ in range(DRAWS):
            result = whole_sentences(ask(self.prompt(action, memory), self.drawn))
            self.drawn += 1
            if result:
                break
        self.turns.append([action, result or "Nothing happens."])
        return self.turns[-1][1]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Story":
        """Raises OSError when the file cannot be read, ValueError when it is no story."""
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or set(found) != {"opening", "turns", "drawn"}:
            raise ValueError("it is no saved story")
        turns = found["turns"]
        pairs = isinstance(turns, list) and all(
            isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn) for turn in turns
        )
        if not pairs or not isinstance(found["opening"], str) or not isinstance(found["drawn"], int):
            raise ValueError("it is no saved story")
        return cls(found["opening"], turns, max(0, found["drawn"]))


def player_turn(words: str) -> str:
    """What a player typed as a line of the story: `open the door` becomes `> You open the door.`"""
    text = " ".join(words.split()).lstrip("> ")
    if text[:1] in "\"'“":
        text = f"You say {text}"
    elif not re.match(r"you\b", text, re.IGNORECASE):
        text = re.sub(r"^i\s+", "", text, flags=re.IGNORECASE)
        text = f"You {text[:1].lower()}{text[1:]}"
    return f"> {text[:1].upper()}{text[1:]}" + ("" if SENTENCE_END.search(text[-2:]) else ".")


def whole_sentences(text: str) -> str:
    """The text up to its last whole sentence; all of it where there is none."""
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else text.strip()


def play(story: Story, ask: Ask, memory: int) -> None:
    """Read turns from the terminal until its end, or `quit`."""
    print(story.opening)
    for action, result in story.turns:
        print(f"{action}\n{result}")
    while True:
        try:
            words = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        command, _, name = words.partition(" ")
        if words == "quit":
            return
        if words == "undo":
            print(f"Taken back: {story.turns.pop()[0]}" if story.turns else "There is nothing to take back.")
        elif command in ("save", "load") and name:
            story = keep(story, command, Path(name))
        elif words:
            print(story.take_turn(words, ask, memory))


def keep(story: Story, command: str, path: Path) -> Story:
    """Save or load, and return the story that goes on."""
    done = "saved" if command == "save" else "loaded"
    try:
        if command == "save":
            story.save(path)
        else:
            story = Story.load(path)
            print("\n".join(story.turns[-1]) if story.turns else story.opening)
    except (OSError, ValueError) as error:
        print(f"It cannot be {done}: {error}")
    else:
        print(f"{done.capitalize()}: {path}")
    return story


def main() -> int:
    parser = argparse.ArgumentParser(description="A story game on a text generator.")
    parser.add_argument("model", help="a text generator of the store, or its folder")
    parser.add_argument("--opening", default=OPENING, help="how the story begins")
    parser.add_argument("--memory", type=int, default=20, metavar="TURNS", help="turns that the model reads again")
    parser.add_argument("--max-tokens", type=int, default=80, help="of one answer")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    def ask(prompt: str, number: int) -> str:
        (found,) = budwood.generate(
            asked.model,
            prompt,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            stop=["\n>", "<|endoftext|>"],
            include_prefix=False,
            seed=asked.seed + number,
        )
        return found.text

    try:
        play(Story(asked.opening), ask, max(0, asked.memory))
    except budwood.BudwoodError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
