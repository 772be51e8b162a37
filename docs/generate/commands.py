"""Commands and their options, from the dataclasses of the command line."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from docs.generate.descriptions import Described, fields_of
from docs.generate.markdown import code, prose, table
from p2pfl.cli import COMMANDS, collect, compare, keys, rendezvous, report, topology, train
from p2pfl.cli.examples import EXAMPLES
from p2pfl.registry import OWN, TABLES, names_of

OPTIONS: Mapping[str, type[Any]] = {
    "gossip": train.Gossip,
    "centralized": train.Centralized,
    "sgd": train.Sgd,
    "local": train.Local,
    "compare": compare.Compare,
    "peer": train.OnePeer,
    "rendezvous": rendezvous.Rendezvous,
    "keys": keys.Keys,
    "topology make": topology.Make,
    "topology fix": topology.Fix,
    "topology show": topology.Show,
    "report": report.Report,
    "collect": collect.Collect,
}
"""Dataclass of each command's arguments."""

REGISTRY_PAGES = {
    "algorithm": "algorithms.md#gossip-algorithms",
    "averaging": "algorithms.md#server-averaging",
    "mixing": "mixings.md",
    "compression": "algorithms.md#compressions",
    "partition": "data-sets.md#partitions",
    "dataset": "data-sets.md",
    "model": "models.md",
}
_TYPES = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


def all_commands() -> str:
    """Every command with its own options, then the options that several share.

    Raises KeyError for a command that is not in `OPTIONS`, and for an option without a description.
    """
    if unknown := set(COMMANDS) ^ set(OPTIONS):
        raise KeyError(f"{', '.join(sorted(unknown))}: no command, or none whose options are documented")
    shared: dict[type[Any], None] = {}
    parts = [_command(name, kind, shared) for name, kind in OPTIONS.items()]
    parts.append("## Shared options\n\nThese groups belong to several commands, as those say.")
    for section in shared:
        rows = [_row(item) for item in fields_of(section) if not _is_suppressed(item)]
        parts.append(f"### {section_title(section)}\n\n{_summary(section)}\n\n" + table(_HEAD, rows))
    return "\n\n".join(parts)


_HEAD = ("option", "value", "default", "meaning")


def _command(name: str, kind: type[Any], shared: dict[type[Any], None]) -> str:
    items = [item for item in fields_of(kind) if not _is_suppressed(item)]
    sections = [_plain(item.hint) for item in items if dataclasses.is_dataclass(_plain(item.hint))]
    shared.update(dict.fromkeys(sections))
    own = [item for item in items if not dataclasses.is_dataclass(_plain(item.hint))]
    places = [item for item in own if _is_positional(item)]
    usage = " ".join(
        ["p2pfl", name, *(_metavar(item) for item in places), "[OPTIONS]" if len(own) > len(places) else ""]
    )
    parts = [f"## p2pfl {name}", f"```text\n{usage.strip()}\n```", _documentation(kind)]
    if name in EXAMPLES:
        lines = [line for example, what in EXAMPLES[name] for line in (f"# {what}", example)]
        parts.append("\n".join(["```bash", *lines, "```"]))
    if places:
        parts.append(table(("argument", "", "meaning"), [_place(item) for item in places]))
    if options := [item for item in own if not _is_positional(item)]:
        parts.append(table(_HEAD, [_row(item) for item in options]))
    if sections:
        links = [f"[{section_title(section).lower()}](#{section_anchor(section)})" for section in sections]
        parts.append(f"Shared options: {', '.join(links)}.")
    return "\n\n".join(parts)


def section_title(section: type[Any]) -> str:
    """Heading of a section of settings, such as Model options."""
    return f"{section.__name__.removesuffix('Config')} options"


def section_anchor(section: type[Any]) -> str:
    """Anchor of that heading."""
    return section_title(section).lower().replace(" ", "-")


def _documentation(kind: type[Any]) -> str:
    paragraphs = (kind.__doc__ or "").split("\n\n")
    return "\n\n".join(prose(" ".join(paragraph.split())) for paragraph in paragraphs)


def _summary(kind: type[Any]) -> str:
    return prose(" ".join((kind.__doc__ or "").split("\n\n")[0].split()))


def _row(item: Described) -> Sequence[str]:
    return (_flag(item), _value(item), default_text(item), meaning(item))


def _place(item: Described) -> Sequence[str]:
    hint = _behavior(item).strip("()")
    return (code(_metavar(item)), prose(hint or "required"), meaning(item))


def meaning(item: Described) -> str:
    """Description of an option; of one with a registry, its values."""
    text = prose(item.text)
    if item.name not in TABLES or item.name not in REGISTRY_PAGES:
        return text
    own = f" (or your own, `{OWN[item.name]}`)" if item.name in OWN else ""
    return f"{text.rstrip('.')}: see [the table]({REGISTRY_PAGES[item.name]}){own}."


def _flag(item: Described) -> str:
    name = f"--{item.name.replace('_', '-')}"
    own = "-" + item.name if len(item.name) == 1 else name
    aliases = [alias for alias in getattr(_arg(item), "aliases", None) or () if alias != own]
    if item.default is True:
        own = f"{name}, --no-{item.name.replace('_', '-')}"
    return ", ".join(code(one) for one in [*aliases, *own.split(", ")])


def _value(item: Described) -> str:
    if _core(item.hint) is bool:
        return ""
    if item.name in TABLES:
        return ", ".join(code(name) for name in names_of(item.name))
    choices = _choices(_core(item.hint))
    return ", ".join(code(choice) for choice in choices) if choices else code(_metavar(item))


def default_text(item: Described) -> str:
    """Default of an option: its value, or what its unset state stands for."""
    hint = _behavior(item).strip("()")
    if hint:
        return prose(hint.removeprefix("default: "))
    if item.default is dataclasses.MISSING:
        return "required"
    return "off" if item.default is False else "on" if item.default is True else code(item.default)


def _metavar(item: Described) -> str:
    given = getattr(_arg(item), "metavar", None)
    if given:
        return str(given)
    core = _core(item.hint)
    if _is_positional(item):
        return item.name.upper()
    return _TYPES.get(core) or item.name.upper()


def _behavior(item: Described) -> str:
    return getattr(_arg(item), "help_behavior_hint", None) or ""


def _marks(item: Described) -> tuple[Any, ...]:
    return tuple(getattr(item.hint, "__metadata__", ()))


def _arg(item: Described) -> Any:
    """Form of an option, as `tyro.conf.arg` made it."""
    return next((mark for mark in _marks(item) if hasattr(mark, "help_behavior_hint")), None)


def _is_suppressed(item: Described) -> bool:
    return tyro.conf.Suppress in _marks(item)


def _is_positional(item: Described) -> bool:
    return tyro.conf.Positional in _marks(item)


def _plain(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _core(hint: Any) -> Any:
    """Type of an option's value, without marks and None."""
    plain = _plain(hint)
    if isinstance(plain, types.UnionType):
        plain = next(one for one in get_args(plain) if one is not types.NoneType)
    return plain


def _choices(core: Any) -> tuple[str, ...]:
    return get_args(core) if get_origin(core) is Literal else ()
