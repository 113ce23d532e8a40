"""The router's own pages: /health, /ready, /metrics, /replicas and /dashboard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from rl.vllm.http.server import ClientConnection, Refused
from rl.vllm.http.wire import JSON_TYPE, Headers, HttpRequest, error_body
from rl.vllm.process.admin import AdminToken
from rl.vllm.process.dashboard import PAGE
from rl.vllm.process.metrics import CONTENT_TYPE
from vidur.errors import InputError

HTML_HEADERS = [
    (b"Content-Type", b"text/html; charset=utf-8"),
    (b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
     b"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"Cache-Control", b"no-store"),
]  # fmt: skip
ACTIONS = ("add", "drain", "resume", "remove")


class Operated(Protocol):
    """What the pages show and change."""

    @property
    def draining(self) -> bool: ...
    def ready(self) -> bool: ...
    def metrics_text(self) -> bytes: ...
    def replicas_state(self) -> list[dict[str, Any]]: ...
    def dashboard_state(self, whole: bool) -> dict[str, Any]: ...
    def change_replicas(self, action: str, replica: Any) -> str: ...


class Endpoints:
    """Answers the paths that it `has`."""

    def __init__(self, operated: Operated, token: AdminToken, refused: Refused) -> None:
        """refused: is told of what is answered with an error of the client's."""
        self._operated = operated
        self._token = token
        self._refused = refused
        self._pages: dict[bytes, Callable[[HttpRequest, ClientConnection], Awaitable[None]]] = {
            b"/health": self._health,
            b"/ready": self._ready,
            b"/metrics": self._metrics,
            b"/replicas": self._replicas,
            b"/dashboard": self._dashboard,
            b"/dashboard/events": self._events,
        }

    def has(self, path: bytes) -> bool:
        return path in self._pages

    async def handle(self, request: HttpRequest, client: ClientConnection) -> None:
        allowed = (b"GET", b"HEAD", b"POST") if request.path == b"/replicas" else (b"GET", b"HEAD")
        if request.method not in allowed:
            message = f"{request.path.decode('latin-1')} takes {b', '.join(allowed).decode()}"
            self._refuse(request, client, 405, message, [(b"Allow", b", ".join(allowed))])
            return
        await self._pages[request.path](request, client)

    async def _health(self, request: HttpRequest, client: ClientConnection) -> None:
        _answer(client, 200, {"status": "ok"})

    async def _ready(self, request: HttpRequest, client: ClientConnection) -> None:
        if self._operated.draining:
            _answer(client, 503, {"status": "shutting down"})
        elif self._operated.ready():
            _answer(client, 200, {"status": "ready"})
        else:
            _answer(client, 503, {"status": "no replica is available"})

    async def _metrics(self, request: HttpRequest, client: ClientConnection) -> None:
        client.respond(200, self._operated.metrics_text(), [(b"Content-Type", CONTENT_TYPE)])

    async def _replicas(self, request: HttpRequest, client: ClientConnection) -> None:
        if request.method != b"POST":
            _answer(client, 200, {"replicas": self._operated.replicas_state()})
            return
        if not self._token.is_set:
            self._refuse(request, client, 403, "the router was started without an admin token: changes are off")
        elif not self._token.admits(request.header(b"authorization")):
            message = "the admin token is missing or wrong: Authorization: Bearer TOKEN"
            self._refuse(request, client, 401, message, [(b"WWW-Authenticate", b"Bearer")])
        else:
            try:
                done = self._change(request.body)
            except InputError as error:
                self._refuse(request, client, 400, str(error))
            else:
                _answer(client, 200, {"done": done, "replicas": self._operated.replicas_state()})

    def _refuse(
        self, request: HttpRequest, client: ClientConnection, status: int, message: str, headers: Headers | None = None
    ) -> None:
        self._refused(request, status, message)
        client.respond(status, error_body(status, message, "invalid_request_error"), [JSON_TYPE, *(headers or [])])

    def _change(self, body: bytes) -> str:
        """Carry out {"add": {"url": ...}}, {"drain": NAME}, {"resume": NAME} or {"remove": NAME}. Raises InputError."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or len(document) != 1 or next(iter(document)) not in ACTIONS:
            raise InputError('the body must be {"add": {"url": ..., "name": ...}}, or {"drain": NAME}, with resume or '
                             "remove in its place")  # fmt: skip
        ((action, replica),) = document.items()
        return self._operated.change_replicas(action, replica)

    async def _dashboard(self, request: HttpRequest, client: ClientConnection) -> None:
        client.respond(200, PAGE, HTML_HEADERS)

    async def _events(self, request: HttpRequest, client: ClientConnection) -> None:
        """The dashboard's data once a second, until the client leaves or the router stops."""
        client.begin(
            200, b"OK", [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-store")], sized=False
        )
        if request.method == b"HEAD":
            client.finish()
            return
        whole = True
        while not self._operated.draining:
            state = self._operated.dashboard_state(whole)
            client.write(b"data: %b\n\n" % json.dumps(state).encode())
            whole = False
            await asyncio.sleep(1.0)
        client.finish()


def _answer(client: ClientConnection, status: int, value: Any) -> None:
    client.respond(status, json.dumps(value).encode())
