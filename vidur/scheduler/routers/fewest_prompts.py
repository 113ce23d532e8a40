"""Fewest prompt tokens awaiting prefill, divided by speed."""

from __future__ import annotations

from vidur.observation import ARRIVAL_PROMPT, AWAITING_TOKENS, OUTSTANDING, SPEED, Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.scheduler.routers.choice import least


def choose_fewest_prompts(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the replica with the fewest prompt tokens that await a first token, including the arrival's, divided by
    its speed; ties go to the fewest outstanding requests. memory: the last choice."""
    waiting = (view.ledger[:, AWAITING_TOKENS] + view.arrival[ARRIVAL_PROMPT]) / view.hardware[:, SPEED]
    scores = waiting + 1e-6 * view.ledger[:, OUTSTANDING] / view.hardware[:, SPEED]
    replica = least(scores, view.available, int(memory[0]))
    memory[0] = replica
    return replica


@GLOBAL_SCHEDULERS.register("fewest_prompts")
class FewestPromptsScheduler(KernelScheduler):
    choose = staticmethod(choose_fewest_prompts)
