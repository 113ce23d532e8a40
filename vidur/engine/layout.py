"""The columns of the engine's arrays.

A request and a replica are each one row of a float64 and one row of an int64 array: what one step touches lies in one
or two cache lines, and a kernel takes few arguments.
"""

from __future__ import annotations

# requests, float64: seconds. SCHEDULED, FIRST_TOKEN and COMPLETED are nan until they happen; LAST_END is 0.
ARRIVED, PLACED, SCHEDULED, FIRST_TOKEN, COMPLETED, EXECUTION, PREEMPTED, LAST_END = range(8)
REQUEST_FLOATS = 8

# requests, int64. PREFILL and TOTAL are tokens as the replica sees them: after a preemption by recomputation the tokens
# decoded so far belong to PREFILL. PROMPT and OUTPUT are the request's own. GROUP orders or groups admitted requests.
PREFILL, TOTAL, PROCESSED, BLOCKS, PREFILLED, WAIT_NEXT, RESTARTS, REPLICA = range(8)
PROMPT, OUTPUT, LEDGER_PREV, LEDGER_NEXT, STATUS, REROUTES, GROUP, STREAMED = range(8, 16)
# ROUTER: at which of the routers side by side the request comes in.
AWAIT_PREV, AWAIT_NEXT, ROUTER = range(16, 19)
REQUEST_INTS = 19

# replicas, float64.
RUN_START, RUN_TIME, SLOWDOWN, ATTENTION_PAIRS, SCHEDULE_AT = range(5)
REPLICA_FLOATS = 8

# replicas, int64: the plan (GROWS: requests take blocks as they decode; else all were reserved at admission) ...
HARDWARE, STAGES, NUM_BLOCKS, BLOCK_SIZE, MAX_BLOCKS_PER_REQUEST, WATERMARK, MAX_BATCH, MAX_ADMITTED = range(8)
TOKEN_LIMIT, MAX_WAITING_ITERS, GROWS, HOLD_UNTIL_BATCH_ENDS, PREFILL_THRESHOLD, MAX_REQUEST_TOKENS = range(8, 14)
MAX_PROMPT_TOKENS = 14
# ... and the state. The waiting queue is a list linked through WAIT_NEXT, the ledger one through LEDGER_NEXT, those of
# the ledger without a first token one through AWAIT_NEXT.
AWAIT_HEAD = 15
WAIT_HEAD, WAIT_TAIL, WAITING, READY, ADMITTED, IN_FLIGHT, ALLOCATED = range(16, 23)
RUN_COUNT, ITERATIONS, LAST_ATTEMPT, PREEMPTIONS, NUM_PLACED, LEDGER_HEAD, LEDGER_TAIL, ADMISSIONS = range(23, 31)
AWAIT_TAIL = 31
REPLICA_INTS = 32

# batches in flight, int64, one row per (replica, slot).
SIZE, TOKENS, PREFILL_TOKENS, DECODE_SIZE, DECODE_KV, PREFILL_KV, PREFILL_CHUNK, PREFILL_SIZE = range(8)
KV_BLOCKS, NUM_WAITING, NUM_RUNNING, BATCH_ID, IN_USE = range(8, 13)
BATCH_INTS = 16

# hardware groups, int64: where each table starts in its flat array, and its shape.
TOKEN_TABLE, TOKEN_LENGTH, DECODE_TABLE, DECODE_ROWS, DECODE_COLUMNS = range(5)
PREFILL_TABLE, PREFILL_ROWS, PREFILL_COLUMNS, CPU_TABLE, CPU_LENGTH, KV_STEP, CHUNK_STEP = range(5, 12)
GROUP_INTS = 12

# the cluster, int64. OBSERVED: the router looks at no replica (0), at the ledger and the gauges (1), also at the tokens
# streamed and the ages of gauges (2). DECISIONS comes last: one column for each router.
NEXT_ARRIVAL, NUM_ARRIVALS, HELD_HEAD, HELD_COUNT, NEXT_EVENT, CURRENT, ROWS, NEXT_BATCH = range(8)
MEMBERS, MEMBER_ROWS, NUM_AVAILABLE, NUM_FINISHED, NUM_REFUSED, BUDGET, ERROR = range(8, 15)
ERROR_ASKED, ERROR_HELD, ERROR_REPLICA, OBSERVED, SEQUENCE, CHOSEN, DECISIONS = range(15, 22)
# the cluster, float64.
NOW, TIME_LIMIT, GAUGE_INTERVAL, GAUGES_AT, ENDED_AT = range(5)
CLUSTER_FLOATS = 8

# timed events, float64: time, replica, action, factor.
EVENT_TIME, EVENT_REPLICA, EVENT_ACTION, EVENT_FACTOR = range(4)
SLOW, FAIL, RETURN, JOIN, DRAIN = range(5)

# recorded rows: float64 columns (batch_id is a whole number that may pass 2**31) and int32 columns.
ROW_FLOATS = ("scheduled_at", "start", "iteration_time", "batch_id")
ROW_INTS = (
    "replica",
    "stage",
    "count",
    "batch_size",
    "num_tokens",
    "num_prefill_tokens",
    "decode_size",
    "decode_kv_tokens",
    "prefill_kv_tokens",
    "prefill_chunk",
    "kv_blocks",
    "num_waiting",
    "num_running",
)

# what `run` returns.
DONE, DECISION, YIELD, ROWS_FULL, TABLE_MISS = range(5)
# which table a lookup missed.
TOKEN_MISS, DECODE_MISS, PREFILL_KV_MISS, PREFILL_CHUNK_MISS, BATCH_MISS = range(1, 6)
