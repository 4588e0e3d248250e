"""The servers that Budwood is measured against, around the same `Predictor`: only the serving differs.

`python benchmarks/serving_rivals.py fastapi BUNDLE PORT`; the other names are fastapi_async, litserve and budwood.
"""

import os
import sys
from pathlib import Path
from typing import Any

WORKERS = 2


def open_predictor() -> Any:
    from budwood.core.bundle import Bundle
    from budwood.engine.predictor import Predictor

    predictor = Predictor.open(Bundle.open(os.environ["BENCHMARK_BUNDLE"], verify=False), threads=1)
    predictor.predict([{"text": "warm"}] * 16)
    return predictor


def fastapi_app(*, blocking: bool = False) -> Any:
    """What one writes first: a model, an item, a function. FastAPI runs it in its thread pool."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Item(BaseModel):
        text: str

    predictor = open_predictor()
    app = FastAPI()

    def predict(item: Item) -> dict[str, Any]:
        answer: dict[str, Any] = predictor.predict([{"text": item.text}])[0]
        return answer

    async def predict_in_loop(item: Item) -> dict[str, Any]:
        return predict(item)

    app.post("/predict")(predict_in_loop if blocking else predict)
    return app


def fastapi_async_app() -> Any:
    """The same without the thread pool: the event loop waits while the model computes."""
    return fastapi_app(blocking=True)


def serve_fastapi(factory: str, port: int) -> None:
    import uvicorn

    options = {"workers": WORKERS, "loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "warning"}
    uvicorn.run(f"serving_rivals:{factory}", factory=True, port=port, **options)  # type: ignore[arg-type]


def serve_budwood(port: int) -> None:
    from budwood.core.bundle import Bundle
    from budwood.serving.server import Served, serve

    bundle = Bundle.open(os.environ["BENCHMARK_BUNDLE"])
    given = os.environ.get("BENCHMARK_WORKERS", "auto")
    serve([Served("minilm", "1", bundle)], port=port, workers="auto" if given == "auto" else int(given))


if __name__ == "__main__":
    name, folder, number = sys.argv[1:]
    os.environ["BENCHMARK_BUNDLE"] = str(Path(folder).resolve())
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # The processes that these servers start import this file, and the one for LitServe, by name.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    sys.path.insert(0, str(Path(__file__).parent))
    if name == "litserve":
        import serving_litserve

        serving_litserve.serve(int(number), float(os.environ.get("BENCHMARK_BATCH_TIMEOUT", "0.01")))
    elif name == "budwood":
        serve_budwood(int(number))
    else:
        serve_fastapi(f"{name}_app", int(number))
