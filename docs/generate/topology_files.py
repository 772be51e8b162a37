"""Formats of topology files, and the graphs that `topology make` generates."""

from __future__ import annotations

import inspect
import sys
from collections import Counter

from docs.generate.markdown import code, prose, sentence, table
from p2pfl.topology import FORMATS, KINDS, SCHEDULES
from p2pfl.topology.formats.readers import BY_CONTENT, BY_ENDING, Reader
from p2pfl.topology.raw import LABEL_KEYS, NODE_ATTRIBUTES


def formats() -> str:
    """Endings that are read and written, with the dialects of each format."""
    readers = {**BY_ENDING, **BY_CONTENT}
    modules = Counter(reader.read.__module__ for reader in dict.fromkeys(readers.values()))
    rows = []
    for ending, reader in readers.items():
        by = "ending" if ending in BY_ENDING else "content"
        rows.append(
            (
                code(ending),
                prose(_about(reader, modules[reader.read.__module__])),
                by,
                "yes" if ending in FORMATS else "",
            )
        )
    return table(("ending", "format", "recognized by", "written"), rows)


def _about(reader: Reader, formats_of_module: int) -> str:
    """First sentence of a reader's module, or of its function if there are several."""
    text = inspect.getdoc(reader.read if formats_of_module > 1 else sys.modules[reader.read.__module__])
    if not text:
        raise KeyError(f"{reader.title}: its reader has no docstring")
    return sentence(text.splitlines()[0])


def attributes() -> str:
    """Attributes of nodes and edges that are used."""
    labels = ", ".join(map(code, LABEL_KEYS))
    rows = [(labels, "node", "Name of the peer, where every node has one and all differ; else its id.")]
    rows += [(code(name), "node", prose(text)) for name, text in NODE_ATTRIBUTES.items()]
    rows.append((code("weight"), "edge", "Weight of the edge in the mixing matrix, for `--mixing weights`."))
    return table(("attribute", "of", "meaning"), rows)


def kinds() -> str:
    """Generated graphs, each with the sentence of its function."""
    rows = []
    for name, function in {**KINDS, **SCHEDULES}.items():
        text = inspect.getdoc(function)
        if not text:
            raise KeyError(f"topology make {name}: its function {function.__name__} has no docstring")
        rows.append((code(name), prose(sentence(" ".join(text.split("\n\n")[0].split())))))
    return table(("kind", "graph"), rows)
