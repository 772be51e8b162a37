"""Fixtures and hooks of all tests.

A cache folder for each session, one thread for torch, no deadline for hypothesis.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import coverage
import hypothesis
import pytest
from tests.support import warm

from p2pfl.launch import fork_server
from p2pfl.launch.fork_server import ForkServer

HERE = Path(__file__).parent
LONGEST = (
    "e2e/test_soak.py",
    "e2e/test_snippets.py",
    "processes/test_ray.py",
    "processes/test_slurm.py",
    "processes/test_centralized_faults.py",
    "processes/test_gossip_faults.py",
    "e2e/test_benchmarks.py",
    "processes/test_fault_runs.py",
    # The longest of those without processes: they wait.
    "unit/transport/test_strangers.py",
    "unit/transport/test_curve.py",
)
# Tests with processes that `make coverage` measures: one or two of each command. What the others reach these reach too,
# and the tracer makes them half as long again.
MEASURED = (
    "e2e/test_cli.py",
    "processes/test_launcher.py",
    "processes/test_modes.py",
    "processes/test_single.py",
    "processes/test_swarm.py",
)
MEASURES_PROCESSES = "COVERAGE_PROCESS_CONFIG"  # in the environment of processes that coverage measures
MOST_LOGS, LOG_LINES = 8, 40  # that a failed test shows

# In the background or under nohup these signals are ignored, and so they would be in every process that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ignored in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_ignored, signal.SIG_DFL)

# Timing is no property of the code on a machine that others use too.
hypothesis.settings.register_profile(
    "shared-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared-machine")


def pytest_configure(config: pytest.Config) -> None:
    """Start the warm server of the session's processes, before other processes start."""
    if warm.ADDRESS not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="t-"))  # a socket's path must be short
        server = warm.start_server(folder)
        config.add_cleanup(lambda: (server.kill(), server.wait(), shutil.rmtree(folder)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each worker of the session its share of the longest files first.

    Otherwise a worker may begin one of them last.

    pytest-xdist's `worksteal` deals the list out in as many runs of consecutive tests as there are workers.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    files = [HERE / name for name in LONGEST]
    longest = [item for file in files for item in items if item.path == file]
    starting = {item.path for item in items if item.get_closest_marker("processes")}
    rest = sorted((item for item in items if item.path not in files), key=lambda item: item.path not in starting)
    shares: list[pytest.Item] = []
    for worker in range(workers):
        own = longest[worker::workers]
        take = len(rest) if worker == workers - 1 else max(len(items) // workers - len(own), 0)
        shares += own + rest[:take]
        rest = rest[take:]
    items[:] = shares


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Exclude some tests from coverage.

    Those with processes reach what others reach too; randomized ones would differ from run to run.
    """
    measured = coverage.Coverage.current()
    if measured is None or _is_measured(item):
        return (yield)
    settings = os.environ.pop(MEASURES_PROCESSES, None)
    measured.stop()
    try:
        return (yield)
    finally:
        measured.start()
        if settings is not None:
            os.environ[MEASURES_PROCESSES] = settings


def _is_measured(item: pytest.Item) -> bool:
    """Whether coverage counts what a test reaches."""
    if item.get_closest_marker("hypothesis") is not None:
        return False
    has_processes = item.get_closest_marker("processes") is not None and HERE / "unit" not in item.path.parents
    return not has_processes or item.path in [HERE / name for name in MEASURED]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the logs of the peers that it started."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and folder is not None:
        for log in sorted(folder.rglob("log.txt"))[:MOST_LOGS]:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            report.sections.append((f"end of {log.relative_to(folder)}", "\n".join(lines)))
    return report


@pytest.fixture(autouse=True)
def no_processes_unless_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test-fast` leaves out what starts processes: so no other test may."""
    if request.node.get_closest_marker("processes") is None:

        def refuse(*_: object, **__: object) -> None:
            pytest.fail("starts a process: mark it with pytest.mark.processes")

        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
        monkeypatch.setattr(subprocess.Popen, "__del__", lambda _: None)
        monkeypatch.setattr(ForkServer, "start", refuse)


@pytest.fixture
def blank_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank pictures in reports of runs in this process, as in the warm server's."""
    from p2pfl.report import page
    from p2pfl.report.compare import page as comparison_page

    for module in (page, comparison_page):
        monkeypatch.setattr(module, "draw_plots", warm.draw_blanks)


@pytest.fixture
def unrendered_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures in reports of runs in this process: put together, and not rendered."""
    from tests.support.unrendered import leave_unrendered

    leave_unrendered(monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cache of decoded data sets in a folder of the session instead of the user's."""
    import matplotlib.font_manager  # noqa: F401  it asks a program for the fonts where it has not cached them
    import torch  # not above: the process that only deals the tests out needs none

    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def one_fork_server(own_cache: None) -> Iterator[None]:
    """One fork server for all runs that tests of this process start.

    It starts with the first.
    """
    with fork_server():
        yield
