"""Conversations with real replicas of vLLM, and the same ones in the simulator."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

import numpy as np
import openai
from clusters import Cluster, simple_tables
from real_vllm import BLOCK_SIZE, KV_BLOCKS, MAX_BATCHED_TOKENS, MAX_SEQUENCES, MODEL
from scheduling import Ints

from vidur.engine.plan import HardwarePlan
from vidur.request_generator import RequestTable
from vidur.request_generator.content import ID_GAP, Content

# Times of the same order as those of a replica on one core; only the order of events matters.
HARDWARE = HardwarePlan(simple_tables(MAX_BATCHED_TOKENS + 100, MAX_SEQUENCES, 16_000, scale=20.0), layers_per_stage=2)


@dataclass
class Turn:
    """A request and its answer: the tokens of both, seconds of its arrival, cached prompt tokens."""

    conversation: int
    replica: int
    arrived_at: float
    prompt: int
    output: int
    cached: int


@dataclass
class Talk:
    """Conversations behind a few system prompts, each on one replica."""

    seed: int
    systems: list[list[int]] = field(init=False)
    turns: list[Turn] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.systems = [rng.integers(10, 500, 40 + 150 * i).tolist() for i in range(3)]

    def begin(self, clients: list[openai.OpenAI]) -> Conversation:
        """Begin a conversation with one of the replicas."""
        return Conversation(self, next(self.numbers), clients)

    def simulated(self) -> tuple[Ints, Ints]:
        """Return cached prompt tokens and prompts in the simulator, by the number of the turn in `turns`."""
        turns = sorted(self.turns, key=lambda turn: turn.arrived_at)
        columns = np.array([[turn.prompt, turn.output, turn.replica, turn.cached] for turn in turns])
        runs = []
        for turn in turns:
            system = turn.conversation % len(self.systems)
            length = len(self.systems[system])
            own = turn.prompt + turn.output - length
            runs += [(system * ID_GAP, length), ((10 + turn.conversation) * ID_GAP, own)]
        content = Content(np.arange(len(turns) + 1) * 2, *np.array(runs).T)
        requests = RequestTable.of(
            np.array([turn.arrived_at for turn in turns]), columns[:, 0], columns[:, 1], "a test", content=content
        )
        cluster = Cluster(
            policy="vllm_v1", replicas=2, num_blocks=KV_BLOCKS - 1, block_size=BLOCK_SIZE, max_batch=MAX_SEQUENCES,
            token_limit=MAX_BATCHED_TOKENS, caching=True, hardware=HARDWARE,
        )  # fmt: skip
        simulation = cluster.simulation(requests)
        for turn in turns:
            assert simulation.next_decision() is not None
            simulation.place(turn.replica)
        assert simulation.next_decision() is None
        return simulation.engine.recording(partial=False).requests["num_cached_tokens"], columns[:, 3]

    @property
    def prompt_tokens(self) -> int:
        return sum(turn.prompt for turn in self.turns)


class Conversation:
    """One conversation."""

    def __init__(self, talk: Talk, number: int, clients: list[openai.OpenAI]) -> None:
        self.talk, self.number = talk, number
        self.replica = number // len(talk.systems) % len(clients)
        self.client = clients[self.replica]
        self.tokens = list(talk.systems[number % len(talk.systems)])
        self.rng = np.random.default_rng([talk.seed, number])

    def ask(self, longest: int) -> None:
        """Ask a question of at most `longest` tokens behind everything said before."""
        self.tokens += self.rng.integers(10, 500, int(self.rng.integers(1, longest))).tolist()
        output, now = int(self.rng.integers(1, 50)), time.monotonic()
        answer = self.client.completions.create(
            model=MODEL, prompt=self.tokens, max_tokens=output, temperature=0,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )  # fmt: skip
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        cached = answer.usage.prompt_tokens_details.cached_tokens or 0
        self.talk.turns.append(Turn(self.number, self.replica, now, len(self.tokens), output, cached))
        said = answer.choices[0].model_dump()["token_ids"]
        assert len(said) == output
        self.tokens += said
