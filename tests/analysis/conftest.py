"""Two small finished runs: GIST and U-Tuning with all learned gates, on a random ViT."""

import pytest
import tiny
from small_runs import ADAPTER, train


@pytest.fixture(scope="session")
def gist_run(tmp_path_factory):
    """A run of GIST with two tokens."""
    method = tiny.config("method", "gist") | {"tokens": 2}
    return train(tmp_path_factory.mktemp("gist"), method)


@pytest.fixture(scope="session")
def tuner_run(tmp_path_factory):
    """A run of U-Tuning: channel gate beside attention, scalar beside the MLP, input at blocks."""
    tuners = {"attn": "channel", "mlp": "scalar", "block": "input"}
    method = {
        "_target_": "peftbench.methods.u_tuning.UTuning",
        "tuners": {site: {**ADAPTER, "gate": gate} for site, gate in tuners.items()},
    }
    return train(tmp_path_factory.mktemp("tuners"), method)


@pytest.fixture(scope="session")
def sift_run(tmp_path_factory):
    """A run of SIFT."""
    return train(tmp_path_factory.mktemp("sift"), tiny.config("method", "sift"), max_steps=6)


@pytest.fixture(scope="session")
def full_run(tmp_path_factory):
    """A run of full fine-tuning."""
    method = tiny.config("method", "full")
    return train(tmp_path_factory.mktemp("full"), method, max_steps=6, lr=1e-3)
