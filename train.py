"""Train one network with one method, or with ``-m`` every combination of several settings.

python train.py method=lora backbone=vit_b16 data=digits seed=1
python train.py --help
"""

import sys

import hydra
from omegaconf import DictConfig

from peftbench.runs import cli


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def train(config: DictConfig) -> None:
    """Run one composed configuration."""
    cli.job(config)


if __name__ == "__main__":
    sys.exit(cli.guard(train))
