"""Note on bfloat16 where the CPU computes it in software."""

from __future__ import annotations

import pytest
import torch

from p2pfl.config import RunConfig
from p2pfl.preflight.precision import precision_note
from p2pfl.topology import make_topology


def digits(**options: object) -> RunConfig:
    return RunConfig.of(dataset="digits", **options)


@pytest.fixture
def old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def note(config: RunConfig) -> str | None:
    return precision_note(config, make_topology("ring", 3))


@pytest.mark.usefixtures("old_cpu")
def test_bf16_on_a_cpu_without_its_instructions_is_noted() -> None:
    found = note(digits(precision="bf16", device="cpu"))
    assert found is not None
    assert "--precision fp32" in found
    assert note(digits(precision="fp32", device="cpu")) is None


def test_bf16_on_a_cpu_with_them_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert note(digits(precision="bf16", device="cpu")) is None


@pytest.mark.usefixtures("old_cpu")
def test_only_devices_of_this_machine_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    topology = make_topology("ring", 3)
    for node, device in enumerate(("cuda:0", "cpu", "cuda:0")):
        topology.graph.nodes[node]["device"] = device
    config = digits(precision="bf16")
    assert precision_note(config, topology) is not None
    assert precision_note(config, topology, index=1) is not None
    assert precision_note(config, topology, index=0) is None
