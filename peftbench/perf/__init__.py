"""Cost of a training step: time, floating-point operations and memory, side by side.

Needs torch, timm, transformers and (for the peers) peft; no Hydra, W&B or datasets.
"""
