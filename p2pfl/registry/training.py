"""Registries of partitions, data sets and models."""

from __future__ import annotations

from collections.abc import Mapping

from p2pfl.registry.entry import Entry

_VGG = "Simonyan & Zisserman 2015, Very deep convolutional networks for large-scale image recognition"
_MCMAHAN = "McMahan et al. 2017, Communication-efficient learning of deep networks from decentralized data"
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
