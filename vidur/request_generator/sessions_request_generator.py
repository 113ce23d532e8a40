"""Generate sessions: conversations whose prompts grow, or agents that start sub-agents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vidur.config import SessionsRequestGeneratorConfig
from vidur.errors import InputError
from vidur.request_generator.content import ID_GAP, Content
from vidur.request_generator.request_table import FloatArray, IntArray, RequestTable
from vidur.request_generator.session_pool import SessionPool, session_table

BoolArray = npt.NDArray[np.bool_]
NumberArray = TypeVar("NumberArray", FloatArray, IntArray)

LEAST_POOL = 1000  # sessions, from which those under way at time 0 are drawn


def generate_sessions(config: SessionsRequestGeneratorConfig) -> RequestTable:
    """Generate sessions of tenants.

    Raises InputError if no session has a turn of at most `max_tokens`, or no request arrives in time.
    """

    def draw(count: int) -> tuple[SessionPool, IntArray]:
        pool = _draw_pool(config, max(count, LEAST_POOL))
        return pool, np.resize(np.arange(len(pool)), count)

    return session_table(config, draw, "sessions")


@dataclass(frozen=True)
class _Chains:
    """C chains of requests, of which each one's prompt is all that was said before it and a question."""

    offsets: IntArray  # [C + 1] requests offsets[i] to offsets[i + 1] belong to chain i
    own: IntArray  # [M] prompt tokens behind the system prompt
    answer: IntArray  # [M] tokens
    think: FloatArray  # [M] seconds, 0 for the first of a chain

    @property
    def counts(self) -> IntArray:
        return np.diff(self.offsets)

    @property
    def last(self) -> IntArray:
        """The last request of each chain that has any."""
        return self.offsets[1:][self.counts > 0] - 1

    def cut(self, fits: BoolArray) -> _Chains:
        """Return the requests that fit; every chain's first ones do."""
        kept = np.concatenate([[0], np.cumsum(fits)])
        return _Chains(kept[self.offsets], self.own[fits], self.answer[fits], self.think[fits])


def _draw_pool(config: SessionsRequestGeneratorConfig, count: int) -> SessionPool:
    """Draw `count` sessions; those whose first request is longer than `max_tokens` are left out."""
    generator = np.random.default_rng(config.seed)
    system = np.zeros(config.num_tenants, np.int64)
    if config.system_tokens:
        system = _tokens(generator, config.system_tokens, config.system_cv, config.num_tenants)
    shares = np.cumsum(np.arange(1.0, config.num_tenants + 1) ** -config.tenant_skew)
    tenant = np.searchsorted(shares / shares[-1], generator.random(count), side="right")
    turns = _tokens(generator, config.turns, config.turns_cv, count)
    main = _draw_chains(config, generator, turns, system[tenant], config.think_seconds, config.document_probability)
    begun = main.counts > 0
    tenant = tenant[begun]
    if not len(tenant):
        raise InputError(f"no session has a request of at most {config.flag('max_tokens')} {config.max_tokens} tokens")
    main = _Chains(np.append(0, main.offsets[1:][begun]), main.own, main.answer, main.think)
    starts_agents = generator.random(len(main.own)) < config.agent_probability
    starts_agents[main.last] = False
    starter = np.repeat(np.flatnonzero(starts_agents), config.agents)
    tenant = np.repeat(tenant, main.counts)
    lengths = np.full(len(starter), config.agent_turns)
    agents = _draw_chains(config, generator, lengths, system[tenant[starter]], config.agent_think_seconds, 0.0)
    return _join(config.token_seconds, main, agents, starter, system, tenant)


def _draw_chains(
    config: SessionsRequestGeneratorConfig,
    generator: np.random.Generator,
    lengths: IntArray,
    system: IntArray,
    think_seconds: float,
    document_probability: float,
) -> _Chains:
    """Draw chains of so many requests, cut before the first that is longer than `max_tokens`."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    count = int(offsets[-1])
    question = _tokens(generator, config.question_tokens, config.question_cv, count)
    if document_probability:
        document = _tokens(generator, config.document_tokens, config.document_cv, count)
        question += np.where(generator.random(count) < document_probability, document, 0)
    answer = _tokens(generator, config.answer_tokens, config.answer_cv, count)
    think = _lognormal(generator, think_seconds, config.think_cv, count)
    think[offsets[:-1]] = 0.0
    own = _before(question + answer, offsets) + question
    chains = _Chains(offsets, own, answer, think)
    return chains.cut(np.repeat(system, lengths) + own + answer <= config.max_tokens)


def _join(
    token_seconds: float, main: _Chains, agents: _Chains, starter: IntArray, system: IntArray, tenant: IntArray
) -> SessionPool:
    """Join sessions and sub-agents, each agent behind the request that starts it.

    starter: of each agent, a request of `main`. tenant: of each request of `main`. system: tokens of each tenant.
    """
    of_agent = np.repeat(starter, agents.counts)
    after = np.bincount(of_agent, minlength=len(main.own))  # requests of sub-agents that follow each of `main`
    row = np.arange(len(main.own)) + np.cumsum(after) - after
    agent_row = np.arange(len(of_agent)) + of_agent + 1
    count = len(row) + len(agent_row)

    def both(of_main: NumberArray, of_agents: NumberArray) -> NumberArray:
        values = np.empty(count, of_main.dtype)
        values[row], values[agent_row] = of_main, of_agents
        return values

    took = agents.think + token_seconds * agents.answer
    busy = np.zeros(len(row))
    ends = _before(took, agents.offsets) + took
    np.maximum.at(busy, starter[agents.counts > 0], ends[agents.last])
    took_main = main.think + token_seconds * main.answer + busy
    at = _before(took_main, main.offsets) + main.think
    agents_at = (at + token_seconds * main.answer)[of_agent] + _before(took, agents.offsets) + agents.think
    parents, children = _edges(main, agents, starter, row, agent_row)
    own = both(main.own, agents.own)
    answer = both(main.answer, agents.answer)
    # A session's ids: first its own run, then one of each agent.
    span = (main.own + main.answer)[main.last]
    sessions = np.repeat(np.arange(len(span)), main.counts)
    spans = np.zeros(len(starter), np.int64)
    spans[agents.counts > 0] = (agents.own + agents.answer)[agents.last] + ID_GAP
    bounds = np.searchsorted(sessions[starter], np.arange(len(span) + 1))
    base = span[sessions[starter]] + ID_GAP + _before(spans, bounds)
    local = both(np.zeros(len(row), np.int64), np.repeat(base, agents.counts))
    tenants = both(tenant, tenant[of_agent])
    stride = int(system.max()) + ID_GAP
    common = len(system) * stride
    lengths = np.stack([system[tenants], own + answer], axis=1)
    firsts = np.stack([tenants * stride, common + local], axis=1)
    known = lengths > 0
    content = Content(np.concatenate([[0], np.cumsum(known.sum(axis=1))]), firsts[known], lengths[known])
    offsets = np.append(row[main.offsets[:-1]], count)
    think = both(main.think, agents.think)
    prefill = system[tenants] + own
    return SessionPool(offsets, both(at, agents_at), prefill, answer, think, parents, children, content, common)


def _edges(
    main: _Chains, agents: _Chains, starter: IntArray, row: IntArray, agent_row: IntArray
) -> tuple[IntArray, IntArray]:
    """Return the pairs (parent, child), by child: a turn waits for the agents that the one before it started."""
    waits = np.ones(len(row), bool)
    waits[main.last] = False
    waits[starter[agents.counts > 0]] = False
    turn = np.flatnonzero(waits)
    inner = np.ones(len(agent_row), bool)
    inner[agents.last] = False
    inside = np.flatnonzero(inner)
    used = starter[agents.counts > 0]
    first = agents.offsets[:-1][agents.counts > 0]
    parents = np.concatenate([row[turn], row[used], agent_row[inside], agent_row[agents.last]])
    children = np.concatenate([row[turn + 1], agent_row[first], agent_row[inside + 1], row[used + 1]])
    order = np.argsort(children, kind="stable")
    return parents[order], children[order]


def _before(values: NumberArray, offsets: IntArray) -> NumberArray:
    """Return the sum of the values before each in its chain."""
    total = np.cumsum(values) - values
    before: NumberArray = total - np.repeat(np.append(total, 0)[offsets[:-1]], np.diff(offsets))
    return before


def _tokens(generator: np.random.Generator, mean: float, cv: float, count: int) -> IntArray:
    return np.maximum(np.rint(_lognormal(generator, mean, cv, count)), 1).astype(np.int64)


def _lognormal(generator: np.random.Generator, mean: float, cv: float, count: int) -> FloatArray:
    """Draw from the lognormal distribution of that mean and coefficient of variation; the mean itself if cv is 0."""
    if not (cv and mean):
        return np.full(count, float(mean))
    variance = math.log1p(cv**2)
    return generator.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count)
