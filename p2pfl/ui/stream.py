"""Text stream that survives a closed pipe."""

from __future__ import annotations

import contextlib
import os
from typing import IO, Any

from p2pfl.util.text import visible


class SafeStream:
    """Wrapper of a stream whose failure does not end the run; `error` is that failure."""

    def __init__(self, stream: IO[str] | None) -> None:
        self.error: Exception | None = None
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write text as far as the encoding allows; ignored once the stream has failed.

        Invisible characters are written as escapes.
        """
        shown = visible(text)
        if self._stream is not None and self.error is None:
            try:
                try:
                    self._stream.write(shown)
                except UnicodeEncodeError:
                    self._stream.write(shown.encode(self.encoding, "replace").decode(self.encoding))
            except (OSError, ValueError) as error:  # ValueError: the file is closed
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush, unless the stream has failed."""
        if self._stream is not None and self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError) as error:
            self.error = error
            return False

    def shows(self, stream: IO[str]) -> bool:
        """Whether this wraps just this stream."""
        return self._stream is stream

    def has_lost_text(self) -> bool:
        """Whether text was lost, except by a reader that left, such as `head`."""
        self.flush()
        return self.error is not None and not isinstance(self.error, BrokenPipeError)

    def discard(self) -> None:
        """Discard the buffer of a failed stream, which would cause an error at exit."""
        self.flush()
        if self._stream is not None and isinstance(self.error, OSError):
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
