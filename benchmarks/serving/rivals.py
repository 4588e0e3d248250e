"""The servers that Budwood is measured against, around the same `Predictor`: only the serving differs.

`python benchmarks/serving/rivals.py fastapi BUNDLE PORT`; the other names are fastapi_async, litserve, bentoml, ray,
ray_haproxy and budwood. Each runs two processes that compute, and batches up to 16 where it can.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORKERS, BATCH = 2, 16
Item = dict[str, str]
"""What a request holds: `{"text": …}`, or `{"image": base64}`."""


class Model:
    """The served model as every rival uses it."""

    def __init__(self) -> None:
        from budwood.core.bundle import Bundle
        from budwood.engine.predictor import Predictor

        self.predictor = Predictor.open(Bundle.open(os.environ["BENCHMARK_BUNDLE"], verify=False), threads=1)
        _, rows = type(self.predictor.task).example()
        self.predictor.predict([rows[0]] * BATCH)

    def __call__(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        parse = self.predictor.task.parse
        answers: list[dict[str, Any]] = self.predictor.predict([parse(item) for item in items])
        return answers


def fastapi_app(*, blocking: bool = False) -> Any:
    """What one writes first: a model, an item, a function. FastAPI runs it in its thread pool."""
    from fastapi import FastAPI

    model = Model()
    app = FastAPI()

    def predict(item: Item) -> dict[str, Any]:
        return model([item])[0]

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
    uvicorn.run(f"rivals:{factory}", factory=True, port=port, **options)  # type: ignore[arg-type]


def serve_budwood(port: int) -> None:
    from budwood.core.bundle import Bundle
    from budwood.serving.limits import Limits
    from budwood.serving.server import Served, serve

    bundle = Bundle.open(os.environ["BENCHMARK_BUNDLE"])
    given = os.environ.get("BENCHMARK_WORKERS", "auto")
    room = int(os.environ.get("BENCHMARK_QUEUE", "100"))
    serve(
        [Served("model", "1", bundle)],
        port=port,
        workers="auto" if given == "auto" else int(given),
        max_queue=room,
        limits=Limits(),
    )


def main() -> None:
    name, folder, number = sys.argv[1:]
    here = Path(__file__).parent
    os.environ["BENCHMARK_BUNDLE"] = str(Path(folder).resolve())
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # The processes that these servers start import this file, and the others, by name.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    sys.path.insert(0, str(here))
    if name == "litserve":
        import rival_litserve

        rival_litserve.serve(int(number), float(os.environ.get("BENCHMARK_BATCH_TIMEOUT", "0.01")))
    elif name == "bentoml":
        import rival_bentoml

        rival_bentoml.serve(int(number))
    elif name.startswith("ray"):
        import rival_ray

        rival_ray.serve(int(number))
    elif name == "budwood":
        serve_budwood(int(number))
    else:
        serve_fastapi(f"{name}_app", int(number))


if __name__ == "__main__":
    main()
