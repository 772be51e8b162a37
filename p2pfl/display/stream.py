"""A text stream that a closed pipe silences instead of ending the run."""

from __future__ import annotations

from typing import IO


class SafeStream:
    """Passes text on to a stream for as long as there is one."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._dead = False
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write what the encoding can hold; nothing once the stream is gone."""
        if not self._dead:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
            except (OSError, ValueError):  # ValueError: the file is closed
                self._dead = True
        return len(text)

    def flush(self) -> None:
        """Flush unless the stream is gone."""
        if not self._dead:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._dead = True

    def isatty(self) -> bool:
        """Whether a person is looking."""
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            self._dead = True
            return False

    def shows(self, stream: IO[str]) -> bool:
        """Whether text goes on to just this stream."""
        return self._stream is stream
