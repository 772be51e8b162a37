"""Data preparation: decodes the data set once, in a separate process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, P2PFLError, not_imported
from p2pfl.launch.fork_server import ForkedProcess, ForkServer
from p2pfl.launch.observers import Observer
from p2pfl.modes import Roles
from p2pfl.node import messages
from p2pfl.run.data_record import keep_data_record
from p2pfl.util.signals import SIGNALS
from p2pfl.util.tempdir import remove_if_abandoned

_END_SECONDS = 1.0
SILENT_SECONDS = 60.0  # without progress, before the user is told that the run still waits


def prepare_data(
    config: RunConfig, roles: Roles, run_dir: Path, observer: Observer, server: ForkServer, begins: bool = True
) -> Path:
    """Decode the data set into the file that all peers map; returns its path.

    This happens in a separate process, since it needs torch. The run directory records which data these are, or is
    compared with them. That process also tries the model out, and checks whatever every peer would refuse, whether the
    GPUs have room for all, and the disk for a run that begins, so that no peer has to be started for it.

    There is no time limit, because a user's own function may load data for hours; a wait without progress is reported
    once a minute, and an interrupt ends it.

    Raises ConfigError, or P2PFLError where that process crashed.
    """
    started: tuple[ForkedProcess, Connection] | None = None
    try:
        # Not shielded from interrupts: the server may be importing for long. A process that was forked unseen ends
        # when its link does.
        started = server.start("data", data_process, config, roles, begins, server.folder.path)
        return _prepared(config, run_dir, observer, *started)
    except BaseException:
        if started is not None:
            started[0].kill()  # an interrupt does not wait for the data
        raise
    finally:
        if started is not None:
            _let_end(*started)


def _let_end(process: ForkedProcess, link: Connection) -> None:
    link.close()
    if not process.join(_END_SECONDS):
        process.kill()
    process.close()


def _prepared(config: RunConfig, run_dir: Path, observer: Observer, process: ForkedProcess, link: Connection) -> Path:
    """Show the progress of the process to its end; returns the file that it has made."""
    task = f"decoding --dataset {config.data.dataset}, or trying out --model {config.model.model},"
    silent = 0.0
    while True:
        if not link.poll(SILENT_SECONDS):
            silent += SILENT_SECONDS
            observer.info(f"{task} still runs, without progress for {silent:.0f} s; Ctrl-C stops it")
            continue
        silent = 0.0
        try:
            message = messages.receive_report(link)
        except EOFError:
            process.join(_END_SECONDS)
            raise P2PFLError(f"{task} crashed ({process.exit_text()})") from None
        if isinstance(message, messages.Failed):
            raise (ConfigError if message.usage else P2PFLError)(message.reason)
        assert isinstance(message, messages.Prepared)
        if message.path is not None and message.record is not None:
            keep_data_record(run_dir, message.record)
            for note in message.notes:
                observer.info(f"note: {note}")
            return Path(message.path)
        observer.progress(message.what, message.done, message.total)


def data_process(config: RunConfig, roles: Roles, begins: bool, temporary: Path, link: Connection) -> None:
    """Entry point of the data process, which reports over `link` and ends with it."""
    for number in SIGNALS - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    threading.Thread(target=_end_with, args=(link, temporary), daemon=True).start()

    def send(message: messages.FromWorker) -> None:
        link.send_bytes(messages.encode(message))

    last = _outcome(config, roles, begins, send)
    with contextlib.suppress(OSError):
        send(last)


def _end_with(link: Connection, temporary: Path) -> None:
    """End this process with the link: the launcher was interrupted, or killed."""
    with contextlib.suppress(OSError):
        link.poll(None)  # a launcher sends nothing here: this is the end of the link; no limit, in a daemon thread
    remove_if_abandoned(temporary)
    os._exit(0)


def _outcome(
    config: RunConfig, roles: Roles, begins: bool, send: Callable[[messages.FromWorker], None]
) -> messages.FromWorker:
    """Check and decode everything; returns the last report."""
    try:
        from p2pfl import data
        from p2pfl.preflight.estimate import check_run, data_record
    except Exception as error:  # such as of a library for which there is no memory
        return messages.failed(not_imported(error))
    try:
        checked = check_run(roles, config, begins=begins)
        path = data.prepare(
            config.data.dataset,
            config.data.data_dir,
            lambda what, done, total: send(messages.Prepared(what, done, total)),
            config.data.pictures,
        )
        checked_split = checked.check_split(roles, config, data.load(path))
        notes = (*checked.notes(config, path), *checked_split.split.notes)
        record = data_record(config, path, checked_split.split)
        return messages.Prepared("", 1, 1, path=str(path), notes=notes, record=record)
    except P2PFLError as error:
        return messages.failed(error)
    except Exception as error:
        return messages.Failed(f"--dataset {config.data.dataset}: {type(error).__name__}: {error}".splitlines()[0])
