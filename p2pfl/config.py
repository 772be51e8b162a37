"""Every setting of a run as frozen dataclasses, one small section a concern; TOML in, TOML out."""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import tomli_w
import tyro

from p2pfl.errors import ConfigError

T = TypeVar("T")


def _unset(kind: str, default: str) -> Any:
    """How `--help` shows an option that may stay unset: its kind of value, and what then holds."""
    return tyro.conf.arg(metavar=kind, help_behavior_hint=f"(default: {default})")


def _check(condition: bool, option: str, value: object, remedy: str) -> None:
    if not condition:
        raise ConfigError(f"--{option.replace('_', '-')} {value}: {remedy}")


def _positive(section: object, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _check(value is None or (math.isfinite(value) and value > 0), name, value, "must be greater than 0")


def _not_negative(section: object, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _check(math.isfinite(value) and value >= 0, name, value, "must be 0 or more")


@dataclass(frozen=True)
class ModelConfig:
    """What is trained."""

    model: str = "vgg11"
    """Network: vgg11, vgg13, vgg16, vgg19, or your own as module:function."""
    width: float = 1.0
    """Scale of every channel count, the head's too (0.25: a quarter of the channels)."""
    batch_norm: bool = True
    """Batch normalization after every convolution."""

    def __post_init__(self) -> None:
        _positive(self, "width")


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on."""

    dataset: str = "cifar10"
    """Data set: cifar10, digits, imagefolder:DIR (with DIR/train/CLASS and DIR/test/CLASS), or module:function."""
    data_dir: Annotated[str | None, _unset("DIR", "p2pfl in your cache folder")] = None
    """Folder of downloads and decoded data sets."""
    partition: Literal["iid"] = "iid"
    """How training samples are dealt to the peers: iid (shuffled, equal shards)."""


@dataclass(frozen=True)
class TrainingConfig:
    """How one peer trains."""

    rounds: int = 40
    """Rounds of local training and exchange."""
    local_epochs: Annotated[int | None, _unset("INT", "1")] = None
    """Passes over a peer's shard in a round."""
    local_steps: Annotated[int | None, _unset("INT", "as --local-epochs says")] = None
    """Optimizer steps in a round, instead of whole epochs."""
    batch_size: int = 32
    """Samples in an optimizer step of one peer."""
    lr: float = 0.02
    """Learning rate (the peak of the schedule)."""
    momentum: float = 0.9
    """Nesterov momentum; 0: plain SGD. The one-cycle schedule moves it 0.05 up and down."""
    weight_decay: float = 5e-4
    """L2 penalty on all parameters."""
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    """Learning rate over the run: onecycle (rises for the first fifth), cosine, or constant."""
    reset_momentum: bool = False
    """Forget the optimizer's momentum at the start of every round."""

    def __post_init__(self) -> None:
        _positive(self, "rounds", "local_epochs", "local_steps", "batch_size", "lr")
        _not_negative(self, "weight_decay", "momentum")
        _check(self.momentum < 1, "momentum", self.momentum, "must be below 1")
        both = self.local_epochs is not None and self.local_steps is not None
        _check(not both, "local_epochs", self.local_epochs, f"--local-steps {self.local_steps} is set too; choose one")


@dataclass(frozen=True)
class ExchangeConfig:
    """How peers exchange and average."""

    algorithm: Literal["dpsgd"] = "dpsgd"
    """Gossip algorithm: dpsgd (synchronous decentralized SGD)."""
    mixing: Literal["metropolis-hastings", "uniform", "weights"] = "metropolis-hastings"
    """Weights of the average: metropolis-hastings, uniform (equal degrees only), or the file's own weights."""
    order: Literal["atc", "overlapped"] = "atc"
    """atc: train, exchange, mix. overlapped: exchange last round's weights while training (needs a smaller --lr)."""
    wire_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format of weights in messages of the training rounds; bf16 halves the bytes."""
    transport: Literal["auto", "ipc", "tcp"] = "auto"
    """Sockets: ipc on one machine, tcp; auto: tcp where the topology file has hosts and ports, else ipc."""
    insecure: bool = False
    """Allow unencrypted, unauthenticated tcp beyond this machine's loopback address."""
    consensus_tolerance: float = 1e-3
    """After the last round peers only mix, until their disagreement has shrunk to this fraction."""
    start_timeout: float = 600.0
    """Seconds until every peer process has loaded its data and opened its socket."""
    handshake_timeout: float = 60.0
    """Seconds from then until all neighbors have greeted each other."""
    first_round_timeout: float = 600.0
    """Seconds to wait for neighbors in the first round, or ten times a peer's own first training, if longer."""
    round_timeout: float = 60.0
    """Seconds to wait for neighbors in later rounds, or ten times the longest round so far, if longer."""

    def __post_init__(self) -> None:
        _positive(self, "start_timeout", "handshake_timeout", "first_round_timeout", "round_timeout")
        tolerance = self.consensus_tolerance
        _check(0 < tolerance < 1, "consensus_tolerance", tolerance, "must lie between 0 and 1, for example 1e-3")


@dataclass(frozen=True)
class ComputeConfig:
    """What it runs on."""

    device: str = "auto"
    """auto (spread over the visible GPUs, else CPU), cpu, cuda, or one such as cuda:0."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast to bfloat16; weights stay float32."""
    threads: Annotated[int | None, _unset("INT", "its share of the cores")] = None
    """CPU threads of a peer."""

    def __post_init__(self) -> None:
        _positive(self, "threads")
        parts = self.device.split(":")
        known = self.device in ("auto", "cpu", "cuda") or (
            len(parts) == 2 and parts[0] == "cuda" and parts[1].isdecimal()
        )
        _check(known, "device", self.device, "choose auto, cpu, cuda or cuda:0")


@dataclass(frozen=True)
class RecordConfig:
    """What is measured and where it is kept."""

    seed: int = 0
    """Seed of everything random: initial weights, shards, batches, augmentation."""
    eval_every: Annotated[int | None, _unset("INT", "about ten evaluations a run")] = None
    """Rounds between evaluations. The last round is always evaluated, on the whole test set."""
    eval_samples: int = 1000
    """Test samples of an evaluation during the run; 0: all."""
    name: Annotated[str | None, _unset("TEXT", "that of the topology file")] = None
    """Name of the run in its folder's name and its report."""
    run_dir: Annotated[str | None, _unset("DIR", "runs/TIME-MODE-NAME")] = None
    """Folder of the results."""
    checkpoint: bool = True
    """Save a checkpoint of every peer after each round, so that the run can be resumed."""

    def __post_init__(self) -> None:
        _positive(self, "eval_every")
        _not_negative(self, "eval_samples", "seed")


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run; `topology` names the topology file it was started with.

    `RunConfig.of(rounds=5, model="vgg11")` sets options by their names on the command line.
    """

    topology: str | None = None
    """Topology file: .graphml .gml .gexf .json .edgelist or .adjlist."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    record: RecordConfig = field(default_factory=RecordConfig)

    @classmethod
    def of(cls, topology: str | None = None, **options: Any) -> RunConfig:
        """Settings from flat option names. Raises ConfigError naming an unknown option or a bad value."""
        return replace_options(cls(topology=topology), **options)


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "exchange": ExchangeConfig,
    "compute": ComputeConfig,
    "record": RecordConfig,
}
_SECTION_OF = {item.name: name for name, kind in SECTIONS.items() for item in dataclasses.fields(kind)}

# A resumed run may differ in these from the run that it goes on with.
FREE_ON_RESUME = frozenset(
    {"transport", "eval_every", "run_dir", "insecure", *(n for n in _SECTION_OF if "timeout" in n)}
)
# Peers of one swarm need not agree on these: they concern one machine only.
PRIVATE = frozenset({"data_dir", "device", "threads", "name", "run_dir", "checkpoint", "transport", "insecure"}) | {
    name for name in _SECTION_OF if "timeout" in name
}


def options(config: RunConfig) -> dict[str, Any]:
    """All settings but the topology, by option name."""
    return {name: getattr(getattr(config, section), name) for name, section in _SECTION_OF.items()}


def replace_options(config: RunConfig, **changes: Any) -> RunConfig:
    """A copy with some options changed. Raises ConfigError naming an unknown option or a bad value."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name not in _SECTION_OF:
            raise ConfigError(f"there is no option {name!r}; known are {', '.join(sorted(_SECTION_OF))}")
        sections.setdefault(_SECTION_OF[name], {})[name] = value
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


def to_toml(config: RunConfig) -> str:
    """The settings as TOML; options that are not set are left out."""
    plain = dataclasses.asdict(config)
    tables = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in plain.items()
        if name in SECTIONS
    }
    top = {} if config.topology is None else {"topology": config.topology}
    return tomli_w.dumps({**top, **tables})


def load_toml(path: str | os.PathLike[str]) -> RunConfig:
    """Settings from a TOML file; what it leaves out keeps its default.

    Options may stand in their section or, more simply, at the top of the file. The topology's path starts at the
    TOML file's own folder. Raises ConfigError naming the file and the field.
    """
    try:
        plain = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from None
    topology = plain.pop("topology", None)
    if not (topology is None or isinstance(topology, str)):
        raise ConfigError(f"{path}: topology: must be the path of a topology file")
    if topology is not None:
        topology = str(Path(path).parent / topology)
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if not isinstance(value, dict):
            flat[key] = value
        elif key not in SECTIONS:
            raise ConfigError(f"{path}: there is no section [{key}]; known are {', '.join(SECTIONS)}")
        else:
            misplaced = [name for name in value if _SECTION_OF.get(name) != key]
            if misplaced:
                raise ConfigError(f"{path}: [{key}] has no option {misplaced[0]!r}")
            twice = sorted(flat.keys() & value.keys())
            if twice:
                raise ConfigError(f"{path}: {twice[0]} stands both in [{key}] and at the top of the file")
            flat.update(value)
    try:
        return replace_options(RunConfig(topology=topology), **flat)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
