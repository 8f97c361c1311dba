"""Coverage of a gradient by its largest entries, against values known in closed form."""

import pytest
import torch

from peftbench.analysis.concentration import coverage, hoyer, least_share
from peftbench.errors import ConfigError

N = 1_000_000


def drawn(name):
    g = torch.Generator().manual_seed(0)
    if name == "gaussian":
        return torch.randn(N, generator=g)
    uniform = torch.rand(N, generator=g, dtype=torch.float64)
    return -uniform.log() * (torch.randint(0, 2, (N,), generator=g) * 2 - 1)


# share of the energy beyond the 99 % quantile: 0.0845 (Gaussian), 0.1626 (Laplace)
@pytest.mark.parametrize(("name", "wanted"), [("gaussian", 0.291), ("laplace", 0.403)])
def test_reference_values(name, wanted):
    assert float(coverage(drawn(name), [0.01])[0]) == pytest.approx(wanted, abs=0.003)


def test_equal_sizes_give_the_root_of_the_share():
    shares = [0.01, 0.25, 1.0]
    signs = torch.ones(10, 100)
    signs[::2] = -1
    assert coverage(signs, shares).tolist() == pytest.approx([x**0.5 for x in shares])
    assert coverage(signs, shares, order=1).tolist() == pytest.approx(shares)
    assert hoyer(signs) == pytest.approx(0.0)
    assert least_share(signs) == pytest.approx(0.981, abs=1e-9)


def test_one_entry_holds_all():
    one = torch.zeros(500)
    one[77] = -3.0
    assert coverage(one, [0.001, 0.5, 1.0]).tolist() == [1.0, 1.0, 1.0]
    assert hoyer(one) == pytest.approx(1.0) and least_share(one) == 1 / 500


def test_it_rises_to_one():
    curve = coverage(drawn("gaussian")[:999], [i / 100 for i in range(1, 101)])
    assert (curve.diff() > 0).all() and float(curve[-1]) == 1.0


@pytest.mark.parametrize("x", [0.0, 1.5])
def test_shares_out_of_range_are_refused(x):
    with pytest.raises(ConfigError, match="above 0, up to 1"):
        coverage(torch.ones(3), [x])
