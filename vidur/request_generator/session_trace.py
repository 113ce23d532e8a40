"""Read traces of sessions: JSON lines, as kv-cache-tester's or as these with runs of ids (docs/workloads.md)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vidur.errors import InputError
from vidur.request_generator.content import ID_GAP, Content
from vidur.request_generator.session_pool import SessionPool
from vidur.request_generator.trace_file import MOST, json_rows, open_trace

Runs = list[tuple[int, int]]  # (id of the first block, number of blocks)

NAMES = ("requests", "block_size", "tool_tokens", "system_tokens")
THINK, API, SUB = ("think", "think_time"), ("api", "api_time"), ("sub", "requests")  # the second: kv-cache-tester's


def read_sessions(path: str, flag: str, max_tokens: int, shared_system: bool) -> tuple[SessionPool, str]:
    """Return the sessions of a file, and a note on what is left out.

    A session, or a sub-agent, ends before its first request of more than `max_tokens`. With `shared_system`, the head
    of tool_tokens + system_tokens is common to sessions in which both are alike. Raises InputError naming the file, the
    row and the request.
    """
    with open_trace(path, flag) as file:
        rows = json_rows(path, file, NAMES)
    sizes = rows.integers("block_size", 64)
    if (sizes < 1).any() or (sizes != sizes[0]).any():
        raise rows.refusal(int(np.argmax((sizes != sizes[0]) | (sizes < 1))), "block_size", "the same positive number")
    heads = rows.numbers("tool_tokens", 0, blank="0") + rows.numbers("system_tokens", 0, blank="0")
    reader = _Reader(int(sizes[0]), max_tokens)
    for row, line in enumerate(rows.lines):
        system = (rows.columns["tool_tokens"][row], rows.columns["system_tokens"][row])
        shared = int(heads[row]) // reader.block_size if shared_system else 0
        reader.read_session(f"{path}, row {line}", rows.columns["requests"][row], system, shared)
    if not reader.at:
        raise InputError(f"{path}: no session begins with a request of at most {max_tokens} tokens")
    left_out = f"{reader.left_out} requests beyond {max_tokens} tokens left out" if reader.left_out else ""
    return reader.pool(), left_out


class _Reader:
    """Collects the requests of sessions."""

    def __init__(self, block_size: int, max_tokens: int) -> None:
        self.block_size, self.max_tokens = block_size, max_tokens
        self.at: list[float] = []
        self.prefill: list[int] = []
        self.decode: list[int] = []
        self.think: list[float] = []
        self.edges: list[tuple[int, int]] = []
        self.first_requests: list[int] = []
        self.run_offsets = [0]
        self.runs: list[tuple[bool, int, int]] = []  # whether it is a session's own, first token, tokens
        self.heads: dict[Any, int] = {}  # the first token of each shared head
        self.common = 0
        self.left_out = 0
        self.where = ""
        self.head: Runs = []  # of the session that is read
        self.head_tokens = 0

    def read_session(self, where: str, requests: Any, system: Any, shared_blocks: int) -> None:
        """Read a session, the first `shared_blocks` blocks of which are common to all of the same `system`."""
        self.where, self.head = where, []
        begin = len(self.at)
        if not isinstance(requests, list) or not requests:
            raise InputError(f"{where}: expected a list of requests, not {str(requests)[:60]}")
        if shared_blocks and isinstance(requests[0], dict) and _get(requests[0], SUB)[1] is None:
            self.head = _first(self._runs(requests[0], where), shared_blocks)
            if system not in self.heads:
                self.heads[system] = self.common
                self.common += shared_blocks * self.block_size + ID_GAP
            self.head_tokens = self.heads[system]
        self._read_chain(requests, 0.0, None, 0.0, where)
        if len(self.at) > begin:
            self.first_requests.append(begin)

    def _read_chain(
        self, entries: list[Any], begin: float, parent: int | None, ended: float, where: str
    ) -> tuple[int | None, float]:
        """Read requests that follow one another and `parent`, whose answer ended at `ended` seconds of the session.

        Sub-agents start after the request before them; the first request that the trace sends after a sub-agent's
        end waits for it. Returns the last request and when its answer ended.
        """
        running: list[tuple[int, float]] = []
        for number, entry in enumerate(entries):
            spot = f"{where}, request {number + 1}"
            if not isinstance(entry, dict):
                raise InputError(f"{spot}: expected an object, not {str(entry)[:60]}")
            at = begin + _number(entry, ("t",), spot)
            name, agent = _get(entry, SUB)
            if agent is not None:
                if not isinstance(agent, list):
                    raise InputError(f"{spot}, {name}: expected a list of requests, not {str(agent)[:60]}")
                last, end = self._read_chain(agent, at, parent, ended, spot)
                if last is not None and last != parent:
                    running.append((last, end))
                continue
            if not self._read_request(entry, spot):
                self.left_out += _count(entries[number:])
                break
            index = len(self.at)
            waits = [(last, end) for last, end in running if end <= at]
            running = [agent for agent in running if agent not in waits]
            # After sub-agents, or as a sub-agent's first: what the trace's times say.
            think = _number(entry, THINK, spot, blank=-1.0)
            if think < 0 or waits or not number:
                think = max(0.0, at - max([ended, *(end for _, end in waits)]))
            parents = [last for last, _ in waits] + ([] if parent is None else [parent])
            self.edges += [(last, index) for last in parents]
            self.at.append(max([at, *(self.at[last] for last in parents)]))
            self.think.append(think if parents else 0.0)
            parent, ended = index, at + _number(entry, API, spot, blank=0.0)
        return parent, ended

    def _read_request(self, entry: dict[str, Any], spot: str) -> bool:
        """Read lengths and content; returns False, and keeps nothing, if the request is too long."""
        prompt, answer = (max(1, math.floor(_number(entry, (name,), spot))) for name in ("in", "out"))
        runs = self._runs(entry, spot)
        if prompt + answer > self.max_tokens:
            return False
        self.prefill.append(prompt)
        self.decode.append(answer)
        shared = _agreement(runs, self.head)
        if shared:
            self.runs.append((False, self.head_tokens, shared * self.block_size))
        left = prompt - shared * self.block_size
        for first, count in _rest(runs, shared):
            self.runs.append((True, first * self.block_size, min(left, count * self.block_size)))
            left -= count * self.block_size
        self.run_offsets.append(len(self.runs))
        return True

    def _runs(self, entry: dict[str, Any], spot: str) -> Runs:
        """Return the checked runs of block ids."""
        if isinstance(ids := entry.get("hash_ids"), list) and all(type(id_) is int for id_ in ids):
            value: Any = _encode(ids)
        else:
            value = entry.get("h", ids)
        if value is None:
            return []
        well = isinstance(value, list) and all(
            isinstance(run, list) and len(run) == 2 and all(type(part) is int for part in run) for run in value
        )
        if not well or not all(0 <= first < MOST and 0 < count < MOST for first, count in value):
            raise InputError(f"{spot}: block ids must be runs [first id, blocks] in h, not {str(value)[:60]}")
        blocks, prompt = sum(count for _, count in value), _number(entry, ("in",), spot)
        if blocks not in (prompt // self.block_size, -(-prompt // self.block_size)):
            raise InputError(
                f"{spot}: {blocks} block ids do not fit in = {prompt:g}: expected {prompt // self.block_size:.0f}, "
                f"one for each {self.block_size} tokens"
            )
        return [(first, count) for first, count in value]

    def pool(self) -> SessionPool:
        runs = np.array(self.runs, np.int64).reshape(-1, 3)
        edges = np.array(self.edges, np.int64).reshape(-1, 2)
        first = runs[:, 1] + np.where(runs[:, 0], self.common, 0)
        content = Content(np.array(self.run_offsets), first, runs[:, 2], self.block_size).merged()
        return SessionPool(
            np.array([*self.first_requests, len(self.at)]),
            np.array(self.at),
            np.array(self.prefill),
            np.array(self.decode),
            np.array(self.think),
            edges[:, 0],
            edges[:, 1],
            content,
            self.common,
        )


def _get(entry: dict[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """Return the first of these names that the entry has, and its value; None if it has none."""
    return next(((name, entry[name]) for name in names if entry.get(name) is not None), (names[0], None))


def _number(entry: dict[str, Any], names: tuple[str, ...], spot: str, blank: float | None = None) -> float:
    """Return a value of at least 0, or `blank` if there is none and it may be missing."""
    name, value = _get(entry, names)
    if value is None and blank is not None:
        return blank
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST:
        return float(value)
    shown = "nothing" if value is None else repr(value)[:60]
    raise InputError(f"{spot}, {name}: {shown} is not a number of at least 0")


def _count(entries: list[Any]) -> int:
    """Return how many requests these are, with those of sub-agents."""
    inside = (_get(entry, SUB)[1] if isinstance(entry, dict) else None for entry in entries)
    return sum(_count(agent) if isinstance(agent, list) else 1 for agent in inside)


def _encode(ids: list[int]) -> list[list[int]]:
    """Return the runs of consecutive ids."""
    runs: list[list[int]] = []
    for id_ in ids:
        if runs and id_ == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([id_, 1])
    return runs


def _first(runs: Runs, blocks: int) -> Runs:
    """Return the runs of the first `blocks` blocks."""
    head = []
    for first, count in runs:
        if blocks > 0:
            head.append((first, min(count, blocks)))
        blocks -= count
    return head


def _rest(runs: Runs, blocks: int) -> Runs:
    """Return the runs behind the first `blocks` blocks."""
    rest = []
    for first, count in runs:
        if count > blocks:
            rest.append((first + max(blocks, 0), count - max(blocks, 0)))
        blocks -= count
    return rest


def _agreement(runs: Runs, head: Runs) -> int:
    """Return how many blocks of `runs` are the blocks of `head`."""
    blocks = 0
    for (first, count), (expected, most) in zip(runs, head, strict=False):
        if first != expected:
            break
        blocks += min(count, most)
        if count < most:
            break
    return blocks
