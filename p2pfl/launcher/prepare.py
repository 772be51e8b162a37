"""The data set, decoded once before the peers start, in a process of its own."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection
from pathlib import Path

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, P2PFLError
from p2pfl.launcher.observer import Observer
from p2pfl.launcher.server import exit_text, start
from p2pfl.worker import messages

_END_SECONDS = 1.0


def prepare_data(config: RunConfig, observer: Observer) -> Path:
    """Decode the data set, once, into the file that all peers map, in a process of its own (it needs torch).

    Raises ConfigError, or P2PFLError where that process crashed.
    """
    process, link = start("data", _prepare, config)
    try:
        while True:
            try:
                message = messages.decode_from_worker(link.recv_bytes())
            except (EOFError, OSError):
                process.join(_END_SECONDS)
                raise P2PFLError(f"decoding --dataset {config.data.dataset} crashed ({exit_text(process)})") from None
            if isinstance(message, messages.Failed):
                raise (ConfigError if message.usage else P2PFLError)(message.reason)
            assert isinstance(message, messages.Prepared)
            if message.path is not None:
                return Path(message.path)
            observer.progress(message.what, message.done, message.total)
    finally:
        link.close()
        if process.is_alive():
            process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()


def _prepare(config: RunConfig, link: Connection) -> None:
    from p2pfl import data

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

    def progress(what: str, done: int, total: int) -> None:
        link.send_bytes(messages.encode(messages.Prepared(what, done, total)))

    try:
        path = data.prepare(config.data.dataset, config.data.data_dir, progress)
        link.send_bytes(messages.encode(messages.Prepared("", 1, 1, path=str(path))))
    except P2PFLError as error:
        usage = isinstance(error, ConfigError)
        link.send_bytes(messages.encode(messages.Failed(str(error), usage=usage)))
    except Exception as error:
        reason = f"--dataset {config.data.dataset}: {type(error).__name__}: {error}".splitlines()[0]
        link.send_bytes(messages.encode(messages.Failed(reason)))
