"""Training loops to compare: the tutorial's, with added levers, and p2pfl's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision import transforms

from p2pfl.config import RunConfig
from p2pfl.data import Batches, Dataset
from p2pfl.training import Trainer, capture_for, initial_model

Turn = Callable[[], object]
"""A fixed number of optimizer steps, done when it returns, also on a GPU."""

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)  # CIFAR-10's
ROUNDS = 10**6  # as long as the schedule that a trainer is given: more than any benchmark trains


@dataclass(frozen=True)
class Work:
    """Training of one turn: `steps` of `batch_size`.

    Images are random, since CI has no data set.
    """

    model: str
    width: float
    batch_size: int
    steps: int
    device: str
    threads: int
    images: int = 10_000

    @property
    def samples(self) -> int:
        """Samples in one turn."""
        return self.steps * self.batch_size

    def config(self, precision: str) -> RunConfig:
        """A peer's settings: p2pfl's defaults, but for what a benchmark must fix."""
        names = ("model", "width", "batch_size", "device", "threads")
        fixed = {name: getattr(self, name) for name in names}
        return RunConfig.of(**fixed, local_steps=self.steps, rounds=ROUNDS, precision=precision)


@dataclass(frozen=True)
class Levers:
    """Changes to the tutorial's loop."""

    resident: bool = False
    channels_last: bool = False
    bf16: bool = False
    optimizer: Literal["default", "foreach", "fused"] = "default"
    compiled: bool = False


RESIDENT = Levers(resident=True)
CHANNELS_LAST = replace(RESIDENT, channels_last=True)
BF16 = replace(CHANNELS_LAST, bf16=True)
FOREACH = replace(BF16, optimizer="foreach")
FUSED = replace(BF16, optimizer="fused")
COMPILED = replace(FUSED, compiled=True)

BY_HAND = "+ fused optimizer instead"  # all levers that the trainer has too

# Each line has the levers of those before it, so that it says what one more of them gives.
CHAIN = {
    "tutorial": Levers(),
    "+ data on the device": RESIDENT,
    "+ channels_last": CHANNELS_LAST,
    "+ bf16": BF16,
    "+ foreach optimizer": FOREACH,
    BY_HAND: FUSED,
}


def dataset(images: int) -> Dataset:
    """Random images in CIFAR-10's form."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (images,), generator=generator)
    classes = tuple("0123456789")
    return Dataset("random", pixels, labels, pixels[:1], labels[:1], classes, MEAN, STD, augment=True)


def peer(work: Work, precision: str = "bf16", index: int = 0, captured: bool = True) -> Trainer:
    """Trainer of a real peer.

    On a GPU its step is a CUDA graph, unless `captured` is False.
    """
    torch.set_num_threads(work.threads)
    shard = np.arange(work.images)
    device = torch.device(work.device)
    capture = capture_for(device) if captured else None
    return Trainer(work.config(precision), dataset(work.images), shard, device, index, capture)


def rounds(trainer: Trainer) -> Turn:
    """Rounds of a trainer, one a turn."""
    numbers = iter(range(1, ROUNDS))
    return lambda: trainer.train(next(numbers), lambda steps: None, lambda: False)


def loop(work: Work, levers: Levers) -> Turn:
    """Tutorial's loop with some levers and a peer's optimizer settings."""
    device = torch.device(work.device)
    model = initial_model(work.config("fp32"), 10).to(device).train()
    if levers.channels_last:
        model.to(memory_format=torch.channels_last)
    training = work.config("fp32").training
    chosen = {} if levers.optimizer == "default" else {levers.optimizer: True}
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=training.lr / 25,  # with which the trainer's schedule begins
        momentum=training.momentum,
        nesterov=True,
        weight_decay=training.weight_decay,
        **chosen,
    )
    network = torch.compile(model) if levers.compiled else model
    batches = _resident(work, device, levers.channels_last) if levers.resident else _loaded(work, device)
    step = _step_function(network, optimizer, torch.autocast(device.type, torch.bfloat16, enabled=levers.bf16))

    def turn() -> float:
        total = torch.zeros((), device=device)
        for _ in range(work.steps):
            loss = step(*next(batches))
            # The tutorial adds up numbers, which waits for the device in every step.
            total += loss if levers.resident else loss.item()
        return float(total)

    return turn


def _step_function(
    network: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, autocast: torch.autocast
) -> Callable[[Tensor, Tensor], Tensor]:
    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        with autocast:
            scores = network(images)
        loss = functional.cross_entropy(scores.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _resident(work: Work, device: torch.device, channels_last: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches made as a peer makes them; contiguous unless `channels_last`."""
    batches = Batches(dataset(work.images), np.arange(work.images), work.batch_size, device, seed=0, peer=0)
    for step in range(ROUNDS):
        images, labels = batches.batch(step)
        yield images if channels_last else images.contiguous(), labels


class _Photos(torch.utils.data.Dataset[tuple[Any, int]]):
    """In-memory twin of torchvision's CIFAR10: PIL images transformed one at a time."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: list[int], transform: Callable[[Any], Tensor]) -> None:
        self._images = images
        self._labels = labels
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


def _loaded(work: Work, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The tutorial's DataLoader, epoch after epoch."""
    data = dataset(work.images)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    photos = _Photos(data.train_images.numpy(), data.train_labels.tolist(), transform)
    on_gpu = device.type == "cuda"
    loader = torch.utils.data.DataLoader(
        photos,
        batch_size=work.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2 if on_gpu else 0,
        pin_memory=on_gpu,
        persistent_workers=on_gpu,  # kinder than the tutorial: new epochs do not start new workers
    )
    while True:
        for images, labels in loader:
            yield images.to(device), labels.to(device)


def can_compile(device: str) -> str:
    """Why torch.compile cannot be measured here, or an empty string."""
    if device == "cuda" or any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return ""
    return "torch.compile left out: inductor needs a C++ compiler"
