"""Settings that every caption task has."""

from __future__ import annotations

from ..errors import ConfigError


def check_writing(written: int | None, longest_target: int, beams: int) -> None:
    """Refuse settings of writing that mean nothing.

    Raises:
        ConfigError: a number below 1, or beams of captions that nobody writes.

    """
    for key, value in (("written", written), ("longest_target", longest_target), ("beams", beams)):
        if value is not None and value < 1:
            raise ConfigError(f"data.{key}: at least 1 is needed, got {value}")
    if written is None and beams > 1:
        raise ConfigError(
            f"data.beams: {beams} beams of captions that are not written; data.written says how"
            " many tokens they may have"
        )
