"""Endpoints of peers: host, port, device and public key, checked and typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from p2pfl.topology.naming import few, unprintable
from p2pfl.topology.raw import NODE_ATTRIBUTES

TEXT_ATTRIBUTES = tuple(name for name in NODE_ATTRIBUTES if name != "port")


def node_attributes(given: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """Usable attributes of one node, and a message for each unusable one.

    `{}` in a message stands for the name of the node.
    """
    kept: dict[str, object] = {}
    flaws = []
    if (value := given.get("port")) is not None:
        port = _port(value)
        if port is None:
            flaws.append(f"port {_shown(value)} of node {{}} must be an integer from 1 to 65535")
        else:
            kept["port"] = port
    for key in TEXT_ATTRIBUTES:
        value = given.get(key)
        if isinstance(value, str):
            value = value.strip()  # XML is written with line ends around text
        if value is None or value == "":
            continue
        spaced = isinstance(value, str) and key == "host" and any(c.isspace() for c in value)
        if not isinstance(value, str) or unprintable(value) or spaced:
            meant = " without spaces: a host name or an address" if key == "host" else ""
            flaws.append(f"{key} {_shown(value)} of node {{}} must be printable text{meant}")
        else:
            kept[key] = value
    return kept, tuple(flaws)


def attribute_flaws(names: Sequence[str], given: Sequence[Mapping[str, object]]) -> list[str]:
    """Messages on unusable attributes and on incomplete or shared endpoints."""
    flaws: list[str] = []
    kept = []
    for name, attributes in zip(names, given, strict=True):
        good, bad = node_attributes(attributes)
        kept.append(good)
        flaws += [flaw.replace("{}", repr(name), 1) for flaw in bad]
    if flaws:  # endpoint flaws would only repeat them
        rest = len(flaws) - 3
        return [*flaws[:3], *([f"{rest} more attributes are unusable"] if rest > 0 else [])]
    return _endpoint_flaws(names, kept)


def _endpoint_flaws(names: Sequence[str], kept: Sequence[Mapping[str, object]]) -> list[str]:
    having = [i for i, data in enumerate(kept) if "host" in data and "port" in data]
    partial = any(("host" in data) != ("port" in data) for data in kept)
    flaws = []
    if partial or 0 < len(having) < len(names):
        first = next((i for i, d in enumerate(kept) if ("host" in d) != ("port" in d)), None)
        without = first if first is not None else next(i for i, d in enumerate(kept) if "host" not in d)
        missing = " and ".join(key for key in ("host", "port") if key not in kept[without])
        others = sum(1 for data in kept if not {"host", "port"} <= set(data)) - 1
        more = f" (nor have {others} more)" if others else ""
        flaws.append(f"node {names[without]!r} has no {missing}{more}; give host and port on every node or on none")
    nodes: dict[tuple[str, object], list[str]] = {}
    for i in having:
        nodes.setdefault((str(kept[i]["host"]).lower(), kept[i]["port"]), []).append(names[i])
    shared = [(place, users) for place, users in nodes.items() if len(users) > 1]
    if shared:
        (host, port), users = shared[0]
        more = f" (and {len(shared) - 1} more such addresses)" if len(shared) > 1 else ""
        both = "both" if len(users) == 2 else "all"
        flaws.append(f"nodes {few(users)} {both} listen on {host}:{port}{more}; give each its own port")
    return flaws


def _port(value: object) -> int | None:
    # GraphML without attr.type and many editors store numbers as text.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():  # Gephi and spreadsheets make all numbers fractions
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535 else None


def _shown(value: object) -> str:
    return repr(value[:60]) if isinstance(value, str) else repr(value)[:60]
