"""Wire format: every message round-trips; hostile bytes raise ProtocolError.

They cost no memory.
"""

from __future__ import annotations

import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.helpers import THOROUGHNESS

from p2pfl.errors import ProtocolError
from p2pfl.protocol import wire
from p2pfl.protocol.wire import (
    CHUNK_BYTES,
    GREETING_BYTES,
    HEADER_BYTES,
    MAX_ROUND,
    VERSION,
    Header,
    Message,
    chunk_count,
    chunks,
    decode,
    encode,
)

CHUNK = Header(VERSION, "run", "chunk", 2, 5, "fp32", "0123456789abcdef", "x", offset=8, length=12)
BODY = bytes(range(12))

# One table for both directions: fields of the header as they travel, and the body.
CASES = {
    "hello": ([VERSION, "run", "hello", 0, 1, "", "0123456789abcdef", "", 0, 0, {}, 0, 0], b""),
    "grant": ([VERSION, "run", "grant", 3, MAX_ROUND, "", "", "", 0, 0, {}, wire.MAX_INCARNATION, 0], b""),
    "ack": ([VERSION, "ü" * 64, "ack", 999_999, 0, "", "", "", 0, 0, {}, 0, 0], b""),
    "goodbye": ([VERSION, "", "goodbye", 1, 7, "", "", "", 0, 0, {}, 0, 0], b""),
    "chunk": ([VERSION, "run", "chunk", 1, 7, "fp32", "abc", "x", 1 << 39, 12, {}, 0, 0], BODY),
    "bf16": ([VERSION, "run", "chunk", 1, 7, "bf16", "abc", "x", 2, 6, {"weight": 0.5, "age": -3.0}, 7, 0], BODY[:6]),
    "whole chunk": ([VERSION, "run", "chunk", 1, 7, "fp32", "abc", "x", 0, CHUNK_BYTES, {}, 0, 0], bytes(CHUNK_BYTES)),
    "compressed": ([VERSION, "run", "chunk", 1, 7, "compressed", "abc", "x", 5, 12, {}, 0, 20], BODY),
}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str) -> None:
    fields, body = CASES[name]
    message = Message(Header(*fields), body)
    frames = encode(message)
    assert len(frames) == 2
    assert msgspec.msgpack.decode(frames[0]) == fields
    assert frames[1] is body
    received = decode(frames)
    assert received.header == message.header
    assert bytes(received.body) == body
    assert received.size == len(body)


def changed(index: int, value: object, body: bytes = BODY) -> list[bytes]:
    fields = list(msgspec.structs.astuple(CHUNK))
    fields[index] = value
    return [msgspec.msgpack.encode(fields), body]


REFUSED = {
    "no frame": ([], "frames: 0 instead of 2"),
    "one frame": (list(encode(Message(CHUNK, BODY)))[:1], "frames: 1 instead of 2"),
    "three frames": ([*encode(Message(CHUNK, BODY)), b""], "frames: 3 instead of 2"),
    "empty header": ([b"", b""], "header:"),
    "huge header": ([b"\0" * (HEADER_BYTES + 1), b""], "header: 2049 bytes, more than 2048"),
    "too few fields": ([msgspec.msgpack.encode([VERSION, "run"]), b""], "header:"),
    "a map": ([msgspec.msgpack.encode({"version": VERSION}), b""], "header:"),
    "trailing bytes": ([encode(Message(CHUNK, BODY))[0] + b"\0", BODY], "header:"),
    "other version": (changed(0, VERSION + 1), f"version: {VERSION + 1} instead of {VERSION}"),
    "unknown kind": (changed(2, "pickle"), "header:.*pickle"),
    "negative sender": (changed(3, -1), "header:"),
    "huge sender": (changed(3, 10**6), "header:"),
    "huge round": (changed(4, MAX_ROUND + 1), "header:"),
    "unknown codec": (changed(5, "fp8"), "header:.*fp8"),
    "no codec": (changed(5, ""), "codec: missing"),
    "long text": (changed(7, "x" * 65), "header:"),
    "bad text": ([encode(Message(CHUNK, BODY))[0].replace(b"run", b"r\xffn"), BODY], "header:"),
    "negative offset": (changed(8, -4), "header:"),
    "offset in a number": (changed(8, 6), "length: a chunk ends within a number"),
    "huge offset": (changed(8, 2**63), "header:"),
    "length in a number": (changed(9, 10, BODY[:10]), "length: a chunk ends within a number"),
    "short body": (changed(9, 12, BODY[:8]), "length: the header says 12 bytes, the body has 8"),
    "long body": (changed(9, 8), "length: the header says 8 bytes, the body has 12"),
    "empty chunk": (changed(9, 0, b""), "length: a chunk of 0 bytes"),
    "big chunk": (changed(9, CHUNK_BYTES + 4, bytes(CHUNK_BYTES + 4)), "length: a chunk of 1048580 bytes"),
    "infinite scalar": (changed(10, {"w": float("inf")}), "scalars: not finite"),
    "scalar of text": (changed(10, {"w": "1"}), "header:"),
    "compressed beyond its end": (changed(5, "compressed"), "length: a chunk beyond the vector's 0 bytes"),
    "negative total": (changed(12, -1), "header:"),
    "huge total": (changed(12, 2**41), "header:"),
    "negative incarnation": (changed(11, -1), "header:"),
    "huge incarnation": (changed(11, wire.MAX_INCARNATION + 1), "header:"),
    "many scalars": (changed(10, {str(i): 1.0 for i in range(17)}), "header:"),
    "body with a grant": ([encode(Message(Header(VERSION, "r", "grant", 0, 1, length=4)))[0], b"abcd"], "has no body"),
    "long greeting": (
        [encode(Message(Header(VERSION, "r", "hello", 0, 1, length=GREETING_BYTES + 1)))[0], bytes(GREETING_BYTES + 1)],
        f"length: a hello of {GREETING_BYTES + 1} bytes",
    ),
    "codec with a grant": ([encode(Message(Header(VERSION, "r", "grant", 0, 1, "bf16")))[0], b""], "has no body"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    frames, message = REFUSED[name]
    with pytest.raises(ProtocolError, match=message):
        decode(frames)


def is_refused(frames: list[bytes]) -> bool:
    """Whether decoding raises ProtocolError."""
    try:
        decode(frames)
    except ProtocolError:
        return True
    return False


def is_refused_or_within_limits(frames: list[bytes]) -> bool:
    """Whether decoding raises ProtocolError, or returns a message within every limit."""
    if is_refused(frames):
        return True
    message = decode(frames)
    is_chunk = message.header.kind == "chunk"
    return (
        0 <= message.header.round <= MAX_ROUND
        and message.size == len(message.body) <= CHUNK_BYTES
        and is_chunk == bool(message.size) == bool(message.header.codec)
    )


@settings(max_examples=150 * THOROUGHNESS, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_arbitrary_frames(frames: list[bytes]) -> None:
    assert is_refused(frames)


packable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150 * THOROUGHNESS, deadline=None)
@given(st.lists(packable, max_size=12), st.binary(max_size=16))
def test_well_formed_messagepack_of_another_shape(fields: list[object], body: bytes) -> None:
    assert is_refused([msgspec.msgpack.encode(fields), body])


@settings(max_examples=150 * THOROUGHNESS, deadline=None)
@given(name=st.sampled_from(sorted(set(CASES) - {"whole chunk"})), field=st.integers(0, 10), value=packable)
def test_one_field_replaced(name: str, field: int, value: object) -> None:
    fields, body = list(CASES[name][0]), CASES[name][1]
    fields[field] = value
    assert is_refused_or_within_limits([msgspec.msgpack.encode(fields), body])


@settings(max_examples=250 * THOROUGHNESS, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(set(CASES) - {"whole chunk"})))
def test_mutated_messages(data: st.DataObject, name: str) -> None:
    fields, body = CASES[name]
    frames = [bytearray(msgspec.msgpack.encode(fields)), bytearray(body)]
    for _ in range(data.draw(st.integers(1, 3))):
        frame = frames[data.draw(st.integers(0, 1))]
        place = data.draw(st.integers(0, len(frame)))
        match data.draw(st.sampled_from(["flip", "cut", "extend", "swap"])):
            case "flip" if place < len(frame):
                frame[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del frame[place : place + data.draw(st.integers(1, 8))]
            case "extend":
                frame[place:place] = data.draw(st.binary(min_size=1, max_size=8))
            case "swap":
                frames.reverse()
    assert is_refused_or_within_limits([bytes(frame) for frame in frames])


def start(index: int) -> bytes:
    """A valid header up to its field `index`."""
    return b"\x9b" + b"".join(msgspec.msgpack.encode(field) for field in msgspec.structs.astuple(CHUNK)[:index])


HUGE = 2**32 - 1
HOSTILE = {
    "array of 4 billion": b"\xdd" + struct.pack(">I", HUGE) + start(10)[1:],
    "map instead of the header": b"\xdf" + struct.pack(">I", HUGE),
    "text of 4 GB": start(1) + b"\xdb" + struct.pack(">I", HUGE) + b"run",
    "bytes of 4 GB": start(1) + b"\xc6" + struct.pack(">I", HUGE) + b"run",
    "extension of 4 GB": start(1) + b"\xc9" + struct.pack(">I", HUGE) + b"\x01run",
    "scalars of 4 billion": start(10) + b"\xdf" + struct.pack(">I", HUGE) + b"\xa1w\xcb" + bytes(8),
    "array in place of scalars": start(10) + b"\xdd" + struct.pack(">I", HUGE),
    "12th field of 4 billion": b"\x9c" + start(10)[1:] + b"\x80\xdd" + struct.pack(">I", HUGE),
    "nested arrays": b"\x91" * HEADER_BYTES,
    "nested arrays in the 12th field": b"\x9c" + start(10)[1:] + b"\x80" + b"\x91" * 1900,
    "nested maps in the 12th field": b"\x9c" + start(10)[1:] + b"\x80" + b"\x81\xa0" * 900,
    "maps as keys of scalars": start(10) + b"\x81" * 1900,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_cost_no_memory(name: str) -> None:
    frames = [HOSTILE[name], b""]
    is_refused(frames)  # what the first failure imports and caches is not the message's
    tracemalloc.start()
    try:
        assert is_refused(frames)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024


@settings(deadline=None)
@given(size=st.integers(0, 70), names=st.sampled_from([("x",), ("x", "y")]))
def test_chunks_cover_every_vector_once_in_order_without_copies(size: int, names: tuple[str, ...]) -> None:
    vectors = {name: memoryview(bytearray((7 * i + k) % 256 for i in range(4 * size))) for k, name in enumerate(names)}
    template = Header(VERSION, "run", "chunk", 1, 3, "fp32", "abc", scalars={"age": 1.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "CHUNK_BYTES", 64)
        messages = [decode(encode(message)) for message in chunks(template, vectors)]
        assert len(messages) == len(names) * chunk_count(4 * size)
    for name, vector in vectors.items():
        mine = [message for message in messages if message.header.vector == name]
        ends = [0, *(message.header.offset + message.header.length for message in mine)]
        assert [message.header.offset for message in mine] == ends[:-1]
        assert ends[-1] == vector.nbytes
        assert all(message.body.obj is vector.obj for message in mine)  # type: ignore[union-attr]
        assert b"".join(message.body for message in mine) == vector
    assert [message.header.vector for message in messages] == sorted(message.header.vector for message in messages)
    assert all(message.header.scalars == {"age": 1.0} and message.header.round == 3 for message in messages)


def test_largest_honest_header_fits() -> None:
    header = Header(
        VERSION,
        "ü" * 64,
        "chunk",
        wire.MAX_PEERS - 1,
        MAX_ROUND,
        "bf16",
        "\U0001f40d" * 64,
        "\U0001f40d" * 64,
        wire.MAX_VECTOR_BYTES,
        2,
        {f"{i:02}" + "s" * 62: 1e300 for i in range(wire.MAX_SCALARS)},
        wire.MAX_INCARNATION,
    )
    assert decode(encode(Message(header, b"ab"))).header == header
