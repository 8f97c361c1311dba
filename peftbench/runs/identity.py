"""The identity of a run: a hash of all that can change its result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

RESULT_VERSION = 2
"""Raised whenever a change of the code changes results: older runs are then not taken for new."""

VOLATILE: Mapping[str, str] = {
    "output": "where results lie",
    "study": "which folder a run is filed in",
    "names": "labels of the choices; what was chosen stands in the groups themselves",
    "tracker": "figures are copied there, none is read back",
    "data.path": "the manifest says what lies there",
    "data.revision": "a name of a commit; the manifest holds the commit itself",
    "data.root": "where the data lie; what they are stands in their manifest",
    "data.train.root": "as data.root, of a task that is trained on other data than it is tested on",
    "data.strict": "whether deviations are refused; those let through stand in the manifest",
    "trainer.device": "the same run may continue elsewhere; the result records the device",
    "trainer.threads": "the same sums by more or fewer hands; the result records the number",
    "trainer.workers": "who decodes an image; the random changes to it do not depend on that",
    "trainer.log_every": "how often figures are written down",
    "trainer.save_every_s": "how often state is saved; a resumed run equals an unbroken one",
    "trainer.eval_batch_size": "every sample is evaluated on its own",
}
"""Keys that do not enter the identity (with all that is below them), and why.

``backbone.weights`` and ``backbone.model`` may be paths and yet are absent here: other weights give
another result. Local files count by their content (``runs/local_files.py``).
"""


def run_id(config: Mapping[str, Any], manifest_sha256: str) -> str:
    """Return the identity of a run as 12 hexadecimal digits.

    Args:
        config: resolved plain configuration (``Settings.plain``).
        manifest_sha256: hash of the data's manifest.

    Raises:
        ConfigError: a value that JSON cannot hold.

    """
    subject = {
        "config": lasting(config),
        "manifest": manifest_sha256,
        "result_version": RESULT_VERSION,
    }
    return hashlib.sha256(canonical(subject).encode()).hexdigest()[:12]


def lasting(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``config`` without its volatile keys."""
    out: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key in VOLATILE:
            continue
        out[name] = lasting(value, f"{key}.") if isinstance(value, Mapping) else value
    return out


def canonical(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, no NaN."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the configuration holds a value that JSON cannot: {error}") from error
