"""Several processes on a machine without an accelerator.

``accelerate launch --num_processes N`` starts N processes where there are GPUs; on a CPU it starts
one and says nothing. Training with one process where N were asked for would be a silent change of
the run, so the one process that was started makes the N itself, with torch's own launcher.
"""

from __future__ import annotations

import os
import sys

from ..errors import ConfigError

HINT = "start them with: torchrun --nproc_per_node N train.py ..."


def spawn_if_asked() -> None:
    """Replace this process by torch's launcher where Accelerate was asked for several processes.

    Returns in every other case: started alone, already one of several, or on a GPU machine.

    Raises:
        ConfigError: several processes were asked for and their number cannot be found out.

    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if not launched or "RANK" in os.environ:
        return
    count = _asked_for()
    if count < 2:
        return
    port = os.environ.get("MASTER_PORT", "29500")
    words = ["-m", "torch.distributed.run", "--nproc_per_node", str(count), "--master_port", port]
    os.execv(sys.executable, [sys.executable, *words, *sys.argv])


def _asked_for() -> int:
    """Return the number of processes on the command line of the launcher above this process."""
    import psutil
    from accelerate.commands.launch import launch_command_parser

    try:
        words = psutil.Process(os.getppid()).cmdline()
        options = launch_command_parser().parse_args(words[words.index("launch") + 1 :])
    except (psutil.Error, ValueError, SystemExit) as error:
        raise ConfigError(
            f"Accelerate was asked for several processes and started one; {HINT}"
        ) from error
    return int(options.num_processes or 1)
