"""A headless Chromium for tests, spoken to over a pipe in its DevTools protocol; nothing but the browser is needed."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tab:
    """One page of a headless browser, spoken to over a pipe in its DevTools protocol."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.buffer, self.number = b"", 0
        self.messages: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # no window has the focus here

    def call(self, method: str, **parameters: Any) -> Any:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            found = self.read()
            if found.get("id") == self.number:
                assert "error" not in found, found
                return found["result"]
            self.messages.append(found)

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            chunk = os.read(self.answers, 65536)
            assert chunk, "the browser is gone"
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def js(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        deadline = time.monotonic() + 20
        while not self.js(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def press(self, key: str, code: int, modifiers: int = 0) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, modifiers=modifiers
            )

    def type(self, text: str) -> None:
        """As a keyboard would, into what has the focus."""
        self.call("Input.insertText", text=text)

    def seen(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of that kind."""
        self.js("1")
        return [message["params"] for message in self.messages if message.get("method") == method]

    def complaints(self) -> list[str]:
        """Errors in scripts, and what the console said, such as violations of the page's policy.

        Refusals by the server are no complaint.
        """
        thrown = [entry["exceptionDetails"]["text"] for entry in self.seen("Runtime.exceptionThrown")]
        texts = [entry["entry"]["text"] for entry in self.seen("Log.entryAdded")]
        return thrown + [text for text in texts if not text.startswith("Failed to load resource: the server responded")]

    def hosts(self) -> set[str]:
        """Where requests went; what a page makes itself has none."""
        return {urlsplit(entry["request"]["url"]).netloc for entry in self.seen("Network.requestWillBeSent")} - {""}

    def scheme(self, name: str) -> None:
        """`light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    (read_commands, our_out), (our_in, write_answers) = os.pipe(), os.pipe()
    # The browser wants them as 3 and 4, which may be taken here; far above, none is in the way of another.
    theirs = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in (read_commands, write_answers)]
    options = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe --no-first-run"
    command = f'exec "{BROWSER}" {options} --user-data-dir="{profile}" 3<&{theirs[0]} 4>&{theirs[1]}'
    process = subprocess.Popen(
        ["bash", "-c", command], pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for descriptor in (read_commands, write_answers, *theirs):
        os.close(descriptor)
    try:
        yield Tab(our_out, our_in)
    finally:
        process.kill()
        process.wait()
        os.close(our_out)
        os.close(our_in)
