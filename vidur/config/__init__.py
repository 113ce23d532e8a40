"""Configuration dataclasses of a simulation; flags and file keys are derived from their fields."""

from vidur.config.cluster import ClusterConfig
from vidur.config.device_sku import DEVICES, NODES, DeviceSKU, NodeSKU
from vidur.config.execution_time_predictor import (
    AiconfiguratorExecutionTimePredictorConfig,
    BaseExecutionTimePredictorConfig,
    BaseProfiledExecutionTimePredictorConfig,
    LinearRegressionExecutionTimePredictorConfig,
    RandomForrestExecutionTimePredictorConfig,
    RooflineExecutionTimePredictorConfig,
    TablesExecutionTimePredictorConfig,
)
from vidur.config.global_scheduler import (
    BacklogTimeGlobalSchedulerConfig,
    BaseGlobalSchedulerConfig,
    CustomGlobalSchedulerConfig,
    FewestPromptsGlobalSchedulerConfig,
    LeastKvCacheGlobalSchedulerConfig,
    LeastTokensGlobalSchedulerConfig,
    LookaheadGlobalSchedulerConfig,
    LORBySpeedGlobalSchedulerConfig,
    LORGlobalSchedulerConfig,
    PowerOfTwoGlobalSchedulerConfig,
    RandomGlobalSchedulerConfig,
    RoundRobinGlobalSchedulerConfig,
    SessionHashGlobalSchedulerConfig,
    SizeSplitGlobalSchedulerConfig,
    WeightedRoundRobinGlobalSchedulerConfig,
)
from vidur.config.metrics import MetricsConfig
from vidur.config.model import MODELS, ModelConfig
from vidur.config.ppo import PPOGlobalSchedulerConfig
from vidur.config.replica import ReplicaConfig
from vidur.config.replica_event import ReplicaEventConfig
from vidur.config.replica_group import ReplicaGroupConfig, ResolvedGroup
from vidur.config.replica_scheduler import (
    BaseReplicaSchedulerConfig,
    FasterTransformerSchedulerConfig,
    LightllmSchedulerConfig,
    OrcaSchedulerConfig,
    SarathiSchedulerConfig,
    VllmSchedulerConfig,
    VllmV1SchedulerConfig,
)
from vidur.config.request_generator import (
    BaseRequestGeneratorConfig,
    SyntheticRequestGeneratorConfig,
    TraceRequestGeneratorConfig,
)
from vidur.config.request_interval_generator import (
    BaseRequestIntervalGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    StaticRequestIntervalGeneratorConfig,
    SwingRequestIntervalGeneratorConfig,
    TraceRequestIntervalGeneratorConfig,
)
from vidur.config.request_length_generator import (
    BaseRequestLengthGeneratorConfig,
    FixedRequestLengthGeneratorConfig,
    MixtureRequestLengthGeneratorConfig,
    QuantileRequestLengthGeneratorConfig,
    TraceRequestLengthGeneratorConfig,
    UniformRequestLengthGeneratorConfig,
    ZipfRequestLengthGeneratorConfig,
)
from vidur.config.simulation import SimulationConfig

__all__ = [
    "DEVICES",
    "MODELS",
    "NODES",
    "AiconfiguratorExecutionTimePredictorConfig",
    "BacklogTimeGlobalSchedulerConfig",
    "BaseExecutionTimePredictorConfig",
    "BaseGlobalSchedulerConfig",
    "BaseProfiledExecutionTimePredictorConfig",
    "BaseReplicaSchedulerConfig",
    "BaseRequestGeneratorConfig",
    "BaseRequestIntervalGeneratorConfig",
    "BaseRequestLengthGeneratorConfig",
    "ClusterConfig",
    "CustomGlobalSchedulerConfig",
    "DeviceSKU",
    "FasterTransformerSchedulerConfig",
    "FewestPromptsGlobalSchedulerConfig",
    "FixedRequestLengthGeneratorConfig",
    "GammaRequestIntervalGeneratorConfig",
    "LORBySpeedGlobalSchedulerConfig",
    "LORGlobalSchedulerConfig",
    "LeastKvCacheGlobalSchedulerConfig",
    "LeastTokensGlobalSchedulerConfig",
    "LightllmSchedulerConfig",
    "LinearRegressionExecutionTimePredictorConfig",
    "LookaheadGlobalSchedulerConfig",
    "MetricsConfig",
    "MixtureRequestLengthGeneratorConfig",
    "ModelConfig",
    "NodeSKU",
    "OrcaSchedulerConfig",
    "PPOGlobalSchedulerConfig",
    "PoissonRequestIntervalGeneratorConfig",
    "PowerOfTwoGlobalSchedulerConfig",
    "QuantileRequestLengthGeneratorConfig",
    "RandomForrestExecutionTimePredictorConfig",
    "RandomGlobalSchedulerConfig",
    "ReplicaConfig",
    "ReplicaEventConfig",
    "ReplicaGroupConfig",
    "ResolvedGroup",
    "RooflineExecutionTimePredictorConfig",
    "RoundRobinGlobalSchedulerConfig",
    "SarathiSchedulerConfig",
    "SessionHashGlobalSchedulerConfig",
    "SimulationConfig",
    "SizeSplitGlobalSchedulerConfig",
    "StaticRequestIntervalGeneratorConfig",
    "SwingRequestIntervalGeneratorConfig",
    "SyntheticRequestGeneratorConfig",
    "TablesExecutionTimePredictorConfig",
    "TraceRequestGeneratorConfig",
    "TraceRequestIntervalGeneratorConfig",
    "TraceRequestLengthGeneratorConfig",
    "UniformRequestLengthGeneratorConfig",
    "VllmSchedulerConfig",
    "VllmV1SchedulerConfig",
    "WeightedRoundRobinGlobalSchedulerConfig",
    "ZipfRequestLengthGeneratorConfig",
]
