"""The admin token, which guards changes of the replicas at run time."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from rl.vllm.http.wire import Headers
from vidur.errors import InputError

VARIABLE = "VIDUR_ROUTER_ADMIN_TOKEN"
LEAST_LENGTH = 16
# The token in docs/examples/kubernetes.yaml, which is public.
PLACEHOLDER = "replace-by-32-random-characters"


class AdminToken:
    """A token that is compared in constant time. Without one, no request is admitted."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()

    @classmethod
    def read(cls, path: str | None) -> AdminToken:
        """Read the token from a file, or from the environment's VIDUR_ROUTER_ADMIN_TOKEN. Raises InputError.

        A flag with the token would show it to everyone on the machine.
        """
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
            raise InputError(f"{where}: replace {token} by your own token, such as from openssl rand -hex 16")
        return cls(token)

    @property
    def is_set(self) -> bool:
        return self._token is not None

    def admits(self, authorization: bytes | None) -> bool:
        """Return whether an Authorization header has the token: `Bearer TOKEN`."""
        scheme, _, credentials = (authorization or b"").partition(b" ")
        if self._token is None or scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(credentials.strip(), self._token)

    def without(self, headers: Headers) -> Headers:
        """Return the headers without those that hold the token, which replicas must not see."""
        if self._token is None:
            return headers
        token = self._token
        return [item for item in headers if token not in item[1]]
