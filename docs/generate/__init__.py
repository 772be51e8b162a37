"""Generated parts of the documentation: tables and diagrams from the code itself.

A page asks for one with a comment, `<!-- generate: NAME ARGUMENTS -->`, on a line by itself. Whatever lacks a
description, and a name that does not exist, fails the build.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from docs.generate import (
    benchmarks,
    code_map,
    commands,
    configuration,
    fault_scripts,
    include,
    registries,
    run_directory,
    state_diagrams,
    topology_files,
    wire_protocol,
)

GENERATORS: Mapping[str, Callable[..., str]] = {
    "benchmarks": benchmarks.commands,
    "code-map": code_map.tree,
    "commands": commands.all_commands,
    "configuration": configuration.sections,
    "configuration-aliases": configuration.aliases,
    "faults": fault_scripts.kinds,
    "fault-points": fault_scripts.points,
    "graph-attributes": topology_files.attributes,
    "graph-formats": topology_files.formats,
    "graph-kinds": topology_files.kinds,
    "include": include.root_file,
    "directory-messages": wire_protocol.directory,
    "message-header": wire_protocol.header,
    "message-kinds": wire_protocol.kinds,
    "message-limits": wire_protocol.limits,
    "message-refusals": wire_protocol.refusals,
    "registry": registries.table_of,
    "run-files": run_directory.files,
    "round-record": run_directory.round_record,
    "state-diagram": state_diagrams.diagram,
    "summary": run_directory.summary,
}
_REQUEST = re.compile(r"^<!-- generate: ([a-z-]+)((?: \S+)*) -->$", re.MULTILINE)
_SOURCE_ONLY = re.compile(r"<!-- source only -->\n.*?<!-- end of source only -->\n+", re.DOTALL)
_ANY = re.compile(r"<!--\s*generate\b.*?-->", re.DOTALL)


def fill(markdown: str) -> str:
    """Replace each request of a page by what it asks for.

    What is meant for readers of the source alone, `<!-- source only -->` to `<!-- end of source only -->`, is left out.
    Raises ValueError for a request that is not understood, and KeyError for what lacks a description.
    """
    markdown = _SOURCE_ONLY.sub("", markdown)
    filled = _REQUEST.sub(lambda found: _generated(found[1], found[2].split()), markdown)
    if odd := _ANY.search(filled):
        raise ValueError(f"not understood: {odd[0]}; write it as <!-- generate: NAME ARGUMENTS --> on its own line")
    return filled


def _generated(name: str, arguments: list[str]) -> str:
    if name not in GENERATORS:
        raise ValueError(f"nothing is generated under the name {name!r}; known are {', '.join(sorted(GENERATORS))}")
    return GENERATORS[name](*arguments).strip("\n")
