"""Rendezvous: peers find their neighbors' addresses through a folder or a service."""
