"""`RunConfig`: all settings of one run, by section and by option name."""

from __future__ import annotations

import dataclasses
import unicodedata
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from p2pfl.config.data import DataConfig
from p2pfl.config.launch import LaunchConfig
from p2pfl.config.replaced import replacement
from p2pfl.config.sections import (
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
from p2pfl.errors import ConfigError
from p2pfl.util.text import known_are

T = TypeVar("T")
Mode = Literal["gossip", "centralized", "sgd", "local"]


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run; `topology` names the topology file it was started with.

    `RunConfig.of(rounds=5, model="vgg11")` sets options by their names on the command line.
    """

    topology: str | None = None
    """Topology file: .graphml .gml .gexf .json .edgelist .adjlist .csv .txt .net .dot …"""
    mode: Mode = "gossip"
    """gossip, centralized (FedAvg with a coordinator), sgd (one process, all data) or local (no exchange)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    centralized: CentralizedConfig = field(default_factory=CentralizedConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    record: RecordConfig = field(default_factory=RecordConfig)

    def __post_init__(self) -> None:
        for name, value in (("topology", self.topology), *options(self).items()):
            _check_text(name, value)

    @classmethod
    def of(cls, topology: str | None = None, mode: Mode = "gossip", **options: Any) -> RunConfig:
        """Make settings from option names.

        Raises ConfigError naming an unknown option or a bad value.

        Examples:
            >>> config = RunConfig.of(dataset="digits", width=0.25, rounds=5)
            >>> config.training.rounds, config.gossip.algorithm
            (5, 'dpsgd')
        """
        return replace_options(cls(topology=topology, mode=mode), **options)


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "gossip": GossipConfig,
    "centralized": CentralizedConfig,
    "server": ServerConfig,
    "robust": RobustConfig,
    "exchange": ExchangeConfig,
    "compute": ComputeConfig,
    "launch": LaunchConfig,
    "record": RecordConfig,
}
_ALWAYS = ("model", "data", "training", "compute", "launch", "record")
# Mode -> the sections that apply to it.
MODE_SECTIONS: dict[Mode, tuple[str, ...]] = {
    "gossip": (*_ALWAYS, "gossip", "robust", "exchange"),
    "centralized": (*_ALWAYS, "centralized", "server", "robust", "exchange"),
    "sgd": _ALWAYS,
    "local": _ALWAYS,
}
SECTION_OF = {item.name: name for name, kind in SECTIONS.items() for item in dataclasses.fields(kind)}
LAUNCH_OPTIONS = frozenset(item.name for item in dataclasses.fields(LaunchConfig))

# Options that may be changed when a run is resumed.
RESUME_OVERRIDES = frozenset(
    {
        "data_dir",
        *("transport", "eval_every", "run_dir", "insecure", "keys", "token_file", "profile", "min_peers", "restart"),
        *("checkpoint_every", "rendezvous", "rendezvous_key", "rendezvous_run"),
        *(name for name in SECTION_OF if "timeout" in name),
        *LAUNCH_OPTIONS,
    }
)
# Options that concern one machine only: the peers of a swarm need not agree on them.
LOCAL_OPTIONS = frozenset(
    {
        *("data_dir", "device", "threads", "name", "run_dir", "checkpoint", "profile", "transport", "insecure", "keys"),
        *("token_file", "rendezvous", "rendezvous_key", "rendezvous_run"),
        *LAUNCH_OPTIONS,
    }
) | {name for name in SECTION_OF if "timeout" in name}

# Options that are left out when settings are compared: runs that differ in these only are the same run.
NOT_IN_FINGERPRINT = LOCAL_OPTIONS | RESUME_OVERRIDES


def options(config: RunConfig) -> dict[str, Any]:
    """All settings that apply to the run's mode, by option name."""
    kept = {name: section for name, section in SECTION_OF.items() if section in MODE_SECTIONS[config.mode]}
    return {name: getattr(getattr(config, section), name) for name, section in kept.items()}


def foreign_options(config: RunConfig) -> dict[str, Any]:
    """Options that are set and do not apply to the run's mode."""
    others = {name: section for name, section in SECTION_OF.items() if section not in MODE_SECTIONS[config.mode]}
    plain = RunConfig()
    return {
        name: getattr(getattr(config, section), name)
        for name, section in others.items()
        if getattr(getattr(config, section), name) != getattr(getattr(plain, section), name)
    }


def replace_options(config: RunConfig, **changes: Any) -> RunConfig:
    """Copy settings with some options changed.

    Raises ConfigError naming an unknown option or a bad value.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name not in SECTION_OF:
            instead = replacement(name)
            raise ConfigError(instead or f"there is no option {name!r}{known_are(name, sorted(SECTION_OF))}")
        sections.setdefault(SECTION_OF[name], {})[name] = value
    replaced = {name: getattr(config, name) for name in SECTIONS}
    for name, values in sections.items():
        plain = {**dataclasses.asdict(replaced[name]), **values}
        replaced[name] = _convert(plain, SECTIONS[name])
    return dataclasses.replace(config, **replaced)


def _check_text(name: str, value: object) -> None:
    """Raise ConfigError for text with control characters or lone surrogates."""
    if isinstance(value, str) and any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
        option = name if name == "topology" else f"--{name.replace('_', '-')}"
        raise ConfigError(f"{option} {value!a}: has control characters; use printable text")


def _convert(plain: dict[str, Any], kind: type[T]) -> T:
    for name, value in plain.items():
        _check_text(name, value)
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).replace("`", "").partition(" - at $.")
        raise ConfigError(
            f"--{where.replace('_', '-')} {_shown(plain.get(where))}: {what[:1].lower()}{what[1:]}"
        ) from None


def _shown(value: object) -> str:
    """A value as its user wrote it, shortened to fit a line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of thousands of digits, and no tables of such depth
        text = "of that length"
    return text if len(text) <= 80 else f"{text[:80]}…"
