"""The flags of vidur-router's process; those of its decisions are in rl.vllm.decide.config."""

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
    help_description: ClassVar[str] = "where it listens, what it writes, how it ends"

    host: str = setting("127.0.0.1", help="address to listen at; 0.0.0.0 for every interface")
    port: int = setting(8100, help="port to listen at; 0: a free one, which is logged", minimum=0, maximum=65535)
    admin_token_file: str | None = setting(
        None,
        help="file with the token that POST /replicas needs; VIDUR_ROUTER_ADMIN_TOKEN if none; without either, off",
    )
    access_log: str | None = setting("-", help="file for a JSON line per request; -: standard output; '': none")
    grace: float = setting(
        30.0, help="seconds that SIGTERM leaves to answers under way; a second one cuts them", minimum=0
    )
    uvloop: bool = setting(True, help="use uvloop where it is installed: twice as fast as asyncio's own loop")


@dataclass(frozen=True)
class AdmissionConfig(Config):
    """Overload."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "overload"
    help_description: ClassVar[str] = "replicas have queues of their own; this one keeps them bounded"

    max_in_flight: int = setting(4096, help="requests on replicas at once", minimum=1)
    max_queue: int = setting(1024, help="requests that wait in the router; more get 429", minimum=0)
    queue_timeout: float = setting(30.0, help="seconds that one waits there; then it gets 429", above=0)


@dataclass(frozen=True)
class ProxyConfig(Config):
    """Retries and deadlines of a request."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "retries and deadlines"
    help_description: ClassVar[str] = "a request is tried elsewhere until the first byte of its answer has been sent"

    max_retries: int = setting(3, help="of one request on other replicas", minimum=0)
    retry_reserve: int = setting(1000, help="retries that may come at once, over all requests", minimum=0)
    retry_ratio: float = setting(0.2, help="by which each request refills the reserve", minimum=0, maximum=1)
    connect_timeout: float = setting(5.0, help="seconds to connect to a replica", above=0)
    first_byte_timeout: float = setting(
        300.0,
        help="seconds that one replica has to begin its answer; one that is not streamed begins at its end",
        above=0,
    )
    answer_timeout: float = setting(
        600.0, help="seconds from arrival until the answer begins, retries included", above=0
    )
    stream_timeout: float = setting(120.0, help="seconds that an answer may pause once begun", above=0)
    pass_paths: tuple[str, ...] = setting(
        (
            "/v1/", "/v2/rerank", "/v2/embed", "/cohere/v2/", "/inference/v1/generate", "/generative_scoring",
            "/pooling", "/classify", "/score", "/rerank", "/tokenize", "/detokenize", "/version", "/ping",
            "/invocations",
        ),
        help="paths that go to the replicas: whole ones, or beginnings that end with /",
    )  # fmt: skip

    session_header: str = setting("x-session-id", help="header that names a session, for session_hash")

    def check(self) -> None:
        for path in self.pass_paths:
            if not path.startswith("/"):
                raise InputError(f"{self.flag('pass_paths')}: {path!r} matches no path: begin it with /")

    def passes(self, path: str) -> bool:
        """Whether a path goes to the replicas. One with dot segments does not, as a replica may be behind a server that
        resolves them to another path."""
        if "/." in path or "%2" in path:
            segments = unquote(path).split("/")
            if "." in segments or ".." in segments:
                return False
        return path in self.pass_paths or any(path.startswith(each) for each in self.pass_paths if each.endswith("/"))


@dataclass(frozen=True)
class BreakerConfig(Config):
    """Replicas that fail."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "failing replicas"
    help_description: ClassVar[str] = "when one is ejected, and when it is tried again"

    breaker_failures: int = setting(3, help="failed requests in a row that eject a replica", minimum=1)
    breaker_seconds: float = setting(1.0, help="that it is left alone; doubled each time it fails again", above=0)
    breaker_most_seconds: float = setting(30.0, help="that it is left alone at most", above=0)
    health_interval: float = setting(1.0, help="seconds between probes of /health", above=0)
    health_timeout: float = setting(5.0, help="seconds that a probe may take", above=0)
    health_failures: int = setting(3, help="failed probes in a row that eject a replica", minimum=1)


@dataclass(frozen=True)
class GaugesConfig(Config):
    """What replicas report."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "gauges"
    help_description: ClassVar[str] = "what replicas report of themselves"

    scrape_interval: float = setting(1.0, help="seconds between readings of a replica's /metrics", above=0)
    scrape_timeout: float = setting(2.0, help="seconds that one may take", above=0)
    push_port: int | None = setting(
        None, help="UDP port that takes what the stat-logger plug-in pushes; 0: a free one", minimum=0, maximum=65535
    )
    push_host: str = setting("127.0.0.1", help="address of that port; it takes what anyone sends to it")
