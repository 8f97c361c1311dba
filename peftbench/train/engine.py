"""Where a run computes: device, precision and processes, through Hugging Face Accelerate."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor

from ..errors import ConfigError
from .config import Trainer

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(cfg: Trainer) -> Accelerator:
    """Return an Accelerator for the settings, also when this process made one before.

    Raises:
        ConfigError: the device asked for is not there, or the precision needs another one.

    """
    wants_cpu = cfg.device == "cpu" or not torch.cuda.is_available()
    if cfg.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ConfigError("trainer.device: no CUDA device is at hand; allowed here: auto, cpu")
        if ":" in cfg.device:
            torch.cuda.set_device(cfg.device)
    elif cfg.device not in ("auto", "cpu"):
        raise ConfigError(f"trainer.device: '{cfg.device}' is not auto, cpu, cuda or cuda:N")
    if cfg.precision == "fp16" and wants_cpu:
        raise ConfigError("trainer.precision: fp16 needs a CUDA device; bf16 works on a CPU")
    single = PartialState(cpu=wants_cpu).num_processes == 1
    AcceleratorState._reset_state(reset_partial_state=single)
    GradientState._reset_state()
    return Accelerator(mixed_precision=MIXED[cfg.precision], cpu=wants_cpu)


def device_name(accelerator: Accelerator) -> str:
    """Return the device in words, with the number of processes when there are several."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    count = accelerator.num_processes
    return f"{name} x{count}" if count > 1 else name


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory where the device keeps one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return peak memory in bytes: allocated on the GPU, or the process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Whether the flag is set in any process; every process must call this together."""
    if accelerator.num_processes == 1:
        return flag
    mine = torch.tensor([float(flag)], device=accelerator.device)
    total = accelerator.reduce(mine, reduction="sum")
    assert isinstance(total, Tensor)
    return bool(total.item() > 0)


def sum_over_processes(values: Sequence[Tensor], accelerator: Accelerator) -> Tensor:
    """Return scalars stacked into one vector and summed over processes."""
    stacked = torch.stack([v.detach().float() for v in values])
    if accelerator.num_processes == 1:
        return stacked
    total = accelerator.reduce(stacked, reduction="sum")
    assert isinstance(total, Tensor)
    return total
