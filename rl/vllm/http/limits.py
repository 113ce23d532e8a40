"""The limits on clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import Config, setting


@dataclass(frozen=True)
class LimitsConfig(Config):
    """The limits on clients."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "limits on clients"
    help_description: ClassVar[str] = "requests beyond them are refused"

    max_connections: int = setting(8192, help="open connections; more get 503", minimum=1)
    max_header_bytes: int = setting(65536, help="bytes of a request's line and headers; more get 431", minimum=256)
    max_body_bytes: int = setting(64 * 2**20, help="bytes of a request's body; more get 413", minimum=0)
    max_buffered_bytes: int = setting(2**30, help="bytes of all requests' bodies at once; more get 503", minimum=0)
    header_timeout: float = setting(10.0, help="seconds from a request's first byte to the end of its headers", above=0)
    body_timeout: float = setting(60.0, help="seconds from the end of the headers to that of the body", above=0)
    idle_timeout: float = setting(75.0, help="seconds that a connection may be idle between requests", above=0)
    write_timeout: float = setting(60.0, help="seconds that a client may read no byte of its answer", above=0)
