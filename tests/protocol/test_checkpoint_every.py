"""Swarms with rounds between checkpoints, stopped anywhere, end as undisturbed.

All peers of a simulated swarm are stopped at once, amid a wait for the disk too, and resumed.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.fault_scripts import fault
from tests.support.helpers import ring_with_chord

from p2pfl import RunConfig, make_topology
from p2pfl.errors import P2PFLError
from p2pfl.modes import assign_roles, topology_of
from p2pfl.preflight.checkpoints import checkpoints_kept
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINT_NAME, CHECKPOINTS_FOLDER, FIRED_FILE, MODEL_FILE, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology

TINY: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",
    "batch_size": 16,
    "local_steps": 2,
    "rounds": 7,
    "eval_every": 100,
    "eval_samples": 16,
    "threads": 1,
    "checkpoint_every": 3,
}
RING = make_topology("ring", 5)
SLOW_DISK = 1.7  # rounds of one second


class Swarm:
    """Swarm that is stopped again and again, and the result of an undisturbed one."""

    def __init__(self, folder: Path, topology: Topology | None = None, **options: Any) -> None:
        """The undisturbed run saves no checkpoints, or all where these matter."""
        config = RunConfig.of(**{**TINY, **options})
        self.topology = topology or topology_of(config) or RING
        self._folder = folder
        self._options = {**TINY, **options}
        self._numbers = itertools.count()
        whole = self.new(**({"checkpoint_every": 1} if NEEDS & options.keys() else {"checkpoint": False}))
        self.steps = 0
        while whole.step():
            self.steps += 1
        assert whole.outcome.status == "complete", whole.outcome.reason
        self.wanted = result(whole.run_dir, self.topology)

    def new(self, disk: float = 0.0, **changes: Any) -> Simulation:
        config = RunConfig.of(**{**self._options, **changes}, run_dir=str(self._folder / str(next(self._numbers))))
        return Simulation(self.topology, config, disk_seconds=disk)

    def again(self, before: Simulation, disk: float = 0.0, **changes: Any) -> Simulation:
        config = RunConfig.of(**{**self._options, **changes}, run_dir=str(before.run_dir))
        return Simulation(self.topology, config, disk_seconds=disk, resume=before.run_dir)

    def check(self, run: Simulation) -> None:
        """Run to the end, which must be that of the undisturbed one."""
        run.run()
        found = result(run.run_dir, self.topology)
        assert [name for name in self.wanted if found[name] != self.wanted[name]] == []


def result(run_dir: Path, topology: Topology) -> dict[str, Any]:
    """Model, or the peers' own, and records without times and bytes.

    Messages are repeated after a stop.
    """
    has_model = (run_dir / MODEL_FILE).exists()
    found: dict[str, Any] = {"model": (run_dir / MODEL_FILE).read_bytes() if has_model else None}
    for folder in peer_dirs(run_dir, topology):
        newest = None if has_model else checkpoint.newest(folder / CHECKPOINTS_FOLDER)[0]
        found[f"model of {folder.name}"] = None if newest is None else (newest.round, newest.x.tolist())
        found[folder.name] = [
            {k: v for k, v in msgspec.structs.asdict(one).items() if "seconds" not in k and k not in OTHER}
            for one in read_rounds(folder)
        ]
    return found


NEEDS = {"faults", "final_merge"}  # a script kills a peer; the peers' models are in their checkpoints
OTHER = {"elapsed", "bytes_sent", "bytes_received", "sent_to", "refused"}


def stopped(run: Simulation, steps: int) -> Simulation:
    for _ in range(steps):
        if not run.step():
            break
    run.close()
    return run


def saved(run: Simulation) -> list[list[int]]:
    """Rounds of all checkpoints, by peer."""
    folders = [folder / CHECKPOINTS_FOLDER for folder in sorted((run.run_dir / "peers").iterdir())]
    found = [[CHECKPOINT_NAME.fullmatch(path.name) for path in folder.glob("*")] for folder in folders]
    return [sorted(int(match[1]) for match in own if match) for own in found]


def until(run: Simulation, rounds: list[int]) -> Simulation:
    """Stop as soon as all peers have saved these rounds, and no others."""
    while saved(run) != [rounds] * RING.n:
        assert run.step()
    run.close()
    return run


CASES: dict[str, tuple[Topology | None, dict[str, Any]]] = {
    "ring": (None, {}),
    "path": (make_topology("path", 6), {"checkpoint_every": 2, "rounds": 6}),
    "overlapped": (None, {"order": "overlapped", "wire_dtype": "bf16"}),
    "several exchanges": (None, {"gossip_steps": 2, "rounds": 5, "checkpoint_every": 2}),
    "push-sum": (ring_with_chord(4), {"algorithm": "push-sum", "mixing": "column-stochastic"}),
    "choco": (None, {"algorithm": "choco"}),
    "schedule": (make_topology("one-peer-exponential", 4), {"mixing": "uniform"}),
    "no merge": (None, {"final_merge": "none", "rounds": 6}),
    "centralized": (None, {"mode": "centralized", "num_clients": 5, "num_selected": 2, "server_momentum": 0.5}),
}


@pytest.mark.parametrize("disk", [0.0, SLOW_DISK])
@pytest.mark.parametrize("name", CASES)
def test_stopped_at_any_point(tmp_path: Path, name: str, disk: float) -> None:
    topology, options = CASES[name]
    swarm = Swarm(tmp_path, topology, **options)
    apart = max(swarm.steps // 7, 1)
    for steps in range(3 + (disk > 0.0) * apart // 2, swarm.steps, apart):
        swarm.check(swarm.again(stopped(swarm.new(disk), steps), disk))


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("order", ["atc", "overlapped"])
def test_a_power_cut_costs_what_is_not_on_disk_yet(tmp_path: Path, order: str, every: int) -> None:
    """Such a file is refused, and its peer continues from the one before."""
    swarm, hits = Swarm(tmp_path, order=order, checkpoint_every=every), 0
    for steps in range(swarm.steps // 4, swarm.steps, swarm.steps // 7):
        run = stopped(swarm.new(SLOW_DISK), steps)
        for peer, folder in enumerate(peer_dirs(run.run_dir, RING)):
            if run.workers[peer].waits_for_disk:
                path = max((folder / CHECKPOINTS_FOLDER).glob("round*"))
                path.write_bytes(bytes(path.stat().st_size))
                hits += 1
        swarm.check(swarm.again(run, SLOW_DISK))
    assert hits > 3, "otherwise it tests nothing"


def test_all_go_back_where_one_has_a_damaged_checkpoint(tmp_path: Path) -> None:
    swarm = Swarm(tmp_path)
    run = until(swarm.new(), [3, 6])
    path = peer_dirs(run.run_dir, RING)[1] / CHECKPOINTS_FOLDER / "round-000006.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)
    again = swarm.again(run)
    assert saved(again) == [[3], [3, 6], [3], [3], [3]], "it is overwritten when its peer saves that round again"
    swarm.check(again)


def test_one_that_has_lost_all_takes_weights_and_the_others_do_not_go_back(tmp_path: Path) -> None:
    swarm = Swarm(tmp_path)
    run = until(swarm.new(), [3, 6])
    for path in (peer_dirs(run.run_dir, RING)[1] / CHECKPOINTS_FOLDER).iterdir():
        path.unlink()
    again = swarm.again(run)
    assert [own for own in saved(again) if own] == [[3, 6]] * 4
    again.run()
    assert any(record.weights_from for record in read_rounds(peer_dirs(run.run_dir, RING)[1]))


@pytest.mark.parametrize("spacings", [(1, 3, 2), (3, 1, 3), (2, 5, 1)])
def test_resumed_with_another_number_of_rounds_between(tmp_path: Path, spacings: tuple[int, int, int]) -> None:
    swarm = Swarm(tmp_path, make_topology("path", 5))
    first, second, third = ({"checkpoint_every": every} for every in spacings)
    for begun, more in itertools.product((swarm.steps // 3, 2 * swarm.steps // 3), (60, 150)):
        run = stopped(swarm.new(SLOW_DISK, **first), begun)
        run = stopped(swarm.again(run, SLOW_DISK, **second), more)
        if not (run.run_dir / MODEL_FILE).exists():
            swarm.check(swarm.again(run, SLOW_DISK, **third))


SCRIPTS = {
    "kill": {"kind": "kill", "peer": "1", "round": 5, "restart": 7},
    "kill after a save": {"kind": "kill", "peer": "1", "round": 4, "at": "checkpoint", "restart": 7},
    "pause": {"kind": "pause", "peer": "1", "round": 2, "resume": 5},
    "pause after a save": {"kind": "pause", "peer": "1", "round": 4, "at": "evaluate", "resume": 6},
}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripted_faults_happen_again_and_end_the_same(tmp_path: Path, name: str, every: int) -> None:
    """Also with rounds between two checkpoints, and wherever all are stopped."""
    script = tmp_path / "faults.toml"
    script.write_text(fault(**SCRIPTS[name]))
    swarm = Swarm(tmp_path, faults=str(script), checkpoint_every=every)
    swarm.check(swarm.new())
    for steps in range(swarm.steps // 3, swarm.steps, swarm.steps // 7):
        swarm.check(swarm.again(stopped(swarm.new(SLOW_DISK), steps), SLOW_DISK))


@pytest.mark.parametrize("at", ["evaluate", "checkpoint"])
def test_stopped_before_the_neighbors_have_saved_what_a_dead_peer_has_sent(tmp_path: Path, at: str) -> None:
    """It is killed again, after it has sent that once more."""
    script = tmp_path / "faults.toml"
    script.write_text(fault(kind="kill", peer="1", round=4, at=at, restart=6))
    swarm, hits = Swarm(tmp_path, faults=str(script), checkpoint_every=1), 0
    for stop in range(1, 40, 4):
        run = swarm.new()
        folders = peer_dirs(run.run_dir, RING)
        while not (folders[1] / FIRED_FILE).exists():
            assert run.step()
        stopped(run, stop)
        if all(4 in own for own in (saved(run)[0], saved(run)[2])):
            break
        hits += 1
        swarm.check(swarm.again(run))
    assert hits > 1, "otherwise it tests nothing"


def test_a_kill_that_ended_the_run_does_not_happen_again(tmp_path: Path) -> None:
    """Otherwise peers that go back would end the run whenever it is resumed."""
    script = tmp_path / "faults.toml"
    script.write_text(fault(kind="kill", peer="1", round=6))
    config = RunConfig.of(**TINY, faults=str(script), run_dir=str(tmp_path / "run"))
    with pytest.raises(P2PFLError, match="1"):
        Simulation(RING, config).run()
    again = Simulation(RING, config, resume=tmp_path / "run")
    assert again.run().status == "complete"


def test_a_peer_that_is_started_again_alone_comes_back(tmp_path: Path) -> None:
    """Its checkpoint is of some rounds ago: it goes straight to where the others are."""
    config = RunConfig.of(**{**TINY, "rounds": 9, "restart": 1}, run_dir=str(tmp_path / "run"))
    run = Simulation(RING, config)
    folder = peer_dirs(run.run_dir, RING)[2]
    while not any(record.round == 5 for record in read_rounds(folder)):
        assert run.step()
    run.workers[2].kill()
    assert run.run().restarts == {"2": 1}
    assert any("goes straight to round" in line for line in run.lines)
    assert read_rounds(folder)[-1].round > 9, "it takes part in the consensus phase, too"
    assert not any(record.weights_from for record in read_rounds(folder))


def test_no_more_are_kept_than_all_need(tmp_path: Path) -> None:
    """Six peers in a row may be five rounds apart: of every second four are kept."""
    topology = make_topology("path", 6)
    config = RunConfig.of(**{**TINY, "checkpoint_every": 2, "rounds": 13}, run_dir=str(tmp_path / "run"))
    assert checkpoints_kept(assign_roles(config, topology), config) == 4
    run = Simulation(topology, config)
    run.run()
    assert saved(run) == [[6, 8, 10, 12, 13]] * 6, "the last training round is saved beside"
