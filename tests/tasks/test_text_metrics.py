"""Metrics of text tasks against hand values, against other implementations, and their intervals."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from peftbench.errors import ConfigError
from peftbench.tasks import text_metrics as tm
from peftbench.tasks import wilson


def ints(*values):
    return np.array(values, np.int64)


def drawn(classes, n=400, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    predicted = np.where(rng.random(n) < 0.7, labels, rng.integers(0, classes, n))
    return predicted, labels


def lcs(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


def test_classes_by_hand():
    predicted, labels = ints(1, 1, 0, 0, 1), ints(1, 0, 0, 1, 1)
    assert tm.measure("accuracy", predicted, labels) == 3 / 5
    assert tm.measure("f1", predicted, labels) == pytest.approx(2 / 3)  # tp 2, fp 1, fn 1
    assert tm.measure("macro_f1", predicted, labels) == pytest.approx((2 / 3 + 1 / 2) / 2)
    expected = (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5
    assert tm.measure("matthews", predicted, labels) == pytest.approx(expected)


def test_what_cannot_be_read_is_wrong_or_the_opposite():
    labels = ints(1, 0, 1, 0)
    assert tm.measure("accuracy", ints(-1, 0, 1, -1), labels) == 0.5
    for name in ("f1", "macro_f1", "matthews"):
        opposite = tm.measure(name, ints(0, 0, 1, 1), labels)
        assert tm.measure(name, ints(-1, 0, 1, -1), labels) == opposite
    # of three classes none is the opposite: the prediction is of no class
    assert tm.measure("macro_f1", ints(-1, 1, 2), ints(0, 1, 2)) == pytest.approx(2 / 3)


def test_undefined_is_zero():
    assert tm.measure("f1", ints(0, 0), ints(0, 0)) == 0
    assert tm.measure("matthews", ints(1, 1, 1), ints(0, 1, 1)) == 0
    for name in ("pearson", "spearman"):
        assert tm.measure(name, [2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == 0
        assert tm.interval(name, [2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == (0, 0)


def test_correlations_by_hand():
    assert tm.measure("pearson", [1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert tm.measure("spearman", [1, 2, 3], [1, 4, 9]) == pytest.approx(1)
    assert tm.measure("pearson", [1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert tm.measure("spearman", [4, 3, 2, 1], [1, 3, 9, 27]) == pytest.approx(-1)


def test_groups_are_right_as_a_whole():
    predicted, labels, groups = ints(1, 0, 1, 1, 0), ints(1, 0, 0, 1, 0), [7, 7, 3, 3, 5]
    assert tm.measure("group_match", predicted, labels, groups) == pytest.approx(2 / 3)
    assert tm.measure("f1", predicted, labels, groups) == pytest.approx(4 / 5)
    with pytest.raises(ValueError, match="needs the groups"):
        tm.measure("group_match", predicted, labels)


@pytest.mark.parametrize(
    ("said", "references", "match", "f1"),
    [
        ("The Cat!", ("cat",), 1, 1),
        ("a cat", ("dog", "the cat."), 1, 1),
        ("black cat", ("cat",), 0, 2 / 3),
        ("cat cat", ("cat",), 0, 2 / 3),
        ("", ("cat",), 0, 0),
        ("the", ("an",), 1, 1),  # nothing is left of either
        ("U.S.", ("us",), 1, 1),
        ("cat", (), 0, 0),
    ],
)
def test_answers_by_hand(said, references, match, f1):
    assert tm.measure("exact_match", [said], [references]) == match
    assert tm.measure("token_f1", [said], [references]) == pytest.approx(f1)


def test_rouge_l_by_hand():
    cases = {
        ("police kill the gunman", "police killed the gunman"): 3 / 4,
        ("the gunman kill police", "police killed the gunman"): 2 / 4,
        ("A-b c.", "a b c d"): 2 * 3 / 7,
        ("", "word"): 0,
        ("?!", "?!"): 0,
    }
    for (said, reference), expected in cases.items():
        assert tm.measure("rouge_l", [said], [(reference,)]) == pytest.approx(expected)
    assert tm.measure("rouge_l", ["a b"], [("x", "a b")]) == 1


def test_the_common_subsequence_is_the_longest():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (list(rng.choice(list("abcd"), rng.integers(1, 90))) for _ in range(2))
        assert tm._common(a, b) == lcs(a, b)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("unreadable", [False, True])
def test_counts_give_what_the_library_gives(classes, unreadable):
    for seed in range(5):
        predicted, labels = drawn(classes, 60, seed)
        if unreadable and classes > 2:
            predicted[::7] = -1
        counts = np.zeros((1, classes, classes + 1))
        np.add.at(counts[0], (labels, np.where(predicted < 0, classes, predicted)), 1)
        every = range(classes)
        macro = f1_score(labels, predicted, labels=every, average="macro", zero_division=0)
        assert tm._macro_f1_counted(counts)[0] == pytest.approx(macro)
        assert tm.measure("macro_f1", predicted, labels) == pytest.approx(macro)
        right = matthews_corrcoef(labels, predicted)
        assert tm._matthews_counted(counts)[0] == pytest.approx(right)
        assert tm.measure("matthews", predicted, labels) == pytest.approx(right)
        if classes == 2:
            assert tm._f1_counted(counts)[0] == pytest.approx(f1_score(labels, predicted))


def test_one_class_alone_has_an_interval():
    for name in ("f1", "matthews"):
        assert tm.interval(name, ints(0, 0, 0), ints(0, 0, 0)) == (0, 0)
    assert tm.interval("macro_f1", ints(0, 0, 0), ints(0, 0, 0)) == (1, 1)


def test_drawn_correlations_are_those_of_scipy():
    rng = np.random.default_rng(1)
    p, t = rng.integers(0, 5, (2, 4, 30)).astype(float)
    for related, name in ((tm._pearson_related, "pearson"), (tm._spearman_related, "spearman")):
        expected = [tm.measure(name, a, b) for a, b in zip(p, t, strict=True)]
        assert related(p, t) == pytest.approx(expected)


def samples(name, n=300, seed=0):
    kind = tm.METRICS[name].kind
    rng = np.random.default_rng(seed)
    if kind == "classes":
        return drawn(2, n, seed)
    if kind == "values":
        truth = rng.random(n) * 5
        return truth + rng.normal(size=n), truth
    words = np.array(["red", "green", "blue"])
    said = [" ".join(rng.choice(words, 3)) for _ in range(n)]
    return said, [(" ".join(rng.choice(words, 3)),) for _ in range(n)]


@pytest.mark.parametrize("name", tm.METRICS)
def test_an_interval_holds_the_value_is_seeded_and_shrinks(name):
    def both(n):
        predicted, truth = samples(name, n)
        groups = [i // 3 for i in range(n)] if name == "group_match" else ()
        found = tm.interval(name, predicted, truth, groups)
        assert found[0] < tm.measure(name, predicted, truth, groups) < found[1]
        assert tm.interval(name, predicted, truth, groups) == found
        inner = tm.interval(name, predicted, truth, groups, level=0.5)
        assert found[0] < inner[0] < inner[1] < found[1]
        return found[1] - found[0]

    assert both(1200) < 0.7 * both(300)


def test_shares_have_wilsons_interval():
    predicted, labels = samples("accuracy", 250)
    right = int((predicted == labels).sum())
    assert tm.interval("accuracy", predicted, labels) == pytest.approx(wilson(right, 250))


def test_a_bootstrap_of_samples_is_that_of_a_loop():
    predicted, labels = samples("f1", 200)
    rng = np.random.default_rng(5)
    values = []
    for _ in range(2000):
        p, t = (
            part[index] for index in [rng.integers(0, 200, 200)] for part in (predicted, labels)
        )
        values.append(2 * (p & t).sum() / (p.sum() + t.sum()))
    expected = np.quantile(values, [0.025, 0.975])
    assert tm.interval("f1", predicted, labels) == pytest.approx(expected, abs=0.02)


def test_samples_that_hang_together_make_the_interval_wider():
    predicted, labels = samples("f1", 100)
    tenfold = [np.repeat(part, 10) for part in (predicted, labels)]
    groups = np.repeat(np.arange(100), 10)
    low, high = tm.interval("f1", *tenfold)
    wide_low, wide_high = tm.interval("f1", *tenfold, groups)
    assert wide_high - wide_low > 2 * (high - low)
    alone = tm.interval("f1", predicted, labels)
    assert (wide_low, wide_high) == pytest.approx(alone, abs=0.03)


def test_refusals():
    with pytest.raises(ConfigError, match="Did you mean 'accuracy'"):
        tm.measure("acuracy", ints(1), ints(1))
    for predicted, labels in ((ints(), ints()), (ints(1), ints(1, 0))):
        with pytest.raises(ValueError, match="predictions"):
            tm.measure("f1", predicted, labels)
    with pytest.raises(ValueError, match="level"):
        tm.interval("f1", ints(1), ints(1), level=95)
