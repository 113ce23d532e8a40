"""Measure the router's index of prefixes in plain Python: microseconds per decision, placement and end.

python scripts/benchmark_prefix_index.py [--replicas N] [--prompt TOKENS] [--decisions N]

Sessions with a common system prompt ask in turn; each prompt continues its session, up to the given length. A session
moves now and then, so that replicas hold parts of it. Prints a row for vLLM's order of eviction and for llm-d's.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from vidur.prefix_index import IndexOptions, PrefixIndex

BLOCK, SESSIONS, SYSTEM_BLOCKS, ANSWER_BLOCKS = 16, 40, 64, 16
MOVES = 0.2  # share of turns that go to another replica
LLM_D = IndexOptions(capacity_factor=4.0, outputs=False, holds=False, tails_first=False, contiguous=False)


def measure(options: IndexOptions, replicas: int, prompt: int, decisions: int) -> list[list[float]]:
    """Return the microseconds of each decision, placement and end."""
    rng, blocks = np.random.default_rng(0), prompt // BLOCK
    index = PrefixIndex([SESSIONS * blocks // replicas] * replicas, BLOCK, options)
    chains = [
        [*range(SYSTEM_BLOCKS), *range((session + 1) << 32, ((session + 1) << 32) + blocks - SYSTEM_BLOCKS)]
        for session in range(SESSIONS)
    ]
    homes, lengths = rng.integers(0, replicas, SESSIONS), rng.integers(blocks // 2, blocks - ANSWER_BLOCKS, SESSIONS)
    spent: list[list[float]] = [[], [], []]
    for number in range(decisions):
        session = int(rng.integers(SESSIONS))
        if rng.random() < MOVES:
            homes[session] = rng.integers(replicas)
        length, replica, now = int(lengths[session]), int(homes[session]), 0.1 * number
        asked, answered = chains[session][:length], chains[session][: length + ANSWER_BLOCKS]
        times = [time.perf_counter()]
        index.see(asked, now)
        times.append(time.perf_counter())
        index.place(replica, number, asked, 1, now)
        times.append(time.perf_counter())
        index.end(replica, number, answered, 1, now)
        times.append(time.perf_counter())
        for kind in range(3):
            spent[kind].append(1e6 * (times[kind + 1] - times[kind]))
        lengths[session] = length + ANSWER_BLOCKS if length + 2 * ANSWER_BLOCKS < blocks else blocks // 2
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=8, metavar="N")
    parser.add_argument("--prompt", type=int, default=100_000, metavar="TOKENS")
    parser.add_argument("--decisions", type=int, default=1000, metavar="N")
    given = parser.parse_args()
    print("| index | decision: p50, us | p99, us | placement: p50, us | end: p50, us |")
    print("|---|---|---|---|---|")
    for name, options in (("vLLM's", IndexOptions()), ("llm-d's", LLM_D)):
        see, place, end = measure(options, given.replicas, given.prompt, given.decisions)
        cells = [np.median(see), np.percentile(see, 99), np.median(place), np.median(end)]
        print(f"| {name} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
