"""Files of a run directory, and the fields of its records and its summary."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from pathlib import Path

from docs.generate.descriptions import constants_of, fields_of, type_text
from docs.generate.markdown import code, prose, sentence, table
from p2pfl import errors
from p2pfl.report.fields import FIELDS, TYPES
from p2pfl.run import paths
from p2pfl.run.records import RoundRecord


def files() -> str:
    """Files of a run directory, of a process's folder and of a comparison's folder."""
    assert paths.__file__ is not None
    found = constants_of(Path(paths.__file__))
    parts = []
    for number, (title, group) in enumerate(groupby(found, key=lambda item: item[0])):
        rows = [(code(name.format(round="N")), prose(text)) for _, name, text in group]
        if number == 0:
            rows.append((code(errors.ERROR_FILE), "Tracebacks of unforeseen errors, if there were any."))
        parts.append(f"### {title}\n\n" + table(("file", "content"), rows))
    return "\n\n".join(parts)


def round_record() -> str:
    """Fields of a line of rounds.jsonl."""
    rows = []
    for item in fields_of(RoundRecord):
        optional = item.default is not dataclasses.MISSING
        rows.append((code(item.name), type_text(item.hint), "" if not optional else "optional", prose(item.text)))
    return table(("field", "type", "", "meaning"), rows)


def summary() -> str:
    """Fields of summary.json."""
    rows = [(code(name), type_text(TYPES[name]), prose(sentence(text))) for name, text in FIELDS.items()]
    return table(("field", "type", "meaning"), rows)
