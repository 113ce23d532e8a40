"""Plan a replica's KV-cache memory as upstream does."""

from __future__ import annotations

from dataclasses import dataclass

from vidur.config import BaseReplicaSchedulerConfig, ReplicaConfig, SimulationConfig, VllmV1SchedulerConfig
from vidur.errors import InputError

BYTES_PER_VALUE = 2  # 16-bit weights, keys and values
GIB = 1024**3


@dataclass(frozen=True)
class MemoryPlan:
    """The KV-cache of one replica. A block holds `block_size` tokens on every device.

    memory_slots: requests of `max_tokens` that fit in memory, over all pipeline stages. max_batch_size: the same per
    stage, capped by the scheduler's batch size. Bytes are per device; kv_bytes_per_token_per_device is for the layers
    of one stage.
    """

    num_blocks: int
    block_size: int
    max_batch_size: int
    max_blocks_per_request: int
    memory_slots: int
    parameters_per_device: int
    parameter_bytes_per_device: int
    kv_bytes_per_token_per_device: int

    @property
    def kv_tokens(self) -> int:
        """The capacity of the KV-cache in tokens."""
        return self.num_blocks * self.block_size


def plan_memory(
    replica_config: ReplicaConfig,
    replica_scheduler_config: BaseReplicaSchedulerConfig,
    max_tokens: int,
    max_tokens_flag: str = "max_tokens of the requests",
) -> MemoryPlan:
    """Plan a replica's KV-cache for requests of at most `max_tokens` tokens.

    As upstream, memory without margin and weights is divided into slots of one request of `max_tokens` over all layers,
    times the pipeline stages. An explicit `num_blocks` is used unchanged. Raises InputError if no such request fits.
    """
    scheduler = replica_scheduler_config
    requests = _requests_in_memory(replica_config, max_tokens, max_tokens_flag)
    blocks_per_request = max_tokens // scheduler.block_size
    slots = requests * replica_config.num_pipeline_stages
    num_blocks = scheduler.num_blocks if scheduler.num_blocks is not None else blocks_per_request * slots
    if num_blocks < 1:
        raise InputError(
            f"{scheduler.flag('block_size')} {scheduler.block_size} is above the longest request "
            f"({max_tokens_flag} {max_tokens}), so that no block is planned for it: lower it"
        )
    if isinstance(scheduler, VllmV1SchedulerConfig):
        max_batch_size = scheduler.max_num_seqs
    else:
        max_batch_size = min(requests, scheduler.batch_size_cap)
    layers = replica_config.layers_per_stage
    return MemoryPlan(
        num_blocks=num_blocks,
        block_size=scheduler.block_size,
        max_batch_size=max_batch_size,
        max_blocks_per_request=blocks_per_request,
        memory_slots=slots,
        parameters_per_device=parameters_per_device(replica_config),
        parameter_bytes_per_device=BYTES_PER_VALUE * parameters_per_device(replica_config),
        kv_bytes_per_token_per_device=_kv_bytes_per_token_and_layer(replica_config) * layers,
    )


def plan_groups(config: SimulationConfig) -> tuple[MemoryPlan, ...]:
    """Return the plan of each group of replicas. Raises InputError, naming the group if there are several."""
    requests, groups = config.request_generator_config, config.cluster_config.groups
    plans = []
    for group in groups:
        try:
            plans.append(
                plan_memory(
                    group.replica_config, group.replica_scheduler_config, requests.max_tokens, requests.max_tokens_flag
                )
            )
        except InputError as error:
            raise InputError(f"group '{group.name}': {error}" if len(groups) > 1 else str(error)) from None
    return tuple(plans)


def parameters_per_device(replica_config: ReplicaConfig) -> int:
    """Return the layers' weights on one device: attention's four matrices and the MLP's two or three, no embeddings."""
    model, size = replica_config.model, replica_config.tensor_parallel_size
    q_heads, kv_heads = model.num_q_heads // size, _kv_heads_per_device(replica_config)
    attention = model.embedding_dim * model.head_dim * (2 * q_heads + 2 * kv_heads)
    matrices = 3 if model.use_gated_mlp else 2
    mlp = matrices * model.embedding_dim * model.mlp_hidden_dim // size
    return (attention + mlp) * replica_config.layers_per_stage


def _kv_heads_per_device(replica_config: ReplicaConfig) -> int:
    return -(-replica_config.model.num_kv_heads // replica_config.tensor_parallel_size)


def _kv_bytes_per_token_and_layer(replica_config: ReplicaConfig) -> int:
    keys_and_values = 2
    return BYTES_PER_VALUE * keys_and_values * replica_config.model.head_dim * _kv_heads_per_device(replica_config)


def _requests_in_memory(replica_config: ReplicaConfig, max_tokens: int, max_tokens_flag: str) -> int:
    """Return how many requests of `max_tokens` fit beside the weights. Raises InputError if none does."""
    total = replica_config.device_sku.total_memory_gb * GIB
    available = total * (1 - replica_config.memory_margin_fraction)
    weights = BYTES_PER_VALUE * parameters_per_device(replica_config)
    request = _kv_bytes_per_token_and_layer(replica_config) * max_tokens * replica_config.model.num_layers
    requests = int((available - weights) // request)
    if requests > 0:
        return requests
    flag = replica_config.flag
    raise InputError(
        f"{flag('model_name')} {replica_config.model_name} leaves no KV-cache on {flag('device')} "
        f"{replica_config.device}: of {available / GIB:.1f} GiB usable per device, weights take {weights / GIB:.1f} "
        f"and one request of {max_tokens} tokens {request / GIB:.1f}: {(weights + request - available) / GIB:.1f} GiB "
        f"are missing; raise {flag('tensor_parallel_size')} or {flag('num_pipeline_stages')}, lower "
        f"{max_tokens_flag} or {flag('memory_margin_fraction')}, or take a device with more memory"
    )
