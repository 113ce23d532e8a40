"""Generate requests of groups of users, whose prompts begin with their group's system prompt."""

from __future__ import annotations

import numpy as np

from vidur.config import PrefixGroupsRequestGeneratorConfig
from vidur.request_generator.arrivals import draw_arrivals
from vidur.request_generator.content import ID_GAP, Content
from vidur.request_generator.request_table import RequestTable


def generate_prefix_groups(config: PrefixGroupsRequestGeneratorConfig) -> RequestTable:
    """Generate requests of all users equally often, in random order.

    Users who repeat their question are dealt in the same random order again and again, as inference-perf's
    shared_prefix does; users with new questions in an order drawn for all requests, as prefix_repetition of vLLM's
    benchmark.
    """
    arrived_at = draw_arrivals(config)
    count, users = len(arrived_at), config.num_groups * config.users_per_group
    generator = np.random.default_rng(config.seed)
    if config.repeat_questions:
        user = np.resize(generator.permutation(users), count)
        question = user
    else:
        user = generator.permutation(count) % users
        question = np.arange(count)
    system = config.system_tokens
    firsts = (user // config.users_per_group * (system + ID_GAP),
              config.num_groups * (system + ID_GAP) + question * (config.question_tokens + ID_GAP))  # fmt: skip
    runs = [(first, length) for first, length in zip(firsts, (system, config.question_tokens), strict=True) if length]
    content = Content(
        np.arange(count + 1) * len(runs),
        np.stack([first for first, _ in runs], axis=1).ravel(),
        np.tile(np.array([length for _, length in runs], np.int64), count),
    )
    repeated = "repeated" if config.repeat_questions else "new"
    source = f"prefix_groups: {count} requests of {config.num_groups} groups x {config.users_per_group} users, "
    source += f"{system} + {config.question_tokens} prompt tokens, {repeated} questions, seed {config.seed}"
    return RequestTable.of(
        arrived_at,
        np.full(count, system + config.question_tokens, np.int64),
        np.full(count, config.output_tokens, np.int64),
        source,
        session_id=user,
        content=content,
    )
