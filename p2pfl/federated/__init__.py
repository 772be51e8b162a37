"""Federated learning with a coordinator: the logic of coordinator and client, without I/O."""

from p2pfl.federated.average import ServerAverage
from p2pfl.federated.client import Client
from p2pfl.federated.coordinator import Coordinator
from p2pfl.federated.selection import Federation, select_clients

__all__ = ["Client", "Coordinator", "Federation", "ServerAverage", "select_clients"]
