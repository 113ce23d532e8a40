"""Configurations of execution-time predictors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import PolyConfig, setting
from vidur.errors import InputError

DECODE_BATCHING_HELP = "fraction added to decode attention of grouped-query models if several requests decode"
PREFILL_BATCHING_HELP = "fraction added to prefill attention of grouped-query models if several prompts run"
LAUNCH_HELP = "CPU time in ms to launch an all-reduce"
SKEW_HELP = "CPU time in ms that an all-reduce waits, per device"
ALREADY_INSIDE = "; the predicted times already contain it"


@dataclass(frozen=True)
class BaseExecutionTimePredictorConfig(PolyConfig):
    type_flag: ClassVar[str] = "execution_time_predictor_config_type"

    kv_cache_prediction_granularity: int = setting(64, help="KV lengths are rounded up to its multiples", minimum=1)
    attention_decode_batching_overhead_fraction: float = setting(0.1, help=DECODE_BATCHING_HELP, minimum=0)
    attention_prefill_batching_overhead_fraction: float = setting(0.1, help=PREFILL_BATCHING_HELP, minimum=0)
    nccl_cpu_launch_overhead_ms: float = setting(0.02, help=LAUNCH_HELP, minimum=0)
    nccl_cpu_skew_overhead_per_device_ms: float = setting(0.0, help=SKEW_HELP, minimum=0)
    skip_cpu_overhead_modeling: bool = setting(True, help="leave out the measured CPU overheads")
    cpu_overhead_constant_ms: float = setting(0.0, help="CPU time in ms added to every iteration", minimum=0)
    cpu_overhead_per_request_ms: float = setting(
        0.0, help="CPU time in ms added to an iteration for each of its requests", minimum=0
    )
    save_tables_file: str | None = setting(None, help="write the tables built to this .npz file")


@dataclass(frozen=True)
class BaseProfiledExecutionTimePredictorConfig(BaseExecutionTimePredictorConfig):
    """Settings of the predictors that are trained on profiles."""

    compute_input_file: str = setting(
        "./data/profiling/compute/{DEVICE}/{MODEL}/mlp.csv", help="profile of the linear operations"
    )
    attention_input_file: str = setting(
        "./data/profiling/compute/{DEVICE}/{MODEL}/attention.csv", help="profile of attention"
    )
    all_reduce_input_file: str = setting(
        "./data/profiling/network/{NETWORK_DEVICE}/all_reduce.csv", help="profile of the all-reduce"
    )
    send_recv_input_file: str = setting(
        "./data/profiling/network/{NETWORK_DEVICE}/send_recv.csv", help="profile of transfers between stages"
    )
    cpu_overhead_input_file: str = setting(
        "./data/profiling/cpu_overhead/{NETWORK_DEVICE}/{MODEL}/cpu_overheads.csv", help="profile of CPU overheads"
    )
    k_fold_cv_splits: int = setting(10, help="folds of the cross-validation that selects parameters", minimum=2)
    no_cache: bool = setting(False, help="train again instead of reading the cache")
    prediction_max_prefill_chunk_size: int = setting(4096, help="longest chunk of a prompt", minimum=1)
    prediction_max_batch_size: int = setting(128, help="largest batch", minimum=1)
    prediction_max_tokens_per_request: int = setting(4096, help="longest request", minimum=1)
    num_training_job_threads: int = setting(-1, help="training threads; -1: all cores", minimum=-1)

    def check(self) -> None:
        if self.num_training_job_threads == 0:
            raise InputError(f"{self.flag('num_training_job_threads')} must be -1 (all cores) or at least 1, not 0")


@dataclass(frozen=True)
class LinearRegressionExecutionTimePredictorConfig(BaseProfiledExecutionTimePredictorConfig):
    type_name: ClassVar[str] = "linear_regression"
    description: ClassVar[str] = "polynomial regression on measured profiles"

    polynomial_degree: tuple[int, ...] = setting((1, 2, 3, 4, 5), help="degrees to try", minimum=1)
    polynomial_include_bias: tuple[bool, ...] = setting((True, False), help="include a constant term: values to try")
    polynomial_interaction_only: tuple[bool, ...] = setting((True, False), help="only products: values to try")
    fit_intercept: tuple[bool, ...] = setting((True, False), help="fit an intercept: values to try")

    def check(self) -> None:
        super().check()
        names = ("polynomial_degree", "polynomial_include_bias", "polynomial_interaction_only", "fit_intercept")
        _check_not_empty(self, names)


@dataclass(frozen=True)
class RandomForrestExecutionTimePredictorConfig(BaseProfiledExecutionTimePredictorConfig):
    type_name: ClassVar[str] = "random_forrest"
    type_aliases: ClassVar[tuple[str, ...]] = ("random_forest",)
    description: ClassVar[str] = "random forest on measured profiles (also spelled random_forest)"

    num_estimators: tuple[int, ...] = setting((250, 500, 750), help="numbers of trees to try", minimum=1)
    max_depth: tuple[int, ...] = setting((8, 16, 32), help="depths to try", minimum=1)
    min_samples_split: tuple[int, ...] = setting((2, 5, 10), help="minimum samples of a split to try", minimum=2)

    def check(self) -> None:
        super().check()
        _check_not_empty(self, ("num_estimators", "max_depth", "min_samples_split"))


@dataclass(frozen=True)
class _CompleteExecutionTimePredictorConfig(BaseExecutionTimePredictorConfig):
    """Defaults of predictors whose times contain batching and launch overheads."""

    attention_decode_batching_overhead_fraction: float = setting(
        0.0, help=DECODE_BATCHING_HELP + ALREADY_INSIDE, minimum=0
    )
    attention_prefill_batching_overhead_fraction: float = setting(
        0.0, help=PREFILL_BATCHING_HELP + ALREADY_INSIDE, minimum=0
    )
    nccl_cpu_launch_overhead_ms: float = setting(0.0, help=LAUNCH_HELP + ALREADY_INSIDE, minimum=0)
    nccl_cpu_skew_overhead_per_device_ms: float = setting(0.0, help=SKEW_HELP + ALREADY_INSIDE, minimum=0)


@dataclass(frozen=True)
class RooflineExecutionTimePredictorConfig(_CompleteExecutionTimePredictorConfig):
    type_name: ClassVar[str] = "roofline"
    description: ClassVar[str] = "analytic: fitted constants for A100 and H100, other devices scaled from their peaks"


@dataclass(frozen=True)
class AiconfiguratorExecutionTimePredictorConfig(_CompleteExecutionTimePredictorConfig):
    type_name: ClassVar[str] = "aiconfigurator"
    description: ClassVar[str] = "NVIDIA's measured tables; needs the extra aiconfigurator"


@dataclass(frozen=True)
class TablesExecutionTimePredictorConfig(BaseExecutionTimePredictorConfig):
    type_name: ClassVar[str] = "tables"
    description: ClassVar[str] = "tables saved by an earlier run"

    file: str = setting("", help="the .npz file of the tables; {DEVICE}, {MODEL}, {NETWORK_DEVICE} are filled in")

    def check(self) -> None:
        if not self.file:
            raise InputError(f"{self.flag('file')} is missing: --{self.type_flag} tables reads its times from a file")


def _check_not_empty(config: BaseProfiledExecutionTimePredictorConfig, names: tuple[str, ...]) -> None:
    for name in names:
        if not getattr(config, name):
            raise InputError(f"{config.flag(name)} needs at least one value")
