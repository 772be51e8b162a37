"""Consistency of a launcher with the other settings, and what it implies."""

from __future__ import annotations

from p2pfl import registry
from p2pfl.config.launch import LaunchConfig
from p2pfl.config.run import RunConfig
from p2pfl.config.sections import ExchangeConfig
from p2pfl.errors import ConfigError


def spans_machines(config: RunConfig) -> bool:
    """Return whether the run's processes may be on several machines, by its launcher."""
    return registry.LAUNCHERS[config.launch.launcher].spans_machines


def shares_memory(exchange: ExchangeConfig) -> bool:
    """Whether vectors go through shared memory to neighbors on this machine.

    Where the system permits.
    """
    has_secrets = exchange.keys is not None or exchange.token_file is not None
    return exchange.transport == "shm" or (exchange.transport == "auto" and not has_secrets)


def check_launch(config: RunConfig) -> None:
    """Raise ConfigError for options that do not fit the launcher."""
    launcher, plain = config.launch.launcher, LaunchConfig()
    entry = registry.LAUNCHERS[launcher]
    for other in registry.LAUNCHERS.values():
        for option in other.options:
            value = getattr(config.launch, option)
            if option not in entry.options and value != getattr(plain, option):
                able = [name for name, one in registry.LAUNCHERS.items() if option in one.options]
                raise ConfigError(
                    f"--{option.replace('_', '-')} {value}: means nothing with --launcher {launcher}, only with "
                    f"{' or '.join(able)}"
                )
    if not entry.spans_machines:
        return
    exchange, device = config.exchange, config.compute.device
    if exchange.transport == "ipc":
        raise ConfigError(
            f"--transport ipc: --launcher {launcher} spans machines; use --transport tcp, or leave it out"
        )
    if exchange.keys is not None:
        raise ConfigError(
            f"--keys {exchange.keys}: with --launcher {launcher} each process makes a key pair itself; leave it out"
        )
    if device.startswith("cuda"):
        raise ConfigError(
            f"--device {device}: with --launcher {launcher} a process has the GPUs that it is given; use "
            "--gpus-per-peer, such as 0.25, instead"
        )
