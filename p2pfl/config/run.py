"""All settings of one run, and the same by option name."""

from __future__ import annotations

import dataclasses
import unicodedata
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from p2pfl import registry
from p2pfl.config.sections import (
    CentralizedConfig,
    ComputeConfig,
    DataConfig,
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
    record: RecordConfig = field(default_factory=RecordConfig)

    def __post_init__(self) -> None:
        for name, value in (("topology", self.topology), *options(self).items()):
            _check_text(name, value)

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
    "robust": RobustConfig,
    "exchange": ExchangeConfig,
    "compute": ComputeConfig,
    "record": RecordConfig,
}
_ALWAYS = ("model", "data", "training", "compute", "record")
# Mode -> the sections that mean something in it.
MODE_SECTIONS: dict[Mode, tuple[str, ...]] = {
    "gossip": (*_ALWAYS, "gossip", "robust", "exchange"),
    "centralized": (*_ALWAYS, "centralized", "server", "robust", "exchange"),
    "sgd": _ALWAYS,
    "local": _ALWAYS,
}
SECTION_OF = {item.name: name for name, kind in SECTIONS.items() for item in dataclasses.fields(kind)}

# A resumed run may differ in these from the run that it goes on with.
FREE_ON_RESUME = frozenset(
    {
        "data_dir",
        *("transport", "eval_every", "run_dir", "insecure", "keys", "token_file", "profile", "min_peers", "restart"),
        *(name for name in SECTION_OF if "timeout" in name),
    }
)
# Peers of one swarm need not agree on these: they concern one machine only.
PRIVATE = frozenset(
    {
        *("data_dir", "device", "threads", "name", "run_dir", "checkpoint", "profile", "transport", "insecure", "keys"),
        "token_file",
    }
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
    _check_pictures(config)
    _check_byzantine(config)
    if config.mode != "centralized":
        return
    clients, selected = config.centralized.num_clients, config.centralized.num_selected
    if selected > clients:
        raise ConfigError(f"--num-selected {selected}: there are only {clients} clients (--num-clients)")
    least = config.server.min_updates
    if least is not None and least > selected:
        raise ConfigError(f"--min-updates {least}: only {selected} clients train in a round (--num-selected)")
    needed, averaging = _robust_needs(config), config.server.averaging
    if selected < needed:
        raise ConfigError(
            f"--byzantine {config.robust.byzantine}: {averaging} then needs {needed} updates a round, "
            f"and --num-selected is {selected}"
        )
    if least is not None and least < needed:
        raise ConfigError(
            f"--min-updates {least}: {averaging} needs {needed} with --byzantine {config.robust.byzantine}"
        )


def averaging_rule(config: RunConfig) -> tuple[str, str] | None:
    """The option that says how vectors are averaged in the run's mode, and its value; None where nobody averages."""
    rules = {"gossip": ("algorithm", config.gossip.algorithm), "centralized": ("averaging", config.server.averaging)}
    return rules.get(config.mode)


def is_robust(config: RunConfig) -> bool:
    """Whether the run's average tolerates --byzantine malicious peers; of the user's own algorithm, if that is set."""
    rule = averaging_rule(config)
    if rule is None:
        return False
    entry = registry.entry_of(*rule)
    return config.robust.byzantine is not None if entry is None else entry.tolerates_byzantine


def least_updates(config: RunConfig) -> int:
    """Updates that a round of a centralized run needs: --min-updates, or half of the selected clients."""
    least = config.server.min_updates
    return max(-(-config.centralized.num_selected // 2), _robust_needs(config)) if least is None else least


def _check_pictures(config: RunConfig) -> None:
    chosen, plain = registry.entry_of("dataset", config.data.dataset), DataConfig()
    for kind, entry in registry.DATASETS.items():
        for name in entry.options if entry is not chosen else ():
            value = getattr(config.data, name)
            if value != getattr(plain, name):
                option, spelled = f"--{name.replace('_', '-')} {value}", f"{kind}:{entry.argument}"
                raise ConfigError(f"{option}: means nothing with --dataset {config.data.dataset}, only with {spelled}")


def _check_byzantine(config: RunConfig) -> None:
    rule, byzantine = averaging_rule(config), config.robust.byzantine
    if rule is None:
        return
    option, value = rule
    if is_robust(config) and byzantine is None:
        raise ConfigError(
            f"--{option} {value}: say how many malicious peers it has to tolerate: --byzantine 1, for example"
        )
    if not is_robust(config) and byzantine is not None:
        raise ConfigError(f"--byzantine {byzantine}: means nothing with --{option} {value}, which tolerates none")


def _robust_needs(config: RunConfig) -> int:
    """Updates that a robust average needs to tolerate --byzantine malicious ones; 0 for the others."""
    entry = registry.entry_of("averaging", config.server.averaging)
    if entry is None or not entry.tolerates_byzantine:
        return 0
    return 2 * (config.robust.byzantine or 0) + entry.margin


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
            raise ConfigError(f"there is no option {name!r}{known_are(name, sorted(SECTION_OF))}")
        sections.setdefault(SECTION_OF[name], {})[name] = value
    parts = {name: getattr(config, name) for name in SECTIONS}
    for name, values in sections.items():
        plain = {**dataclasses.asdict(parts[name]), **values}
        parts[name] = _convert(plain, SECTIONS[name])
    return dataclasses.replace(config, **parts)


def _check_text(name: str, value: object) -> None:
    """Raises ConfigError for text with characters that neither the saved settings nor a path can hold."""
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
    """A value as its user wrote it, if that is not too long for a line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of thousands of digits, and no tables of such depth
        text = "of that length"
    return text if len(text) <= 80 else f"{text[:80]}…"
