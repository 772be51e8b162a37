"""Tiny sizes for commands and scripts of documents, so that each takes seconds.

Documents show real sizes. All of them are made smaller here and nowhere else: two rounds of two steps, a small VGG-11,
four peers on the same kind of graph, bundled digits in place of a download. Algorithms and faults stay, and with faults
the rounds and peers that these name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

TRAINING = frozenset(("gossip", "peer", "centralized", "sgd", "local", "compare"))
MIXING = frozenset(("gossip", "peer", "compare"))
PEERS = 4
# Options that name peers or rounds, or count them.
NAMING = frozenset(("--faults", "--profile", "--min-peers", "--node"))
IMAGES = "images"  # an image folder of the session
WIDTH = 0.125


def _at_most(limit: float) -> Callable[[str], str]:
    return lambda value: value if float(value) <= limit else f"{limit:g}"


# Option -> its tiny value from that of the document. Options of other commands stay.
_SMALLER: dict[str, Callable[[str], str]] = {
    "--rounds": _at_most(2),
    "--num-rounds": _at_most(2),
    "--local-steps": _at_most(2),
    "--tune-rounds": _at_most(2),
    "--eval-samples": _at_most(64),
    "--num-clients": _at_most(PEERS),
    "--num-selected": lambda value: ",".join(dict.fromkeys(map(_at_most(PEERS), value.split(",")))),
    "--width": _at_most(WIDTH),
    "--seeds": lambda value: ",".join(value.split(",")[:2]),
    "--model": lambda value: re.sub(r"^vgg\d+$", "vgg11", value),
    "--dataset": lambda value: tiny_dataset(value),
    "--profile": lambda value: re.sub(r":\d+$", ":2", value),
}


def tiny_dataset(value: str) -> str:
    """Data set that is there: digits for a download, images for a missing folder."""
    kind, _, folder = value.partition(":")
    if kind == "imagefolder" and not Path(folder).is_dir():
        return f"imagefolder:{IMAGES}"
    return "digits" if value == "cifar10" else value


def tiny_topologies(words: list[str]) -> list[str]:
    """Words with topology files of few peers, if there are such files for all."""
    smaller = [re.sub(r"^(topologies/.*-)\d+(\.\w+)$", rf"\g<1>{PEERS}\2", word) for word in words]
    return smaller if all(Path(word).is_file() for word in smaller if word.startswith("topologies/")) else words


def tiny_arguments(words: list[str]) -> list[str]:
    """Arguments of `p2pfl` with tiny sizes; those that do not train stay."""
    if not words or words[0] not in TRAINING or "--help" in words:
        return words
    command, given = words[0], _spread(words[1:])
    if command == "compare" and any(Path(word).is_dir() for word in given):
        return words  # of existing runs
    if "--resume" in given:
        return [command, *_replaced(given, "--rounds", lambda _: "3")]
    smaller = dict(_SMALLER)
    if "--faults" in given:  # which name rounds
        smaller.pop("--rounds")
        smaller.pop("--num-rounds")
    if command == "centralized":
        smaller["--num-selected"] = _at_most(PEERS - 2)
    if not NAMING & set(given):
        given = tiny_topologies(given)
    for option, change in smaller.items():
        given = _replaced(given, option, change)
    given = _without(given, "--local-epochs")
    given = _replaced(given, "--epochs", _at_most(2)) if command == "sgd" else _without(given, "--epochs")
    return [command, *given, *_added(command, given)]


def _added(command: str, given: list[str]) -> list[str]:
    """Options that a document leaves at their large defaults."""
    settings = _value(given, "--config")
    text = Path(settings).read_text(encoding="utf-8") if settings and Path(settings).is_file() else ""
    wanted = {"--local-steps": "2", "--eval-samples": "64"}
    if not {"--rounds", "--num-rounds", "--faults"} & set(given) and not (command == "sgd" and "--epochs" in given):
        wanted["--rounds"] = "2"
    if not re.search(r'model *= *"\w+:', text) and ":" not in (_value(given, "--model") or ""):
        wanted["--width"] = f"{WIDTH:g}"
        wanted["--model"] = "vgg11"
    if not re.search(r'dataset *= *"(?!cifar10)', text):
        wanted["--dataset"] = "digits"
    if command in MIXING and _value(given, "--final-merge") not in ("exact", "none"):  # which have no tolerance
        wanted["--consensus-tolerance"] = "0.1"
    if command == "centralized":
        wanted |= {"--num-clients": f"{PEERS}", "--num-selected": f"{PEERS - 2}"}
    return [word for option, value in wanted.items() if option not in given for word in (option, value)]


def _spread(words: list[str]) -> list[str]:
    """Words with `--option=value` as two."""
    return [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]


def _value(words: list[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words[:-1] else None


def _replaced(words: list[str], option: str, change: Callable[[str], str]) -> list[str]:
    value = _value(words, option)
    if value is None:
        return words
    place = words.index(option) + 1
    return [*words[:place], change(value), *words[place + 1 :]]


def _without(words: list[str], option: str) -> list[str]:
    place = words.index(option) if option in words else None
    return words if place is None else words[:place] + words[place + 2 :]


def tiny_python(text: str) -> str:
    """Script with tiny sizes."""
    for name, limit in (("rounds", 2), ("num_clients", 4), ("num_selected", 2), ("width", WIDTH)):
        shrink = _at_most(limit)
        text = re.sub(rf"\b{name}=([\d.]+)", lambda found, name=name, shrink=shrink: f"{name}={shrink(found[1])}", text)
    text = re.sub(r"\blocal_(epochs|steps)=\d+,? ?", "", text)
    text = text.replace("RunConfig.of(", "RunConfig.of(local_steps=2, eval_samples=64, ")
    text = re.sub(r'"vgg\d+"', '"vgg11"', text)
    return text.replace('"cifar10"', '"digits"')
