"""The token that guards what changes the router at run time."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from rl.vllm.http.wire import Headers
from vidur.errors import InputError

VARIABLE = "VIDUR_ROUTER_ADMIN_TOKEN"
LEAST_LENGTH = 16
# In docs/examples/kubernetes.yaml, which everyone can read.
PLACEHOLDER = "replace-by-32-random-characters"


class AdminToken:
    """Compared in a time that does not depend on where a guess goes wrong. None: no request is an administrator's."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()

    @classmethod
    def read(cls, path: str | None) -> AdminToken:
        """The token of a file, or of the environment's VIDUR_ROUTER_ADMIN_TOKEN; not a flag's value, which everyone on
        the machine could read. Raises InputError."""
        if path is None:
            where, token = VARIABLE, os.environ.get(VARIABLE)
        else:
            where = f"--admin_token_file {path}"
            try:
                token = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{where}: {getattr(error, 'strerror', None) or 'not text in UTF-8'}") from None
        if token is not None and (len(token) < LEAST_LENGTH or not token.isascii() or not token.isprintable()):
            raise InputError(f"{where}: the token needs at least {LEAST_LENGTH} printable ASCII characters")
        if token == PLACEHOLDER:
            raise InputError(f"{where}: {token} stands for a token of your own: make one, as by openssl rand -hex 16")
        return cls(token)

    @property
    def is_set(self) -> bool:
        return self._token is not None

    def admits(self, authorization: bytes | None) -> bool:
        """Whether the value of an Authorization header is `Bearer` and the token."""
        scheme, _, credentials = (authorization or b"").partition(b" ")
        if self._token is None or scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(credentials.strip(), self._token)

    def without(self, headers: Headers) -> Headers:
        """The headers but those that hold the token, which no replica may see."""
        if self._token is None:
            return headers
        token = self._token
        return [item for item in headers if token not in item[1]]
