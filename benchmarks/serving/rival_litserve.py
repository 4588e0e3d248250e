"""The LitServe side of the serving benchmark; its API class must be importable by the processes that it spawns."""

from typing import Any

import litserve
from rivals import BATCH, WORKERS, Item, Model


class Api(litserve.LitAPI):  # type: ignore[misc]
    """An item in, its answer out, in batches."""

    def setup(self, device: str) -> None:
        self.model = Model()

    def decode_request(self, request: Item) -> Item:
        return request

    def batch(self, inputs: list[Item]) -> list[Item]:
        return inputs

    def predict(self, items: list[Item]) -> list[dict[str, Any]]:
        return self.model(items)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def serve(port: int, batch_timeout: float) -> None:
    server = litserve.LitServer(
        Api(max_batch_size=BATCH, batch_timeout=batch_timeout), accelerator="cpu", workers_per_device=WORKERS
    )
    server.run(host="127.0.0.1", port=port, num_api_servers=2, log_level="warning", generate_client_file=False)
