"""The Ray Serve side of the serving benchmark: two replicas with `serve.batch`, behind its proxy or behind HAProxy."""

from typing import Any

import ray
from ray import serve as ray_serve
from rivals import BATCH, WORKERS, Item, Model
from starlette.requests import Request


@ray_serve.deployment(num_replicas=WORKERS, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5})
class Predict:
    """An item in, its answer out, in batches."""

    def __init__(self) -> None:
        self.model = Model()

    @ray_serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.002)  # type: ignore[misc]
    async def many(self, items: list[Item]) -> list[dict[str, Any]]:
        return self.model(items)

    async def __call__(self, request: Request) -> Any:
        return await self.many(await request.json())


def serve(port: int) -> None:
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})
    ray_serve.run(Predict.bind(), route_prefix="/predict", blocking=True)
