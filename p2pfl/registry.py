"""Registries: torch-free tables from a name to its object, summary and paper.

A table belongs to an option (`TABLES`). `--help`, the checks of settings and their messages, the tables of the
documentation and the tests over all algorithms read it from here, and `load` imports the object when it is needed.
Adding an algorithm, averaging rule, attack, mixing, partition, data set or model is one module, one entry and one test.
"""

# Longer than other modules: the tables stand in one place.
from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pfl.errors import ConfigError, one_line
from p2pfl.util.text import nearest


@dataclass(frozen=True)
class Entry:
    """Entry of a table: a name's object and everything known without importing it."""

    target: str
    """"module:attribute" of the object."""
    summary: str
    """Its meaning, in a phrase."""
    paper: str = ""
    """Where it was published."""
    argument: str = ""
    """Metavar of what follows the name after a colon, as in imagefolder:DIR."""
    options: tuple[str, ...] = ()
    """Names of settings that mean something with it only."""
    tolerates_byzantine: bool = False
    """Whether it averages robustly, for --byzantine malicious inputs B."""
    margin: int = 0
    """A robust rule needs 2 B + margin inputs."""
    synchronous: bool = True
    """Every peer waits for its neighbors' vectors of the round, so that a resumed run ends with the same bits."""
    weighs_by_samples: bool = False
    """Clients or peers count in proportion to the sizes of their shards."""
    keeps_mean: bool = True
    """A mixing whose rows add up to 1, or else it needs an algorithm that pushes sums."""
    pushes_sums: bool = False
    """Peers push shares of sums, of which only the columns of the mixing matrix have to add up to 1."""
    covers: bool = True
    """A partition that uses every sample."""
    names_samples: bool = False
    """A partition that names samples by their numbers in the whole training set."""
    orders: tuple[str, ...] = ("atc", "overlapped")
    """Values of --order that a gossip algorithm has."""
    wire_dtypes: tuple[str, ...] = ("fp32", "bf16")
    """Values of --wire-dtype that a gossip algorithm has."""
    needs_momentum: bool = False
    """It needs --momentum above 0."""
    least_eigenvalue: float | None = None
    """It needs a symmetric mixing matrix W with all eigenvalues above this; otherwise (I + W) / 2 takes its place."""
    uses_tree: bool = False
    """Weights travel along a spanning tree of the topology only, and the final merge is exact after as many rounds as
    the tree's diameter."""
    fixed_mixing: bool = False
    """It is written for one mixing matrix in all rounds, and refuses a schedule of graphs."""
    kept_vectors: int = 0
    """Vectors as long as the model that a peer keeps beside those of D-PSGD."""
    kept_per_neighbor: int = 0
    """Vectors as long as the model that a peer keeps for each neighbor, in the consensus phase, too."""


_YIN = "Yin et al. 2018, Byzantine-robust distributed learning: towards optimal statistical rates"
_VGG = "Simonyan & Zisserman 2015, Very deep convolutional networks for large-scale image recognition"
_MCMAHAN = "McMahan et al. 2017, Communication-efficient learning of deep networks from decentralized data"

ALGORITHMS: Mapping[str, Entry] = {
    "dpsgd": Entry(
        "p2pfl.algorithms.dpsgd:DPSGD",
        "synchronous decentralized SGD",
        "Lian et al. 2017, Can decentralized algorithms outperform centralized algorithms?",
    ),
    "quasi-global": Entry(
        "p2pfl.algorithms.quasi_global:QuasiGlobal",
        "D-PSGD with momentum of the mixed model, for different data on the peers (QG-DSGDm-N)",
        "Lin et al. 2021, Quasi-global momentum: accelerating decentralized deep learning on heterogeneous data",
        orders=("atc",),
        needs_momentum=True,
        kept_vectors=2,
    ),
    "exact-diffusion": Entry(
        "p2pfl.algorithms.exact_diffusion:ExactDiffusion",
        "D-PSGD corrected for different data on the peers (D²); symmetric mixing matrix",
        "Yuan et al. 2019, Exact diffusion for distributed optimization and learning",
        orders=("atc",),
        least_eigenvalue=-1 / 3 + 1e-6,
        fixed_mixing=True,
        kept_vectors=1,
    ),
    "gradient-tracking": Entry(
        "p2pfl.algorithms.gradient_tracking:GradientTracking",
        "local steps along an estimate of all peers' mean gradient; twice the bytes",
        "Liu et al. 2024, Decentralized gradient tracking with local steps",
        orders=("atc",),
        fixed_mixing=True,
        kept_vectors=4,
    ),
    "relay-sum": Entry(
        "p2pfl.algorithms.relay_sum:RelaySum",
        "sums relayed along a spanning tree, which average exactly after as many rounds as its diameter (RelaySGD)",
        "Vogels et al. 2021, RelaySum for decentralized deep learning on heterogeneous data",
        orders=("atc",),
        kept_per_neighbor=2,
        uses_tree=True,
        fixed_mixing=True,
        wire_dtypes=("fp32",),
    ),
    "push-sum": Entry(
        "p2pfl.algorithms.push_sum:PushSum",
        "stochastic gradient push: sums and weights that are divided by each other, on any directed graph (SGP)",
        "Assran, Loizou, Ballas & Rabbat 2019, Stochastic gradient push for distributed deep learning",
        kept_vectors=3,
        pushes_sums=True,
        fixed_mixing=True,
    ),
    "choco": Entry(
        "p2pfl.algorithms.choco:Choco",
        "D-PSGD that sends compressed changes (--compression), for a fraction of the bytes; symmetric mixing matrix",
        "Koloskova, Stich & Jaggi 2019, Decentralized stochastic optimization and gossip algorithms with compressed "
        "communication",
        options=("compression", "consensus_step"),
        orders=("atc",),
        wire_dtypes=("fp32",),
        least_eigenvalue=-1.0,
        kept_vectors=3,
        kept_per_neighbor=1,
        fixed_mixing=True,
    ),
    "adaptive-consensus": Entry(
        "p2pfl.algorithms.adaptive_consensus:AdaptiveConsensus",
        "D-PSGD that mixes less where the learning rate is low (DSGD-AC)",
        "Wang & Johansson 2026, Decentralized SGD with controlled disagreement finds flatter minima",
        kept_vectors=1,
    ),
    "clipped": Entry(
        "p2pfl.algorithms.robust:Clipped",
        "ClippedGossip, which bounds how far a neighbor moves a peer",
        "He, Karimireddy & Jaggi 2022, Byzantine-robust decentralized learning via ClippedGossip",
        tolerates_byzantine=True,
        margin=1,
    ),
    "trimmed-mean": Entry(
        "p2pfl.algorithms.robust:TrimmedMean",
        "trimmed mean of each coordinate, without the weights of --mixing: the mean of the peers is not kept",
        _YIN,
        tolerates_byzantine=True,
        margin=1,
    ),
    "median": Entry(
        "p2pfl.algorithms.robust:Median",
        "median of each coordinate, without the weights of --mixing: the mean of the peers is not kept",
        _YIN,
        tolerates_byzantine=True,
        margin=1,
    ),
}
AVERAGINGS: Mapping[str, Entry] = {
    "uniform": Entry("p2pfl.algorithms.fedavg:ServerAverage", "equal weights", _MCMAHAN),
    "samples": Entry(
        "p2pfl.algorithms.fedavg:ServerAverage",
        "weights in proportion to the clients' shard sizes",
        _MCMAHAN,
        weighs_by_samples=True,
    ),
    "trimmed-mean": Entry(
        "p2pfl.algorithms.rules:trimmed_mean",
        "trimmed mean of each coordinate",
        _YIN,
        tolerates_byzantine=True,
        margin=1,
    ),
    "median": Entry(
        "p2pfl.algorithms.fedavg:coordinate_median",
        "median of each coordinate",
        _YIN,
        tolerates_byzantine=True,
        margin=1,
    ),
    "krum": Entry(
        "p2pfl.algorithms.rules:krum",
        "the one update that lies closest to the others",
        "Blanchard et al. 2017, Machine learning with adversaries: Byzantine tolerant gradient descent",
        tolerates_byzantine=True,
        margin=3,
    ),
}
ATTACKS: Mapping[str, Entry] = {
    "sign-flip": Entry(
        "p2pfl.algorithms.attacks:sign_flip",
        "sends the negative of its vector",
        "Li et al. 2019, RSA: Byzantine-robust stochastic aggregation methods for distributed learning",
        options=("scale",),
    ),
    "a-little-is-enough": Entry(
        "p2pfl.algorithms.attacks:a_little_is_enough",
        "sends its vector moved by a multiple of the neighbors' standard deviation",
        "Baruch, Baruch & Goldberg 2019, A little is enough: circumventing defenses for distributed learning",
        options=("scale",),
    ),
    "inner-product": Entry(
        "p2pfl.algorithms.attacks:inner_product",
        "sends a step against the neighbors' mean movement",
        "Xie, Koyejo & Gupta 2020, Fall of empires: breaking Byzantine-tolerant SGD by inner product manipulation",
        options=("scale",),
    ),
    "label-flip": Entry("p2pfl.algorithms.attacks:flip_labels", "trains on mirrored labels and sends the result"),
}
MIXINGS: Mapping[str, Entry] = {
    "metropolis-hastings": Entry(
        "p2pfl.topology.mixing:metropolis_hastings",
        "1 / (1 + the larger degree) on each edge; undirected graphs",
        "Xiao, Boyd & Kim 2007, Distributed average consensus with least-mean-square deviation",
    ),
    "max-degree": Entry(
        "p2pfl.topology.mixing:max_degree",
        "1 / (1 + the largest degree) on every edge; of directed graphs those in which each peer sends to as many as "
        "it receives from",
        "Xiao & Boyd 2004, Fast linear iterations for distributed averaging",
    ),
    "uniform": Entry("p2pfl.topology.mixing:uniform", "1 / (1 + degree); equal degrees only"),
    "weights": Entry("p2pfl.topology.mixing:file_weights", "the edge weights of the topology file"),
    "auto": Entry(
        "p2pfl.topology.mixing:automatic",
        "the file's weights where all edges have one and they keep the mean, else metropolis-hastings, of directed "
        "graphs uniform or max-degree; for comparisons of unlike graphs",
    ),
    "column-stochastic": Entry(
        "p2pfl.topology.mixing:column_stochastic",
        "1 / (1 + out-degree) to each out-neighbor and to the peer itself, for --algorithm push-sum; all graphs",
        "Kempe, Dobra & Gehrke 2003, Gossip-based computation of aggregate information",
        keeps_mean=False,
    ),
    "samples": Entry(
        "p2pfl.topology.mixing:by_samples",
        "metropolis-hastings with peers that count by their samples, so that the model minimizes the loss over all "
        "samples; the others count peers equally, with a bias towards the samples of small shards",
        "Hastings 1970, Monte Carlo sampling methods using Markov chains and their applications",
        weighs_by_samples=True,
    ),
}
COMPRESSIONS: Mapping[str, Entry] = {
    "top-k": Entry(
        "p2pfl.algorithms.compression:Compression",
        "the values that have changed most, with their indices: 8 bytes each",
        "Stich, Cordonnier & Jaggi 2018, Sparsified SGD with memory",
        argument="F",
    ),
    "random-k": Entry(
        "p2pfl.algorithms.compression:Compression",
        "values at random indices, which both ends draw: 4 bytes each",
        "Stich, Cordonnier & Jaggi 2018, Sparsified SGD with memory",
        argument="F",
    ),
    "sign": Entry(
        "p2pfl.algorithms.compression:Compression",
        "signs, 1 bit a value, and a scale for each 4,096 values",
        "Karimireddy, Rebjock, Stich & Jaggi 2019, Error feedback fixes SignSGD and other gradient compression schemes",
    ),
    "int8": Entry(
        "p2pfl.algorithms.compression:Compression",
        "1 byte a value, and a scale for each 4,096 values",
    ),
}
_NIID_BENCH = "Li, Diao, Chen & He 2022, Federated learning on non-IID data silos: an experimental study"
_TUTORIAL = "tutorial series Preserving data privacy in deep learning, part 2"
_DRAWN = ("min_samples",)

PARTITIONS: Mapping[str, Entry] = {
    "iid": Entry("p2pfl.data.partitions.by_size:iid", "shuffled, equal shards", _MCMAHAN),
    "dirichlet": Entry(
        "p2pfl.data.partitions.by_label:dirichlet",
        "each class's shares drawn for the peers; the smaller ALPHA, the fewer classes a peer has; sizes vary",
        "Yurochkin et al. 2019, Bayesian nonparametric federated learning of neural networks",
        argument="ALPHA",
        options=_DRAWN,
    ),
    "dirichlet-balanced": Entry(
        "p2pfl.data.partitions.by_label:dirichlet_balanced",
        "each peer's mix of classes drawn, equal sizes",
        "Hsu, Qi & Brown 2019, Measuring the effects of non-identical data distribution",
        argument="ALPHA",
    ),
    "classes": Entry("p2pfl.data.partitions.by_label:classes", "K classes for each peer", _NIID_BENCH, argument="K"),
    "shards": Entry(
        "p2pfl.data.partitions.by_label:shards",
        "S pieces of the samples sorted by class for each peer",
        _MCMAHAN,
        argument="S",
    ),
    "quantity": Entry(
        "p2pfl.data.partitions.by_size:quantity",
        "the same mix of classes in unequal sizes, drawn with ALPHA or growing from peer to peer",
        _NIID_BENCH,
        argument="ALPHA|linear|square|exponential",
        options=_DRAWN,
    ),
    "real-world": Entry(
        "p2pfl.data.partitions.tutorial:real_world",
        "the tutorial's: a random number of classes for each client, dealt out in pieces",
        _TUTORIAL,
        options=_DRAWN,
    ),
    "classes-pc": Entry(
        "p2pfl.data.partitions.tutorial:classes_pc",
        "the tutorial's: random sizes and about K classes a client; as there, the last client gets only what rounding "
        "has left, a handful of samples, which --min-samples mends",
        _TUTORIAL,
        argument="K",
        options=_DRAWN,
    ),
    "file": Entry(
        "p2pfl.data.partitions.given:from_file",
        "your own, from a .json or .csv file",
        argument="PATH",
        covers=False,
        names_samples=True,
    ),
    "own": Entry(
        "p2pfl.data.partitions.given:own",
        "nothing is dealt out: each peer has its own data",
        covers=False,
        names_samples=True,
    ),
}
DATASETS: Mapping[str, Entry] = {
    "cifar10": Entry(
        "p2pfl.data.cifar:cifar10",
        "60,000 photographs of 10 classes, 32×32 in color",
        "Krizhevsky 2009, Learning multiple layers of features from tiny images",
    ),
    "digits": Entry("p2pfl.data.digits:digits", "1,797 handwritten digits of 8×8 pixels from scikit-learn"),
    "imagefolder": Entry(
        "p2pfl.data.image_folder:image_folder",
        "your own pictures in DIR/train/CLASS and DIR/test/CLASS",
        argument="DIR",
        options=("image_range", "background"),
    ),
}
MODELS: Mapping[str, Entry] = {
    f"vgg{depth}": Entry(f"p2pfl.model.networks:vgg{depth}", f"VGG with {depth} layers", _VGG)
    for depth in (11, 13, 16, 19)
}

TABLES: Mapping[str, Mapping[str, Entry]] = {
    "algorithm": ALGORITHMS,
    "averaging": AVERAGINGS,
    "attack": ATTACKS,
    "mixing": MIXINGS,
    "compression": COMPRESSIONS,
    "partition": PARTITIONS,
    "dataset": DATASETS,
    "model": MODELS,
}
"""The table of each option, by the option's name (`attack` is a field of fault scripts)."""

OWN: Mapping[str, str] = {
    "algorithm": "module:Class",
    **dict.fromkeys(("partition", "dataset", "model"), "module:function"),
}
"""Options that also take an object of the user's, and how it is written."""


def entry_of(option: str, value: str) -> Entry | None:
    """Entry of an option's value, with or without an argument; None if it has none."""
    return TABLES[option].get(value.partition(":")[0])


def names_of(option: str) -> list[str]:
    """Values of an option as its user writes them: dpsgd, imagefolder:DIR, …"""
    names = [name + (f":{entry.argument}" if entry.argument else "") for name, entry in TABLES[option].items()]
    return names + ([OWN[option]] if option in OWN else [])


def summaries_of(option: str) -> str:
    """Values of an option with their summaries, for `--help`."""
    described = [
        f"{name}{f':{entry.argument}' if entry.argument else ''} "
        f"({entry.summary}{'; Byzantine-robust' if entry.tolerates_byzantine else ''})"
        for name, entry in TABLES[option].items()
    ]
    return ", ".join(described) + (f", or your own as {OWN[option]}" if option in OWN else "")


def check(option: str, value: str) -> None:
    """Raise ConfigError unless an option takes a value.

    The user's own object is not imported for it.
    """
    entry = entry_of(option, value)
    has_argument = ":" in value
    first, comma, _ = value.partition(",")
    if entry is None and comma and entry_of(option, first) is not None:
        several = "; only p2pfl compare takes several" if option in ("algorithm", "partition") else ""
        raise ConfigError(f"--{option} {value}: choose one value{several}")
    if entry is None and has_argument and option in OWN:
        return
    if entry is None:
        raise ConfigError(f"--{option} {value}: choose one of {', '.join(names_of(option))}")
    if has_argument and not entry.argument:
        raise ConfigError(f"--{option} {value}: {value.partition(':')[0]} takes no argument; choose it alone")


def load(entry: Entry | str, option: str = "--algorithm") -> Any:
    """Import the object of an entry, or the user's own "module:attribute".

    `option` is the command-line option that named it, for messages. Raises ConfigError where the user's own module
    cannot be imported or has no such callable.
    """
    if isinstance(entry, str):
        return _load_own(entry, option)
    module, _, attribute = entry.target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _load_own(spec: str, option: str) -> Any:
    """Import the user's `module:attribute`, also from the current directory.

    `option` is the command-line option that the user gave, for messages.
    Raises ConfigError where the module cannot be imported or has no such callable.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{option} {spec}: expected module:function, such as my_code:build")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module_name and (meant := _meant(spec, option)):
            raise ConfigError(f"{option} {spec}: there is no module {module_name!r}; did you mean {meant}?") from None
        raise ConfigError(f"{option} {spec}: cannot import {module_name!r}: {one_line(error)}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        state = "is not callable" if hasattr(module, attribute) else "does not exist"
        raise ConfigError(f"{option} {spec}: {attribute!r} {state} in {module.__file__ or module_name}")
    return found


def _meant(spec: str, option: str) -> str:
    """Name that was probably meant, with its argument; empty if none is near."""
    name, _, argument = spec.partition(":")
    table = TABLES.get(option.removeprefix("--"), {})
    near = nearest(name, table)
    return "" if near is None else f"{near}:{argument}" if table[near].argument else near
