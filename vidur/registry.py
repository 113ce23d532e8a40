"""A registry of implementations by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from vidur.errors import known_name, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Implementations of one kind by name. Each name is registered once."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers under `name`. Raises ValueError if the name is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """Return the entry of a name. Raises InputError with the nearest valid names if there is none."""
        known = known_name(name, self._entries)
        if known is None:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[known]

    def names(self) -> list[str]:
        return sorted(self._entries)
