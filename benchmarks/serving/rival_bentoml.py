"""The BentoML side of the serving benchmark: a service with adaptive batching, as its documentation shows."""

from typing import Any

import bentoml
from rivals import BATCH, WORKERS, Item, Model


@bentoml.service(
    workers=WORKERS,
    traffic={"timeout": 60, "max_concurrency": 1024},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)  # type: ignore[misc]
class Service:
    """Items in, their answers out."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(route="/predict", batchable=True, max_batch_size=BATCH, max_latency_ms=10_000)  # type: ignore[misc]
    def predict(self, items: list[Item]) -> list[dict[str, Any]]:
        return self.model(items)


def serve(port: int) -> None:
    bentoml.serve("rival_bentoml:Service", port=port, host="127.0.0.1", blocking=True)
