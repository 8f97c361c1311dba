"""Trains small runs in this process."""

import contextlib
import io

import tiny

from peftbench.analysis.opened import open_run
from peftbench.runs.launch import run_dir_of, run_one
from peftbench.runs.settings import Settings

ADAPTER = {"_target_": "peftbench.methods.u_tuning.AdapterTuner", "hidden": 3}


def train(
    output,
    method,
    protocol="honest",
    backbone="vit_tiny_random",
    data="digits",
    spec=None,
    **trainer,
):
    """Train a run in this process; return it opened.

    Args:
        output: folder of the study.
        method: its settings.
        protocol: name of a protocol, of which only the first fit is made.
        backbone: name of a tiny network.
        data: name of the data.
        spec: settings of the data; None: as the name says.
        trainer: settings that differ.

    """
    groups = {"data": spec or tiny.config("data", data), "tracker": tiny.config("tracker", "files")}
    settings = {"_target_": "peftbench.train.config.Trainer", "epochs": 2, "lr": 5e-3}
    groups["trainer"] = settings | trainer
    groups["protocol"] = tiny.config("protocol", protocol) | {"final_fit": False}
    groups["backbone"] = tiny.config("backbone", backbone)
    names = {"method": "m", "backbone": backbone, "data": data, "protocol": protocol}
    config = {**groups, "method": method, "seed": 0, "study": "s", "output": str(output)}
    settings = Settings.of(config, names)
    with contextlib.redirect_stdout(io.StringIO()):
        run_one(settings)
    return open_run(run_dir_of(settings).path)
