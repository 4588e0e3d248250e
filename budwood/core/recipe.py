"""A recipe: steps in order. Finished prefixes are reused, so a search over recipes never does the same work twice."""

import json
import shutil
import tomllib
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from budwood.core import registry
from budwood.core.bundle import Bundle, digest
from budwood.core.commit import remove_folder, sweep
from budwood.core.dataset import Dataset
from budwood.core.errors import BundleError, StepError, UsageError
from budwood.core.step import Context, Step

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Steps, each of which takes what the one before gives."""

    steps: tuple[Step, ...]

    def check(self, parent: Bundle) -> None:
        """Raise UsageError, before any work, when a step does not get a format that it takes."""
        formats, source = parent.formats, str(parent.path)
        for step in self.steps:
            missing = step.takes - formats
            if missing:
                raise UsageError(
                    f"{step.name} takes {', '.join(sorted(missing))}, but {source} gives {listed(formats)}",
                    where=" -> ".join(item.name for item in self.steps),
                    fix="put a step before it that gives this format, such as export.onnx",
                )
            formats, source = step.gives, step.name

    def run(self, parent: Bundle, context: Context, cache: Path) -> Bundle:
        """Apply the steps in order. Their results stay in `cache`, one folder a prefix; `context.out` is not used.

        A result is reused when the parent, the steps so far with their parameters and inputs, the rows, those without
        labels too, the task, the seed and the time limit are the same, and every byte of it verifies. A damaged one is
        made again.

        Raises:
            UsageError: the formats do not chain; nothing was done.
            StepError: a step's result must not be used.
        """
        self.check(parent)
        sweep(cache)
        bundle, key = parent, parent.id
        for index, step in enumerate(self.steps):
            key = key_after(key, step, context)
            done = reusable(cache / key, bundle, context, step.name)
            if done is None:
                context.progress(step.name, index, len(self.steps), "")
                work = context.work / key[:16]
                done = checked(step, bundle, step.apply(bundle, replace(context, out=cache / key, work=work)))
                shutil.rmtree(work, ignore_errors=True)  # checkpoints are larger than the result
            bundle = done
        return bundle

    @classmethod
    def from_toml(cls, path: Path | str) -> Self:
        """Read a recipe file: a `[[step]]` table each, with `name` and the step's parameters.

        Raises:
            UsageError: it is not TOML, or a step or a parameter does not exist or has a wrong value.
        """
        try:
            content = tomllib.loads(Path(path).read_bytes().decode())
        except (OSError, ValueError) as error:
            raise UsageError(f"the recipe cannot be read: {error}", where=str(path)) from error
        tables = content.pop("step", None)
        if content or not isinstance(tables, list) or not tables:
            raise UsageError("a recipe holds [[step]] tables and nothing else", where=str(path), fix=EXAMPLE)
        return cls(tuple(read_step(table, f"{path}, step {index}") for index, table in enumerate(tables, 1)))

    def to_toml(self) -> str:
        """The recipe as text that `from_toml` reads."""
        return "\n".join(write_step(step) for step in self.steps)


EXAMPLE = 'write: [[step]] and below it: name = "shrink.quantize_dynamic"'


def key_after(key: str, step: Step, context: Context) -> str:
    """The name of a result: the same for the same past, step, parameters, inputs, rows, task, seed and time limit."""
    rows = context.splits.fingerprint if context.splits else None
    task = {"name": context.task.name, **context.task.to_json()} if context.task else None
    facts = {"rows": rows, "task": task, "seed": context.seed, "seconds": context.seconds}
    if context.unlabelled:
        facts["unlabelled"] = Dataset.of(context.unlabelled).fingerprint
    if inputs := step.inputs():
        facts["inputs"] = inputs
    return digest({"after": key, "step": step.name, "parameters": step.parameters(), **facts})


def reusable(path: Path, parent: Bundle, context: Context, name: str) -> Bundle | None:
    """The finished result at `path`; None when there is none, or when it was unusable and has been removed."""
    if not path.exists():
        return None
    try:
        bundle = Bundle.open(path)
    except BundleError as error:
        problem = error.cause
    else:
        if bundle.parent == parent.id:
            return bundle
        problem = "its parent was made again"
    context.progress(name, 0, 1, f"the stored result is made again: {problem}")
    remove_folder(path)
    return None


def checked(step: Step, parent: Bundle, child: Bundle) -> Bundle:
    if child.parent != parent.id:
        raise StepError(f"{step.name} gave a bundle that does not name its parent", where=str(child.path))
    if not step.gives <= child.formats:
        raise StepError(
            f"{step.name} promised {listed(step.gives)} and gave {listed(child.formats)}", where=str(child.path)
        )
    return child


def listed(formats: frozenset[str]) -> str:
    return ", ".join(sorted(formats)) or "nothing"


def read_step(table: Any, where: str) -> Step:
    """One `[[step]]` table as a step."""
    parameters = dict(table) if isinstance(table, dict) else {}
    name = parameters.pop("name", None)
    if not isinstance(name, str) or name.count(".") != 1:
        raise UsageError("a step needs a name such as shrink.quantize_dynamic", where=where, fix=EXAMPLE)
    folder, _, plugin = name.partition(".")
    if f"steps/{folder}" not in FOLDERS:
        raise UsageError(f"no steps in {folder!a}", where=where, fix=f"choose one of: {', '.join(sorted(FOLDERS))}")
    kind: type[Step] = registry.get(f"steps/{folder}", plugin)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # every concrete step is a dataclass
    for parameter in parameters:
        if parameter not in known:
            near = get_close_matches(parameter, known, n=1) or [f"one of: {', '.join(known) or 'none'}"]
            raise UsageError(f"{name} has no parameter {parameter!a}", where=where, fix=f"did you mean {near[0]}?")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(parameters), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{name}: {place}: {first['msg']}", where=where) from error
    except TypeError as error:
        raise UsageError(f"{name}: {error}", where=where) from error


FOLDERS = ("steps/adapt", "steps/shrink", "steps/export")


def write_step(step: Step) -> str:
    """One step as a `[[step]]` table. TOML has no null: a parameter that is None is left out, as its default."""
    given = {key: value for key, value in step.parameters().items() if value is not None}
    lines = [f"{key} = {toml_value(value, f'{step.name}.{key}')}" for key, value in given.items()]
    return "\n".join(["[[step]]", f"name = {toml_value(step.name, step.name)}", *lines]) + "\n"


def toml_value(value: Any, where: str) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item, where) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    raise UsageError(f"a {type(value).__name__} cannot be written to a recipe file", where=where)
