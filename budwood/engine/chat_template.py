"""Chats in the layout of a bundle's own template, rendered in a process that may be ended at any time.

A template is a program of whoever made the bundle. It gets the messages and nothing else, half a second of processor
time and a bounded memory; none ever comes from a request.
"""

import contextlib
import json
import os
import select
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from budwood.core.errors import BundleError, DataError
from budwood.engine.child import child_command, child_environment

__all__ = ["ChatTemplate", "keep_template"]

CONFIG, FILE = "tokenizer_config.json", "chat_template.jinja"
MAX_SOURCE = 200_000
WALL_SECONDS = 20.0
"""Much more than the processor time that it is given: the machine may be busy."""
MAX_DEATHS = 3
"""A template that ended its process so often over a short chat is not tried again."""
SHORT = 20_000
"""Bytes of a request: a chat for which every template has time, so that its failing is not the fault of the caller."""
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """A template and the process that renders it, which starts with the first chat. Safe to use from several threads.

    Args:
        tokens: the special tokens that it may name, such as `bos_token`.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self.source, self.tokens = source, dict(tokens)
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths = 0
        self.ended: Any = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The template of `tokenizer_config.json`; None where there is none. Raises BundleError for an odd one."""
        config = read_config(folder)
        source = default(config.get("chat_template"))
        if source is None:
            return None
        if not isinstance(source, str) or len(source) > MAX_SOURCE:
            raise BundleError(f"chat_template is no text of up to {MAX_SOURCE} characters", where=str(folder / CONFIG))
        return cls(source, {name: text for name in SPECIAL if (text := token_text(config.get(name)))})

    def render(self, messages: Messages, *, answer: bool) -> str:
        """The text of a chat, up to where the assistant answers if it is to `answer`.

        Raises:
            DataError: the template refuses these messages, fails, or takes too much time, memory or text.
        """
        variables = {**self.tokens, "messages": list(messages), "add_generation_prompt": answer}
        request = json.dumps({**variables, "tools": None, "documents": None}).encode() + b"\n"
        with self.lock:
            if self.deaths >= MAX_DEATHS:
                raise DataError("the model's chat template takes too long, and is used no more", where="messages")
            try:
                reply = self.ask(request)
            except BaseException:
                self.stop()  # else its answer would be taken for that of the next chat
                raise
            if reply is None:
                # Over a long chat any template may fail: nobody can take the model from the others by sending one.
                self.deaths += len(request) <= SHORT
                self.stop()
                raise DataError("the model's chat template takes too long", where="messages")
        if "error" in reply:
            raise DataError(f"the model's chat template: {reply['error']}", where="messages")
        return str(reply["text"])

    def ask(self, request: bytes) -> dict[str, str] | None:
        """The answer of the process; None when it ended or gave none in time."""
        try:
            process = self.running()
            assert process.stdin is not None
            process.stdin.write(request)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        line = read_line(process, time.monotonic() + WALL_SECONDS)
        return None if line is None else dict(json.loads(line))

    def running(self) -> "subprocess.Popen[bytes]":
        if self.process is None:
            self.process = subprocess.Popen(
                child_command("budwood.engine.template_child"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is for the server
            )
            self.ended = weakref.finalize(self, end, self.process)
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(self.source).encode() + b"\n")
        return self.process

    def rest(self) -> None:
        """End the process when the chat that it renders is done; the next chat starts another."""
        with self.lock:
            self.stop()

    def stop(self) -> None:
        """End the process at once; the next chat starts another."""
        if self.ended is not None:
            self.ended()
        self.process = self.ended = None


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    process.wait()


def read_line(process: "subprocess.Popen[bytes]", until: float) -> bytes | None:
    """A line of the process, read as it comes; None when it ended, or the time is over."""
    assert process.stdout is not None
    number, parts = process.stdout.fileno(), [b""]
    output = select.poll()  # not `select`, which knows no file numbers above 1,023: a server has more connections
    output.register(number, select.POLLIN)
    while not parts[-1].endswith(b"\n"):
        ready = output.poll(max(0.0, until - time.monotonic()) * 1000)
        part = os.read(number, 1 << 16) if ready else b""
        if not part:
            return None
        parts.append(part)
    return b"".join(parts)


def default(template: Any) -> Any:
    """Of several named templates the one called `default`."""
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, Mapping)}
        return named.get("default")
    return template


def token_text(value: Any) -> str:
    """A special token, which is a text or an object with its `content`."""
    found = value.get("content") if isinstance(value, Mapping) else value
    return found if isinstance(found, str) else ""


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{CONFIG} is not JSON: {error}", where=str(path)) from error
    return found if isinstance(found, dict) else {}


def keep_template(folder: Path, stage: Path) -> None:
    """Where a base model has its template in a file of its own, put it into the configuration that a bundle keeps."""
    if (folder / FILE).exists():
        config = read_config(stage) | {"chat_template": (folder / FILE).read_text(encoding="utf-8")}
        (stage / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
