"""Examples at the end of a command's help."""

from __future__ import annotations

from collections.abc import Mapping

# Command -> examples, each with what it does. A test parses them.
EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "gossip": (
        (
            "p2pfl gossip topologies/ring-8.graphml --dataset digits --width 0.25 --rounds 12",
            "a ring of eight peers, on small data that need no download",
        ),
        (
            "p2pfl gossip topologies/torus-16.graphml --algorithm quasi-global --partition dirichlet:0.3",
            "CIFAR-10, unevenly split, with a momentum that follows the whole swarm",
        ),
        (
            "p2pfl gossip topologies/mesh-8.graphml --algorithm median --byzantine 2 --dry-run",
            "what a run that tolerates two malicious peers would need",
        ),
    ),
    "compare": (
        (
            "p2pfl compare topologies/ring-8.graphml topologies/mesh-8.graphml --centralized --local --sgd",
            "two topologies, FedAvg, peers without exchange, and plain SGD, in one report",
        ),
        (
            "p2pfl compare topologies/ring-8.graphml --algorithm dpsgd,quasi-global --partition iid,dirichlet:0.3 "
            "--tune lr=.0125,.025,.05,.1",
            "a grid of algorithms and partitions, each at the rate that suits it",
        ),
        ("p2pfl compare runs/first runs/second", "two runs that are finished"),
    ),
}


def examples_text(command: str) -> str:
    """Examples of a command as lines of its help; empty where it has none."""
    found = EXAMPLES.get(command, ())
    if not found:
        return ""
    return "\n".join(["examples:", *(line for example, what in found for line in (f"  # {what}", f"  {example}")), ""])
