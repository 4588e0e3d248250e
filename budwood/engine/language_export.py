"""The graph of a trained generator, with the proof that it gives what torch gives; adapting and shrinking share it."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from budwood.core import registry
from budwood.core.task import Arrays, Row, Task
from budwood.engine import conformance
from budwood.engine.text_quality import token_logs

__all__ = ["exported"]


def exported(
    task: Task, folder: Path, rows: Sequence[Row], work: Path
) -> tuple[list[dict[str, Any]], Arrays, Path, dict[str, Any]]:
    """Golden items, torch's outputs for them, the graph that was shown to give the same, and how near it is.

    Args:
        folder: a transformers directory with the tokenizer.
        rows: to choose golden items from.
        work: where the graph is written.

    Raises:
        StepError: the graph gives something else.
    """
    import torch

    from budwood.engine.causal_graph import export_causal_graph

    graph = work / "model.onnx"
    export_causal_graph(folder, graph)
    golden = conformance.choose(task, rows)
    encoded = task.encoder(folder)([task.parse(item) for item in golden]).inputs
    model = task.build(folder)
    with torch.inference_mode():
        outputs = model(**{name: torch.from_numpy(np.asarray(value)) for name, value in encoded.items()})
    width = int(task.to_json()["max_tokens"])
    expected = {"logits": token_logs(outputs["logits"].numpy(), encoded["targets"], width)}
    with closing(registry.get("runtimes", "onnxruntime")(graph.read_bytes())) as runtime:
        found = token_logs(runtime.run(encoded)["logits"], encoded["targets"], width)
    difference = float(np.abs(found - expected["logits"]).max())
    conformance.demand(difference, conformance.FLOAT_TOLERANCE, "the ONNX graph")
    return golden, expected, graph, {"difference": difference, "golden_rows": len(golden)}
