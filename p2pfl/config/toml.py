"""Settings read from and written as TOML."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from p2pfl.config.lists import LISTED, anchored, split_values
from p2pfl.config.replaced import replacement, with_replacements
from p2pfl.config.run import MODE_SECTIONS, SECTION_OF, SECTIONS, Mode, RunConfig, replace_options
from p2pfl.errors import ConfigError, unreadable
from p2pfl.util.files import read_text
from p2pfl.util.text import known_are, nearest

# Mode -> other names of options, under which the mode's own literature knows them.
ALIASES: dict[str, dict[str, str]] = {
    "centralized": {"num_rounds": "rounds", "epochs": "local_epochs"},
    "sgd": {"epochs": "rounds"},
}


def to_toml(config: RunConfig) -> str:
    """Write the settings of the run's mode as TOML, without options that are not set."""
    plain = dataclasses.asdict(config)
    tables = {
        name: {key: value for key, value in plain[name].items() if value is not None}
        for name in SECTIONS
        if name in MODE_SECTIONS[config.mode]
    }
    top = {} if config.topology is None else {"topology": config.topology}
    return tomli_w.dumps({"mode": config.mode, **top, **tables})


def load_toml(
    path: str | os.PathLike[str],
    mode: Mode | None = None,
    lists: dict[str, tuple[str, ...]] | None = None,
    is_recorded: bool = False,
) -> RunConfig:
    """Read settings from a TOML file; options that it leaves out keep their defaults.

    Options may stand in their section or at the top of the file. The paths of a topology, a fault script, initial
    weights and a partition are relative to the TOML file's folder. `mode` is the mode of the command that reads the
    file; None: that of the file. `lists`, of a comparison: it is filled with the values of those options that may have
    several (`config.lists.LISTED`), and the settings hold the first. `is_recorded`: a run directory has the file, maybe
    of an older version, whose options are understood. Raises ConfigError naming the file and the field.
    """
    plain = parse_toml(Path(path))
    if is_recorded:
        plain = with_replacements(plain)
    said = plain.pop("mode", None)
    known = tuple(MODE_SECTIONS)
    if said is not None and said not in known:
        raise ConfigError(f"{path}: mode {said!r}: choose one of {', '.join(known)}")
    if said is not None and mode not in (None, said):
        raise ConfigError(f"{path}: holds settings of p2pfl {said}, not of p2pfl {mode}")
    topology = plain.pop("topology", None)
    if not (topology is None or isinstance(topology, str)):
        raise ConfigError(f"{path}: topology: must be the path of a topology file")
    if topology is not None:
        topology = str(Path(path).parent / topology)
    found: Mode = mode or said or "gossip"
    flat = _flat(plain, path, ALIASES.get(found, {}))
    for name in ("faults", "init"):  # like the topology's, their paths start at the TOML file's own folder
        if isinstance(flat.get(name), str):
            flat[name] = str(Path(path).parent / flat[name])
    try:
        for name in LISTED:
            if lists is not None and isinstance(flat.get(name), str):
                lists[name] = split_values(name, flat[name], Path(path).parent)
                flat[name] = lists[name][0]
            elif name == "partition" and isinstance(flat.get(name), str):
                flat[name] = anchored(flat[name], Path(path).parent)
        return replace_options(RunConfig(topology=topology, mode=found), **flat)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a TOML file.

    Raises ConfigError naming the file if it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; name a TOML file") from None
    except OSError as error:
        raise ConfigError(unreadable(path, error)) from None
    except ValueError as error:  # what tomllib raises, and Python for numbers of thousands of digits, and no UTF-8
        raise ConfigError(f"{path}: not TOML ({error})") from None
    except RecursionError:
        raise ConfigError(f"{path}: not TOML that can be read (too deeply nested)") from None


def _instead(section: str, option: str) -> str:
    """Remedy for an option that a section does not have."""
    if option in SECTION_OF:
        return f"it belongs in [{SECTION_OF[option]}]"
    if instead := replacement(option):
        return instead
    own = [item.name for item in dataclasses.fields(SECTIONS[section])]
    near = nearest(option, own) or nearest(option, SECTION_OF)
    elsewhere = f" in [{SECTION_OF[near]}]" if near and near not in own else ""
    return (f"did you mean {near}{elsewhere}? " if near else "") + f"Its options are {', '.join(own)}"


def _flat(plain: Mapping[str, Any], path: str | os.PathLike[str], aliases: Mapping[str, str]) -> dict[str, Any]:
    """Options by name, from the top of the file and from its sections."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and key not in SECTIONS:
            raise ConfigError(f"{path}: there is no section [{key}]{known_are(key, SECTIONS)}")
        section = value if isinstance(value, dict) else {key: value}
        for name, setting in section.items():
            option = aliases.get(name, name)
            if isinstance(value, dict) and SECTION_OF.get(option) != key:
                raise ConfigError(f"{path}: [{key}] has no option {name!r}; {_instead(key, option)}")
            if option in flat:
                raise ConfigError(f"{path}: {name} stands twice in the file, perhaps in a section and at the top")
            flat[option] = setting
    return flat
