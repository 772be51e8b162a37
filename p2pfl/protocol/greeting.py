"""Greeting: settings of a process, and how its neighbor's differ.

A digest of settings can only say that something differs. The greeting names it: short texts of the settings that all
processes must share, of the topology and of the data. Nothing in it is taken over; it is compared and quoted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.protocol.wire import Buffer
from p2pfl.util.text import visible

MAX_ENTRIES = 64
MAX_NAME = 64  # characters
MAX_VALUE = 80
MAX_CLASSES = 50  # names of classes that are carried; the digest covers all
MAX_CLASS = 40
_QUOTED = 3  # differences that are spelled out

_Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
_Value = Annotated[str, msgspec.Meta(max_length=MAX_VALUE)]
_ClassName = Annotated[str, msgspec.Meta(max_length=MAX_CLASS)]


class Data(msgspec.Struct, frozen=True, array_like=True):
    """What a process trains on. `about` describes it to people and is not compared.

    `content` is a digest of the data set. It has to agree, as have the classes and the shape of images.
    """

    about: _Value = ""
    shape: _Value = ""
    count: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    classes: Annotated[list[_ClassName], msgspec.Meta(max_length=MAX_CLASSES)] = []
    digest: _Value = ""
    content: _Value = ""


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    """Settings, topology, data and model of a process, in the order of quotation."""

    settings: Annotated[dict[_Name, _Value], msgspec.Meta(max_length=MAX_ENTRIES)] = {}
    topology: Annotated[dict[_Name, _Value], msgspec.Meta(max_length=MAX_ENTRIES)] = {}
    data: Data = Data()
    model: _Value = ""


class MismatchError(ProtocolError):
    """A neighbor was started with other settings; one line names the difference."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Greeting)


def encode(greeting: Greeting) -> bytes:
    """The body of a `hello`."""
    return _encoder.encode(greeting)


def decode(body: Buffer) -> Greeting:
    """Decode a greeting's body; an empty one is an empty greeting.

    Raises ProtocolError for anything else.
    """
    if not memoryview(body).nbytes:
        return Greeting()
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(Refusal.GREETING, ascii(str(error))[1:81]) from None


def short(value: object, limit: int = MAX_VALUE) -> str:
    """Shorten a value's text to `limit` characters, the last of them a digest."""
    text = str(value)
    if len(text) <= limit:
        return text
    return f"{text[: limit - 13]}… {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:10]}"


def describe_data(about: str, shape: Sequence[int], classes: Sequence[str], content: str) -> Data:
    """Describe a data set with these classes, images of `shape` and content digest."""
    digest = hashlib.sha256("\0".join(classes).encode(errors="surrogatepass")).hexdigest()
    return Data(
        about=short(_encodable(about)),
        shape="×".join(map(str, shape)),
        count=len(classes),
        classes=[short(_encodable(name), MAX_CLASS) for name in classes[:MAX_CLASSES]],
        digest=digest[:16],
        content=content[:16],
    )


def difference(ours: Greeting, theirs: Greeting) -> str | None:
    """Difference of a neighbor's greeting, to stand after its name; None if equal.

    The most telling difference alone: other classes make other models, and other files of other classes follow.
    """
    return (
        _of_settings(ours.settings, theirs.settings)
        or _of_data(ours.data, theirs.data)
        or _of_topology(ours.topology, theirs.topology)
        or _of_model(ours.model, theirs.model)
    )


def _of_settings(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    names = [name for name in {**ours, **theirs} if ours.get(name, "") != theirs.get(name, "")]
    if not names:
        return None
    one = len(names) == 1
    here = " and ".join(_setting(name, ours, with_name=not one) for name in names[:_QUOTED])
    there = " and ".join(_setting(name, theirs) for name in names[:_QUOTED])
    more = f" ({len(names) - _QUOTED} more settings differ)" if len(names) > _QUOTED else ""
    return f"has {there}, this peer {here}{more}: start both with the same settings"


def _setting(name: str, settings: Mapping[str, str], with_name: bool = True) -> str:
    value = _shown(settings.get(name, "unset"))
    return f"{_shown(name)} {value}" if with_name else value


def _of_data(ours: Data, theirs: Data) -> str | None:
    if ours.shape != theirs.shape:
        return f"has images of {_shown(theirs.shape)}, this peer of {ours.shape}: give both the same --dataset"
    if (ours.count, ours.digest) != (theirs.count, theirs.digest):
        return f"{_of_classes(ours, theirs)}: give both the same --dataset"
    if ours.content != theirs.content:
        return (
            f"has other data of the same classes ({_shown(theirs.about)}, content {_shown(theirs.content)}), "
            f"this peer {_shown(ours.about)}, content {ours.content}: give both the same files in --dataset"
        )
    return None


def _of_classes(ours: Data, theirs: Data) -> str:
    pairs = enumerate(zip(ours.classes, theirs.classes, strict=False))
    odd = next(((number, here, there) for number, (here, there) in pairs if here != there), None)
    if odd is None and ours.count == theirs.count:
        return f"has other names of classes after the first {MAX_CLASSES} than this peer"
    counts = f"has {theirs.count} classes, this peer {ours.count}" if ours.count != theirs.count else ""
    if odd is None:
        return counts
    number, here, there = odd
    named = f"class {number} is '{_shown(there)}' there and '{_shown(here)}' here"
    return f"{counts}; {named}" if counts else f"has other classes: {named}"


def _of_topology(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    name = next((name for name in {**ours, **theirs} if ours.get(name, "") != theirs.get(name, "")), None)
    if name is None:
        return None
    here, there = (_shown(found.get(name, "none")) for found in (ours, theirs))
    return f"has a topology file with {_shown(name)} {there}, this peer {here}: give both the same file"


def _of_model(ours: str, theirs: str) -> str | None:
    if ours == theirs:
        return None
    return f"has a model of {_shown(theirs)}, this peer of {_shown(ours)}: give both the same --model and its code"


def _shown(text: str) -> str:
    """Text of a neighbor, which must neither lead a terminal nor fill it."""
    return visible(text, controls=True)[: 2 * MAX_VALUE]


def _encodable(text: str) -> str:
    """Escape lone surrogates, by which Python writes file names that are not UTF-8."""
    return text.encode("utf-8", errors="backslashreplace").decode()
