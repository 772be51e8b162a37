"""Tables of the registries: what each name stands for, and where it was published."""

from __future__ import annotations

from docs.generate.markdown import code, prose, sentence, table
from p2pfl.registry import OWN, TABLES, Entry


def table_of(option: str) -> str:
    """Table of one registry, by the option that takes its names.

    Raises KeyError for a registry that does not exist, and for an entry without a summary.
    """
    if option not in TABLES:
        raise KeyError(f"there is no registry {option}; known are {', '.join(TABLES)}")
    entries = TABLES[option]
    robust = any(entry.tolerates_byzantine for entry in entries.values())
    rows = [_row(option, name, entry, robust) for name, entry in entries.items()]
    if option in OWN:
        rows.append(
            (code(OWN[option]), "Your own, imported from the current folder or the search path.", *[""] * (1 + robust))
        )
    return table(("name", "meaning", *(["inputs"] if robust else []), "paper"), rows)


def _row(option: str, name: str, entry: Entry, robust: bool) -> tuple[str, ...]:
    if not entry.summary:
        raise KeyError(f"registry of --{option}: {name} has no summary")
    shown = name + (f":{entry.argument}" if entry.argument else "")
    needs = f"at least 2 B + {entry.margin}" if entry.tolerates_byzantine else ""
    return (code(shown), prose(sentence(entry.summary)), *([needs] if robust else []), prose(entry.paper))
