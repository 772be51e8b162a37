"""Warm start of the p2pfl command in tests.

Processes are forked from one that has imported everything.

Most of the time of a short command is the import of torch. The server below imports it once for a whole test session.
For each command it forks a process that gets what a new process would have: arguments, environment, working directory,
umask, resource limits, descriptors, session, terminal, default signal handlers. Within it the fork server that a
launcher starts, and multiprocessing's resource tracker, are forks too, instead of new interpreters.

What an interpreter or a library reads when it starts cannot be had from a fork: see `READ_AT_START`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

ADDRESS = "P2PFL_TEST_SERVER"  # in the environment: the path of the server's socket
ROOT = Path(__file__).parents[2]
IMPORTED = ("torch", "torchvision", "zmq", "networkx", "safetensors.torch", "tyro", "rich.live")
IMPORTED += ("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "jinja2")
IMPORTED += ("PIL.Image", "PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PpmImagePlugin")
IMPORTED += ("tyro._backends._tyro_backend", "tyro._backends._argparse_formatter", "typeguard")
IMPORTED += tuple(f"tyro.constructors._struct_spec_{kind}" for kind in ("attrs", "dataclass", "msgspec", "pydantic"))
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
# Variables that are read when a process or a library starts. A command whose values differ from the server's is cold.
READ_AT_START = ("OMP_", "MKL_", "OPENBLAS_", "MALLOC_", "GLIBC_", "LD_", "PYTHON", "TORCH", "CUDA_", "MPL")
_SEARCH_PATH = "PYTHONPATH"
_PICTURES = "P2PFL_TEST_PICTURES"  # in a command's environment: draw the report's plots, which take seconds
_STATUS_BYTES = 4


def can_serve(environment: dict[str, str]) -> bool:
    """Whether a command with this environment may be forked.

    Nothing that it would read at its start may differ.
    """
    names = {name for name in {*environment, *os.environ} if name.startswith(READ_AT_START) and name != _SEARCH_PATH}
    if any(environment.get(name) != os.environ.get(name) for name in names):
        return False
    shadowed = {name.partition(".")[0] for name in (*IMPORTED, "p2pfl")} | set(sys.stdlib_module_names)
    folders = [Path(folder) for folder in environment.get(_SEARCH_PATH, "").split(os.pathsep) if folder]
    there = {entry.stem for folder in folders if folder.is_dir() and folder != ROOT for entry in folder.iterdir()}
    return not there & shadowed


class WarmPopen(subprocess.Popen[str]):
    """Popen whose process is forked from the server.

    Its first word must be the interpreter, the second a script.
    """

    def _execute_child(self, *given: Any) -> None:
        args, _executable, preexec_fn, _close_fds, pass_fds, cwd, env, _info, _flags, shell, *ends = given
        pipes, (_signals, _gid, _gids, _uid, umask, start_new_session, *_group) = ends[:6], ends[6:]
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        assert not shell
        assert preexec_fn is None
        request = {
            "arguments": [str(word) for word in args[1:]],
            "environment": dict(env),
            "folder": os.fspath(cwd) if cwd is not None else os.getcwd(),
            "umask": _current_umask() if umask == -1 else umask,
            "limits": {limit: resource.getrlimit(limit) for limit in LIMITS},
            "session": bool(start_new_session),
            "passed": list(pass_fds),
        }
        standard = [own if own != -1 else number for number, own in enumerate((p2cread, c2pwrite, errwrite))]
        request["pictures"] = _PICTURES in env
        request["environment"].pop(_PICTURES, None)
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(os.environ[ADDRESS])
        data = json.dumps(request).encode()
        self._connection.sendall(len(data).to_bytes(4, "big"))
        socket.send_fds(self._connection, [data[:1]], [*standard, *pass_fds])
        self._connection.sendall(data[1:])
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        self.pid = int.from_bytes(_read(self._connection, _STATUS_BYTES), "big")
        self._child_created = True

    def _internal_poll(self, _deadstate: Any = None, **_: Any) -> int | None:
        return self._take_status(0.0)

    def _wait(self, timeout: float | None) -> int:
        if self._take_status(timeout) is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        assert self.returncode is not None
        return self.returncode

    def _take_status(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            with contextlib.suppress(BlockingIOError, TimeoutError):
                data = _read(self._connection, _STATUS_BYTES)
                self.returncode = int.from_bytes(data, "big", signed=True)
                self._connection.close()
        return self.returncode


def _current_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("the warm server of the tests has ended")
        data += piece
    return data


# In the server


def serve(listener: socket.socket) -> None:
    """Fork a process for each request and report its exit status.

    Ends with the parent.
    """
    parent = os.getppid()
    selector = selectors.DefaultSelector()
    wake_reader, wake_writer = socket.socketpair()
    wake_reader.setblocking(False)
    wake_writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_writer.fileno())
    selector.register(listener, selectors.EVENT_READ)
    selector.register(wake_reader, selectors.EVENT_READ)
    running: dict[int, socket.socket] = {}
    warm = False
    while os.getppid() == parent:
        for key, _ in selector.select(1.0):
            if key.fileobj is listener:
                if not warm:
                    _import_everything()
                    warm = True
                connection, _ = listener.accept()
                request, descriptors = _receive(connection)
                pid = os.fork()
                if pid == 0:
                    _become(request, descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                running[pid] = connection
                connection.sendall(pid.to_bytes(_STATUS_BYTES, "big"))
            else:
                with contextlib.suppress(BlockingIOError):
                    wake_reader.recv(4096)
        _reap(running)


def _reap(running: dict[int, socket.socket]) -> None:
    while running:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        connection = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(OSError), connection:
            connection.sendall(code.to_bytes(_STATUS_BYTES, "big", signed=True))


def _import_everything() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for path in sorted((ROOT / "p2pfl").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "p2pfl.__main__":
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is imported stays where it is: a fork copies fewer pages


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    size = int.from_bytes(_read(connection, 4), "big")
    first, descriptors, _, _ = socket.recv_fds(connection, 1, 64)
    return json.loads(first + _read(connection, size - 1)), descriptors


# In the forked process


def _become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Turn this process into the command, run it, and end as an interpreter ends."""
    try:
        _take_descriptors(descriptors, [0, 1, 2, *request["passed"]])
        if request["session"]:
            os.setsid()
        for number in range(1, signal.NSIG):
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        for limit, values in request["limits"].items():
            resource.setrlimit(int(limit), tuple(values))
        os.umask(request["umask"])
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        tempfile.tempdir = None
        _open_standard_streams()
        _search_path(request["arguments"][0])
        _fork_instead_of_exec()
        _fork_interpreters()
        _measure_if_asked()
        if not request["pictures"]:
            _draw_no_pictures()
    except BaseException:
        traceback.print_exc()
        os._exit(127)
    _end(lambda: _run(request["arguments"]))


def _run(arguments: list[str]) -> None:
    sys.argv = arguments
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(arguments[0], run_name="__main__")


def _end(work: Any) -> NoReturn:
    code = 0
    try:
        work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BaseException:
            code = code or 120  # as Python's own end
    os._exit(code & 0xFF)


def _take_descriptors(received: list[int], wanted: list[int]) -> None:
    """Make them the numbers that are wanted, and close everything else."""
    high = max([*wanted, *received, 64]) + 1
    moved = [os.dup2(descriptor, high + place, inheritable=False) for place, descriptor in enumerate(received)]
    for source, target in zip(moved, wanted, strict=True):
        os.dup2(source, target, inheritable=True)
    _close_all_but(set(wanted))


def _close_all_but(kept: set[int]) -> None:
    listed = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")
    for number in [int(name) for name in os.listdir(listed)]:
        if number not in kept:
            with contextlib.suppress(OSError):
                os.close(number)
    gc.freeze()  # objects whose descriptors are closed now must not be collected, and close another's of that number


def _open_standard_streams() -> None:
    """Open the standard streams as an interpreter does at its start.

    With the encodings that it found for this process.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: Any = None
        with contextlib.suppress(OSError):
            os.fstat(number)
            unbuffered = bool(os.environ.get("PYTHONUNBUFFERED")) and number > 0
            raw: Any = open(number, "rb" if number == 0 else "wb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
            lines = not unbuffered and (number == 2 or os.isatty(number))
            encoding, errors = STREAMS[number]
            stream = io.TextIOWrapper(raw, encoding, errors, line_buffering=lines, write_through=unbuffered)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _search_path(script: str) -> None:
    """Set the search path of a new interpreter.

    It holds the script's folder, PYTHONPATH, and the installation's paths.
    """
    before = os.environ.get(_SEARCH_PATH, "")
    first = "" if script == "-c" else os.getcwd() if script == "-m" else str(Path(script).resolve().parent)
    sys.path[:] = [first, *[os.path.abspath(entry) for entry in before.split(os.pathsep) if entry], *INSTALLED]
    importlib.invalidate_caches()


def _fork_instead_of_exec() -> None:
    """Fork multiprocessing's servers instead of starting new interpreters.

    That is its fork server and its resource tracker.
    """
    from multiprocessing import process, util

    def spawnv_passfds(path: Any, words: Any, passed: Any) -> int:
        pid = os.fork()
        if pid:
            return pid
        _close_all_but({0, 1, 2, *passed})
        for number in range(1, signal.NSIG):
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
        threading.current_thread().name = "forkserver"
        place = words.index("-c") + 1
        sys.argv = ["-c", *words[place + 1 :]]
        _name_process("tracker" if "resource_tracker" in words[place] else "forkserver")
        util._finalizer_registry.clear()  # type: ignore[attr-defined]
        atexit._clear()
        code = compile(words[place], "<string>", "exec")
        _end(lambda: exec(code, {"__name__": "__main__"}))

    process.ORIGINAL_DIR = os.getcwd()  # from which a relative path of the script counts
    util.spawnv_passfds = spawnv_passfds  # type: ignore[attr-defined]
    process.current_process()._config.pop("tempdir", None)  # type: ignore[attr-defined]


def _fork_interpreters() -> None:
    """Fork the interpreters that a command starts, as the session forks the command.

    Benchmarks and long tests start runs: each would import torch twice.
    """
    WarmOrCold = type("Popen", (subprocess.Popen,), {"__new__": _warm_or_cold})
    subprocess.Popen = WarmOrCold  # type: ignore[misc]


def _warm_or_cold(kind: Any, words: Any, **options: Any) -> Any:
    """New process by the warm server where it can serve it; else a process as usual."""
    environment = dict(options.get("env") or os.environ)
    is_script = isinstance(words, list) and words[0] == sys.executable and not words[1].startswith(("-E", "-I", "-X"))
    if is_script and ADDRESS in environment and can_serve(environment):
        return WarmPopen(words, **{**options, "env": environment})
    return object.__new__(kind)


def _measure_if_asked() -> None:
    """Stop measuring coverage unless the command's environment asks for it.

    A new interpreter's start heeds it, too.
    """
    if "COVERAGE_PROCESS_CONFIG" in os.environ or "coverage" not in sys.modules:
        return
    import coverage

    measured = coverage.Coverage.current()
    if measured is not None:
        measured.stop()


def _draw_no_pictures() -> None:
    """Save a blank picture in place of each plot of a report.

    Drawing them takes longer than a small run.
    """
    from p2pfl.report import page
    from p2pfl.report.compare import page as comparison_page

    page.draw_plots = comparison_page.draw_plots = draw_blanks  # type: ignore[assignment]


def draw_blanks(plots: Any, subject: Any, folder: Path) -> None:
    """In place of `p2pfl.report.output.draw_plots`."""
    from p2pfl.run.paths import PLOTS_FOLDER

    (folder / PLOTS_FOLDER).mkdir(parents=True, exist_ok=True)
    for plot in plots:
        for kind in ("png", "svg"):
            path = folder / PLOTS_FOLDER / f"{plot.name}.{kind}"
            path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"></svg>')


def _name_process(name: str) -> None:
    """Set the name that `ps` shows, where the system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


# In the test session


def start_server(folder: Path) -> subprocess.Popen[bytes]:
    """Start the server of a session; it imports nothing before the first request.

    A command's own computation takes one thread, as in the test itself: several of busy cores wait for each other, at
    many times the cost. Workers of a run set their number of threads.
    """
    listener = socket.socket(socket.AF_UNIX)
    address = str(folder / "warm")
    listener.bind(address)
    listener.listen(64)
    os.environ[ADDRESS] = address
    with listener:
        number = listener.fileno()
        words = [sys.executable, str(Path(__file__)), str(number)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True, "env": environment}
        return subprocess.Popen(words, pass_fds=[number], **options)


if __name__ == "__main__":
    INSTALLED = [entry for entry in sys.path[1:] if entry not in os.environ.get(_SEARCH_PATH, "").split(os.pathsep)]
    STREAMS = [(stream.encoding, stream.errors) for stream in (sys.stdin, sys.stdout, sys.stderr)]
    sys.path[0] = str(ROOT)
    serve(socket.socket(fileno=int(sys.argv[1])))
