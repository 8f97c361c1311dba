"""Signals that ask a run to stop, seen after every step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..train.hooks import Interrupted


@contextmanager
def flagged(stop: threading.Event) -> Iterator[None]:
    """Turn SIGTERM, SIGUSR1 and the first Ctrl-C into a flag that is seen after every step.

    After a Ctrl-C the run ends as one that was interrupted from the keyboard, with its state
    written; a second Ctrl-C ends it at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    keyboard: list[int] = []

    def raise_flag(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if keyboard:
                raise KeyboardInterrupt
            keyboard.append(number)
        stop.set()

    kinds = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {kind: signal.signal(kind, raise_flag) for kind in kinds}
    try:
        yield
    except Interrupted as stopped:
        if keyboard:
            raise KeyboardInterrupt from stopped
        raise
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
