"""All settings of one run, and the same by option name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

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
from p2pfl.errors import ConfigError

T = TypeVar("T")
Mode = Literal["gossip", "centralized", "sgd", "local"]


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run; `topology` names the topology file it was started with.

    `RunConfig.of(rounds=5, model="vgg11")` sets options by their names on the command line.
    """

    topology: str | None = None
    """Topology file: .graphml .gml .gexf .json .edgelist or .adjlist."""
    mode: Mode = "gossip"
    """gossip, centralized (FedAvg with a coordinator), sgd (one process, all data) or local (no exchange)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    centralized: CentralizedConfig = field(default_factory=CentralizedConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    record: RecordConfig = field(default_factory=RecordConfig)

    @classmethod
    def of(cls, topology: str | None = None, mode: Mode = "gossip", **options: Any) -> RunConfig:
        """Settings from flat option names. Raises ConfigError naming an unknown option or a bad value."""
        return replace_options(cls(topology=topology, mode=mode), **options)


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "gossip": GossipConfig,
    "centralized": CentralizedConfig,
    "server": ServerConfig,
    "exchange": ExchangeConfig,
    "compute": ComputeConfig,
    "record": RecordConfig,
}
_ALWAYS = ("model", "data", "training", "compute", "record")
# Mode -> the sections that mean something in it.
MODE_SECTIONS: dict[Mode, tuple[str, ...]] = {
    "gossip": (*_ALWAYS, "gossip", "exchange"),
    "centralized": (*_ALWAYS, "centralized", "server", "exchange"),
    "sgd": _ALWAYS,
    "local": _ALWAYS,
}
SECTION_OF = {item.name: name for name, kind in SECTIONS.items() for item in dataclasses.fields(kind)}

# A resumed run may differ in these from the run that it goes on with.
FREE_ON_RESUME = frozenset(
    {
        *("transport", "eval_every", "run_dir", "insecure", "profile", "min_peers", "restart"),
        *(name for name in SECTION_OF if "timeout" in name),
    }
)
# Peers of one swarm need not agree on these: they concern one machine only.
PRIVATE = frozenset(
    {"data_dir", "device", "threads", "name", "run_dir", "checkpoint", "profile", "transport", "insecure"}
) | {name for name in SECTION_OF if "timeout" in name}

# Two runs that differ in these only are the same run.
INCIDENTAL = PRIVATE | FREE_ON_RESUME


def options(config: RunConfig) -> dict[str, Any]:
    """All settings that mean something in the run's mode, by option name."""
    kept = {name: section for name, section in SECTION_OF.items() if section in MODE_SECTIONS[config.mode]}
    return {name: getattr(getattr(config, section), name) for name, section in kept.items()}


def check_together(config: RunConfig) -> None:
    """What sections cannot know of each other. Raises ConfigError naming an option that does not fit the others.

    Not done when settings are made, since those of a file and of the command line are put together one by one.
    """
    if config.mode != "centralized":
        return
    clients, selected = config.centralized.num_clients, config.centralized.num_selected
    if selected > clients:
        raise ConfigError(f"--num-selected {selected}: there are only {clients} clients (--num-clients)")
    least = config.server.min_updates
    if least is not None and least > selected:
        raise ConfigError(f"--min-updates {least}: only {selected} clients train in a round (--num-selected)")


def foreign_options(config: RunConfig) -> dict[str, Any]:
    """Options that are set and mean nothing in the run's mode."""
    others = {name: section for name, section in SECTION_OF.items() if section not in MODE_SECTIONS[config.mode]}
    plain = RunConfig()
    return {
        name: getattr(getattr(config, section), name)
        for name, section in others.items()
        if getattr(getattr(config, section), name) != getattr(getattr(plain, section), name)
    }


def replace_options(config: RunConfig, **changes: Any) -> RunConfig:
    """A copy with some options changed. Raises ConfigError naming an unknown option or a bad value."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name not in SECTION_OF:
            raise ConfigError(f"there is no option {name!r}; known are {', '.join(sorted(SECTION_OF))}")
        sections.setdefault(SECTION_OF[name], {})[name] = value
    parts = {name: getattr(config, name) for name in SECTIONS}
    for name, values in sections.items():
        plain = {**dataclasses.asdict(parts[name]), **values}
        parts[name] = _convert(plain, SECTIONS[name])
    return dataclasses.replace(config, **parts)


def _convert(plain: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).replace("`", "").partition(" - at $.")
        raise ConfigError(f"--{where.replace('_', '-')} {plain.get(where)!r}: {what[:1].lower()}{what[1:]}") from None
