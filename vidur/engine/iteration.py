"""One iteration of a batch: its sums, its duration, its effect on requests, and its recorded row."""

from __future__ import annotations

import math

from vidur.engine.callback import hook_callback
from vidur.engine.compile import cold_kernel, kernel
from vidur.engine.ledger import count_finished, count_first_token, count_itl
from vidur.engine.queues import release
from vidur.engine.state import State
from vidur.observation import STREAMED_TOKENS

run_hook = hook_callback.call

# Table lookups that can fail.
TOKEN_MISS, DECODE_MISS, PREFILL_KV_MISS, PREFILL_CHUNK_MISS, BATCH_MISS = range(1, 6)


@kernel
def equivalent_kv(s: State, replica: int, pairs: int, chunk: int) -> int:
    """Return the KV length, rounded up to the tables' step, at which a chunk has so many pairs with earlier tokens.

    With prefixes cached, a batch often has many prefills over long contexts; the sum of their KV lengths, as upstream
    takes it, would pair every chunk with all of them. At most what the tables cover.
    """
    hardware = s.tables.hardware[s.replicas[replica].hardware]
    steps = -(-pairs // (max(chunk, 1) * hardware.kv_step))
    return min(steps, hardware.prefill_rows - 1) * hardware.kv_step


@kernel
def measure_batch(s: State, replica: int, now: float, slot: int, size: int) -> int:
    """Sum the batch up in its record, and set `scheduled_at` of requests in their first batch.

    Returns the number of iterations until the first decode ends.
    """
    row = s.replicas[replica]
    step = s.tables.hardware[row.hardware].kv_step
    tokens = 0
    decode_size = 0
    decode_kv = 0
    prefill_size = 0
    prefill_tokens = 0
    prefill_kv = 0
    squares = 0
    pairs = 0
    past_pairs = 0
    shortest = 1 << 40
    for i in range(size):
        member = s.members[replica, slot, i]
        request = s.requests[member.request]
        chunk, processed = member.tokens, request.processed
        tokens += chunk
        pairs += chunk * (chunk + processed)
        if request.prefilled:
            decode_size += 1
            decode_kv += processed
            shortest = min(shortest, request.total - processed)
        else:
            prefill_size += 1
            prefill_tokens += chunk
            prefill_kv += (processed + step - 1) // step * step
            squares += chunk * chunk
            past_pairs += chunk * processed
            if math.isnan(request.scheduled_at):
                request.scheduled_at = now
    row.attention_pairs += pairs
    batch = s.batches[replica, slot]
    batch.num_requests = size
    batch.tokens = tokens
    batch.prefill_tokens = prefill_tokens
    batch.decode_size = decode_size
    batch.decode_kv = decode_kv
    batch.prefill_chunk = int(math.sqrt(squares) + 0.5)
    if row.caching == 1 and prefill_size > 1:
        prefill_kv = equivalent_kv(s, replica, past_pairs, batch.prefill_chunk)
    batch.prefill_kv = prefill_kv
    batch.prefill_size = prefill_size
    batch.kv_blocks = row.allocated
    batch.num_waiting = row.waiting
    batch.num_running = row.admitted
    return shortest


@kernel
def table_miss(s: State, replica: int, table: int, asked: int, largest: int) -> float:
    """Record a lookup beyond a table for the error message. Returns -1, a time that means failure."""
    clock = s.clock[0]
    clock.error = table
    clock.error_replica = replica
    clock.error_asked = asked
    clock.error_largest = largest
    return -1.0


@kernel
def decode_time(s: State, replica: int, slot: int) -> float:
    """Return seconds of decode attention in one stage."""
    batch, hardware = s.batches[replica, slot], s.tables.hardware[s.replicas[replica].hardware]
    decodes, step = batch.decode_size, hardware.kv_step
    column = (batch.decode_kv // decodes + step - 1) // step
    if decodes >= hardware.decode_rows:
        return table_miss(s, replica, BATCH_MISS, decodes, hardware.decode_rows - 1)
    if column >= hardware.decode_columns:
        return table_miss(s, replica, DECODE_MISS, column * step, (hardware.decode_columns - 1) * step)
    return s.tables.seconds[hardware.decode_table + decodes * hardware.decode_columns + column]  # type: ignore[no-any-return]


@kernel
def prefill_time(s: State, replica: int, slot: int) -> float:
    """Return seconds of prefill attention in one stage."""
    batch, hardware = s.batches[replica, slot], s.tables.hardware[s.replicas[replica].hardware]
    step, chunk_step = hardware.kv_step, hardware.chunk_step
    row = batch.prefill_kv // step
    column = (batch.prefill_chunk + chunk_step - 1) // chunk_step
    if row >= hardware.prefill_rows:
        return table_miss(s, replica, PREFILL_KV_MISS, batch.prefill_kv, (hardware.prefill_rows - 1) * step)
    if column >= hardware.prefill_columns:
        largest = (hardware.prefill_columns - 1) * chunk_step
        return table_miss(s, replica, PREFILL_CHUNK_MISS, batch.prefill_chunk, largest)
    seconds = s.tables.seconds[hardware.prefill_table + row * hardware.prefill_columns + column]
    return seconds * hardware.prefill_overhead if batch.prefill_size > 1 else seconds  # type: ignore[no-any-return]


@kernel
def batch_time(s: State, replica: int, slot: int) -> float:
    """Return a stage's seconds for the batch, without the transfer to the next; negative: beyond the tables."""
    batch, hardware = s.batches[replica, slot], s.tables.hardware[s.replicas[replica].hardware]
    if batch.tokens >= hardware.token_length:
        return table_miss(s, replica, TOKEN_MISS, batch.tokens, hardware.token_length - 1)
    seconds = s.tables.seconds[hardware.token_table + batch.tokens]
    if batch.decode_size > 0:
        decode = decode_time(s, replica, slot)
        if decode < 0.0:
            return decode
        seconds += decode
    if batch.prefill_size > 0:
        prefill = prefill_time(s, replica, slot)
        if prefill < 0.0:
            return prefill
        seconds += prefill
    if hardware.cpu_length > 0:
        if batch.num_requests >= hardware.cpu_length:
            return table_miss(s, replica, BATCH_MISS, batch.num_requests, hardware.cpu_length - 1)
        seconds += s.tables.seconds[hardware.cpu_table + batch.num_requests]
    return seconds  # type: ignore[no-any-return]


@kernel
def free_finished(s: State, replica: int, request: int) -> None:
    """Free a finished request's blocks, or pass them to its batch's leader where blocks stay until the batch ends."""
    if s.replicas[replica].hold_until_batch_ends == 0:
        release(s, replica, request)
        return
    s.replicas[replica].admitted -= 1
    leader = s.requests[request].leader
    if leader != request:
        s.requests[leader].blocks += s.requests[request].blocks
        s.requests[request].blocks = 0


@kernel
def advance_request(s: State, replica: int, request: int, tokens: int, iterations: int, now: float) -> bool:
    """Advance a request by `iterations` of `tokens` each. Returns whether it is complete."""
    row = s.requests[request]
    processed = row.processed + iterations * tokens
    new_tokens = 0
    if row.prefilled:
        new_tokens = iterations
        if iterations > 1 and s.replicas[replica].grows == 1:
            # Blocks were allocated before each iteration, the last one included.
            needed = -(-(processed - 1) // s.replicas[replica].block_size)
            if needed > row.blocks and s.replicas[replica].caching == 0:
                s.replicas[replica].allocated += needed - row.blocks
                row.blocks = needed
    elif processed == row.prefill:
        row.prefilled = 1
        processed += 1
        new_tokens = 1
        if math.isnan(row.first_token_at):
            row.first_token_at = now
            count_first_token(s, replica, request)
    row.processed = processed
    row.streamed += new_tokens
    return processed == row.total


@cold_kernel
def cover_run(s: State, replica: int, slot: int, iterations: int, now: float) -> None:
    """Take the blocks of a run of decodes. They were taken before any of its requests ended and released some."""
    for i in range(s.batches[replica, slot].num_requests):
        number = s.members[replica, slot, i].request
        run_hook(s.hooks[0].cover, (replica, number, s.requests[number].processed + iterations - 1, now, s))


@kernel
def tell_ended(s: State, replica: int, request: int, now: float) -> None:
    """Tell the router's index and the requests that follow that `request` has ended."""
    if s.clock[0].indexed == 1 or s.clock[0].closed_loop == 1:
        run_hook(s.hooks[0].ended, (replica, request, 0, now, s))


@kernel
def end_batch(s: State, replica: int, slot: int, iterations: int, now: float) -> None:
    """Advance the requests of a batch that ran `iterations` times (more than one only if all are in decode).

    Its record holds its start and the time spent in and between stages. Finished requests leave the replica; the others
    go to the end of `ready`.
    """
    row, batch = s.replicas[replica], s.batches[replica, slot]
    began, execution, gaps, size = batch.began_at, batch.execution_time, batch.gaps, batch.num_requests
    ready, streamed = row.ready, 0
    if iterations > 1 and row.caching == 1:
        cover_run(s, replica, slot, iterations, now)
    if batch.decode_size > 0:
        count_itl(s, replica, (now - began) / iterations, iterations)
    for i in range(size):
        number, tokens = s.members[replica, slot, i].request, s.members[replica, slot, i].tokens
        request = s.requests[number]
        before = request.streamed
        ended = advance_request(s, replica, number, tokens, iterations, now)
        streamed += request.streamed - before
        if request.last_ended_at != 0.0:
            request.preempted_time += began - request.last_ended_at
        request.preempted_time += gaps
        request.execution_time += execution
        request.last_ended_at = now
        if ended:
            request.completed_at = now
            free_finished(s, replica, number)
            count_finished(s, replica, number, now)
            if s.clock[0].foreseeing == 0:
                tell_ended(s, replica, number, now)
        else:
            s.ready[replica, ready] = number
            ready += 1
    s.books.ledger[replica, STREAMED_TOKENS] += streamed
    if row.hold_until_batch_ends == 1 and ready == row.ready and size > 0:
        leader = s.requests[s.requests[s.members[replica, slot, 0].request].leader]
        row.allocated -= leader.blocks
        leader.blocks = 0
    row.ready = ready


@kernel
def advance_decodes(s: State, replica: int, slot: int, now: float) -> None:
    """Advance a batch of decodes, none of which ends, by one iteration; its requests stay in it."""
    batch = s.batches[replica, slot]
    began, execution, gaps, size = batch.began_at, batch.execution_time, batch.gaps, batch.num_requests
    count_itl(s, replica, now - began, 1)
    for i in range(size):
        request = s.requests[s.members[replica, slot, i].request]
        request.preempted_time += began - request.last_ended_at
        request.preempted_time += gaps
        request.execution_time += execution
        request.last_ended_at = now
        request.processed += 1
        request.streamed += 1
    s.books.ledger[replica, STREAMED_TOKENS] += size


@kernel
def repeat_decodes(s: State, replica: int, slot: int) -> None:
    """Allocate the blocks for another iteration of a batch of decodes and update the batch's sums."""
    row, batch = s.replicas[replica], s.batches[replica, slot]
    if row.caching == 1:
        cover_run(s, replica, slot, 1, s.next_time[replica])
    elif row.grows == 1:
        for i in range(batch.num_requests):
            request = s.requests[s.members[replica, slot, i].request]
            if request.processed > request.blocks * row.block_size:
                request.blocks += 1
                row.allocated += 1
    batch.decode_kv += batch.num_requests
    row.attention_pairs += batch.num_requests + batch.decode_kv
    batch.repeats -= 1
    batch.shortest -= 1
    batch.kv_blocks = row.allocated
    batch.num_waiting = row.waiting
    batch.num_running = row.admitted


@kernel
def record_row(
    s: State, replica: int, stage: int, slot: int, number: int, scheduled: float, start: float, seconds: float,
    count: int,
) -> None:  # fmt: skip
    """If batches are recorded, record `count` equal iterations of one stage from `start` on, and members if they fit.

    number: of the first iteration. scheduled: when the batch was formed.
    """
    clock, log, batch = s.clock[0], s.log, s.batches[replica, slot]
    if clock.records == 0:
        return
    row = log.rows[clock.num_rows]
    clock.num_rows += 1
    row.scheduled_at = scheduled
    row.start = start
    row.iteration_time = seconds
    row.batch_id = number
    row.replica = replica
    row.stage = stage
    row.count = count
    row.batch_size = batch.num_requests
    row.num_tokens = batch.tokens
    row.num_prefill_tokens = batch.prefill_tokens
    row.decode_size = batch.decode_size
    row.decode_kv_tokens = batch.decode_kv
    row.prefill_kv_tokens = batch.prefill_kv
    row.prefill_chunk = batch.prefill_chunk
    row.kv_blocks = batch.kv_blocks
    row.num_waiting = batch.num_waiting
    row.num_running = batch.num_running
    first, size = clock.num_members, batch.num_requests
    recorded = clock.num_member_rows
    if clock.num_rows == recorded + 1 and recorded + 1 < len(log.member_offsets) and first + size <= len(log.members):
        for i in range(size):
            log.members[first + i].request = s.members[replica, slot, i].request
            log.members[first + i].tokens = s.members[replica, slot, i].tokens
        clock.num_members = first + size
        clock.num_member_rows = recorded + 1
        log.member_offsets[recorded + 1] = first + size
