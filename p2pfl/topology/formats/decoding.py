"""Decoding of files: UTF-8 text, and XML by a hardened parser.

The parser accepts no document type, no entities and no references to other files.
"""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from p2pfl.errors import TopologyError

UTF8_REMEDY = "save the file again with UTF-8 encoding"
_DECLARATION = re.compile(r"""\s*<\?xml\s[^>]*?\bencoding\s*=\s*["']([^"'>]*)["']""")
# Encodings in which ASCII text is the same bytes as in UTF-8.
_LIKE_ASCII = re.compile(r"ascii|iso8859-\d+|cp125\d|koi8-[ru]|mac-\w+")


def decode(data: bytes, source: str) -> str:
    """Decode a file as text. Raises TopologyError where it is not UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TopologyError(f"{source}: not UTF-8 text", remedy=UTF8_REMEDY) from None
    if "\0" in text:
        raise TopologyError(f"{source}: not UTF-8 text but, as its null bytes show, UTF-16 or -32", remedy=UTF8_REMEDY)
    return text


def read_xml(data: bytes, source: str) -> ElementTree.Element:
    """Parse an XML document and return its root.

    Raises TopologyError for document types and encodings that are refused, ParseError where it is not well-formed.
    """
    text = _text(data, source)
    parser = defusedxml.ElementTree.DefusedXMLParser(forbid_dtd=True, encoding="utf-8")
    try:
        parser.feed(text.encode("utf-8"))  # the encoding given above outweighs the one that the file declares
        root: ElementTree.Element = parser.close()
    except DefusedXmlException:
        raise TopologyError(
            f"{source}: an XML document type (<!DOCTYPE …>) is not accepted, nor the entities and references to other "
            "files that it may hold",
            remedy="delete it and write the text itself",
        ) from None
    return root


def local_name(element: ElementTree.Element) -> str:
    """Name of an element without its namespace; empty for a comment.

    Tools use many namespaces for one format.
    """
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def children(element: ElementTree.Element, *names: str) -> Iterator[ElementTree.Element]:
    """Children of an element with these names, in any namespace."""
    return (child for child in element if local_name(child) in names)


def _text(data: bytes, source: str) -> str:
    """XML file as text. Raises TopologyError unless it is UTF-8 and declares no other."""
    text = decode(data, source)
    declared = _DECLARATION.match(text)
    if declared and not _is_utf8(declared[1], text.isascii()):
        raise TopologyError(f"{source}: encoding {declared[1][:40]!r} is not accepted", remedy=UTF8_REMEDY)
    return text


def _is_utf8(encoding: str, only_ascii: bool) -> bool:
    """Return whether text declared to be in this encoding is the same in UTF-8."""
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        return False
    return name in ("utf-8", "utf-8-sig") or (only_ascii and _LIKE_ASCII.fullmatch(name) is not None)
