"""The LitServe side of the serving benchmark; its API class must be importable by the processes that it spawns."""

from typing import Any

import litserve
from serving_rivals import WORKERS, open_predictor


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Text in, label and scores out, in batches of up to 16."""

    def setup(self, device: str) -> None:
        self.predictor = open_predictor()

    def decode_request(self, request: dict[str, Any]) -> str:
        return str(request["text"])

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = self.predictor.predict([{"text": text} for text in texts])
        return answers

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def serve(port: int, batch_timeout: float) -> None:
    server = litserve.LitServer(
        Api(max_batch_size=16, batch_timeout=batch_timeout), accelerator="cpu", workers_per_device=WORKERS
    )
    server.run(host="127.0.0.1", port=port, num_api_servers=2, log_level="warning", generate_client_file=False)
