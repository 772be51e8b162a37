"""Speed and memory of folding neighbors' vectors, beside a memory copy.

Each degree and wire format is measured in a separate process, which works as a peer does between its sockets and its
training: the real inbox grants credit and takes chunks of 1 MiB, each in a separate buffer like a received frame, and
the real D-PSGD folds each chunk as it comes, neighbor after neighbor in peer order. The peer's own vector has its place
in the middle of that order and is added inside a neighbor's fold, so `fold` includes it. The reference copies every
neighbor's bytes, from the same buffers into another array: it reads as many bytes of neighbors as folding does. The two
take turns, chunk by chunk, each first every other time. A chunk is written just before, so that both find it in the
cache where that is large enough, into a buffer of one of four reused vectors, as many as a peer lets be outstanding;
neither time counts that. `fold` counts what a peer does with a chunk that it has: take it out of the inbox, and fold
it. `round` adds what the algorithm does once: bfloat16 is made at the beginning. All of the result is compared with the
average in float64. The peak of memory is of rounds before all others, without the reference.

Frames are a process's own memory, and their numbers have been checked before they are folded. Shared memory may still
be written by its sender: `fold` includes all that it takes to be safe from that. There vectors are written whole, as
many as a peer lets be outstanding, and then folded together, and copied one after the other: what is larger than the
cache comes from memory both times.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import Tensor

from benchmarks.common import Bar, Report, children, gather, peak_bytes, ratios, reset_peak, spread
from p2pfl.algorithms import DPSGD
from p2pfl.algorithms.base import RoundContext
from p2pfl.algorithms.dpsgd import DPSGDState
from p2pfl.payload import ITEM_BYTES
from p2pfl.protocol.aggregation import RoundAggregation
from p2pfl.protocol.inbox import WINDOW, Inbox, Senders
from p2pfl.protocol.wire import CHUNK_BYTES, VERSION, Header, Message
from p2pfl.topology import Neighborhood

Codec = Literal["fp32", "bf16"]
Memory = Literal["frames", "shared"]
Frames = list[npt.NDArray[np.uint8]]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BLOCK = 1 << 14  # elements; what is checked at a time, so that its float64 is nothing beside the vectors
CHILD_SECONDS = 600.0
LEAST_SHARED = 0.7  # of a memory copy's bytes a second, folding float32 from shared memory


@dataclass(frozen=True)
class Settings:
    """Cost of mixing."""

    degrees: tuple[int, ...] = (2, 4, 8, 16, 32, 63)
    """Neighbors of a peer; the least and the greatest from 4 on are compared for the bar."""
    memories: tuple[Memory, ...] = ("frames", "shared")
    """Where neighbors' vectors lie: in received frames, or in memory shared with their senders."""
    model: str = "vgg11"
    """Network whose size the vectors have."""
    width: float = 1.0
    """Scale of its channels."""
    threads: int = 1
    """CPU threads: a peer has its share of the cores."""
    repeats: int = 5
    """Rounds."""
    quick: bool = False
    """Tiny sizes: a smoke test, whose figures say nothing."""
    output: Path | None = None
    """Where the JSON goes; benchmarks/results/mix.json unless given."""


@dataclass(frozen=True)
class Work:
    """Measurement of one child."""

    size: int
    degree: int
    codec: Codec
    memory: Memory
    threads: int
    repeats: int

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector on the wire."""
        return self.size * ITEM_BYTES[self.codec]

    @property
    def neighborhood(self) -> Neighborhood:
        """Neighborhood of the peer in the middle of the order.

        Its weights all differ, so that a confusion of two would show.
        """
        me = (self.degree + 1) // 2
        total = (self.degree + 1) * (self.degree + 2) / 2
        weights = {peer: (peer + 1) / total for peer in range(self.degree + 1) if peer != me}
        return Neighborhood(me, (me + 1) / total, incoming=weights, outgoing=weights)

    @property
    def numbers(self) -> Tensor:
        """One chunk of whole numbers.

        Peers send multiples of them, which bfloat16 represents exactly.
        """
        count = CHUNK_BYTES // ITEM_BYTES[self.codec]
        generator = torch.Generator().manual_seed(0)
        return torch.randint(1, 8, (count,), dtype=DTYPES[self.codec], generator=generator)


def factor(peer: int, chunk: int) -> int:
    """Factor by which a peer multiplies the numbers in one of its chunks."""
    return (1 + chunk % 7) << peer % 4


@dataclass
class Seconds:
    """Seconds of one round: folding, copying the same bytes, and the whole algorithm."""

    fold: float = 0.0
    copy: float = 0.0
    round: float = 0.0


@dataclass(frozen=True)
class Result:
    """One degree: seconds of each round, and bytes of memory."""

    seconds: list[Seconds]
    peak: int
    before: int
    """Resident before there was any vector, what torch itself needs included."""


def vector_size(model: str, width: float) -> int:
    """Number of elements of a model's flat vector."""
    from p2pfl.model.networks import build_model
    from p2pfl.model.vector import Layout

    return Layout.of(build_model(model, num_classes=10, norm="batch", width=width)).size


def main(settings: Settings) -> Report:
    """Measure all degrees and wire formats, and report."""
    if settings.quick:
        settings = dataclasses.replace(settings, degrees=(5,), width=0.25, repeats=2)
    size = vector_size(settings.model, settings.width)
    report = Report("mix", dataclasses.asdict(settings) | {"size": size})
    codecs: tuple[Codec, ...] = ("fp32", "bf16")
    for codec, memory in itertools.product(codecs, settings.memories):
        peaks: dict[int, Result] = {}
        for degree in settings.degrees:
            print(f"{codec}, {memory}, degree {degree}", file=sys.stderr)
            work = Work(size, degree, codec, memory, settings.threads, settings.repeats)
            with children(_measure, [(work,)]) as links:
                (peaks[degree],) = gather(links, CHILD_SECONDS)
            report.rows.append(_row(work, peaks[degree]))
        if not settings.quick:
            report.bars += _flatness(f"{codec}, {memory}", peaks)
            report.bars += _speeds(codec, memory, peaks)
    report.finish(settings.output)
    return report


def _row(work: Work, result: Result) -> dict[str, object]:
    folds, copies, rounds = (
        [getattr(seconds, name) / work.degree for seconds in result.seconds] for name in ("fold", "copy", "round")
    )
    vectors = (result.peak - result.before) / (work.size * 4)
    return {
        "wire": work.codec,
        "memory": work.memory,
        "degree": work.degree,
        "fold GB/s": work.vector_bytes / spread(folds).median / 1e9,
        "copy GB/s": work.vector_bytes / spread(copies).median / 1e9,
        "fold × copy": ratios(copies, folds),
        "round GB/s": work.vector_bytes / spread(rounds).median / 1e9,
        "round × copy": ratios(copies, rounds),
        "peak MB": round(result.peak / 1e6),
        "vectors MB": round((result.peak - result.before) / 1e6),
        "in models": vectors,
    }


def _speeds(codec: Codec, memory: Memory, results: dict[int, Result]) -> list[Bar]:
    """Slowest folding from shared memory, beside a memory copy."""
    if (codec, memory) != ("fp32", "shared"):
        return []
    speeds = [
        ratios([one.copy for one in result.seconds], [one.fold for one in result.seconds]).median
        for result in results.values()
    ]
    return [Bar("fp32, shared: folding beside a memory copy", min(speeds), at_least=LEAST_SHARED)]


def _flatness(name: str, results: dict[int, Result]) -> list[Bar]:
    """Ratio of memory at the greatest degree to that at the first full window."""
    full = sorted(degree for degree in results if degree >= WINDOW)
    if len(full) < 2:
        return []
    low, high = (results[degree].peak - results[degree].before for degree in (full[0], full[-1]))
    text = f"{name}: peak memory of vectors, degree {full[-1]} to degree {full[0]}"
    return [Bar(text, high / low, at_most=1.05)]


def _measure(link: Connection, work: Work) -> Result:
    """Measure in a fresh process: one round for memory, then rounds for time."""
    torch.set_num_threads(work.threads)
    _mix(dataclasses.replace(work, size=100_000, repeats=1), None)  # torch's own buffers and code
    reset_peak()
    before = peak_bytes()
    _mix(work, None)
    peak = peak_bytes()
    spare = np.empty(work.vector_bytes, np.uint8)
    return Result([_mix(work, spare) for _ in range(work.repeats)], peak, before)


def _mix(work: Work, spare: npt.NDArray[np.uint8] | None) -> Seconds:
    """Time and check a peer's round; with `spare`, also copy there what is folded.

    The second of two rounds is timed, as the first one touches memory for the first time.
    """
    neighborhood, numbers = work.neighborhood, work.numbers
    algorithm = DPSGD(wire_dtype=work.codec)
    x = torch.empty(work.size)
    state = algorithm.init(x, lambda round: neighborhood)
    whole = work.memory == "shared"
    window = [_frames(work.vector_bytes, whole) for _ in range(min(WINDOW, work.degree))]
    for number in range(1, 3):
        for chunk, part in enumerate(torch.split(x, len(numbers))):
            torch.mul(numbers[: len(part)], factor(neighborhood.me, chunk), out=part)
        seconds = Seconds()
        context = RoundContext(number, neighborhood)
        began = time.perf_counter()
        algorithm.outgoing(state, context)
        seconds.round += time.perf_counter() - began
        (_fold_shared if whole else _fold_frames)(work, algorithm, state, number, window, spare, seconds)
        began = time.perf_counter()
        x = algorithm.finish(state, context)
        seconds.round += time.perf_counter() - began + seconds.fold
        _check(x, neighborhood, numbers)
    return seconds


def _check(x: Tensor, neighborhood: Neighborhood, numbers: Tensor) -> None:
    """Compare the whole average with that in float64."""
    weights = {**neighborhood.incoming, neighborhood.me: neighborhood.self_weight}
    for chunk, part in enumerate(torch.split(x, len(numbers))):
        mean = sum(weight * factor(peer, chunk) for peer, weight in weights.items())
        pieces = torch.split(part, BLOCK), torch.split(numbers[: len(part)], BLOCK)
        for found, plain in zip(*pieces, strict=True):
            assert torch.allclose(found.double(), plain.double() * mean, rtol=1e-5, atol=0.0)


def _fold_frames(
    work: Work,
    algorithm: DPSGD,
    state: DPSGDState,
    number: int,
    window: list[Frames],
    spare: npt.NDArray[np.uint8] | None,
    seconds: Seconds,
) -> None:
    """Fold frames one after the other, as they are received."""
    numbers, buffers = work.numbers, itertools.cycle(window)
    inbox = Inbox(work.size, lambda round: algorithm, last_round=number)
    for sender in sorted([*state.neighborhood.incoming, state.neighborhood.me]):
        inbox.grant(number, Senders(list(state.neighborhood.incoming)), Senders())
        if sender == state.neighborhood.me:
            algorithm.accumulate(state, sender, algorithm.own(state))  # added with a neighbor's
            continue
        frames = next(buffers)
        for chunk, message in enumerate(_messages(work, number, sender, frames, numbers)):
            inbox.add(message)
            turn = (sender + chunk) % 2
            if spare is not None and turn:
                seconds.copy += _copy(frames[chunk], chunk, spare)
            began = time.perf_counter()
            payload, _ = inbox.take_part(number, sender)
            assert payload is not None
            algorithm.accumulate(state, sender, payload)
            seconds.fold += time.perf_counter() - began
            if spare is not None and not turn:
                seconds.copy += _copy(frames[chunk], chunk, spare)


def _fold_shared(
    work: Work,
    algorithm: DPSGD,
    state: DPSGDState,
    number: int,
    window: list[Frames],
    spare: npt.NDArray[np.uint8] | None,
    seconds: Seconds,
) -> None:
    """Fold whole vectors in shared memory, a window of them at a time."""
    numbers = work.numbers
    senders = sorted(work.neighborhood.incoming)
    inbox = Inbox(work.size, lambda round: algorithm, last_round=number)
    aggregation = RoundAggregation(algorithm, state, inbox, number, work.neighborhood.me, senders)
    aggregation.expected = senders
    for turn, first in enumerate(range(0, len(senders), WINDOW)):
        group = senders[first : first + WINDOW]
        inbox.grant(number, Senders(senders), Senders())
        messages = []
        for sender, (vector,) in zip(group, window, strict=False):
            body = _fill(work, sender, vector, numbers)
            messages.append(Message(_header(work, number, sender, 0, len(body)), body, is_shared=True))
        for is_fold in (turn % 2 == 0, turn % 2 == 1):
            began = time.perf_counter()
            if is_fold:
                for message in messages:
                    inbox.add(message)
                aggregation.fold()
                seconds.fold += time.perf_counter() - began
            elif spare is not None:
                for message in messages:
                    spare[:] = np.frombuffer(message.body, np.uint8)
                seconds.copy += time.perf_counter() - began


def _copy(frame: npt.NDArray[np.uint8], chunk: int, spare: npt.NDArray[np.uint8]) -> float:
    began = time.perf_counter()
    spare[chunk * CHUNK_BYTES : chunk * CHUNK_BYTES + len(frame)] = frame
    return time.perf_counter() - began


def _frames(size: int, whole: bool) -> Frames:
    """Buffers of one vector, an allocation each, as ZeroMQ makes them; or one."""
    if whole:
        return [np.empty(size, np.uint8)]
    return [np.empty(min(CHUNK_BYTES, size - start), np.uint8) for start in range(0, size, CHUNK_BYTES)]


def _messages(work: Work, number: int, sender: int, frames: Frames, numbers: Tensor) -> Iterator[Message]:
    """Messages of a neighbor, as they are received into these buffers."""
    for chunk, frame in enumerate(frames):
        _write(work, sender, chunk, frame, numbers)
        yield Message(_header(work, number, sender, chunk * CHUNK_BYTES, len(frame)), frame.data)


def _fill(work: Work, sender: int, vector: npt.NDArray[np.uint8], numbers: Tensor) -> memoryview:
    """Write a neighbor's whole vector; others see it as read-only memory."""
    for chunk, start in enumerate(range(0, len(vector), CHUNK_BYTES)):
        _write(work, sender, chunk, vector[start : start + CHUNK_BYTES], numbers)
    return vector.data.toreadonly()


def _write(work: Work, sender: int, chunk: int, frame: npt.NDArray[np.uint8], numbers: Tensor) -> None:
    body = torch.from_numpy(frame).view(DTYPES[work.codec])
    torch.mul(numbers[: len(body)], factor(sender, chunk), out=body)


def _header(work: Work, number: int, sender: int, offset: int, length: int) -> Header:
    return Header(VERSION, "run", "chunk", sender, number, work.codec, "", "x", offset, length)


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m benchmarks.mix", description=__doc__))
