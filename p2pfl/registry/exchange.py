"""Registries of algorithms, averaging rules, attacks, mixings and compressions."""

from __future__ import annotations

from collections.abc import Mapping

from p2pfl.registry.entry import Entry

_YIN = "Yin et al. 2018, Byzantine-robust distributed learning: towards optimal statistical rates"
_MCMAHAN = "McMahan et al. 2017, Communication-efficient learning of deep networks from decentralized data"

ALGORITHMS: Mapping[str, Entry] = {
    "dpsgd": Entry(
        "p2pfl.algorithms.dpsgd:DPSGD",
        "synchronous decentralized SGD",
        "Lian et al. 2017, Can decentralized algorithms outperform centralized algorithms?",
        options=("average_momentum", "gossip_steps"),
        takes_negative_weights=True,
    ),
    "quasi-global": Entry(
        "p2pfl.algorithms.quasi_global:QuasiGlobal",
        "D-PSGD with momentum of the mixed model, for different data on the peers (QG-DSGDm-N)",
        "Lin et al. 2021, Quasi-global momentum: accelerating decentralized deep learning on heterogeneous data",
        orders=("atc",),
        needs_momentum=True,
        optimizers=("sgd",),
        kept_vectors=2,
    ),
    "exact-diffusion": Entry(
        "p2pfl.algorithms.exact_diffusion:ExactDiffusion",
        "D-PSGD corrected for different data on the peers (D²); symmetric mixing matrix",
        "Yuan et al. 2019, Exact diffusion for distributed optimization and learning",
        orders=("atc",),
        optimizers=("sgd",),
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
        differs_by_neighbor=True,
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
    ),
    "choco": Entry(
        "p2pfl.algorithms.choco:Choco",
        "D-PSGD that sends compressed changes (--compression), for a fraction of the bytes; symmetric mixing matrix",
        "Koloskova, Stich & Jaggi 2019, Decentralized stochastic optimization and gossip algorithms with compressed "
        "communication",
        options=("compression", "consensus_step"),
        orders=("atc",),
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
        needs_equal_rates=True,
        needs_final_merge=True,
    ),
    "clipped": Entry(
        "p2pfl.algorithms.robust:Clipped",
        "ClippedGossip, which bounds how far a neighbor moves a peer",
        "He, Karimireddy & Jaggi 2022, Byzantine-robust decentralized learning via ClippedGossip",
        options=("gossip_steps",),
        tolerates_byzantine=True,
        margin=1,
    ),
    "trimmed-mean": Entry(
        "p2pfl.algorithms.robust:TrimmedMean",
        "trimmed mean of each coordinate, without the weights of --mixing: the mean of the peers is not kept",
        _YIN,
        options=("gossip_steps",),
        tolerates_byzantine=True,
        margin=1,
    ),
    "median": Entry(
        "p2pfl.algorithms.robust:Median",
        "median of each coordinate, without the weights of --mixing: the mean of the peers is not kept",
        _YIN,
        options=("gossip_steps",),
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
    "weights": Entry(
        "p2pfl.topology.mixing:file_weights",
        "the edge weights of the topology file; with --algorithm push-sum only those out of each peer have to fit",
        push_target="p2pfl.topology.push_mixing:file_push_weights",
    ),
    "auto": Entry(
        "p2pfl.topology.mixing:automatic",
        "the file's weights where all edges have one and they keep the mean, else metropolis-hastings, of directed "
        "graphs uniform or max-degree, or for --algorithm push-sum column-stochastic; for comparisons of unlike graphs",
        push_target="p2pfl.topology.push_mixing:automatic_push",
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
    "finite-time": Entry(
        "p2pfl.topology.finite_time:finite_time_weights",
        "a matrix for each round, by the eigenvalues of the metropolis-hastings weights: exact after as many rounds as "
        "there are, along the graph's own edges; undirected graphs whose eigenvalues are few",
        "Safavi & Khan 2014, Revisiting finite-time distributed algorithms via successive nulling of eigenvalues",
        by_round=True,
    ),
}
COMPRESSIONS: Mapping[str, Entry] = {
    "top-k": Entry(
        "p2pfl.algorithms.compression:Compression",
        "the values that have changed most: 4 bytes each (2 with --wire-dtype bf16), and one bit of every value for "
        "their positions; below F = 0.03 their indices instead, 4 bytes each",
        "Stich, Cordonnier & Jaggi 2018, Sparsified SGD with memory",
        argument="F",
    ),
    "random-k": Entry(
        "p2pfl.algorithms.compression:Compression",
        "values at random indices, which both ends draw: 4 bytes each (2 with --wire-dtype bf16)",
        "Stich, Cordonnier & Jaggi 2018, Sparsified SGD with memory",
        argument="F",
    ),
    "sign": Entry(
        "p2pfl.algorithms.compression:Compression",
        "signs, 1 bit a value, and a scale for each 4,096 values",
        "Karimireddy, Rebjock, Stich & Jaggi 2019, Error feedback fixes SignSGD and other gradient compression schemes",
        wire_dtypes=("fp32",),
    ),
    "int8": Entry(
        "p2pfl.algorithms.compression:Compression",
        "1 byte a value, and a scale for each 4,096 values",
        wire_dtypes=("fp32",),
    ),
}
