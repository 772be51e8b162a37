"""Network switch in a thread, between virtual devices, with delay and loss."""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time

_TUNSETIFF = 0x400454CA  # of Linux's if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000  # whole Ethernet frames, and nothing before them
_LARGEST = 65_536  # bytes
_IDLE_SECONDS = 0.2


class Switch:
    """Network switch between virtual devices.

    `seconds`: delay of every packet; `loss`: probability of its loss; `cut`: numbers of the devices that are cut off.
    All three may be changed at any time. The thread ends with the process.
    """

    def __init__(self, dice: random.Random) -> None:
        self.seconds, self.loss = 0.0, 0.0
        self.cut: set[int] = set()
        self._dice = dice
        self._files: list[int] = []
        self._behind: dict[bytes, int] = {}  # by hardware address the device where it was seen
        self._due: list[tuple[float, int, int, bytes]] = []  # when, number, device, packet
        self._number = 0
        threading.Thread(target=self._work, daemon=True).start()

    def add(self, name: str) -> None:
        """Make a device in the network namespace of this process. Raises OSError."""
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        self._files.append(file)

    def _work(self) -> None:
        while True:
            wait = self._due[0][0] - time.monotonic() if self._due else _IDLE_SECONDS
            ready, _, _ = select.select(list(self._files), [], [], max(0.0, min(wait, _IDLE_SECONDS)))
            for file in ready:
                self._take(self._files.index(file))
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(self._due)
                self._write(device, packet)

    def _take(self, device: int) -> None:
        """Pass one packet to the device with its address, or to all if that is unknown."""
        try:
            packet = os.read(self._files[device], _LARGEST)
        except OSError:  # none after all, or the device is down
            return
        self._behind[packet[6:12]] = device
        known = self._behind.get(packet[:6])
        for other in range(len(self._files)) if known is None else [known]:
            if other == device or self._dice.random() < self.loss or self.cut & {device, other}:
                continue
            self._number += 1
            heapq.heappush(self._due, (time.monotonic() + self.seconds, self._number, other, packet))

    def _write(self, device: int, packet: bytes) -> None:
        try:
            os.write(self._files[device], packet)
        except OSError:  # full, or down: then it is lost, as on any network
            return
