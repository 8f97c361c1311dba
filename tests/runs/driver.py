"""``train.py`` over the fakes: ``driver.py <configs> ...`` with FAKE_CALLS and FAKE_RUN set."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import hydra

from peftbench.runs import cli

spec = importlib.util.spec_from_file_location(
    "peftbench.fakes", Path(__file__).with_name("fakes.py")
)
fakes = importlib.util.module_from_spec(spec)
sys.modules["peftbench.fakes"] = fakes
spec.loader.exec_module(fakes)
sys.modules["peftbench.runs.execute"] = SimpleNamespace(execute=fakes.execute)

configs = sys.argv.pop(1)
main = hydra.main(version_base="1.3", config_path=configs, config_name="config")(cli.job)
code = cli.guard(main, folder=Path(configs))
if "torch" in sys.modules:
    print("torch was imported", file=sys.stderr)
sys.exit(code)
