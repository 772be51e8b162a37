"""Entry of a registry: a name's object and what is known without importing it."""

from __future__ import annotations

from dataclasses import dataclass


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
    push_target: str = ""
    """"module:attribute" of a mixing's matrix where sums are pushed, if that is another one."""
    pushes_sums: bool = False
    """Peers push shares of sums, of which only the columns of the mixing matrix have to add up to 1."""
    covers: bool = True
    """A partition that uses every sample."""
    names_samples: bool = False
    """A partition that names samples by their numbers in the whole training set."""
    orders: tuple[str, ...] = ("atc", "overlapped")
    """Values of --order that a gossip algorithm has."""
    wire_dtypes: tuple[str, ...] = ("fp32", "bf16")
    """Values of --wire-dtype that a gossip algorithm or a compression has."""
    needs_momentum: bool = False
    """It needs --momentum above 0."""
    optimizers: tuple[str, ...] = ("sgd", "adamw")
    """Values of --optimizer for which a gossip algorithm has a rule."""
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
    differs_by_neighbor: bool = False
    """Each neighbor gets another vector."""
    by_round: bool = False
    """A mixing with a matrix for each round of a period on one graph, whose self-weights may be negative."""
    takes_negative_weights: bool = False
    """An algorithm whose average may have a negative self-weight."""
    needs_equal_rates: bool = False
    """The learning rate decides about its weights, so that peers whose rounds have other steps would not keep the
    mean."""
    needs_final_merge: bool = False
    """The consensus phase is part of the algorithm."""
    spans_machines: bool = False
    """A launcher whose processes may run on several machines: it finds their addresses, and each makes a key pair."""
    extra: str = ""
    """Extra of this package that has to be installed for it, named as the package that it brings."""
