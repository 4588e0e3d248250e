"""The table of all routes: the one place that the app, the OpenAPI document and the security tests read."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from budwood.serving import completions, drawing, embeddings, feedback, inference_protocol, information, pages, predict
from budwood.serving.http import Request, Response
from budwood.serving.keys import Scope
from budwood.serving.service import Service

__all__ = ["ROUTES", "Handler", "Route"]

Handler = Callable[[Service, Request], Awaitable[Response]]
Shape = Literal[
    "predict", "drawing", "infer", "completion", "chat", "embedding", "feedback", "json", "text", "html", "part"
]


@dataclass(frozen=True, slots=True)
class Route:
    method: Literal["GET", "POST"]
    path: str
    """Parts in braces match any text without a slash."""
    handler: Handler
    summary: str
    shape: Shape = "json"
    """What goes in (of a POST) and what comes out, for the OpenAPI document, which leaves out the parts of pages."""
    open: bool = False
    """Whether it answers without a key. Such a route tells nothing of the models."""
    scope: Scope = "predict"
    """What a key must be good for: `admin` for what shows training rows, all callers' figures, or what others sent."""

    @property
    def infers(self) -> bool:
        return self.method == "POST" and self.shape != "feedback"


V2_MODEL = "/v2/models/{name}"
V2_VERSION = "/v2/models/{name}/versions/{version}"
REPORT = "/models/{name}/report"

ROUTES = (
    Route("POST", "/predict", predict.predict, "Answer one input, or a list of inputs", "predict"),
    Route("POST", "/models/{name}/predict", predict.predict_named, "The same, by a model's name", "predict"),
    Route("POST", "/models/{name}/drawing", drawing.drawing, "An input as a picture, where the task draws", "drawing"),
    Route("POST", "/invocations", predict.predict, "The same, where SageMaker looks for it", "predict"),
    Route("POST", "/v1/completions", completions.completions, "Go on from a prompt, OpenAI's way", "completion"),
    Route("POST", "/v1/chat/completions", completions.chat, "Answer in a chat, OpenAI's way", "chat"),
    Route("POST", "/v1/embeddings", embeddings.embeddings, "Vectors of inputs, OpenAI's way", "embedding"),
    Route("POST", "/feedback/{request_id}", feedback.feedback, "The true label of an answer, later", "feedback"),
    Route("GET", "/v1/models", information.models, "The models, as OpenAI's clients list them"),
    Route("GET", "/v1/models/{name}", information.model, "A model, as OpenAI's clients ask for it"),
    Route("GET", "/v2", inference_protocol.server_metadata, "Open Inference Protocol: the server"),
    Route("GET", "/v2/health/live", inference_protocol.health_live, "Whether the process runs", open=True),
    Route("GET", "/v2/health/ready", inference_protocol.health_ready, "Whether requests are answered", open=True),
    Route("GET", V2_MODEL, inference_protocol.model_metadata, "Open Inference Protocol: a model"),
    Route("GET", V2_VERSION, inference_protocol.model_metadata, "Open Inference Protocol: a version"),
    Route("GET", f"{V2_MODEL}/ready", inference_protocol.model_ready, "Whether a model answers"),
    Route("GET", f"{V2_VERSION}/ready", inference_protocol.model_ready, "Whether a version answers"),
    Route("POST", f"{V2_MODEL}/infer", inference_protocol.infer, "Open Inference Protocol: infer", "infer"),
    Route("POST", f"{V2_VERSION}/infer", inference_protocol.infer, "Infer with a version", "infer"),
    Route("GET", "/livez", information.live, "Whether the process runs", open=True),
    Route("GET", "/readyz", information.ready, "Whether requests are answered", open=True),
    Route("GET", "/ping", information.ready, "The same, where SageMaker looks for it", open=True),
    Route("GET", "/metrics", information.metrics, "Figures in the Prometheus text format", "text", scope="admin"),
    Route("GET", "/grafana.json", information.grafana, "A Grafana dashboard of these figures", scope="admin"),
    Route("GET", "/stats", information.stats, "Live figures over the last ten seconds"),
    Route("GET", REPORT, information.report, "What was measured of a model, as a page", "html", scope="admin"),
    Route("GET", "/openapi.json", information.openapi, "This document"),
    Route("GET", "/", pages.shell, "The page to try the models on", "html", open=True),
    Route("GET", "/write", pages.shell, "The page that compares what models write", "html", open=True),
    Route("GET", "/live", pages.shell, "The page of live figures", "html", open=True),
    Route("GET", "/docs", pages.shell, "The page that shows this document", "html", open=True),
    Route("GET", "/page/models", pages.models_part, "The models, for the pages", "part"),
    Route("GET", "/page/try", pages.try_part, "The playground of a model, for the pages", "part"),
    Route("GET", "/page/write", pages.write_part, "The models that write, for the pages", "part"),
    Route("GET", "/page/live", pages.live_part, "Live figures, for the pages", "part"),
)
