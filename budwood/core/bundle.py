"""A bundle: an immutable Hugging Face model folder plus `bundle.json`. Opening one never runs its code.

Every stage of Budwood takes a bundle and gives a new one that names its parent.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from budwood.core.commit import staged
from budwood.core.dataset import ReadOptions
from budwood.core.errors import BundleError, NotFoundError
from budwood.core.formats import deeper_than, open_regular, read_capped
from budwood.core.opening import check_content, list_files, safe_name
from budwood.core.packed import SUFFIX as PACKED
from budwood.core.packed import PackedError, expand_graph

__all__ = [
    "FORMATS",
    "MANIFEST",
    "SCHEMA_VERSION",
    "Bundle",
    "DataRecord",
    "Draft",
    "FileRecord",
    "Manifest",
    "Metric",
    "StepRecord",
    "digest",
]

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
MAX_MANIFEST_BYTES = 16 << 20
MAX_MANIFEST_DEPTH = 32
SHA256 = r"^[0-9a-f]{64}$"
FORMATS = {
    "torch": "model.safetensors",
    "onnx": "onnx/model.onnx",
    "onnx-int8": "onnx/model_quantized.onnx",
    "onnx-q4": "onnx/model_q4.onnx",
}
"""Format name to the file whose presence means that the bundle has it; a graph may be packed (`….onnx.packed`)."""


class Record(BaseModel):
    # "constants" keeps a NaN in free-form fields visible until `describe` refuses it; the default turns it into null.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")


class StepRecord(Record):
    """A step and its parameters; a bundle's `history` is the list of all steps since the base model."""

    name: str
    parameters: dict[str, Any] = {}
    bundle: str | None = None
    """The id of the bundle that this step gave; None for the step that gave this very bundle."""


class Metric(Record):
    """A measured number: its value, its 95 % confidence interval, and on how many rows of which split."""

    value: float
    ci: tuple[float, float]
    n: int
    split: str


class DataRecord(Record):
    """Where the training rows came from. The rows themselves stay in the store, beside the bundles."""

    fingerprint: str
    sources: tuple[str, ...]
    seed: int
    rows: dict[str, int]
    """Split name to the number of rows."""
    options: ReadOptions = ReadOptions()
    """The columns, shots, test files and split that were asked for; left out of `bundle.json` when nothing was."""

    @model_serializer(mode="wrap")
    def without_default_options(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A manifest that was written before there were options keeps its bytes, and so its id."""
        fields: dict[str, Any] = handler(self)
        if self.options == ReadOptions():
            del fields["options"]
        elif self.options.split is None:
            del fields["options"]["split"]
        return fields


class FileRecord(Record):
    sha256: str = Field(pattern=SHA256)
    bytes: int = Field(ge=0)


class Draft(Record):
    """What a step knows of the bundle that it makes; `Bundle.create` adds the files and the id."""

    parent: str | None
    history: tuple[StepRecord, ...]
    task: dict[str, Any] | None
    """The task's name and fields; None for a base model that has no task yet."""
    base: str
    license: str = "unknown"
    data: DataRecord | None = None
    metrics: dict[str, Metric] = {}
    calibration: dict[str, float] = {}
    reference: dict[str, Any] = {}
    """Statistics of the training data (lengths, class counts, confidence), for drift."""
    report: dict[str, Any] = {}
    """What the step measured: baseline, candidates, verdicts."""
    environment: dict[str, str] = {}


class Manifest(Draft):
    """`bundle.json`. Its id is the SHA-256 of all the rest, so a changed byte anywhere changes it."""

    schema_version: int = Field(ge=1, le=SCHEMA_VERSION, strict=True)
    id: str = Field(pattern=SHA256)
    created: str
    budwood: str
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Bundle:
    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Self:
        """Open a folder after checking it: allow-listed file types, no links, every hash equal to the manifest's.

        `verify=False` skips the hashes of the files (not the allow-list), for listings.

        Raises:
            NotFoundError: there is no such folder.
            BundleError: a file is unsafe, missing, added or changed; `where` names it.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise NotFoundError("there is no such folder", where=str(folder), fix="budwood models list")
        files = list_files(folder)
        if MANIFEST not in files:
            raise BundleError("not a bundle: it has no bundle.json", where=str(folder), fix="budwood models list")
        manifest = read_manifest(folder / MANIFEST)
        for name in sorted({*manifest.files, *files} - {MANIFEST}):
            compare_file(folder, name, manifest.files.get(name), present=name in files, verify=verify)
        return cls(folder, manifest)

    @classmethod
    def create(cls, path: Path | str, draft: Draft, write: Callable[[Path], None]) -> Self:
        """Commit a new bundle at `path`: `write` fills an empty folder, then it is hashed, synced and renamed.

        Raises:
            UsageError: `path` exists.
            BundleError: `write` left a file that a bundle may not contain.
        """
        final = Path(path)
        with staged(final) as stage:
            write(stage)
            (stage / MANIFEST).write_bytes(encode(describe(stage, draft)))
            manifest = read_manifest(stage / MANIFEST)
        return cls(final, manifest)

    def copy(self, to: Path | str) -> Self:
        """Commit a copy at `to`; each file is checked against its hash while it is copied.

        Raises:
            UsageError: `to` exists.
            BundleError: a file is not what the manifest says.
        """
        final = Path(to)
        with staged(final) as stage:
            for name in self.names:
                self.copy_file(name, stage / name)
            (stage / MANIFEST).write_bytes(encode(self.manifest))
        return type(self)(final, self.manifest)

    def copy_file(self, name: str, to: Path) -> None:
        """Copy one file and check the copy against its hash; the folder of `to` is made.

        Raises BundleError when the bundle lists none of that name, or the file changed since it was opened.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(self.file(name)) as source, to.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        if record(to) != self.manifest.files[name]:
            raise damaged(self.path / name, "it changed since it was opened")

    @property
    def names(self) -> tuple[str, ...]:
        """The files that the manifest lists, sorted; `bundle.json` itself is not among them."""
        return tuple(sorted(self.manifest.files))

    def read(self, name: str) -> bytes:
        """The bytes of a file, checked once more, so that what is loaded is what was hashed.

        Raises:
            BundleError: the bundle has no such file, or it changed since it was opened.
        """
        path = self.file(name)
        with open_regular(path) as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name].sha256:
            raise damaged(path, "it changed since it was opened")
        return content

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def parent(self) -> str | None:
        return self.manifest.parent

    @property
    def formats(self) -> frozenset[str]:
        return frozenset(name for name in FORMATS if self.stored(name))

    def stored(self, format: str) -> str:
        """The name of the file that holds a format, plain or packed; empty when none does."""
        plain = FORMATS.get(format, "")
        packed = plain + PACKED if plain.endswith(".onnx") else ""
        return next((name for name in (plain, packed) if name in self.manifest.files), "")

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists. Raises BundleError when it lists none of that name."""
        if name not in self.manifest.files:
            raise BundleError(f"the bundle has no {name}", where=str(self.path))
        return self.path / name

    def model_file(self, format: str) -> Path:
        """The file of one of the `FORMATS`. Raises BundleError when there is none."""
        if format not in self.formats:
            raise BundleError(
                f"the bundle has no {format} model",
                where=str(self.path),
                fix=f"it has: {', '.join(sorted(self.formats)) or 'none'}; see `budwood export --help`",
            )
        name = self.stored(format)
        if name.endswith(PACKED):
            raise BundleError(
                f"the {format} model is packed",
                where=str(self.path / name),
                fix=f"take the bundle that it was made from, {(self.parent or 'unknown')[:12]}; or serve it as it is",
            )
        return self.path / name

    def read_model(self, format: str) -> bytes:
        """The bytes of the model in a format, checked once more; a packed one is expanded, and what it gives checked.

        Raises BundleError as `model_file` and `read` do, and where a packed file holds no graph that a bundle may have.
        """
        name = self.stored(format)
        if not name.endswith(PACKED):
            return self.read(self.model_file(format).relative_to(self.path).as_posix())
        try:
            return expand_graph(self.read(name))
        except PackedError as error:
            raise BundleError(f"{name} {error}", where=str(self.path / name), fix=RESTORE) from error

    @property
    def serving_bytes(self) -> int:
        """Size on disk of what a server loads: the smallest graph plus the small files, without the float originals."""
        sizes = {name: item.bytes for name, item in self.manifest.files.items()}
        graphs = [sizes[self.stored(name)] for name in self.formats - {"torch"}] or [sizes.get(FORMATS["torch"], 0)]
        small = sum(size for name, size in sizes.items() if name in SERVED)
        return min(graphs) + small

    def draft(self, step: str, parameters: Mapping[str, Any] | None = None, **changes: Any) -> Draft:
        """The draft of a child: this bundle's facts, one step later. Measured facts do not carry over."""
        inherited = {name: getattr(self.manifest, name) for name in Draft.model_fields}
        *past, last = self.manifest.history or [StepRecord(name="base")]
        past.append(last.model_copy(update={"bundle": self.id}))
        fresh: dict[str, Any] = {"metrics": {}, "report": {}, "environment": {}}
        history = (*past, StepRecord(name=step, parameters=dict(parameters or {})))
        return Draft.model_validate(inherited | fresh | {"parent": self.id, "history": history} | changes)


SERVED = ("config.json", "tokenizer.json", "tokenizer_config.json", "golden.json")


def describe(stage: Path, draft: Draft) -> Manifest:
    """The manifest of what was written to a staging folder.

    Raises:
        BundleError: a file or a number may not be in a bundle.
    """
    from budwood import __version__

    files = list_files(stage)
    if MANIFEST in files:
        raise BundleError("a step wrote its own bundle.json", where=str(stage / MANIFEST), fix="leave it to Budwood")
    for name in files:
        check_content(stage / name, name)
    fields = draft.model_dump(mode="json") | {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "budwood": __version__,
        "files": {name: record(stage / name).model_dump(mode="json") for name in files},
    }
    for place, number in numbers(fields, "bundle.json"):
        if not math.isfinite(number):
            raise BundleError(f"a step recorded {number}, which is no measurement", where=place, fix="run it again")
    try:
        return Manifest.model_validate(fields | {"id": digest(fields)})
    except UnicodeEncodeError as error:
        raise BundleError(f"a step recorded text that is not Unicode: {error.object[:80]!a}", where=MANIFEST) from error


def numbers(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """All floats inside nested JSON fields, each with its place, such as `bundle.json: metrics.accuracy.value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from numbers(child, f"{place}.{key}")
    if isinstance(value, float):
        yield place, value


def read_manifest(path: Path) -> Manifest:
    raw = read_capped(path, MANIFEST, MAX_MANIFEST_BYTES)
    try:
        fields = json.loads(raw)
        if deeper_than(fields, MAX_MANIFEST_DEPTH):
            raise ValueError("nested too deeply")
        version = fields["schema_version"]
        if type(version) is int and version > SCHEMA_VERSION:
            raise BundleError(
                f"bundle.json has schema version {version}; this Budwood reads up to {SCHEMA_VERSION}",
                where=str(path),
                fix="pip install --upgrade budwood",
            )
        manifest = Manifest.model_validate(fields)
        same = encode(manifest) == raw and digest({key: fields[key] for key in fields if key != "id"}) == manifest.id
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, f"it cannot be read ({type(error).__name__})") from error
    if not same:
        raise damaged(path, "its content does not match its id")
    for name in manifest.files:
        if name == MANIFEST or not safe_name(name):
            raise BundleError(f"bundle.json lists an unsafe file name: {name!a}", where=str(path), fix=RESTORE)
    return manifest


def compare_file(folder: Path, name: str, expected: FileRecord | None, *, present: bool, verify: bool) -> None:
    path = folder / name
    if expected is None:
        raise BundleError(f"{name} is not listed in bundle.json", where=str(path), fix=RESTORE)
    if not present:
        raise BundleError(f"{name} is missing", where=str(path), fix=RESTORE)
    size = path.lstat().st_size
    if size != expected.bytes:
        raise damaged(path, f"it has {size} bytes, expected {expected.bytes}")
    if verify:
        actual = record(path).sha256
        if actual != expected.sha256:
            raise damaged(path, f"SHA-256 is {actual[:12]}…, expected {expected.sha256[:12]}…")
        check_content(path, name)


RESTORE = "do not use it; roll back with `budwood models rollback NAME`, or copy the bundle again from its source"


def damaged(path: Path, detail: str) -> BundleError:
    return BundleError(f"{path.name} is damaged: {detail}", where=str(path), fix=RESTORE)


def record(path: Path) -> FileRecord:
    with open_regular(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(sha256=sha256, bytes=file.tell())


def digest(fields: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of some fields."""
    return hashlib.sha256(canonical(fields)).hexdigest()


def canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def encode(manifest: Manifest) -> bytes:
    text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
