"""The router's own pages: /health, /ready, /metrics, /replicas and /dashboard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from rl.vllm.http.answer import Answer
from rl.vllm.http.server import Refused
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
    """The router, as the endpoints read and change it."""

    @property
    def draining(self) -> bool: ...
    def ready(self) -> bool: ...
    def metrics_text(self) -> bytes: ...
    def replicas_state(self) -> list[dict[str, Any]]: ...
    def dashboard_state(self, whole: bool) -> dict[str, Any]: ...
    def change_replicas(self, action: str, replica: Any) -> str: ...


class Endpoints:
    """Answer requests to the router's own paths."""

    def __init__(self, operated: Operated, token: AdminToken, refused: Refused) -> None:
        """refused: is called for requests that are refused as the client's error."""
        self._operated = operated
        self._token = token
        self._refused = refused
        self._pages: dict[bytes, Callable[[HttpRequest, Answer], Awaitable[None]]] = {
            b"/health": self._health,
            b"/ready": self._ready,
            b"/metrics": self._metrics,
            b"/replicas": self._replicas,
            b"/dashboard": self._dashboard,
            b"/dashboard/events": self._events,
        }

    def has(self, path: bytes) -> bool:
        return path in self._pages

    async def handle(self, request: HttpRequest, answer: Answer) -> None:
        allowed = (b"GET", b"HEAD", b"POST") if request.path == b"/replicas" else (b"GET", b"HEAD")
        if request.method not in allowed:
            message = f"{request.path.decode('latin-1')} only accepts {b', '.join(allowed).decode()}"
            self._refuse(request, answer, 405, message, [(b"Allow", b", ".join(allowed))])
            return
        await self._pages[request.path](request, answer)

    async def _health(self, request: HttpRequest, answer: Answer) -> None:
        _respond(answer, 200, {"status": "ok"})

    async def _ready(self, request: HttpRequest, answer: Answer) -> None:
        if self._operated.draining:
            _respond(answer, 503, {"status": "shutting down"})
        elif self._operated.ready():
            _respond(answer, 200, {"status": "ready"})
        else:
            _respond(answer, 503, {"status": "no replica is available"})

    async def _metrics(self, request: HttpRequest, answer: Answer) -> None:
        answer.respond(200, self._operated.metrics_text(), [(b"Content-Type", CONTENT_TYPE)])

    async def _replicas(self, request: HttpRequest, answer: Answer) -> None:
        if request.method != b"POST":
            _respond(answer, 200, {"replicas": self._operated.replicas_state()})
            return
        if not self._token.is_set:
            self._refuse(request, answer, 403, "the router has no admin token, so changes are disabled")
        elif not self._token.admits(request.header(b"authorization")):
            message = "the admin token is missing or wrong: Authorization: Bearer TOKEN"
            self._refuse(request, answer, 401, message, [(b"WWW-Authenticate", b"Bearer")])
        else:
            try:
                done = self._change(request.body)
            except InputError as error:
                self._refuse(request, answer, 400, str(error))
            else:
                _respond(answer, 200, {"done": done, "replicas": self._operated.replicas_state()})

    def _refuse(
        self, request: HttpRequest, answer: Answer, status: int, message: str, headers: Headers | None = None
    ) -> None:
        self._refused(request, status, message)
        answer.respond(status, error_body(status, message, "invalid_request_error"), [JSON_TYPE, *(headers or [])])

    def _change(self, body: bytes) -> str:
        """Execute {"add": {"url": ...}}, {"drain": NAME}, {"resume": NAME} or {"remove": NAME}. Raises InputError."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or len(document) != 1 or next(iter(document)) not in ACTIONS:
            raise InputError('the body must be {"add": {"url": ..., "name": ...}}, or {ACTION: NAME} with an action of '
                             '"drain", "resume", "remove"')  # fmt: skip
        ((action, replica),) = document.items()
        return self._operated.change_replicas(action, replica)

    async def _dashboard(self, request: HttpRequest, answer: Answer) -> None:
        answer.respond(200, PAGE, HTML_HEADERS)

    async def _events(self, request: HttpRequest, answer: Answer) -> None:
        """Stream the dashboard's data once a second, until the client leaves or the router stops."""
        answer.begin(
            200, b"OK", [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-store")], sized=False
        )
        if request.method == b"HEAD":
            answer.finish()
            return
        whole = True
        while not self._operated.draining:
            state = self._operated.dashboard_state(whole)
            answer.write(b"data: %b\n\n" % json.dumps(state).encode())
            whole = False
            await asyncio.sleep(1.0)
        answer.finish()


def _respond(answer: Answer, status: int, value: Any) -> None:
    answer.respond(status, json.dumps(value).encode())
