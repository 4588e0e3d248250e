"""What docs/edge.md names of transformers' export to ExecuTorch exists; the export itself was never run."""

from dataclasses import fields
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "edge.md").read_text(encoding="utf-8")


def test_the_names_of_the_exporter_exist() -> None:
    pytest.importorskip("torch")
    from budwood.engine.transformers_import import quiet_transformers

    quiet_transformers()
    from transformers import exporters

    assert {"ExecutorchConfig", "ExecutorchExporter"} <= set(dir(exporters))
    known = {field.name: field.default for field in fields(exporters.ExecutorchConfig)}
    for name in ("backend", "dynamic", "alloc_graph_input", "alloc_graph_output"):
        assert name in known
        assert name in PAGE
    assert known["backend"] == "xnnpack"
    assert callable(exporters.ExecutorchExporter.export)
    assert exporters.ExecutorchExporter.program_suffix == ".pte"
    assert hasattr(exporters.ExportedModel, "save_pretrained")
    described = exporters.ExecutorchConfig.__doc__ or ""
    assert all(f'"{name}"' in described for name in ("xnnpack", "cuda", "mlx"))
