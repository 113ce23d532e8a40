"""One iteration: what a batch holds, how long it takes, what it changes, and its recorded row."""

from __future__ import annotations

import math

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.layout import (
    ADMITTED,
    ALLOCATED,
    ATTENTION_PAIRS,
    BATCH_MISS,
    BLOCK_SIZE,
    BLOCKS,
    CHUNK_STEP,
    COMPLETED,
    CPU_LENGTH,
    CPU_TABLE,
    DECODE_COLUMNS,
    DECODE_KV,
    DECODE_MISS,
    DECODE_ROWS,
    DECODE_SIZE,
    DECODE_TABLE,
    ERROR,
    ERROR_ASKED,
    ERROR_HELD,
    ERROR_REPLICA,
    EXECUTION,
    FIRST_TOKEN,
    GROUP,
    GROWS,
    HARDWARE,
    HOLD_UNTIL_BATCH_ENDS,
    KV_BLOCKS,
    KV_STEP,
    LAST_END,
    NUM_RUNNING,
    NUM_WAITING,
    PREEMPTED,
    PREFILL,
    PREFILL_CHUNK,
    PREFILL_CHUNK_MISS,
    PREFILL_COLUMNS,
    PREFILL_KV,
    PREFILL_KV_MISS,
    PREFILL_ROWS,
    PREFILL_SIZE,
    PREFILL_TABLE,
    PREFILL_TOKENS,
    PREFILLED,
    PROCESSED,
    READY,
    SCHEDULED,
    SIZE,
    STREAMED,
    TOKEN_LENGTH,
    TOKEN_MISS,
    TOKEN_TABLE,
    TOKENS,
    TOTAL,
    WAITING,
)
from vidur.engine.ledger import STREAMED_TOKENS, count_finished, count_first_token, count_token_seconds
from vidur.engine.queues import release


@kernel
def measure_batch(
    replica: int,
    now: float,
    slot: int,
    size: int,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    batch_requests: Ints,
    batch_tokens: Ints,
    batches: Ints,
    groups: Ints,
) -> int:
    """Note when the batch's requests were first scheduled, and sum the batch up in its row of `batches`.

    Returns after how many iterations the first of its decodes ends.
    """
    step = groups[replicas[replica, HARDWARE], KV_STEP]
    tokens = 0
    decode_size = 0
    decode_kv = 0
    prefill_size = 0
    prefill_tokens = 0
    prefill_kv = 0
    squares = 0
    pairs = 0
    shortest = 1 << 40
    for index in range(size):
        request = batch_requests[replica, slot, index]
        chunk = batch_tokens[replica, slot, index]
        processed = requests[request, PROCESSED]
        tokens += chunk
        pairs += chunk * (chunk + processed)
        if requests[request, PREFILLED]:
            decode_size += 1
            decode_kv += processed
            shortest = min(shortest, requests[request, TOTAL] - processed)
        else:
            prefill_size += 1
            prefill_tokens += chunk
            prefill_kv += (processed + step - 1) // step * step
            squares += chunk * chunk
            if math.isnan(times[request, SCHEDULED]):
                times[request, SCHEDULED] = now
    replica_floats[replica, ATTENTION_PAIRS] += pairs
    batches[replica, slot, SIZE] = size
    batches[replica, slot, TOKENS] = tokens
    batches[replica, slot, PREFILL_TOKENS] = prefill_tokens
    batches[replica, slot, DECODE_SIZE] = decode_size
    batches[replica, slot, DECODE_KV] = decode_kv
    batches[replica, slot, PREFILL_KV] = prefill_kv
    batches[replica, slot, PREFILL_CHUNK] = int(math.sqrt(squares) + 0.5)
    batches[replica, slot, PREFILL_SIZE] = prefill_size
    batches[replica, slot, KV_BLOCKS] = replicas[replica, ALLOCATED]
    batches[replica, slot, NUM_WAITING] = replicas[replica, WAITING]
    batches[replica, slot, NUM_RUNNING] = replicas[replica, ADMITTED]
    return shortest


@kernel
def miss(cluster: Ints, replica: int, table: int, asked: int, held: int) -> float:
    """Note a lookup beyond a table. Returns the time that says so."""
    cluster[ERROR] = table
    cluster[ERROR_REPLICA] = replica
    cluster[ERROR_ASKED] = asked
    cluster[ERROR_HELD] = held
    return -1.0


@kernel
def batch_time(
    replica: int,
    slot: int,
    batches: Ints,
    replicas: Ints,
    groups: Ints,
    prefill_overhead: Floats,
    token_times: Floats,
    decode_times: Floats,
    prefill_times: Floats,
    cpu_times: Floats,
    cluster: Ints,
) -> float:
    """Seconds that one stage takes for the batch, less the transfer to the next stage. Negative: beyond the tables."""
    hardware = replicas[replica, HARDWARE]
    tokens = batches[replica, slot, TOKENS]
    if tokens >= groups[hardware, TOKEN_LENGTH]:
        return miss(cluster, replica, TOKEN_MISS, tokens, groups[hardware, TOKEN_LENGTH] - 1)
    seconds = token_times[groups[hardware, TOKEN_TABLE] + tokens]
    step = groups[hardware, KV_STEP]
    decodes = batches[replica, slot, DECODE_SIZE]
    if decodes > 0:
        column = (batches[replica, slot, DECODE_KV] // decodes + step - 1) // step
        if decodes >= groups[hardware, DECODE_ROWS]:
            return miss(cluster, replica, BATCH_MISS, decodes, groups[hardware, DECODE_ROWS] - 1)
        if column >= groups[hardware, DECODE_COLUMNS]:
            return miss(cluster, replica, DECODE_MISS, column * step, (groups[hardware, DECODE_COLUMNS] - 1) * step)
        seconds += decode_times[groups[hardware, DECODE_TABLE] + decodes * groups[hardware, DECODE_COLUMNS] + column]
    if batches[replica, slot, PREFILL_SIZE] > 0:
        row = batches[replica, slot, PREFILL_KV] // step
        chunk_step = groups[hardware, CHUNK_STEP]
        column = (batches[replica, slot, PREFILL_CHUNK] + chunk_step - 1) // chunk_step
        if row >= groups[hardware, PREFILL_ROWS]:
            return miss(
                cluster,
                replica,
                PREFILL_KV_MISS,
                batches[replica, slot, PREFILL_KV],
                (groups[hardware, PREFILL_ROWS] - 1) * step,
            )
        if column >= groups[hardware, PREFILL_COLUMNS]:
            return miss(
                cluster,
                replica,
                PREFILL_CHUNK_MISS,
                batches[replica, slot, PREFILL_CHUNK],
                (groups[hardware, PREFILL_COLUMNS] - 1) * chunk_step,
            )
        prefill = prefill_times[groups[hardware, PREFILL_TABLE] + row * groups[hardware, PREFILL_COLUMNS] + column]
        if batches[replica, slot, PREFILL_SIZE] > 1:
            prefill *= prefill_overhead[hardware]
        seconds += prefill
    if groups[hardware, CPU_LENGTH] > 0:
        if batches[replica, slot, SIZE] >= groups[hardware, CPU_LENGTH]:
            return miss(cluster, replica, BATCH_MISS, batches[replica, slot, SIZE], groups[hardware, CPU_LENGTH] - 1)
        seconds += cpu_times[groups[hardware, CPU_TABLE] + batches[replica, slot, SIZE]]
    return seconds  # type: ignore[no-any-return]


@kernel
def free_finished(replica: int, request: int, requests: Ints, replicas: Ints) -> None:
    """Free the blocks of a finished request, or leave them to the first request of its batch, which is freed last."""
    if replicas[replica, HOLD_UNTIL_BATCH_ENDS] == 0:
        release(requests, replicas, replica, request)
        return
    replicas[replica, ADMITTED] -= 1
    first = requests[request, GROUP]
    if first != request:
        requests[first, BLOCKS] += requests[request, BLOCKS]
        requests[request, BLOCKS] = 0


@kernel
def end_batch(
    replica: int,
    slot: int,
    iterations: int,
    began: float,
    now: float,
    execution: float,
    gaps: float,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    ready: Ints,
    batch_requests: Ints,
    batch_tokens: Ints,
    batches: Ints,
    ledger: Floats,
    completions: Floats,
    cluster: Ints,
) -> None:
    """Advance the requests of a batch that ran `iterations` times (more than once only if all are in decode).

    It began its first stage at `began`, spent `execution` seconds in stages and `gaps` seconds between them. Finished
    requests leave the replica; the others go to the end of `ready`.
    """
    grows = replicas[replica, GROWS] == 1
    block_size = replicas[replica, BLOCK_SIZE]
    size = batches[replica, slot, SIZE]
    count = replicas[replica, READY]
    if batches[replica, slot, DECODE_SIZE] > 0:
        count_token_seconds(replica, (now - began) / iterations, iterations, ledger)
    for index in range(size):
        request = batch_requests[replica, slot, index]
        processed = requests[request, PROCESSED] + iterations * batch_tokens[replica, slot, index]
        new_tokens = 0
        if requests[request, PREFILLED]:
            new_tokens = iterations
            if iterations > 1 and grows:
                # Room for the tokens processed was made before each iteration, the last one included.
                needed = -(-(processed - 1) // block_size)
                if needed > requests[request, BLOCKS]:
                    replicas[replica, ALLOCATED] += needed - requests[request, BLOCKS]
                    requests[request, BLOCKS] = needed
        elif processed == requests[request, PREFILL]:
            requests[request, PREFILLED] = 1
            processed += 1
            new_tokens = 1
            if math.isnan(times[request, FIRST_TOKEN]):
                times[request, FIRST_TOKEN] = now
                count_first_token(replica, request, requests, replicas, ledger)
        if times[request, LAST_END] != 0.0:
            times[request, PREEMPTED] += began - times[request, LAST_END]
        times[request, PREEMPTED] += gaps
        times[request, EXECUTION] += execution
        times[request, LAST_END] = now
        requests[request, PROCESSED] = processed
        requests[request, STREAMED] += new_tokens
        ledger[replica, STREAMED_TOKENS] += new_tokens
        if processed == requests[request, TOTAL]:
            times[request, COMPLETED] = now
            free_finished(replica, request, requests, replicas)
            count_finished(replica, request, now, times, requests, replicas, ledger, completions, cluster)
        else:
            ready[replica, count] = request
            count += 1
    if replicas[replica, HOLD_UNTIL_BATCH_ENDS] == 1 and count == replicas[replica, READY] and size > 0:
        first = requests[batch_requests[replica, slot, 0], GROUP]
        replicas[replica, ALLOCATED] -= requests[first, BLOCKS]
        requests[first, BLOCKS] = 0
    replicas[replica, READY] = count
