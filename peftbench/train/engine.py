"""Where a run computes: device, precision and processes, through Hugging Face Accelerate."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError
from .config import Trainer
from .model import Adapted

RESET = Path("/proc/self/clear_refs")
MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(cfg: Trainer) -> Accelerator:
    """Return an Accelerator for the settings, also when this process made one before.

    Raises:
        ConfigError: the device asked for is not there, or the precision needs another one.

    """
    wants_cpu = cfg.device == "cpu" or not torch.cuda.is_available()
    _set_threads(cfg.threads)
    if cfg.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ConfigError("trainer.device: no CUDA device is at hand; allowed here: auto, cpu")
        if cfg.device != "cuda":
            torch.cuda.set_device(_cuda_index(cfg.device))
    elif cfg.device not in ("auto", "cpu"):
        raise ConfigError(f"trainer.device: '{cfg.device}' is not auto, cpu, cuda or cuda:N")
    if cfg.precision == "fp16" and wants_cpu:
        raise ConfigError("trainer.precision: fp16 needs a CUDA device; bf16 works on a CPU")
    single = PartialState(cpu=wants_cpu).num_processes == 1
    AcceleratorState._reset_state(reset_partial_state=single)
    GradientState._reset_state()
    return Accelerator(mixed_precision=MIXED[cfg.precision], cpu=wants_cpu)


def _set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; see :class:`Trainer` for what None means."""
    small = (os.cpu_count() or 1) <= 2 and "OMP_NUM_THREADS" not in os.environ
    if threads is not None or small:
        torch.set_num_threads(threads or 1)


def _cuda_index(name: str) -> int:
    """Return N of ``cuda:N``."""
    number, count = name.removeprefix("cuda:"), torch.cuda.device_count()
    if not name.startswith("cuda:") or not number.isdigit() or int(number) >= count:
        known = ", ".join(f"cuda:{i}" for i in range(count))
        raise ConfigError(
            f"trainer.device: '{name}' is not here; allowed: auto, cpu, cuda, {known}"
        )
    return int(number)


def device_name(accelerator: Accelerator) -> str:
    """Return the device in words, with the number of processes when there are several."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    count = accelerator.num_processes
    return f"{name} x{count}" if count > 1 else name


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory.

    Linux keeps the peak of a process since it was last reset, so that runs that share a process do
    not inherit each other's; elsewhere on a CPU the peak is that of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif RESET.exists():
        with contextlib.suppress(OSError):  # not allowed in every container
            RESET.write_text("5")


def peak_memory(device: torch.device) -> int:
    """Return peak memory in bytes: allocated on the GPU, or the process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if RESET.exists():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))
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


def wrapped(
    model: Adapted, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> tuple[nn.Module, Any]:
    """Return model and optimiser as they are called in training, over one or several processes.

    Tensors whose gradient a hook takes (:meth:`Edit.gathered`) are left out of the automatic sum;
    :func:`sum_gathered` does theirs.
    """
    apart = {id(t) for edit in model.delta for pair in edit.gathered() for t in pair}
    if accelerator.num_processes == 1 or not apart:
        return accelerator.prepare(model, optimizer)
    apart |= {id(b) for edit in model.delta if edit.gathered() for b in edit.buffers()}
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    names = [name for name, tensor in named if id(tensor) in apart]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    others = any(p.requires_grad and id(p) not in apart for p in model.parameters())
    runner = accelerator.prepare_model(model, evaluation_mode=not others)
    return runner, accelerator.prepare_optimizer(optimizer)


def sum_gathered(model: Adapted, accelerator: Accelerator) -> None:
    """Average over processes the gradients that hooks took, as the wrapper does the others."""
    if accelerator.num_processes == 1:
        return
    for edit in model.delta:
        for parameter, _ in edit.gathered():
            if parameter.grad is not None:
                total = accelerator.reduce(parameter.grad, reduction="mean")
                assert isinstance(total, Tensor)
                parameter.grad = total
