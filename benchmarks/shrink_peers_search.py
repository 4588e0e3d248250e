"""The searches of `shrink_peers.py`: what Olive, NNCF and `budwood shrink` make of one float model, and how fast.

Each writes its models and a record into the work folder; one whose record is there is not run again. A search that
fails leaves the text of its error as its result.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.step import Context
from budwood.core.store import Store
from budwood.core.task import Encoder, Row, Task
from budwood.engine.predictor import task_of
from budwood.engine.quantization import calibration_rows

__all__ = ["MAX_DROP", "SHORT", "Work", "search_budwood", "search_nncf", "search_olive"]

Found = dict[str, Any]
MAX_DROP = 0.01
WIDER = 0.025
CALIBRATION, BATCH, SEED = 300, 32, 0
DYNAMIC, STATIC = "OnnxDynamicQuantization", "OnnxStaticQuantization"
OLIVE = (("fused", DYNAMIC, 16), ("fused", STATIC, 8), ("plain", STATIC, 8))
"""What Olive searches over: the graph, what quantizes it, and at most how many settings of it. One search for each, as
0.13.0 cannot do it in one: its TPE sampler runs the first of several passes whatever it has suggested, and a pass that
comes before others fails when it is repeated ("FootprintNode" object has no field "model_config")."""
OLIVE_SECONDS = 50
SETTINGS = ("precision", "per_channel", "reduce_range", "calibrate_method", "quant_format", "activation_type")
FLOAT = 1
"""As ONNX numbers its types of tensors."""
SHORT = range(14, 19)
"""Tokens of the texts that latency is measured with."""


@dataclass(frozen=True)
class Work:
    """The float model, its rows, and where results go."""

    home: Path
    store: Path
    model: str
    rows: int | None = None
    """Take so many rows of each split only, to try a change; None for all."""

    @property
    def parent(self) -> Bundle:
        return Store.default(self.store).resolve(f"{self.model}:1").bundle

    @property
    def splits(self) -> Splits:
        record = self.parent.manifest.data
        assert record is not None  # it has been adapted
        return Store.default(self.store).load_splits(record.fingerprint)

    def tools(self) -> tuple[Task, Encoder]:
        task = task_of(self.parent)
        return task, task.encoder(self.parent.path)

    def graph(self, kind: str) -> Path:
        """The bundle's `fused` graph, or the `plain` one, of standard operators alone."""
        if kind != "fused":
            return self.plain_graph()
        # A copy: ONNX Runtime's quantizer writes beside what it reads, and a bundle's folder is sealed.
        copy = self.home / "fused" / "model.onnx"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(self.parent.read_model("onnx"))
        return copy

    def plain_graph(self) -> Path:
        path = self.home / "plain" / "onnx" / "model.onnx"
        if not path.exists():
            from budwood.steps.export.onnx import Onnx

            context = Context(out=path.parents[1], work=self.home / "export", splits=self.splits)
            Onnx(fuse=False).apply(self.parent, context)
        return path

    def calibration(self) -> list[Row]:
        """Training rows, in equal parts of all labels: those that Budwood's own steps would take."""
        task, encoder = self.tools()
        context = Context(out=self.home, work=self.home / "unused", splits=self.splits, seed=SEED)
        return list(calibration_rows(task, encoder, context, CALIBRATION, "benchmark"))

    def validation(self) -> list[Row]:
        return list(self.splits.validation.rows)[: self.rows]

    def batches(self, rows: Sequence[Row], size: int = BATCH) -> list[tuple[dict[str, Any], Any]]:
        """Encoded rows of like length with their class numbers."""
        task, encoder = self.tools()
        order = sorted(rows, key=lambda row: len(row["text"]))
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        return [(dict(encoder(part).inputs), task.targets(part)) for part in parts]

    def short(self, count: int) -> list[Row]:
        """Validation rows of about 16 tokens."""
        _, encoder = self.tools()
        fitting = (row for row in self.validation() if encoder([row]).inputs["input_ids"].shape[1] in SHORT)
        return [row for row, _ in zip(fitting, range(count), strict=False)]


def recorded(work: Work, searches: dict[str, Callable[[], Found]], run: bool) -> dict[str, Found]:
    """What searches found: from their records where there are any, else by running them if that is asked."""
    found: dict[str, Found] = {}
    for name, search in searches.items():
        path = work.home / f"{name.replace(',', '').replace(' ', '-')}.json"
        if not path.exists() and run:
            began = time.monotonic()
            made = search()
            path.write_text(json.dumps({"minutes": round((time.monotonic() - began) / 60, 2), **made}, indent=1))
        if path.exists():
            found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def failure(error: Exception) -> Found:
    return {"error": f"{type(error).__name__}: {str(error)[:500]}"}


# Budwood


def search_budwood(work: Work, run: bool) -> dict[str, Found]:
    """`budwood shrink` with two budgets; the second takes again what the first has made."""
    return recorded(
        work, {f"budwood, {100 * drop:g} points": partial(shrink, work, drop) for drop in (WIDER, MAX_DROP)}, run
    )


def shrink(work: Work, drop: float) -> Found:
    before = len(list(work.store.glob(".work/shrink-*/steps/*/bundle.json")))
    command = ["shrink", f"{work.model}:1", "--max-drop", f"{drop:g}", "--name", f"{work.model}-{drop:g}"]
    run = [sys.executable, "-m", "budwood", *command, "--store", str(work.store), "--json"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 5):
        return {"error": done.stderr[-500:]}
    return {"made_before": before, **json.loads(done.stdout)}


# NNCF


def search_nncf(work: Work, run: bool) -> dict[str, Found]:
    """Post-training quantization without and with accuracy control for OpenVINO, and without for ONNX Runtime."""
    ways = {
        "nncf quantize, openvino": partial(quantize_openvino, work, controlled=False),
        "nncf accuracy control, openvino": partial(quantize_openvino, work, controlled=True),
        "nncf quantize, onnxruntime": partial(quantize_onnx, work),
    }
    return recorded(work, {name: partial(silently, way) for name, way in ways.items()}, run)


def silently(way: Callable[[], Found]) -> Found:
    from budwood.steps.shrink.quantize_openvino import silent_nncf

    with silent_nncf():
        try:
            return way()
        except Exception as error:  # noqa: BLE001  # whatever a peer raises is its result
            return failure(error)


def quantize_openvino(work: Work, *, controlled: bool) -> Found:
    import openvino

    made = quantized(work, openvino.Core().read_model(work.plain_graph()), controlled)
    path = work.home / f"nncf-{'controlled' if controlled else 'plain'}.xml"
    openvino.save_model(made, path, compress_to_fp16=False)
    return {"file": path.name, "runtime": "openvino"}


def quantize_onnx(work: Work) -> Found:
    import onnx

    path = work.home / "nncf.onnx"
    onnx.save(quantized(work, onnx.load(str(work.plain_graph())), controlled=False), str(path))
    return {"file": path.name, "runtime": "onnxruntime"}


def quantized(work: Work, model: Any, controlled: bool) -> Any:
    """NNCF as its documents show it for transformers."""
    import nncf as library

    calibration = library.Dataset([inputs for inputs, _ in work.batches(work.calibration(), 1)])
    kind = library.ModelType.TRANSFORMER
    if not controlled:
        return library.quantize(model, calibration, subset_size=CALIBRATION, model_type=kind)

    def accuracy(graph: Any, rows: Any) -> tuple[float, list[float]]:
        right = [float(hit) for inputs, labels in rows for hit in graph(inputs)["logits"].argmax(axis=1) == labels]
        return float(np.mean(right)), right

    return library.quantize_with_accuracy_control(
        model,
        calibration,
        # One row an item: it ranks layers by the rows that turn wrong.
        library.Dataset(work.batches(work.validation(), 1), lambda item: item[0]),
        accuracy,
        max_drop=MAX_DROP,
        subset_size=CALIBRATION,
        model_type=kind,
    )


# Olive


def search_olive(work: Work, packages: Path | None, run: bool) -> dict[str, Found]:
    """Olive's own search, with accuracy as a goal and latency as what it makes small."""
    if packages is not None:
        sys.path.append(str(packages))  # after ours: it is given the same numpy, torch and ONNX Runtime
    return recorded(work, {"olive": partial(search, work)}, run)


def search(work: Work) -> Found:
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    os.environ["OLIVE_TELEMETRY_CACHE_DIR"] = str(work.home)
    import onnxruntime
    from olive.workflows import run

    onnxruntime.set_default_logger_severity(3)
    register(work)
    steps = Failures()
    logging.getLogger("olive").addHandler(steps)
    tried: list[Found] = []
    for graph, quantizer, samples in OLIVE:
        try:
            output = run(workflow(work, graph, quantizer, samples))
        except Exception as error:  # noqa: BLE001  # whatever a peer raises is its result
            steps.found.append(f"{graph}, {quantizer}: {failure(error)['error']}")
            continue
        nodes = output.footprint.nodes.values()
        tried += [point(output, node.model_id, graph) for node in nodes if node.metrics and node.parent_model_id]
    logging.getLogger("olive").removeHandler(steps)
    within = [item for item in tried if item["goals"]]
    # Its own order: those that keep the goals, by the metric of the first priority.
    best = min(within or tried, key=lambda item: item["latency-avg"], default={"error": "no model"})
    return {**best, "tried": tried, "failed": steps.found, "runtime": "onnxruntime"}


def point(output: Any, name: str, graph: str) -> Found:
    """One model of the search: what was done, what Olive measured, whether it is on the front that Olive draws."""
    node = output.footprint.nodes[name]
    value = {key: item.value for key, item in node.metrics.value.root.items()}
    settings = {
        key: value for key, value in (node.pass_run_config or {}).items() if key in SETTINGS and value is not None
    }
    path = node.model_config_data["config"]["model_path"]
    return {
        "graph": graph,
        "file": path,
        "front": bool(node.is_pareto_frontier),
        "goals": bool(node.metrics.if_goals_met),
        **value,
        "pass": node.from_pass,
        **settings,
    }


class Failures(logging.Handler):
    """Keeps what Olive logs of steps that failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        reason = record.exc_info[1] if record.exc_info else None
        if reason is not None:
            inner = reason.__cause__ or reason
            self.found.append(f"{record.getMessage()[:300]} {type(inner).__name__}: {str(inner)[:300]}")


def register(work: Work) -> None:
    """Our rows by name, as Olive wants them: already in batches."""
    from olive.data.registry import Registry

    calibration = work.batches(work.calibration(), CALIBRATION)
    # In one width: its histogram calibrators cannot take texts of unlike lengths.
    padded, labels = calibration[0]
    single = [({key: value[i : i + 1] for key, value in padded.items()}, labels[i : i + 1]) for i in range(len(labels))]
    sets = {
        "calibration": single,
        "validation": work.batches(work.validation()),
        "short": work.batches(work.short(30), 1),
    }
    for name, batches in sets.items():
        Registry.register_dataset(f"rows_{name}")(loader(batches))
    Registry.register_post_process("best_label")(lambda outputs: outputs["logits"].argmax(dim=1))


def loader(batches: Sequence[tuple[dict[str, Any], Any]]) -> Callable[[], Any]:
    def load() -> Any:
        import torch

        return [(tensors(inputs), torch.from_numpy(labels)) for inputs, labels in batches]

    return load


def tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def workflow(work: Work, graph: str, quantizer: str, samples: int) -> Found:
    data = [
        {
            "name": name,
            "load_dataset_config": {"type": f"rows_{name}"},
            "post_process_data_config": {"type": "best_label"},
            "dataloader_config": {"type": "no_auto_batch_dataloader"},
        }
        for name in ("calibration", "validation", "short")
    ]
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(work.graph(graph))},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": data,
        "evaluators": {"both": {"type": "OnnxEvaluator", "metrics": metrics(work)}},
        "passes": {
            "quantize": {
                "type": quantizer,
                # Where shapes cannot be inferred behind fused operators, ONNX Runtime asks for this option.
                "extra_options": {"DefaultTensorType": FLOAT},
                # Its default; the others take minutes for each setting.
                **({"data_config": "calibration", "calibrate_method": "MinMax"} if quantizer == STATIC else {}),
            },
        },
        "engine": {
            "search_strategy": {
                "execution_order": "joint",
                "sampler": "tpe",
                "sampler_config": {"max_samples": 2 if work.rows else samples, "seed": SEED},
                "max_time": OLIVE_SECONDS,
            },
            "evaluator": "both",
            "host": "here",
            "target": "here",
            "cache_dir": str(work.home / f"olive-{graph}-{quantizer}"),
            "clean_cache": True,
            "output_dir": str(work.home / f"olive-{graph}-{quantizer}" / "best"),
            "log_severity_level": 2,
        },
    }


def metrics(work: Work) -> list[Found]:
    """The goal, and what is to become small: the lower number is the higher priority."""
    one_thread = {"onnx": {"session_options": {"intra_op_num_threads": 1, "inter_op_num_threads": 1}}}
    accuracy = {
        "name": "accuracy",
        "type": "accuracy",
        "data_config": "validation",
        "sub_types": [
            {
                "name": "accuracy_score",
                "priority": 2,
                "metric_config": {"task": "multiclass", "num_classes": task_of(work.parent).n_outputs},
                "goal": {"type": "max-degradation", "value": MAX_DROP},
            }
        ],
    }
    latency = {
        "name": "latency",
        "type": "latency",
        "data_config": "short",
        "user_config": {"inference_settings": one_thread},
        "sub_types": [{"name": "avg", "priority": 1, "metric_config": {"warmup_num": 10, "repeat_test_num": 60}}],
    }
    return [accuracy, latency]
