"""The sections of a run's settings: frozen dataclasses, one small one a concern, checked when they are made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from p2pfl import registry
from p2pfl.config.bounds import check, is_count, not_negative, one_of, positive, unset
from p2pfl.config.pictures import (
    COLOR_REMEDY,
    RANGE_REMEDY,
    PictureOptions,
    color_text,
    parse_color,
    parse_range,
    range_text,
)

MOST_ROUNDS = 10_000_000
MOST_STEPS = 100_000_000  # of a round; with the rounds above they still can be counted in 64 bits
MOST_EPOCHS = 10_000  # of a round
MOST_PROCESSES = 4096  # as topologies have peers at most
MOST_SECONDS = 1_000_000  # eleven days; sockets count milliseconds in 31 bits
MOST_RATE = 1e30  # of learning and decay; float32 ends at 3e38
MOST_WIDTH = 64
MOST_SAMPLES = 1_000_000_000
MOST_SEED = 2**63 - 1  # as TOML has integers


@dataclass(frozen=True)
class ModelConfig:
    """What is trained."""

    model: Annotated[str, one_of("model")] = "vgg11"
    """Network."""
    width: float = 1.0
    """Scale of every channel count, the head's too (0.25: a quarter of the channels)."""
    batch_norm: bool = True
    """Batch normalization after every convolution."""

    def __post_init__(self) -> None:
        positive(self, MOST_WIDTH, "width")


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on."""

    dataset: Annotated[str, one_of("dataset")] = "cifar10"
    """Data set."""
    data_dir: Annotated[str | None, unset("DIR", "p2pfl in your cache folder")] = None
    """Folder of downloads and decoded data sets."""
    partition: Annotated[str, one_of("partition")] = "iid"
    """Partition of the training samples among the peers."""
    image_range: Annotated[str | None, unset("LOW,HIGH", "the range of the file's type; none for 32 bits")] = None
    """Values that become black and white in imagefolder pictures with more than 8 bits, such as 0,4095; 32-bit and
    float pictures need it."""
    augment: Literal["auto", "on", "off"] = "auto"
    """Shift and mirror training images at random: auto (as suits the data set; imagefolder: on), on, or off."""
    background: str = "white"
    """Color behind transparent pictures of an imagefolder: a CSS color name or #rrggbb."""

    def __post_init__(self) -> None:
        registry.check("partition", self.partition)
        if self.image_range is not None:
            value_range = parse_range(self.image_range)
            check(value_range is not None, "image_range", self.image_range, RANGE_REMEDY)
            # One spelling of equal values, since processes and runs are told apart by the text of their settings.
            object.__setattr__(self, "image_range", value_range and range_text(value_range))
        color = parse_color(self.background)
        check(color is not None, "background", self.background, COLOR_REMEDY)
        object.__setattr__(self, "background", color and color_text(color))

    @property
    def kind(self) -> str:
        """The kind of data set, wherever it lies: a name of ours, or "module:function"."""
        known = registry.entry_of("dataset", self.dataset) is not None
        return self.dataset.partition(":")[0] if known else registry.OWN["dataset"]

    @property
    def located(self) -> str:
        """The data set with an absolute path, if it is a folder: a run may be resumed from anywhere."""
        kind, _, folder = self.dataset.partition(":")
        entry = registry.entry_of("dataset", self.dataset)
        is_folder = entry is not None and entry.argument == "DIR" and folder != ""
        return f"{kind}:{os.path.abspath(os.path.expanduser(folder))}" if is_folder else self.dataset

    @property
    def pictures(self) -> PictureOptions:
        """What the decoder of an image folder is told."""
        value_range = None if self.image_range is None else parse_range(self.image_range)
        return PictureOptions(value_range, parse_color(self.background) or PictureOptions().background)


@dataclass(frozen=True)
class TrainingConfig:
    """How one process trains."""

    rounds: int = 40
    """Rounds: local training, then the exchange that the mode has. Of sgd: passes over the training set."""
    local_epochs: Annotated[int | None, unset("INT", "1")] = None
    """Passes over a process's own samples in a round."""
    local_steps: Annotated[int | None, unset("INT", "as --local-epochs says")] = None
    """Optimizer steps in a round, instead of whole epochs."""
    batch_size: int = 32
    """Samples in an optimizer step of one process."""
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
    init: Annotated[str | None, unset("FILE", "drawn from --seed")] = None
    """Safetensors file of the weights that everybody starts from, such as the consensus.safetensors of a run."""

    def __post_init__(self) -> None:
        positive(self, MOST_ROUNDS, "rounds")
        positive(self, MOST_EPOCHS, "local_epochs")
        positive(self, MOST_STEPS, "local_steps", "batch_size")
        positive(self, MOST_RATE, "lr")
        not_negative(self, MOST_RATE, "weight_decay", "momentum")
        check(self.momentum < 1, "momentum", self.momentum, "must be below 1")
        both = self.local_epochs is not None and self.local_steps is not None
        check(not both, "local_epochs", self.local_epochs, f"--local-steps {self.local_steps} is set too; choose one")


@dataclass(frozen=True)
class GossipConfig:
    """How peers average with their neighbors."""

    algorithm: Annotated[str, one_of("algorithm")] = "dpsgd"
    """Gossip algorithm; all but dpsgd are robust against --byzantine malicious neighbors."""
    mixing: Annotated[str, one_of("mixing")] = "metropolis-hastings"
    """Mixing matrix, the weights of the average."""
    order: Literal["atc", "overlapped"] = "atc"
    """atc: train, exchange, mix. overlapped: exchange last round's weights while training (needs a smaller --lr)."""
    consensus_tolerance: float = 1e-3
    """After the last round peers only mix, until their disagreement has shrunk to this fraction; without a promise for
    robust algorithms."""
    min_peers: Annotated[int | None, unset("INT", "all")] = None
    """Peers that must live: the others go on without those that are lost, unless fewer than this are left."""

    def __post_init__(self) -> None:
        tolerance = self.consensus_tolerance
        registry.check("algorithm", self.algorithm)
        registry.check("mixing", self.mixing)
        positive(self, MOST_PROCESSES, "min_peers")
        check(0 < tolerance < 1, "consensus_tolerance", tolerance, "must lie between 0 and 1, for example 1e-3")


@dataclass(frozen=True)
class CentralizedConfig:
    """Who takes part in federated learning with a coordinator."""

    num_clients: int = 20
    """Clients, one process each with its own shard."""
    num_selected: int = 6
    """Clients that the coordinator draws for each round."""

    def __post_init__(self) -> None:
        positive(self, MOST_PROCESSES - 1, "num_clients", "num_selected")


@dataclass(frozen=True)
class ServerConfig:
    """What a coordinator does with its clients' updates."""

    averaging: Annotated[str, one_of("averaging")] = "uniform"
    """Coordinator's average of the updates; trimmed-mean, median and krum are robust against --byzantine malicious
    clients."""
    server_momentum: float = 0.0
    """0: FedAvg, the average as it is. More, such as 0.9: FedAvgM, momentum on the coordinator's own steps."""
    server_lr: float = 1.0
    """Length of the coordinator's step from the global model towards the average; 1 goes all the way."""
    proximal_mu: float = 0.0
    """FedProx: pull of a client's weights towards the global model while it trains; 0: none."""
    deadline: Annotated[float | None, unset("FLOAT", "as --first-round-timeout and --round-timeout")] = None
    """Seconds that a round's clients have for training; the round goes on without those that take longer."""
    min_updates: Annotated[int | None, unset("INT", "half of the selected clients")] = None
    """Updates that a round needs; with fewer the run ends."""

    def __post_init__(self) -> None:
        registry.check("averaging", self.averaging)
        positive(self, MOST_RATE, "server_lr")
        positive(self, MOST_SECONDS, "deadline")
        positive(self, MOST_PROCESSES, "min_updates")
        not_negative(self, MOST_RATE, "server_momentum", "proximal_mu")
        check(self.server_momentum < 1, "server_momentum", self.server_momentum, "must be below 1")


@dataclass(frozen=True)
class RobustConfig:
    """What robust averaging (--algorithm, --averaging) has to bear."""

    byzantine: Annotated[int | None, unset("INT", "none; robust averaging needs it")] = None
    """Hostile neighbors of a peer, or updates of a round, that robust averaging bears at most."""

    def __post_init__(self) -> None:
        not_negative(self, MOST_PROCESSES, "byzantine")


@dataclass(frozen=True)
class ExchangeConfig:
    """How weights travel, and for how long one waits for them."""

    wire_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format of weights in messages of the training rounds; bf16 halves the bytes."""
    transport: Literal["auto", "ipc", "tcp"] = "auto"
    """Sockets: ipc on one machine, tcp; auto: tcp where the topology file has hosts and ports, else ipc."""
    insecure: bool = False
    """Allow messages that are not encrypted: beyond this machine, or in spite of keys in the file. A peer needs keys or
    a token all the same, unless all hosts of its file are this machine."""
    keys: Annotated[str | None, unset("DIR", "none")] = None
    """Folder with the secret keys that p2pfl keys made: every link is encrypted and authenticated (gossip and peer)."""
    token_file: Annotated[str | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """File with the secret that all peers share where there are no keys; an option of p2pfl peer only."""
    start_timeout: float = 600.0
    """Seconds until every process has loaded its data and opened its socket."""
    handshake_timeout: float = 60.0
    """Seconds from then until all neighbors have greeted each other."""
    first_round_timeout: float = 600.0
    """Seconds to wait for others in the first round, or ten times a peer's own first training, if longer."""
    round_timeout: float = 60.0
    """Seconds to wait for others in later rounds, or ten times the longest round so far, if longer."""
    grace_timeout: float = 10.0
    """Seconds that a broken connection has to come back before its neighbor counts as lost; at least 2."""
    faults: Annotated[str | None, unset("FILE", "none")] = None
    """Fault script to play: who is killed, frozen or cut off in which round, and what happens to messages (TOML)."""
    restart: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = 0
    """How many times the launcher starts a process that dies again; no option of p2pfl peer, which has no launcher."""

    def __post_init__(self) -> None:
        timeouts = ("start_timeout", "handshake_timeout", "first_round_timeout", "round_timeout", "grace_timeout")
        positive(self, MOST_SECONDS, *timeouts)
        check(self.grace_timeout >= 2, "grace_timeout", self.grace_timeout, "must be at least 2")
        not_negative(self, MOST_ROUNDS, "restart")


@dataclass(frozen=True)
class ComputeConfig:
    """What it runs on."""

    device: str = "auto"
    """auto (spread over the visible GPUs, else CPU), cpu, cuda, or one such as cuda:0."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast to bfloat16; weights stay float32."""
    threads: Annotated[int | None, unset("INT", "its share of the cores")] = None
    """CPU threads of a process."""

    def __post_init__(self) -> None:
        positive(self, MOST_PROCESSES, "threads")
        parts = self.device.split(":")
        known = self.device in ("auto", "cpu", "cuda") or (
            len(parts) == 2 and parts[0] == "cuda" and is_count(parts[1])
        )
        check(known, "device", self.device, "choose auto, cpu, cuda or cuda:0")


@dataclass(frozen=True)
class RecordConfig:
    """What is measured and where it is kept."""

    seed: int = 0
    """Seed of everything random: initial weights, shards, batches, augmentation."""
    eval_every: Annotated[int | None, unset("INT", "about ten evaluations a run; p2pfl centralized: 1")] = None
    """Rounds between evaluations. The last round is always evaluated, on the whole test set."""
    eval_samples: Annotated[int | None, unset("INT", "1000; p2pfl centralized and sgd: all")] = None
    """Test samples of an evaluation during the run; 0: all."""
    name: Annotated[str | None, unset("TEXT", "that of the topology file, or the mode")] = None
    """Name of the run in its folder's name and its report."""
    run_dir: Annotated[str | None, unset("DIR", "runs/TIME-MODE-NAME")] = None
    """Folder of the results."""
    checkpoint: bool = True
    """Save a checkpoint of every process after each round, so that the run can be resumed."""
    profile: Annotated[str | None, unset("NODE:ROUND", "none")] = None
    """Write a profiler's trace of one process's round into its folder in peers/, to look at in ui.perfetto.dev."""

    def __post_init__(self) -> None:
        positive(self, MOST_ROUNDS, "eval_every")
        not_negative(self, MOST_SAMPLES, "eval_samples")
        not_negative(self, MOST_SEED, "seed")
        node, _, round = ("x:1" if self.profile is None else self.profile).rpartition(":")
        known = bool(node) and is_count(round) and int(round) > 0
        check(known, "profile", self.profile, "must be NODE:ROUND, a node's label and a round, for example 0:2")
