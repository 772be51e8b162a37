"""Supervisor alone: decisions for workers' events at given times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from p2pfl import RunConfig, make_topology
from p2pfl.faults import FaultScript, Kill, Pause
from p2pfl.launch import events as ev
from p2pfl.launch.base import LaunchSpec
from p2pfl.launch.supervisor import ALONE_SECONDS, KILL_SECONDS, STOP_SECONDS, Supervisor
from p2pfl.modes import assign_roles, topology_of

DIED = "killed by SIGKILL"
PLACE = "/run/peers"
KILL = Kill(peer="1", round=2)
KILL_AND_RETURN = Kill(peer="1", round=2, restart=5)


class Case:
    """A supervisor on a clock of the test's, with what it has said and done so far."""

    def __init__(self, config: RunConfig, n: int = 4, faults: Sequence[Any] = ()) -> None:
        topology = topology_of(config) or make_topology("ring", n)
        script = FaultScript(tuple(faults), names=tuple(topology.names))
        self.spec = LaunchSpec(assign_roles(config, topology), config, Path("/run"), "run", "settings", script=script)
        self.supervisor = Supervisor(self.spec)
        self.now = 100.0
        self.n = topology.n
        self.done: list[ev.Action] = []
        self.starts = self.supervisor.begin()
        for worker in range(self.n):
            self.tell(ev.Started(worker))

    def tell(self, *events: ev.Event, then: float = 0.0) -> list[ev.Action]:
        """Events, and a look at it all `then` seconds later; returns the actions."""
        actions = [action for event in events for action in self.supervisor.handle(event, self.now)]
        self.now += then
        actions += self.supervisor.handle(ev.Tick(), self.now)
        self.done += actions
        return actions

    def begin(self) -> Case:
        for worker in range(self.n):
            self.tell(ev.Ready(worker, f"ipc://{worker}", steps=60, vector_bytes=4))
        return self

    def die(self, worker: int, kill: Kill | None = None) -> list[ev.Action]:
        return self.tell(ev.Exited(worker, -9, DIED, kill))

    def failed(self) -> str:
        """Why the run ended."""
        assert self.supervisor.is_shutting_down
        assert self.done.count(ev.Shutdown()) == 1
        return self.supervisor.outcome.reason


def gossip(**options: object) -> RunConfig:
    return RunConfig.of(dataset="digits", **options)


def federated(**options: object) -> RunConfig:
    return RunConfig.of(mode="centralized", dataset="digits", num_clients=3, num_selected=3, **options)


def told(actions: Sequence[ev.Action]) -> list[str]:
    return [action.text for action in actions if isinstance(action, ev.ShowLine) and action.warns]


def without_words(actions: Sequence[ev.Action]) -> list[ev.Action]:
    return [action for action in actions if not isinstance(action, ev.ShowLine)]


def test_all_are_started_and_introduced_to_their_neighbors_once_all_are_ready() -> None:
    case = Case(gossip(rounds=3))
    assert case.starts == [ev.StartWorker(worker) for worker in range(4)]
    for worker in range(3):
        assert case.tell(ev.Ready(worker, f"ipc://{worker}")) == [ev.Progress("processes ready", worker + 1, 4)]
    last = ev.Ready(3, "ipc://3", steps=60, vector_bytes=10**6, consensus_rounds=5)
    actions = case.tell(last)
    assert actions[:2] == [ev.Progress("processes ready", 4, 4), ev.Expect(60, 5)]
    assert actions[2] == ev.ShowLine(case.spec.forecast(last))
    assert "3 rounds of training, then 5 of mixing only (40.0 MB)" in case.spec.forecast(last)
    neighbors = {0: (1, 3), 1: (0, 2), 2: (1, 3), 3: (0, 2)}
    assert actions[3:] == [ev.SendEndpoints(w, {n: f"ipc://{n}" for n in near}) for w, near in neighbors.items()]
    assert not case.supervisor.is_shutting_down


def test_who_is_not_ready_in_time_is_named() -> None:
    case = Case(gossip(start_timeout=60.0))
    case.tell(ev.Ready(0, "ipc://0"), ev.Ready(2, "ipc://2"), then=60.0)
    assert not case.supervisor.is_shutting_down
    case.tell(then=0.1)
    assert case.failed() == "peer 1, peer 3 not ready in time (--start-timeout)"
    assert case.supervisor.outcome.status == "failed"


def test_a_run_of_which_no_checkpoint_can_be_used_ends() -> None:
    case = Case(gossip())
    case.tell(*(ev.Ready(worker, f"ipc://{worker}", lost_weights=True) for worker in range(4)))
    assert case.failed().startswith("no peer has a checkpoint that can be used; start a new run with: p2pfl gossip")
    assert not case.supervisor.outcome.resumable


def test_a_run_is_complete_when_all_have_finished_and_ended() -> None:
    case = Case(gossip()).begin()
    for worker in range(4):
        case.tell(ev.Finished(worker, {"old": 1}))
        assert not case.supervisor.is_shutting_down
    case.tell(*(ev.Exited(worker, 0, "exit status 0") for worker in range(4)))
    assert case.supervisor.is_finished
    outcome = case.supervisor.outcome
    assert (outcome.status, outcome.reason, outcome.lost, outcome.refused) == ("complete", "", [], {"old": 4})


def test_finished_workers_that_do_not_end_are_waited_for_a_while() -> None:
    case = Case(gossip(round_timeout=30.0)).begin()
    case.tell(*(ev.Finished(worker) for worker in range(4)), then=30.0)
    assert not case.supervisor.is_shutting_down
    assert case.tell(then=0.1) == [ev.Shutdown()]
    assert case.supervisor.outcome.status == "complete"
    assert case.supervisor.outcome.lost == []


def test_exit_status_0_is_a_finish_that_was_not_heard() -> None:
    case = Case(gossip()).begin()
    case.tell(*(ev.Exited(worker, 0, "exit status 0") for worker in range(4)))
    assert case.supervisor.is_finished
    assert case.supervisor.outcome.status == "complete"
    assert case.supervisor.outcome.lost == []


def test_a_death_ends_a_run_without_spare_peers() -> None:
    case = Case(gossip()).begin()
    assert case.die(1) == [ev.Shutdown()]
    assert case.failed() == f"peer 1 died ({DIED}); see {PLACE}/1/log.txt"
    assert case.supervisor.outcome.lost == ["1"]
    assert case.supervisor.outcome.resumable


@pytest.mark.parametrize(("usage", "status"), [(False, "failed"), (True, "usage")])
def test_a_failure_is_told_in_its_own_words(usage: bool, status: str) -> None:
    case = Case(gossip(restart=int(usage), min_peers=1 if usage else None)).begin()
    case.tell(ev.Failed(2, "the loss is no number", usage, resumable=False), ev.Exited(2, 1, "exit status 1"))
    assert case.failed() == "peer 2: the loss is no number", "settings that are wrong are neither retried nor spared"
    assert case.supervisor.outcome.status == status
    assert usage or not case.supervisor.outcome.resumable


def test_a_run_has_diverged_only_if_that_ended_it() -> None:
    case = Case(gossip(min_peers=3)).begin()
    case.tell(ev.Failed(2, "the loss is no number", False, diverged=True), ev.Exited(2, 1, "exit status 1"))
    assert not case.supervisor.is_shutting_down
    case.die(1)
    assert case.failed().startswith("peer 1 died")
    assert not case.supervisor.outcome.diverged
    case = Case(gossip()).begin()
    case.tell(ev.Failed(2, "the loss is no number", False, diverged=True), ev.Exited(2, 1, "exit status 1"))
    assert case.supervisor.outcome.diverged


def test_the_restart_budget_is_each_workers_own() -> None:
    case = Case(gossip(restart=2)).begin()
    for worker, times in ((1, 1), (3, 1), (1, 2)):
        (start,) = case.die(worker)
        near = sorted({(worker - 1) % 4, (worker + 1) % 4})
        assert start == ev.StartWorker(worker, True, f"ipc://{worker}", {n: f"ipc://{n}" for n in near})
        assert told(case.tell(ev.Started(worker))) == [
            f"peer {worker} died ({DIED}); see {PLACE}/{worker}/log.txt; started again"
        ]
        assert case.supervisor.outcome.restarts[str(worker)] == times
    case.die(1)
    assert case.failed().startswith("peer 1 died")
    assert case.supervisor.outcome.restarts == {"1": 2, "3": 1}


def test_a_worker_that_dies_before_all_are_ready_is_introduced_with_the_others() -> None:
    case = Case(gossip(restart=1))
    case.tell(ev.Ready(1, "ipc://1"))
    assert case.die(1) == [ev.StartWorker(1, True, "ipc://1")]
    case.tell(ev.Started(1))
    assert case.tell(ev.Ready(0, "ipc://0")) == [ev.Progress("processes ready", 1, 4)], "it has to become ready again"


def test_a_worker_that_is_back_elsewhere_is_announced_to_its_neighbors_that_are_alive() -> None:
    case = Case(gossip(rounds=3, restart=1)).begin()
    assert case.die(1)[-1].bind == "ipc://1"
    case.tell(ev.Started(1))
    case.die(2)
    told = case.tell(ev.Ready(1, "ipc://new"))
    assert told == [ev.SendEndpoints(0, {1: "ipc://new"}), ev.SendEndpoints(1, {0: "ipc://0", 2: "ipc://2"})]
    case.tell(ev.Started(2))
    assert case.tell(ev.Ready(2, "ipc://2")) == [], "it is where it was"
    assert case.die(0)[-1].endpoints == {1: "ipc://new", 3: "ipc://3"}


def test_no_room_for_a_restart_is_a_loss() -> None:
    case = Case(gossip(restart=1)).begin()
    case.die(1)
    case.tell(ev.NotStarted(1, "no process can be started"))
    assert case.failed().endswith("log.txt, and cannot be started again: no process can be started")
    assert case.supervisor.outcome.restarts == {}


def test_a_scripted_kill_is_no_death_and_costs_no_budget() -> None:
    case = Case(gossip(), faults=[KILL_AND_RETURN]).begin()
    (start,) = case.die(1, KILL_AND_RETURN)
    assert isinstance(start, ev.StartWorker)
    assert (start.worker, start.again, start.returns_in) == (1, True, 5)
    assert told(case.tell(ev.Started(1))) == ["peer 1 was killed, as the fault script says, to be back in round 5"]
    assert case.supervisor.outcome.restarts == {}


def test_a_scripted_kill_for_good_is_a_loss() -> None:
    case = Case(gossip(min_peers=3), faults=[KILL]).begin()
    assert told(case.die(1, KILL)) == ["peer 1 was killed, as the fault script says"]
    case.die(2)
    assert case.failed() == (
        f"peer 2 died ({DIED}); see {PLACE}/2/log.txt (first: peer 1 was killed, as the fault script says)"
    )
    assert case.supervisor.outcome.lost == ["1", "2"]


def test_a_failure_in_its_own_words_is_no_scripted_kill() -> None:
    case = Case(gossip(), faults=[KILL_AND_RETURN]).begin()
    case.tell(ev.Failed(1, "no space left"), ev.Exited(1, 1, "exit status 1", KILL_AND_RETURN))
    assert case.failed() == "peer 1: no space left"


def test_paused_neighbors_are_woken_by_the_round_before_they_return() -> None:
    case = Case(gossip(), faults=[Pause(peer="2", round=3, resume=6)]).begin()
    assert case.tell(ev.RoundFinished(1, 4)) == []
    assert case.tell(ev.RoundFinished(1, 5)) == [ev.Wake(2)]
    assert case.tell(ev.RoundFinished(3, 6)) == [ev.Wake(2)], "one that was paused late is woken all the same"
    assert case.tell(ev.RoundFinished(0, 6)) == [], "no neighbor of it"


@pytest.mark.parametrize(("least", "deaths"), [(4, 0), (3, 1), (1, 3), (None, 0)])
def test_min_peers_are_enough(least: int | None, deaths: int) -> None:
    case = Case(gossip(min_peers=least)).begin()
    for worker in (3, 2, 1)[:deaths]:
        assert len(told(case.die(worker))) == 1
        assert not case.supervisor.is_shutting_down
    case.die(0)
    assert case.failed().startswith("peer 0 died")


def test_no_peer_is_spared_before_the_run_has_begun() -> None:
    case = Case(gossip(min_peers=1))
    case.die(2)
    assert case.failed().startswith("peer 2 died")


def test_the_model_gets_another_owner_when_its_owner_dies() -> None:
    case = Case(gossip(min_peers=1)).begin()
    assert without_words(case.die(2)) == [], "it has an owner"
    assert without_words(case.die(0)) == [ev.HoldModel(1)]
    assert without_words(case.die(1)) == [ev.HoldModel(3)]


def test_a_model_that_is_saved_keeps_its_owner() -> None:
    case = Case(gossip(min_peers=1)).begin()
    case.tell(ev.Finished(0))
    assert without_words(case.die(1)) == []


def test_peers_that_are_silent_after_others_have_finished_are_lost() -> None:
    case = Case(gossip(round_timeout=30.0)).begin()
    case.tell(*(ev.Finished(worker) for worker in range(3)), then=20.0)
    case.tell(ev.MessageReceived(3), then=30.0)
    assert not case.supervisor.is_shutting_down, "it was heard meanwhile"
    case.tell(then=0.1)
    assert case.done[-1] == ev.Shutdown()
    assert case.supervisor.outcome.lost == ["3"]
    assert case.supervisor.outcome.status == "complete"


def test_a_peer_may_be_silent_for_twice_the_longest_round() -> None:
    """Over slow links rounds are longer than the timeout, and end at different times."""
    case = Case(gossip(round_timeout=30.0)).begin()
    case.tell(then=50.0)
    case.tell(*(ev.RoundFinished(worker, 1) for worker in range(4)), then=50.0)
    case.tell(*(ev.Finished(worker) for worker in range(3)), then=50.0)
    assert not case.supervisor.is_shutting_down, "it is in its second round, and has been for 100 s"
    case.tell(then=0.1)
    assert case.done[-1] == ev.Shutdown()
    assert case.supervisor.outcome.lost == ["3"]


def test_the_time_before_a_restart_is_no_round() -> None:
    case = Case(gossip(round_timeout=30.0, restart=1)).begin()
    case.tell(then=1000.0)
    case.die(3)
    case.tell(ev.Started(3), ev.Ready(3, "ipc://3", steps=60, vector_bytes=4), then=10.0)
    case.tell(ev.RoundFinished(3, 1), *(ev.Finished(worker) for worker in range(3)), then=30.1)
    assert case.done[-1] == ev.Shutdown()
    assert case.supervisor.outcome.lost == ["3"]


def test_a_run_survives_the_loss_of_clients_but_not_of_its_coordinator() -> None:
    case = Case(federated()).begin()
    assert told(case.die(0)) == [f"client 0 died ({DIED}); see {PLACE}/0/log.txt"]
    assert without_words(case.done[-1:]) == []
    case.die(3)
    assert case.failed() == (
        f"the coordinator died ({DIED}); see {PLACE}/coordinator/log.txt (first: client 0 died ({DIED}); "
        f"see {PLACE}/0/log.txt)"
    )


def test_a_coordinator_without_clients_is_waited_for_a_while() -> None:
    case = Case(federated()).begin()
    for client in range(3):
        case.die(client)
    case.tell(then=ALONE_SECONDS)
    assert not case.supervisor.is_shutting_down
    case.tell(then=0.1)
    assert case.failed() == "all clients are gone, and the coordinator does not answer"


def test_clients_have_time_to_hear_that_the_coordinator_has_finished() -> None:
    case = Case(federated()).begin()
    case.tell(ev.Finished(3), then=STOP_SECONDS)
    assert not case.supervisor.is_shutting_down
    case.tell(then=0.1)
    assert case.done[-1] == ev.Shutdown()
    assert case.supervisor.outcome.status == "complete"
    assert case.supervisor.outcome.lost == ["0", "1", "2"]


def test_an_interrupt_stops_the_workers_and_a_second_kills_them() -> None:
    case = Case(gossip()).begin()
    assert case.tell(ev.Interrupted()) == [ev.ShowLine("stopping; everything so far is saved"), ev.Shutdown()]
    assert case.failed() == "interrupted"
    assert case.supervisor.outcome.status == "interrupted"
    assert case.tell(ev.Interrupted()) == [ev.KillAll()]
    assert case.tell(ev.Interrupted()) == []
    case.tell(*(ev.Exited(worker, -9, DIED) for worker in range(4)))
    assert case.supervisor.is_finished
    assert case.supervisor.outcome.lost == [], "who was stopped is not lost"


def test_workers_that_do_not_stop_are_killed_and_those_that_hang_given_up() -> None:
    case = Case(gossip()).begin()
    case.tell(ev.Interrupted())
    assert case.supervisor.deadline == case.now + STOP_SECONDS
    assert case.tell(ev.Exited(0, 130, "exit status 130"), then=STOP_SECONDS) == [ev.KillAll()]
    assert case.supervisor.deadline == case.now + KILL_SECONDS
    assert case.tell(ev.Exited(1, -9, DIED), then=KILL_SECONDS) == []
    assert case.supervisor.is_finished


def test_files_that_ended_workers_have_left_are_waited_for_as_long_as_they_come() -> None:
    case = Case(gossip()).begin()
    case.tell(ev.Interrupted())
    for turn in range(4):  # far longer than workers have to stop
        done = case.tell(ev.LastFilesReceived(0), then=STOP_SECONDS - 1)
        assert ev.PutOffKill() in done
        assert ev.KillAll() not in done
        lines = [action.text for action in done if isinstance(action, ev.ShowLine)]
        assert ["collecting the last files" in line for line in lines] == [True] * (turn == 0), "said once"
    assert ev.KillAll() in case.tell(ev.MessageReceived(0), then=2.0), "messages alone put nothing off"
    assert case.tell(ev.LastFilesReceived(0)) == []


def test_a_second_interrupt_gives_up_the_files() -> None:
    case = Case(gossip()).begin()
    case.tell(ev.Interrupted())
    case.tell(ev.LastFilesReceived(0))
    assert ev.KillAll() in case.tell(ev.Interrupted())


def test_a_coordinator_s_last_files_are_waited_for_after_the_run() -> None:
    case = Case(federated()).begin()
    case.tell(ev.Finished(3), then=STOP_SECONDS + 1)
    assert case.supervisor.is_shutting_down
    assert ev.KillAll() not in case.tell(ev.LastFilesReceived(3), then=STOP_SECONDS - 1)
    case.tell(*(ev.Exited(worker, 0, "") for worker in range(4)))
    assert case.supervisor.is_finished


def test_a_shutdown_that_was_ordered_happens_once() -> None:
    case = Case(gossip()).begin()
    assert case.supervisor.shutdown(case.now) == [ev.Shutdown()]
    assert case.supervisor.shutdown(case.now) == []
    assert case.die(0) == [], "nothing is started again then"


def test_a_launch_interrupted_before_its_first_worker_is_over_at_once() -> None:
    config = gossip()
    supervisor = Supervisor(
        LaunchSpec(assign_roles(config, make_topology("ring", 3)), config, Path("/run"), "run", "settings")
    )
    assert supervisor.begin() == [ev.StartWorker(worker) for worker in range(3)]
    supervisor.handle(ev.Interrupted(), 1.0)
    assert supervisor.is_finished
