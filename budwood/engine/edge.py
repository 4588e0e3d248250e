"""A classifier as a folder that runs with nothing but onnxruntime and numpy: the graph, facts, and a runner to read.

The runner is `edge_text.py` or `edge_image.py`, copied as it stands. What its folder answers is compared with the
bundle's own answers before the folder is given away.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.commit import staged
from budwood.core.errors import BundleError, UsageError
from budwood.core.task import Row, Task
from budwood.engine import conformance, edge_image, edge_text
from budwood.engine.edge_tokenizer import tokenizer_facts
from budwood.engine.images import open_image
from budwood.engine.pixels import DRAFT_GAP, Preprocessing
from budwood.engine.predictor import Predictor, task_of

__all__ = ["smallest_graph", "write_edge"]

RUNNERS = {"text_classification": edge_text, "image_classification": edge_image}
"""By task: the module that is copied as `run.py`."""
REQUIREMENTS = ("onnxruntime>=1.20", "numpy>=1.26")


def write_edge(bundle: Bundle, out: Path, name: str) -> Path:
    """Write the folder and check what it answers.

    Raises:
        UsageError: `out` exists, or the task has no runner.
        BundleError: the tokenizer cannot be put into a runner, or the folder answers differently.
    """
    task = task_of(bundle)
    if task.name not in RUNNERS:
        raise UsageError(
            f"there is no runner of a hundred lines for {task.name}",
            where="budwood export edge",
            fix=f"export edge takes {' and '.join(RUNNERS)}; `budwood export NAME` gives the graph of any model",
        )
    facts = {
        **shared_facts(bundle, task),
        **(text_facts if RUNNERS[task.name] is edge_text else image_facts)(bundle, task),
    }
    format = smallest_graph(bundle)
    with staged(out) as stage:
        (stage / "model.onnx").write_bytes(bundle.read_model(format))
        if "tokenizer" in facts:
            write_json(stage / "vocabulary.json", facts["tokenizer"].pop("vocabulary"))
        write_json(stage / "model.json", facts)
        shutil.copyfile(str(RUNNERS[task.name].__file__), stage / "run.py")
        (stage / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")
        (stage / "README.md").write_text(read_me(bundle, task, name), encoding="utf-8")
        compare(bundle, task, stage)
    return out


def smallest_graph(bundle: Bundle) -> str:
    """The graph format that takes least room. Raises BundleError when the bundle has no graph."""
    graphs = sorted(bundle.formats - {"torch"})
    if not graphs:
        raise BundleError("the bundle has no ONNX graph", where=str(bundle.path), fix="budwood export NAME")
    return min(graphs, key=lambda format: len(bundle.read_model(format))) if len(graphs) > 1 else graphs[0]


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def shared_facts(bundle: Bundle, task: Task) -> dict[str, Any]:
    fields = task.to_json()
    return {
        "task": task.name,
        "bundle": bundle.id,
        "license": bundle.manifest.license,
        "labels": list(fields["labels"]),
        "multi_label": bool(fields.get("multi_label", False)),
        "temperature": bundle.manifest.calibration.get("temperature", 1.0),
    }


def text_facts(bundle: Bundle, task: Task) -> dict[str, Any]:
    config = json.loads(bundle.read("config.json"))
    return {
        "max_tokens": task.to_json()["max_tokens"],
        "pad": config.get("pad_token_id") or 0,
        "tokenizer": tokenizer_facts(bundle.path),
    }


def image_facts(bundle: Bundle, task: Task) -> dict[str, Any]:
    preprocessing: Preprocessing = task.preprocess(bundle.path)  # type: ignore[attr-defined]  # a task on images
    return {
        "image": {
            "edge": preprocessing.edge,
            "size": preprocessing.size,
            "crop": preprocessing.crop,
            "resample": preprocessing.resample,
            "affine": preprocessing.affine.astype(float).tolist(),
            "bgr": preprocessing.bgr,
            "draft": DRAFT_GAP * preprocessing.largest,
        }
    }


def compare(bundle: Bundle, task: Task, folder: Path) -> None:
    """Raise BundleError unless the folder gives the bundle's own logits, row by row, on the golden rows."""
    golden = conformance.FILE in bundle.names
    rows: Sequence[Row] = conformance.parsed(task, conformance.read(bundle)) if golden else task.example()[1]
    model = RUNNERS[task.name].Model(folder, 1)
    with closing(Predictor.open(bundle, "onnxruntime", 1)) as predictor:
        for row in rows:
            expected = predictor.outputs([row])["logits"]
            found = given(model, row, task)
            if not np.abs(found - expected).max() <= conformance.FLOAT_TOLERANCE:
                raise BundleError(
                    f"the runner differs by {np.abs(found - expected).max():.4g} from the model",
                    where="budwood export edge",
                    fix="please report it with the base model's name; `budwood export NAME` gives the graph alone",
                )


def given(model: Any, row: Mapping[str, Any], task: Task) -> Any:
    """The runner's logits for one row, shape (1, labels)."""
    if task.name == "text_classification":
        return model.logits([row["text"]])[0]
    return model.logits([np.asarray(open_image(row["image"], model.facts["image"]["draft"]))])


def read_me(bundle: Bundle, task: Task, name: str) -> str:
    example = "photo.ppm" if task.files else '"a text"'
    other = (
        "PPM, .npy and raw pixels (`--raw WIDTH HEIGHT`); other formats where Pillow is installed."
        if task.files
        else ("Without arguments it reads one text a line from its input.")
    )
    kind = "pixels, bytes of shape (height, width, 3)" if task.files else "texts"
    return f"""# {name}

A model for {task.name.replace("_", " ")}, made by Budwood {bundle.manifest.budwood} from {bundle.manifest.base}
(license of the base: {bundle.manifest.license}; bundle {
        bundle.id[:12]
    }). It needs onnxruntime and numpy, and nothing else.

```sh
pip install -r requirements.txt
python run.py {example}
```

{other} One JSON object a line comes back. From Python: `from run import Model; Model().answer([…])` takes a list of {
        kind
    }.

`model.onnx` is the graph, `model.json` says how inputs are prepared and what the labels are{
        "" if task.files else ", `vocabulary.json` has the word pieces"
    }.
"""
