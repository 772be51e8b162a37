"""Swarms whose workers are threads, and plain references of their training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from p2pfl import RunConfig, data
from p2pfl.model.vector import Layout, aligned_vector
from p2pfl.modes import assign_roles
from p2pfl.node import messages
from p2pfl.node.control import Control
from p2pfl.node.worker import run
from p2pfl.run import checkpoint
from p2pfl.run.directory import create_run_dir
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.topology import Topology
from p2pfl.training import initial_model, split_of_run
from p2pfl.transport import MemoryHub, MemoryTransport, Transport

ROUNDS = 3
PLAIN = {
    "dataset": "digits",
    "model": "vgg11",
    "width": 0.125,
    "rounds": ROUNDS,
    "local_steps": 1,
    "batch_size": 16,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "lr": 0.2,
    "norm": "none",
    "eval_samples": 32,
    "threads": 1,
}


def saved_vectors(run_dir: Path, topology: Topology, rounds: int) -> torch.Tensor:
    """The peers' vectors after so many rounds: (n, size)."""
    folders = [run_dir / "peers" / topology.node_path(i) / "checkpoint" for i in range(topology.n)]
    return torch.stack([checkpoint.load(f / f"round-{rounds:06d}.safetensors").x for f in folders])


class Reference:
    """Reference of the training: one process, dense matrices, own gradient step."""

    def __init__(self, topology: Topology, config: RunConfig) -> None:
        dataset = data.load(data.prepare("digits", None, lambda *_: None))
        seed, batch = config.record.seed, config.training.batch_size
        split = split_of_run(config, assign_roles(config, topology), dataset)
        self.sizes, shards = split.sizes, split.shards
        cpu = torch.device("cpu")
        self.batches = [data.Batches(dataset, shard, batch, cpu, seed, peer) for peer, shard in enumerate(shards)]
        self.model = initial_model(config, len(dataset.classes))
        self.layout = Layout.of(self.model)
        self.vector = aligned_vector(self.layout.size)
        self.layout.bind(self.model, self.vector)
        self.start = self.vector.clone()
        self.lr = config.training.lr

    def gradient(self, x: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        self.vector.copy_(x)
        self.model.zero_grad()
        functional.cross_entropy(self.model(batch[0]), batch[1]).backward()
        gradient = torch.zeros_like(x)
        parameters = dict(self.model.named_parameters())
        for slot in self.layout.slots:
            slot.view(gradient).copy_(parameters[slot.name].grad)
        return gradient

    def gradients(self, xs: torch.Tensor, step: int) -> torch.Tensor:
        return torch.stack([self.gradient(x, b.batch(step)) for x, b in zip(xs, self.batches, strict=True)])


def assert_close(found: torch.Tensor, expected: torch.Tensor, start: torch.Tensor) -> None:
    """Assert equality within 1e-5 of the weights and of their movement.

    Weights that stood still would not pass.
    """
    moved = (expected - start).norm(dim=-1).max()
    error = (found - expected).norm(dim=-1).max()
    assert error <= 1e-5 * expected.norm(dim=-1).max()
    assert moved > 1e-3 * start.norm()
    assert error <= 1e-3 * moved


LIVELY = {**PLAIN, "norm": "batch", "momentum": 0.9, "schedule": "onecycle", "lr": 0.02, "local_steps": 2}


def memory_swarm(topology: Topology, config: RunConfig) -> Path:
    """The same workers as threads of this process, over the in-memory transport."""
    hub = MemoryHub()
    names = [f"peer-{peer}" for peer in range(topology.n)]
    return thread_swarm(topology, config, names, names, lambda bind: MemoryTransport(hub, bind))


def thread_swarm(
    topology: Topology,
    config: RunConfig,
    binds: list[str],
    endpoints: list[str],
    make_transport: Callable[[str], Transport],
) -> Path:
    """Workers as threads of this process; each neighbor is reached at its endpoint."""
    run_dir = create_run_dir(topology, config)
    dataset = data.prepare(config.data.dataset, None, lambda *_: None)
    fingerprint = run_fingerprint(assign_roles(config, topology), config)
    codes: dict[int, int] = {}
    controls = [Control() for _ in range(topology.n)]

    def work(index: int) -> None:
        spec = messages.WorkerSpec(
            config=config,
            run_dir=run_dir,
            dataset=dataset,
            index=index,
            run=fingerprint,
            settings=fingerprint,
            bind=binds[index],
            endpoints=dict(enumerate(endpoints)),
        )
        codes[index] = run(spec, lambda message: None, controls[index], make_transport)
        if codes[index]:
            for control in controls:  # nobody waits for one that has failed
                control.stop()

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(topology.n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=200)
    assert codes == dict.fromkeys(range(topology.n), 0)
    return run_dir
