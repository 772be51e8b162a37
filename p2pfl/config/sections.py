"""Sections of settings: frozen dataclasses, checked when they are made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from p2pfl import registry
from p2pfl.config.compression import compression_choice
from p2pfl.config.data import MOST_SAMPLES
from p2pfl.config.fields import check, is_count, not_negative, one_of, positive, unset

MOST_ROUNDS = 10_000_000
MOST_BETWEEN_CHECKPOINTS = 10_000
MOST_STEPS = 100_000_000  # of a round; with the rounds above they still can be counted in 64 bits
MOST_EPOCHS = 10_000  # of a round
MOST_GOSSIP_STEPS = 64  # of a round; with the rounds above the wire's numbers of exchanges suffice
MOST_PROCESSES = 4096  # as topologies have peers at most
MOST_SECONDS = 1_000_000  # eleven days; sockets count milliseconds in 31 bits
MOST_RATE = 1e30  # of learning and decay; float32 ends at 3e38
MOST_WIDTH = 64
MOST_NAME = 200  # characters of the name of a start
MOST_SEED = 2**63 - 1  # as TOML has integers
RISE = 0.2  # share of the run in which the one-cycle schedule rises


@dataclass(frozen=True)
class ModelConfig:
    """Network that is trained."""

    model: Annotated[str, one_of("model")] = "vgg11"
    """Network."""
    width: float = 1.0
    """Scale of every channel count, the head's too (0.25: a quarter of the channels)."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalization after every convolution: batch, group (GroupNorm of two groups, which needs no statistics of the
    data), or none."""

    def __post_init__(self) -> None:
        registry.check("model", self.model)
        positive(self, MOST_WIDTH, "width")


@dataclass(frozen=True)
class TrainingConfig:
    """Local training of one process."""

    rounds: int = 40
    """Rounds: local training, then the exchange that the mode has. Of sgd: passes over the training set."""
    local_epochs: Annotated[int | None, unset("INT", "1")] = None
    """Local epochs: passes over a process's own samples in a round."""
    local_steps: Annotated[int | None, unset("INT", "as --local-epochs says")] = None
    """Local steps: optimizer steps in a round, instead of whole epochs."""
    round_length: Literal["steps", "epochs"] = "steps"
    """Round of peers with unequal shards. steps: the same number of steps for all, as many as --local-epochs of a mean
    shard have; a peer's samples are drawn in a new order each time that they are used up. epochs: --local-epochs
    passes over the peer's own samples, so that large shards take more steps."""
    batch_size: int = 32
    """Batch size: samples in an optimizer step of one process."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Local optimizer. sgd: with Nesterov momentum. adamw: AdamW with β₂ 0.999 and ε 1e-8, which keeps one more vector
    as long as the model, in memory and in checkpoints."""
    lr: float = 0.02
    """Learning rate (the peak of the schedule). AdamW needs a smaller one than SGD, such as 0.001."""
    momentum: float = 0.9
    """Nesterov momentum of SGD, β₁ of AdamW; 0: none. The one-cycle schedule moves it 0.05 up and down."""
    weight_decay: float = 5e-4
    """Weight decay of all parameters: with SGD an L2 penalty, with AdamW decoupled from the gradient."""
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    """Learning rate over the run: onecycle (rises for the first fifth), cosine, or constant."""
    reset_momentum: bool = False
    """Reset the optimizer's momentum to zero at the start of every round; of AdamW both moments and the number of
    steps. Otherwise each process keeps its own from round to round."""
    init: Annotated[str | None, unset("FILE", "drawn from --seed")] = None
    """Safetensors file of the initial weights of all processes, such as the consensus.safetensors of a run."""

    def __post_init__(self) -> None:
        positive(self, MOST_ROUNDS, "rounds")
        positive(self, MOST_EPOCHS, "local_epochs")
        positive(self, MOST_STEPS, "local_steps", "batch_size")
        positive(self, MOST_RATE, "lr")
        not_negative(self, MOST_RATE, "weight_decay", "momentum")
        check(self.momentum < 1, "momentum", self.momentum, "must be below 1")
        both = self.local_epochs is not None and self.local_steps is not None
        check(not both, "local_epochs", self.local_epochs, f"--local-steps {self.local_steps} is set too; choose one")
        whole = self.round_length == "epochs" and self.local_steps is not None
        check(not whole, "round_length", self.round_length, f"--local-steps {self.local_steps} is set too; choose one")

    @property
    def peak_round(self) -> int:
        """Round in which the learning rate reaches its peak, --lr."""
        return math.ceil(RISE * self.rounds) if self.schedule == "onecycle" else 1


@dataclass(frozen=True)
class GossipConfig:
    """Gossip averaging of peers with their neighbors."""

    algorithm: Annotated[str, one_of("algorithm")] = "dpsgd"
    """Gossip algorithm; Byzantine-robust ones tolerate --byzantine malicious neighbors."""
    mixing: Annotated[str, one_of("mixing")] = "metropolis-hastings"
    """Mixing matrix, the weights of the average."""
    order: Literal["atc", "overlapped"] = "atc"
    """Order of a round. atc: train, exchange, mix. overlapped: exchange last round's weights while training (needs a
    smaller --lr)."""
    gossip_steps: int = 1
    """Exchanges after each local training: peers train once and mix so many times. Traffic grows in proportion."""
    compression: Annotated[str, one_of("compression")] = "top-k:0.1"
    """Compression of what --algorithm choco sends; F is the fraction of the values that travels."""
    consensus_step: Annotated[float | None, unset("FLOAT", "by --compression")] = None
    """Consensus step size γ of --algorithm choco: how far a peer moves towards its neighbors' replicas. Too large a
    step diverges; the stronger the compression, the smaller it has to be."""
    average_momentum: bool = False
    """Average the momentum of --algorithm dpsgd with the neighbors', as the weights are, after every round; otherwise
    each peer keeps its own. Twice the bytes; needs --optimizer sgd and --order atc."""
    batch_norm_statistics: Literal["averaged", "local", "reestimated"] = "averaged"
    """Running statistics of batch normalization. averaged: mixed like the weights. local: each peer keeps its own in
    the training rounds; the consensus phase merges them. reestimated: averaged, and measured again by every peer on
    its own samples once the weights are merged; merging these doubles the consensus phase."""
    consensus_tolerance: float = 1e-3
    """Consensus phase: after the last round peers only mix, until their disagreement has shrunk to this fraction (not
    guaranteed with robust algorithms; relay-sum needs none, since its final merge is exact)."""
    final_merge: Literal["auto", "exact", "chebyshev", "plain", "none"] = "auto"
    """Rule of the consensus phase. exact: by relayed sums, by a schedule that averages exactly, or on one undirected
    graph as --mixing finite-time. chebyshev: accelerated, of symmetric weights. plain: the weights of --mixing in every
    round. none: no consensus phase, each peer ends with its own model. auto: push-sum and robust algorithms merge by
    themselves; others exactly where --mixing or --algorithm does, else by chebyshev where it can be, else plain."""
    min_peers: Annotated[int | None, unset("INT", "all")] = None
    """Least number of peers: the others continue without peers that are lost, unless fewer than this remain."""

    def __post_init__(self) -> None:
        tolerance = self.consensus_tolerance
        registry.check("algorithm", self.algorithm)
        registry.check("mixing", self.mixing)
        compression_choice(self.compression)
        positive(self, 1.0, "consensus_step")
        positive(self, MOST_PROCESSES, "min_peers")
        positive(self, MOST_GOSSIP_STEPS, "gossip_steps")
        check(0 < tolerance < 1, "consensus_tolerance", tolerance, "must lie between 0 and 1, for example 1e-3")


@dataclass(frozen=True)
class CentralizedConfig:
    """Clients of federated learning with a coordinator."""

    num_clients: int = 20
    """Clients, one process each with its own shard."""
    num_selected: int = 6
    """Clients that the coordinator draws for each round."""

    def __post_init__(self) -> None:
        positive(self, MOST_PROCESSES - 1, "num_clients", "num_selected")


@dataclass(frozen=True)
class ServerConfig:
    """Coordinator's averaging of its clients' updates."""

    averaging: Annotated[str, one_of("averaging")] = "uniform"
    """Coordinator's average of the updates; Byzantine-robust ones tolerate --byzantine malicious clients."""
    server_momentum: float = 0.0
    """Server momentum. 0: FedAvg, the plain average. More, such as 0.9: FedAvgM."""
    server_lr: float = 1.0
    """Server learning rate: step from the global model towards the average; 1 replaces the model by the average."""
    proximal_mu: float = 0.0
    """FedProx: strength of the proximal term, which pulls a client's weights towards the global model; 0: none."""
    deadline: Annotated[float | None, unset("FLOAT", "as --first-round-timeout and --round-timeout")] = None
    """Seconds that a round's clients have for training; the round continues without those that take longer."""
    min_updates: Annotated[int | None, unset("INT", "half of the selected clients")] = None
    """Least number of updates in a round; with fewer the run ends."""

    def __post_init__(self) -> None:
        registry.check("averaging", self.averaging)
        positive(self, MOST_RATE, "server_lr")
        positive(self, MOST_SECONDS, "deadline")
        positive(self, MOST_PROCESSES, "min_updates")
        not_negative(self, MOST_RATE, "server_momentum", "proximal_mu")
        check(self.server_momentum < 1, "server_momentum", self.server_momentum, "must be below 1")


@dataclass(frozen=True)
class RobustConfig:
    """Malicious peers that robust averaging (--algorithm, --averaging) tolerates."""

    byzantine: Annotated[int | None, unset("INT", "none; robust averaging needs it")] = None
    """Malicious neighbors of a peer, or malicious updates in a round, that robust averaging tolerates."""

    def __post_init__(self) -> None:
        not_negative(self, MOST_PROCESSES, "byzantine")


@dataclass(frozen=True)
class ExchangeConfig:
    """Transport of weights, timeouts, fault scripts."""

    wire_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format of weights in messages of the training rounds; bf16 halves the bytes."""
    transport: Literal["auto", "shm", "ipc", "tcp"] = "auto"
    """auto: shared memory between neighbors on one machine, unless there are keys or a token file; for the rest
    sockets, tcp where the topology file has hosts and ports, else ipc. shm: also with keys. ipc, tcp: these only."""
    insecure: bool = False
    """Allow messages that are not encrypted: beyond this machine, or despite keys in the file. A peer still needs keys
    or a token, unless all hosts of its file are this machine."""
    keys: Annotated[str | None, unset("DIR", "none")] = None
    """Folder of secret keys made by p2pfl keys; every link is then encrypted and authenticated (gossip and peer)."""
    token_file: Annotated[str | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """File with the secret shared by all peers where there are no keys; an option of p2pfl peer only."""
    rendezvous: Annotated[str | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """Folder or service through which peers find their neighbors; an option of p2pfl peer only."""
    rendezvous_key: Annotated[str | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """Public key of that service; an option of p2pfl peer only."""
    rendezvous_run: Annotated[str | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """Name of this start of a run; an option of p2pfl peer only."""
    start_timeout: float = 600.0
    """Seconds for every process to load its data and open its socket."""
    handshake_timeout: float = 60.0
    """Seconds after the start for all neighbors to greet each other."""
    first_round_timeout: float = 600.0
    """Seconds to wait for others in the first round, or ten times a peer's own first training, if longer."""
    round_timeout: float = 60.0
    """Seconds to wait for others in later rounds, or ten times the longest round so far, if longer."""
    grace_timeout: float = 10.0
    """Seconds for a broken connection to come back before its neighbor counts as lost; at least 2."""
    faults: Annotated[str | None, unset("FILE", "none")] = None
    """Fault script (TOML): processes that are killed, paused or cut off in a round, and faults of messages."""
    restart: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = 0
    """Restarts of a process that dies, at most; no option of p2pfl peer, which has no launcher."""

    def __post_init__(self) -> None:
        timeouts = ("start_timeout", "handshake_timeout", "first_round_timeout", "round_timeout", "grace_timeout")
        positive(self, MOST_SECONDS, *timeouts)
        check(self.grace_timeout >= 2, "grace_timeout", self.grace_timeout, "must be at least 2")
        not_negative(self, MOST_ROUNDS, "restart")
        key = self.rendezvous_key
        hexadecimal = key is None or re.fullmatch(r"[0-9a-fA-F]{64}", key) is not None
        check(hexadecimal, "rendezvous_key", key, "must be the 64 hexadecimal digits that p2pfl rendezvous prints")
        run = self.rendezvous_run
        check(run is None or 0 < len(run) <= MOST_NAME, "rendezvous_run", run, f"must have 1 to {MOST_NAME} characters")
        check(self.rendezvous != "", "rendezvous", "''", "name a folder, or a service as tcp://HOST:PORT")


@dataclass(frozen=True)
class ComputeConfig:
    """Device, precision and threads."""

    device: str = "auto"
    """auto (spread over the visible GPUs, else CPU), cpu, cuda, or one such as cuda:0."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of training; bf16: autocast to bfloat16, weights stay float32."""
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
    """Evaluation, records and checkpoints."""

    seed: int = 0
    """Seed of everything random: initial weights, shards, batches, augmentation."""
    eval_every: Annotated[int | None, unset("INT", "about ten evaluations a run; p2pfl centralized: 1")] = None
    """Rounds between evaluations. The last round is always evaluated, on the whole test set (the validation set
    with --no-test)."""
    eval_samples: Annotated[int | None, unset("INT", "1000; p2pfl centralized and sgd: all")] = None
    """Samples of an evaluation during the run, of the test set, or of the validation set if there is one; 0: all."""
    name: Annotated[str | None, unset("TEXT", "that of the topology file, or the mode")] = None
    """Name of the run in its folder's name and its report."""
    run_dir: Annotated[str | None, unset("DIR", "runs/TIME-MODE-NAME")] = None
    """Folder of the results."""
    checkpoint: bool = True
    """Save checkpoints of every process, for --resume."""
    checkpoint_every: int = 1
    """Training rounds between two checkpoints. The last training round is always saved. A run that was stopped goes
    back to the newest round that all peers have."""
    profile: Annotated[str | None, unset("NODE:ROUND", "none")] = None
    """Write a profiler trace of one process's round into its folder in peers/, for ui.perfetto.dev."""

    def __post_init__(self) -> None:
        positive(self, MOST_ROUNDS, "eval_every")
        positive(self, MOST_BETWEEN_CHECKPOINTS, "checkpoint_every")
        not_negative(self, MOST_SAMPLES, "eval_samples")
        not_negative(self, MOST_SEED, "seed")
        node, _, round = ("x:1" if self.profile is None else self.profile).rpartition(":")
        known = bool(node) and is_count(round) and int(round) > 0
        check(known, "profile", self.profile, "must be NODE:ROUND, a node's label and a round, for example 0:2")
