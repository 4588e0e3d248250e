"""A classifier as a static web page: transformers.js runs the graph in the browser, and no input leaves it.

The folder `model/` is one that transformers.js reads by itself, with its pipelines too. The page divides the logits by
the temperature that was fitted, as Budwood does; a pipeline does not, and gives the same labels with other scores.
"""

import json
from pathlib import Path
from typing import Any

from budwood.core.bundle import FORMATS, Bundle
from budwood.core.commit import staged
from budwood.core.errors import UsageError
from budwood.core.task import Task
from budwood.engine.edge import smallest_graph
from budwood.engine.predictor import task_of
from budwood.engine.tokenizer_file import read_tokenizer

__all__ = ["LIBRARY", "write_browser"]

LIBRARY = ("@huggingface/transformers", "4.3.1")
"""The package of transformers.js and the version that a test runs in Chromium."""
CLASSES = {"text_classification": "ForSequenceClassification", "image_classification": "ForImageClassification"}
"""By task: how transformers names the class."""
TYPES = {"onnx": "fp32", "onnx-int8": "q8", "onnx-q4": "q4"}
"""What transformers.js calls our formats; it takes the file's name from it."""


def write_browser(bundle: Bundle, out: Path, name: str) -> Path:
    """Write the folder: `index.html`, `package.json`, a README and `model/`.

    Raises:
        UsageError: `out` exists, or transformers.js has no class for the task.
        BundleError: the bundle has no ONNX graph.
    """
    task = task_of(bundle)
    if task.name not in CLASSES:
        raise UsageError(
            f"there is no page for {task.name}",
            where="budwood export browser",
            fix=f"export browser takes {' and '.join(CLASSES)}; `budwood serve NAME` has a page for every model",
        )
    format = smallest_graph(bundle)
    with staged(out) as stage:
        model = stage / "model"
        (model / "onnx").mkdir(parents=True)
        (model / FORMATS[format]).write_bytes(bundle.read_model(format))
        for file in task.preprocessing:
            if file in bundle.names:
                (model / file).write_bytes(bundle.read(file))
        write_json(model / "config.json", configuration(bundle, task))
        write_json(stage / "package.json", {"private": True, "dependencies": dict([LIBRARY])})
        (stage / "index.html").write_text(page(bundle, task, name, TYPES[format]), encoding="utf-8")
        (stage / "README.md").write_text(READ_ME.format(name=name, size=size_mb(model)), encoding="utf-8")
    return out


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def size_mb(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6:.1f}"


def configuration(bundle: Bundle, task: Task) -> dict[str, Any]:
    """The bundle's configuration with a head: its class, its labels, and whether several may be right."""
    config: dict[str, Any] = json.loads(bundle.read("config.json"))
    fields = task.to_json()
    network = str((config.get("architectures") or ["AutoModel"])[0])
    head = CLASSES[task.name]
    several = fields.get("multi_label", False)
    return config | {
        "architectures": [network if network.endswith(head) else network.removesuffix("Model") + head],
        "id2label": dict(enumerate(fields["labels"])),
        "label2id": {label: number for number, label in enumerate(fields["labels"])},
        "problem_type": "multi_label_classification" if several else "single_label_classification",
    }


def page(bundle: Bundle, task: Task, name: str, dtype: str) -> str:
    """The page with its settings; a label or name can neither end the script nor become markup."""
    fields = task.to_json()
    settings = {
        "name": name,
        "image": bool(task.files),
        "dtype": dtype,
        "several": bool(fields.get("multi_label", False)),
        "temperature": bundle.manifest.calibration.get("temperature", 1.0),
        "maxTokens": fields.get("max_tokens", 0),
        "ends": 0 if task.files else endings(bundle),
    }
    return PAGE.replace("SETTINGS", json.dumps(settings).replace("<", "\\u003c")).replace("LIBRARY", LIBRARY[0])


def endings(bundle: Bundle) -> int:
    """How many tokens the tokenizer puts after every text."""
    special = read_tokenizer(bundle.path).encode("a").special_tokens_mask
    return special[::-1].index(0) if 0 in special else 0


PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Budwood</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; }
  textarea { width: 100%; font: inherit; }
  td { padding: 0 1rem 0 0; }
</style>
<h1></h1>
<textarea rows="4" aria-label="text"></textarea>
<input type="file" accept="image/*" aria-label="image">
<p id="status">loading</p>
<table></table>
<script type="module">
import {
  env, AutoModelForImageClassification, AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer, RawImage,
  Tensor,
} from "./node_modules/LIBRARY/dist/transformers.min.js";

const settings = SETTINGS;
env.allowLocalModels = true;
env.allowRemoteModels = false;
env.localModelPath = "./";
env.useBrowserCache = false;
env.backends.onnx.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", location.href).href;

const one = (name) => document.querySelector(name);
one("h1").textContent = settings.name;
one("textarea").hidden = settings.image;
one("input").hidden = !settings.image;

const options = { dtype: settings.dtype, device: "wasm" };
const kind = settings.image ? AutoModelForImageClassification : AutoModelForSequenceClassification;
const model = await kind.from_pretrained("model", options);
const read = await (settings.image ? AutoProcessor : AutoTokenizer).from_pretrained("model");

// The library would cut off what ends every text, too.
function cut(inputs) {
  const kept = settings.maxTokens - settings.ends;
  const ended = ({ data }) => [...data.slice(0, kept), ...data.slice(data.length - settings.ends)];
  if (inputs.input_ids.data.length <= settings.maxTokens) return inputs;
  return Object.fromEntries(Object.entries(inputs).map(([name, tensor]) =>
    [name, new Tensor("int64", BigInt64Array.from(ended(tensor)), [1, settings.maxTokens])]));
}

async function classify(input) {
  const inputs = settings.image
    ? await read(await RawImage.read(input))
    : cut(await read([input]));
  const { logits } = await model(inputs);
  const scaled = Array.from(logits.data, (value) => Number(value) / settings.temperature);
  const top = Math.max(...scaled);
  const powers = scaled.map((value) => settings.several ? 1 / (1 + Math.exp(-value)) : Math.exp(value - top));
  const total = settings.several ? 1 : powers.reduce((sum, value) => sum + value, 0);
  return powers.map((value, at) => ({ label: model.config.id2label[at], score: value / total }))
    .sort((a, b) => b.score - a.score);
}

async function show(input) {
  const answers = await classify(input);
  one("table").replaceChildren(...answers.slice(0, 5).map(({ label, score }) => {
    const row = document.createElement("tr");
    for (const text of [label, (100 * score).toFixed(1) + " %"]) {
      row.append(Object.assign(document.createElement("td"), { textContent: text }));
    }
    return row;
  }));
}

one("textarea").addEventListener("input", (event) => event.target.value.trim() && show(event.target.value));
one("input").addEventListener("change", (event) => event.target.files.length && show(event.target.files[0]));
window.classify = classify;
one("#status").textContent = "ready: what you enter stays in this browser";
</script>
"""
READ_ME = """# {name}

A classifier that runs in the browser, by transformers.js; `model/` has {size} MB. What is entered stays in the browser.

```sh
npm install --ignore-scripts
python -m http.server
```

Then open http://localhost:8000. Any web server of static files will do. The page needs `node_modules/` beside it, and
of that only `@huggingface/transformers/dist/transformers.min.js` and `onnxruntime-web/dist/ort-wasm-simd-threaded*`.

`pipeline("text-classification", "model")` and `pipeline("image-classification", "model")` of transformers.js read the
same folder. They give the same labels; their scores are those before the temperature that Budwood fitted.
"""
