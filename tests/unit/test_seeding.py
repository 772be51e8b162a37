"""Generators: pure functions of seed, purpose, peer and round on every platform."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from p2pfl.seeding import derive, numpy_generator, torch_generator


def test_derived_seeds_never_change() -> None:
    # Runs of an older version must stay repeatable, so these are promises and not just regressions.
    assert derive(0, "init") == 831298709255160611
    assert derive(7, "order", peer=3, round=11) == 3232182098758474310


def test_every_argument_matters() -> None:
    places = [(s, p, i, r) for s in (0, 1, 11) for p in ("order", "augment") for i in (0, 1, 11) for r in (0, 1, 11)]
    seeds = {derive(*place) for place in places}
    assert len(seeds) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat_and_differ() -> None:
    first, again, other = (numpy_generator(5, "x", 1, round).integers(0, 2**62, 8) for round in (2, 2, 3))
    assert (first == again).all()
    assert (first != other).any()
    first, again, other = (torch.rand(8, generator=torch_generator(5, "x", peer, 2)) for peer in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_global_randomness_is_left_alone() -> None:
    before = (random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].tolist())
    numpy_generator(0, "x").random(3)
    torch.rand(3, generator=torch_generator(0, "x"))
    after = (random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].tolist())
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]


@pytest.mark.processes
def test_layers_that_do_not_train_do_not_import_torch() -> None:
    modules = "p2pfl.seeding, p2pfl.config, p2pfl.run.records, p2pfl.protocol.wire"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=200, check=False).returncode == 0
