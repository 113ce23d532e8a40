"""The flags of vidur-router's process; those of routing are in rl.vllm.decide.config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import unquote

from vidur.config.base import Config, setting
from vidur.errors import InputError


@dataclass(frozen=True)
class ServeConfig(Config):
    """The process."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "process"
    help_description: ClassVar[str] = "address, logs and shutdown"

    host: str = setting("127.0.0.1", help="address to listen on; 0.0.0.0 for every interface")
    port: int = setting(8100, help="port to listen on; 0: a free one, which is logged", minimum=0, maximum=65535)
    admin_token_file: str | None = setting(
        None,
        help="file of the token for POST /replicas, by default VIDUR_ROUTER_ADMIN_TOKEN; disabled without either",
    )
    access_log: str | None = setting("-", help="file for a JSON line per request; -: standard output; '': none")
    grace: float = setting(
        30.0, help="seconds after SIGTERM to complete answers; a second SIGTERM cuts them", minimum=0
    )
    uvloop: bool = setting(True, help="use uvloop if it is installed: twice as fast as asyncio's own loop")


@dataclass(frozen=True)
class AdmissionConfig(Config):
    """The limits on requests that are served at once."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "overload"
    help_description: ClassVar[str] = "the router's queue bounds the queues of the replicas"

    max_in_flight: int = setting(4096, help="requests on replicas at once", minimum=1)
    max_queue: int = setting(1024, help="requests that wait in the router; more get 429", minimum=0)
    queue_timeout: float = setting(30.0, help="seconds that a request may wait there before it gets 429", above=0)


@dataclass(frozen=True)
class ProxyConfig(Config):
    """Retries and deadlines of a request."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "retries and deadlines"
    help_description: ClassVar[str] = "a request is retried until the first byte of an answer has been sent"

    max_retries: int = setting(3, help="retries of a request on other replicas", minimum=0)
    retry_reserve: int = setting(1000, help="retries at once, over all requests", minimum=0)
    retry_ratio: float = setting(0.2, help="refill of the reserve by each request", minimum=0, maximum=1)
    connect_timeout: float = setting(5.0, help="seconds to connect to a replica", above=0)
    first_byte_timeout: float = setting(
        300.0,
        help="seconds for a replica to begin its answer; without streaming, answers begin when they are complete",
        above=0,
    )
    answer_timeout: float = setting(
        600.0, help="seconds from arrival to the beginning of the answer, with retries", above=0
    )
    stream_timeout: float = setting(120.0, help="seconds that an answer may pause", above=0)
    pass_paths: tuple[str, ...] = setting(
        (
            "/v1/", "/v2/rerank", "/v2/embed", "/cohere/v2/", "/inference/v1/generate", "/generative_scoring",
            "/pooling", "/classify", "/score", "/rerank", "/tokenize", "/detokenize", "/version", "/ping",
            "/invocations",
        ),
        help="paths to forward to replicas: whole paths, or prefixes that end with /",
    )  # fmt: skip

    session_header: str = setting("x-session-id", help="header with the session's name, for session_hash")

    def check(self) -> None:
        for path in self.pass_paths:
            if not path.startswith("/"):
                raise InputError(f"{self.flag('pass_paths')}: {path!r} matches no path: begin it with /")

    def passes(self, path: str) -> bool:
        """Return whether to forward a path. Paths with dot segments are not, as servers may resolve them to others."""
        if "/." in path or "%2" in path:
            segments = unquote(path).split("/")
            if "." in segments or ".." in segments:
                return False
        return path in self.pass_paths or any(path.startswith(item) for item in self.pass_paths if item.endswith("/"))


@dataclass(frozen=True)
class BreakerConfig(Config):
    """The ejection of failing replicas."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "failing replicas"
    help_description: ClassVar[str] = "when replicas are ejected, and readmitted"

    breaker_failures: int = setting(3, help="consecutive failed requests that eject a replica", minimum=1)
    breaker_seconds: float = setting(1.0, help="seconds without requests, doubled by each further ejection", above=0)
    breaker_most_seconds: float = setting(30.0, help="most seconds without requests", above=0)
    health_interval: float = setting(1.0, help="seconds between probes of /health", above=0)
    health_timeout: float = setting(5.0, help="seconds that a probe may take", above=0)
    health_failures: int = setting(3, help="consecutive failed probes that eject a replica", minimum=1)


@dataclass(frozen=True)
class GaugesConfig(Config):
    """The reading of the replicas' gauges."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "gauges"
    help_description: ClassVar[str] = "how the replicas' gauges are read"

    scrape_interval: float = setting(1.0, help="seconds between scrapes of a replica's /metrics", above=0)
    scrape_timeout: float = setting(2.0, help="seconds that a scrape may take", above=0)
    push_port: int | None = setting(
        None, help="UDP port for gauges that the stat-logger plug-in pushes; 0: a free one", minimum=0, maximum=65535
    )
    push_host: str = setting("127.0.0.1", help="address of that port, which accepts gauges from anyone")
