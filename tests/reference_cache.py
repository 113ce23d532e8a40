"""A plain model of vLLM's scheduler and prefix cache with lists and dicts: what the engine must do in one step.

Source: vllm-project/vllm 0.32, vllm/v1/core/{block_pool,kv_cache_manager}.py and sched/scheduler.py, for one group of
full attention, without asynchronous scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduling import ABORT, ARRIVE, PRIVATE, SECTION, STEP, Case


@dataclass
class Running:
    number: int
    tokens: list[int]
    known: int
    """Tokens that exist: the prompt and the outputs up to now."""
    total: int
    computed: int = 0
    named: int = 0
    blocks: list[int] = field(default_factory=list)


class Reference:
    """One replica."""

    def __init__(self, case: Case) -> None:
        self.case, self.size = case, case.block_size
        self.key: list[int | None] = [None] * case.num_blocks
        self.uses = [0] * case.num_blocks
        self.free = list(range(case.num_blocks))
        self.cached: dict[int, dict[int, None]] = {}
        self.waiting: list[Running] = []
        self.running: list[Running] = []
        self.trace: list[int] = []

    def replay(self) -> list[int]:
        for kind, number in self.case.operations:
            if kind == ARRIVE:
                tokens, prompt = self.case.tokens[number], self.case.prompts[number]
                self.waiting.append(Running(number, tokens, prompt, len(tokens)))
                continue
            if kind == STEP:
                self.step()
            if kind == ABORT:
                self.abort(number)
            self.write_state()
        return self.trace

    def abort(self, number: int) -> None:
        for queue in (self.waiting, self.running):
            for request in [request for request in queue if request.number == number]:
                queue.remove(request)
                self.release(request)

    def step(self) -> None:
        scheduled: list[tuple[Running, int]] = []
        budget, preempted, index = self.case.token_limit, 0, 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            count = min(request.known - request.computed, budget)
            while len(self.running) > index and not self.take(request, [], count):
                victim = self.running.pop()
                self.release(victim)
                self.waiting.insert(0, victim)
                preempted += 1
            if len(self.running) == index:
                break
            scheduled.append((request, count))
            budget -= count
            index += 1
        while not preempted and self.waiting and budget > 0 and len(self.running) < self.case.max_batch:
            request = self.waiting[0]
            hits = self.find(request)
            count = min(request.known - len(hits) * self.size, budget)
            if not self.fits(request.known, len(hits), hits) or not self.take(request, hits, count):
                break
            self.running.append(self.waiting.pop(0))
            scheduled.append((request, count))
            budget -= count
        for request, count in scheduled:
            self.trace += [request.number, request.computed, count]
        self.trace += [SECTION, preempted, SECTION]
        for request, count in scheduled:
            request.computed += count
            if request.computed == request.known:
                request.known += 1
                if request.known == request.total:
                    self.running.remove(request)
                    self.release(request)

    def find(self, request: Running) -> list[int]:
        """The blocks of the cached prefix, which leaves at least one token."""
        hits: list[int] = []
        for i in range((request.known - 1) // self.size):
            copies = self.cached.get(request.tokens[(i + 1) * self.size - 1])
            if copies is None:
                break
            hits.append(next(iter(copies)))
        return hits

    def fits(self, tokens: int, owned: int, hits: list[int]) -> bool:
        unused = sum(self.uses[block] == 0 for block in hits)
        return max(0, -(-tokens // self.size) - owned) + unused <= len(self.free)

    def take(self, request: Running, hits: list[int], count: int) -> bool:
        """Give a request blocks for `count` more tokens behind its hits. Returns False if there are too few."""
        computed = request.computed + len(hits) * self.size
        if not self.fits(computed + count, len(request.blocks) + len(hits), hits):
            return False
        for block in hits:
            if self.uses[block] == 0:
                self.free.remove(block)
            self.uses[block] += 1
        request.blocks += hits
        request.computed = computed
        request.named = max(request.named, len(hits))
        while len(request.blocks) * self.size < computed + count:
            block = self.free.pop(0)
            key = self.key[block]
            if key is not None:
                del self.cached[key][block]
                if not self.cached[key]:
                    del self.cached[key]
            self.key[block], self.uses[block] = None, 1
            request.blocks.append(block)
        for i in range(request.named, (computed + count) // self.size):
            key = request.tokens[(i + 1) * self.size - 1]
            self.key[request.blocks[i]] = key
            self.cached.setdefault(key, {})[request.blocks[i]] = None
            request.named = i + 1
        return True

    def release(self, request: Running) -> None:
        for block in reversed(request.blocks):
            self.uses[block] -= 1
            if self.uses[block] == 0:
                self.free.insert(0 if self.key[block] is None else len(self.free), block)
        request.blocks, request.computed, request.named = [], 0, 0

    def write_state(self) -> None:
        self.trace += [*(request.number for request in self.waiting), SECTION]
        self.trace += [*(request.number for request in self.running), SECTION]
        for block in self.free:
            key = self.key[block]
            self.trace.append(-1 if key is None else -2 if key >= PRIVATE else key // self.size)
        self.trace += [SECTION, sum(self.uses), SECTION]
