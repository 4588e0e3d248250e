"""The process in which chat templates are rendered: sandboxed, with a bound on time, memory and what comes out.

`python -m budwood.engine.template_child` reads a line of JSON with the template, then one for each chat; it answers
each chat with `{"text": …}` or `{"error": …}`. A template that takes too long ends the process.
"""

import datetime
import json
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["compiled", "main", "rendered"]

MEMORY_BYTES = 256 << 20
SECONDS = 0.5
"""Of processor time for one chat; a template takes a thousandth of it."""
READING_SECONDS = 1.0
"""Of processor time to read the template itself, when the values of constant expressions are found."""
MAX_CHARACTERS = 4_000_000


class Generation(Extension):
    """`{% generation %}` marks answers for those who learn from them; what it encloses is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def refuse(message: object) -> None:
    raise TemplateError(str(message)[:500])


def now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def compiled(source: str) -> Any:
    """A template with the functions and white space that transformers gives to templates. Raises TemplateError."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": refuse, "strftime_now": now}
    return environment.from_string(source)


def rendered(template: Any, variables: Mapping[str, Any]) -> str:
    """The text of a chat. Raises TemplateError, also for one that is too long, and whatever else a template raises."""
    parts, size = [], 0
    for part in template.generate(**variables):
        size += len(part)
        if size > MAX_CHARACTERS:
            raise TemplateError(f"it gives more than {MAX_CHARACTERS} characters")
        parts.append(part)
    return "".join(parts)


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def begin_clock(seconds: float) -> None:
    """The kernel ends this process when it has computed for so long from now: nothing in a template can catch that."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def answer(template: Any, line: str) -> dict[str, str]:
    try:
        return {"text": rendered(template, json.loads(line))}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except Exception as error:  # noqa: BLE001  # a template may raise whatever its expressions raise
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def main() -> None:
    limit()
    begin_clock(READING_SECONDS)
    template, problem = None, {}
    try:
        template = compiled(json.loads(sys.stdin.readline()))
    except (TemplateError, RecursionError, MemoryError) as error:
        problem = {"error": f"it cannot be read: {type(error).__name__}: {error}"[:500]}
    for line in sys.stdin:
        begin_clock(SECONDS)
        print(json.dumps(problem or answer(template, line)), flush=True)  # noqa: T201  # its answers


if __name__ == "__main__":
    main()
