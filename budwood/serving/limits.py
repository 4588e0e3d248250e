"""Every limit of the server in one place; use it to see what is refused, and to change one for your own traffic."""

from dataclasses import dataclass

from budwood.core.errors import UsageError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Explicit limits of one server. Each is at least 1 (seconds: more than 0)."""

    body_bytes: int = 1 << 20
    """A longer request body is refused with 413, unless the model's task asks for more (images: 32 MiB)."""
    long_body_values: int = 10_000
    """Commas and brackets in a JSON body that is longer than `body_bytes`; more are refused with 413."""
    bodies_bytes: int = 256 << 20
    """Bodies longer than `body_bytes` that one worker holds at the same time, together; beyond it 503."""
    header_bytes: int = 32 << 10
    """Longer request headers, all together, are refused with 431."""
    items: int = 256
    """More inputs in one request are refused with 422."""
    explained: int = 4
    """More inputs of one request that ask for a heat map are refused with 422; each costs as much as 49 answers."""
    explaining: int = 8
    """While so many inputs that ask for a heat map wait in one worker, a request for another gets 503 with Retry-After
    at once. They do not count in `queue`, and all other inputs go before them."""
    text_characters: int = 100_000
    """A longer text in an input is refused with 422; a task may allow less."""
    chat_messages: int = 1_000
    """More messages in one chat, or longer ones than `text_characters` together, are refused with 422."""
    measured_messages: int = 100
    """The same where a chat is to be measured: its template lays it out anew for each of its answers."""
    json_depth: int = 16
    """Deeper nesting of lists and objects is refused with 400."""
    top: int = 1_000
    """The largest `?top=`."""
    queue: int = 100
    """While so many inputs wait, over all workers, a request gets 503 with Retry-After at once. The last list that a
    worker takes in may go beyond its share of them, by at most `items` less one."""
    batch: int = 16
    """Inputs in one batch."""
    batch_size: int = 4_096
    """Inputs in a batch times the longest of them, as the task counts it (characters). Long ones fill the cores by
    themselves: a larger batch of them takes more memory and makes all of it wait, and is no faster."""
    connections: int = 2_000
    """Open connections of one worker; further ones are closed with 503."""
    answer_seconds: float = 10.0
    """A request that is not answered by then gets 504, and leaves the queue."""
    texts: int = 256
    """Texts that one worker writes or lets wait; a request for more than are free gets 503 with Retry-After at once."""
    writing: int = 64
    """Texts that one model of a worker writes side by side; a step takes longer with each of them."""
    remembered_megabytes: int = 4_096
    """Memory for the keys and values of one model's texts: of those that are written, and, while there is room, of
    those that ended; at most a fifth of the container's. A text that does not fit waits. One by itself is always
    written."""
    text_seconds: float = 60.0
    """A text that is not finished by then ends as it is; one that was not begun gets 504."""
    read_seconds: float = 10.0
    """Headers and body of a request must arrive within this time, otherwise 408 and the connection is closed."""
    keep_alive_seconds: float = 60.0
    """An idle connection is closed after this time."""
    drain_seconds: float = 30.0
    """After SIGTERM, requests that were accepted may take this long."""
    notice_seconds: float = 0.5
    """After SIGTERM, new requests are answered with 503 for at least this long, so that a load balancer notices."""

    worker_bytes: int | None = None
    """A worker that takes more memory, and half as much again as when it began, is replaced by a new one. By default
    80 % of the memory of the container, shared by the workers and the one that takes over."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None:
                continue
            smallest = 0 if name == "notice_seconds" else 1 if isinstance(value, int) else 1e-3
            if value < smallest:
                raise UsageError(f"the limit {name} is {value}, the smallest is {smallest}", where=f"Limits.{name}")
