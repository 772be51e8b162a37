"""Settings of a run as frozen dataclasses, one section a concern, and as TOML."""

from p2pfl.config.compression import compression_choice
from p2pfl.config.consistency import (
    among_algorithms,
    check_data,
    check_together,
    gossip_entry,
    is_robust,
    least_updates,
)
from p2pfl.config.data import DataConfig, EvaluationSet
from p2pfl.config.launch import LaunchConfig
from p2pfl.config.launch_checks import check_launch, shares_memory, spans_machines
from p2pfl.config.lists import LISTED, TUNABLE, split_values
from p2pfl.config.pictures import PictureOptions
from p2pfl.config.run import (
    LOCAL_OPTIONS,
    MODE_SECTIONS,
    NOT_IN_FINGERPRINT,
    RESUME_OVERRIDES,
    SECTIONS,
    Mode,
    RunConfig,
    foreign_options,
    options,
    replace_options,
)
from p2pfl.config.sections import (
    MOST_SEED,
    CentralizedConfig,
    ComputeConfig,
    ExchangeConfig,
    GossipConfig,
    ModelConfig,
    RecordConfig,
    RobustConfig,
    ServerConfig,
    TrainingConfig,
)
from p2pfl.config.toml import ALIASES, load_toml, to_toml

__all__ = [
    "ALIASES",
    "LISTED",
    "LOCAL_OPTIONS",
    "MODE_SECTIONS",
    "MOST_SEED",
    "NOT_IN_FINGERPRINT",
    "RESUME_OVERRIDES",
    "SECTIONS",
    "TUNABLE",
    "CentralizedConfig",
    "ComputeConfig",
    "DataConfig",
    "EvaluationSet",
    "ExchangeConfig",
    "GossipConfig",
    "LaunchConfig",
    "Mode",
    "ModelConfig",
    "PictureOptions",
    "RecordConfig",
    "RobustConfig",
    "RunConfig",
    "ServerConfig",
    "TrainingConfig",
    "among_algorithms",
    "check_data",
    "check_launch",
    "check_together",
    "compression_choice",
    "foreign_options",
    "gossip_entry",
    "is_robust",
    "least_updates",
    "load_toml",
    "options",
    "replace_options",
    "shares_memory",
    "spans_machines",
    "split_values",
    "to_toml",
]
