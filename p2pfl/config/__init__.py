"""Every setting of a run as frozen dataclasses, one small section a concern; TOML in, TOML out."""

from p2pfl.config.run import (
    FREE_ON_RESUME,
    INCIDENTAL,
    MODE_SECTIONS,
    PRIVATE,
    SECTIONS,
    Mode,
    RunConfig,
    check_together,
    foreign_options,
    options,
    replace_options,
)
from p2pfl.config.sections import (
    CentralizedConfig,
    ComputeConfig,
    DataConfig,
    ExchangeConfig,
    GossipConfig,
    ModelConfig,
    RecordConfig,
    ServerConfig,
    TrainingConfig,
)
from p2pfl.config.toml import ALIASES, load_toml, to_toml

__all__ = [
    "ALIASES",
    "FREE_ON_RESUME",
    "INCIDENTAL",
    "MODE_SECTIONS",
    "PRIVATE",
    "SECTIONS",
    "CentralizedConfig",
    "ComputeConfig",
    "DataConfig",
    "ExchangeConfig",
    "GossipConfig",
    "Mode",
    "ModelConfig",
    "RecordConfig",
    "RunConfig",
    "ServerConfig",
    "TrainingConfig",
    "check_together",
    "foreign_options",
    "load_toml",
    "options",
    "replace_options",
    "to_toml",
]
