"""Texts through the training loop: order, weights, scoring, the whole way for every layout."""

import pytest
import texts
import tiny
import torch

from peftbench.errors import ConfigError, IncompatibleError
from peftbench.tasks.bind import bind
from peftbench.train.config import Trainer
from peftbench.train.engine import make_accelerator
from peftbench.train.loop import Fitter
from peftbench.train.model import Adapted
from peftbench.train.order import Order


@pytest.fixture
def fit():
    """Return a function that trains a method on the toy task of a layout."""
    open_models = []

    def make(layout, method="full", data=None, **settings):
        backbone = texts.backbone(layout)
        task = bind(data or texts.task(), backbone)
        cfg = Trainer(**{"epochs": 6, "lr": 3e-3, "batch_size": 16, "device": "cpu"} | settings)
        model = Adapted(backbone, tiny.method(method), task.head, 0)
        open_models.append(model)
        return Fitter(model, task, task.split("train"), None, cfg, 0, make_accelerator(cfg))

    yield make
    for model in open_models:
        model.release()


@pytest.mark.parametrize("layout", texts.LAYOUTS)
def test_a_layout_learns_the_task_and_scores_alike_in_any_batch(fit, layout):
    f = fit(layout, epochs=12)
    f.run()
    split = f.task.split("val")
    whole = f.evaluate(split)
    assert whole.metrics["accuracy"] > 0.9
    for size in (1, 7):
        object.__setattr__(f.cfg, "eval_batch_size", size)
        other = f.evaluate(split)
        assert other.metrics["accuracy"] == whole.metrics["accuracy"]
        assert other.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-5)


@pytest.mark.parametrize("layout", ["seq2seq", "decoder"])
def test_every_target_token_counts_alike_however_a_batch_is_cut(fit, layout):
    data = texts.task(longest_target=8)
    rows = torch.arange(12)
    longer = ["yes film the" if i % 3 == 0 else "no" for i in range(len(data.splits["train"]))]
    object.__setattr__(data.splits["train"], "targets", longer)
    whole, cut = fit(layout, data=data), fit(layout, data=data, accumulate=5)
    gradients = []
    for f in (whole, cut):
        f.model.double()
        for part in f._parts(len(rows)):
            f.part(0, rows, part)
        gradients.append({n: p.grad.clone() for n, p in f.params.items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-9)
    # and the loss is the mean over all target tokens, by hand
    batch = whole.split.take(rows)
    with torch.no_grad():
        logits = whole.model(whole.inputs(batch)).logits
    tokens = whole.task.token_loss(logits, batch.labels)
    expected = tokens.sum() / (batch.labels != -100).sum()
    terms = whole.part(0, rows, rows)
    torch.testing.assert_close(terms["task"].float(), expected.float(), rtol=1e-5, atol=1e-7)


def test_order_keeps_every_sample_and_sorts_by_length_within_windows():
    split = bind(texts.task(), texts.backbone("encoder")).split("train")
    lengths = split.encoded.lengths

    def padding(window):
        order = Order(split, Trainer(batch_size=8, length_window=window), 3)
        batches = [order.batch(0, i) for i in range(12)]
        assert sorted(torch.cat(batches).tolist()) == list(range(96))
        again = Order(split, Trainer(batch_size=8, length_window=window), 3)
        assert torch.equal(again.batch(0, 5), batches[5])  # asked for alone
        assert not torch.equal(order.batch(1, 5), batches[5])
        return sum(int(lengths[b].max() * 8 - lengths[b].sum()) for b in batches)

    assert padding(4) < 0.6 * padding(0)


def test_a_smaller_last_batch_stays_the_last():
    split = bind(texts.task(), texts.backbone("encoder")).split("train")
    order = Order(split, Trainer(batch_size=40, length_window=8), 0)
    assert [len(order.batch(0, i)) for i in range(3)] == [40, 40, 16]
    small = Order(split, Trainer(batch_size=500), 0)
    assert sorted(small.batch(0, 0).tolist()) == list(range(96))


@pytest.mark.parametrize("layout", texts.LAYOUTS)
@pytest.mark.parametrize("method", ["sift", "lora", "adapter", "bitfit"])
def test_methods_lower_the_loss(fit, layout, method):
    if (layout, method) in {("seq2seq", "bitfit"), ("decoder", "bitfit")}:
        method = "layernorm"  # these networks have no biases
    f = fit(layout, method, epochs=3)
    before = f.evaluate(f.task.split("val")).metrics["loss"]
    f.run()
    assert f.evaluate(f.task.split("val")).metrics["loss"] < before


def test_packed_rows_see_their_own_text_alone(fit):
    data = texts.task()
    f = fit("decoder", data=data, packing=24)
    assert len(f.split) < len(data.splits["train"])
    f.model.eval()
    rows = torch.arange(len(f.split))
    packed = f.split.take(rows)
    with torch.no_grad():
        row_logits = f.model(packed.inputs).logits
        alone = f.task.split("train")
        texts_of = f.split.encoded
        for row, members in enumerate(texts_of.rows):
            at = 0
            for text in members:
                one = alone.take(torch.tensor([text]))
                logits = f.model(one.inputs).logits[0]
                length = int(texts_of.texts.lengths[text]) - 1
                response = int(texts_of.texts.weights[text])
                mine = row_logits[row, at + length - response : at + length]
                torch.testing.assert_close(mine, logits[-response:], rtol=1e-4, atol=1e-5)
                assert (
                    packed.labels[row, at + length - response : at + length].tolist()
                    == one.labels[0, -response:].tolist()
                )
                at += length
    assert sorted(i for row in texts_of.rows for i in row) == list(range(96))
    f.model.train()
    f.run()
    assert f.report.steps > 0


def test_what_cannot_be_packed_is_refused(fit):
    with pytest.raises(ConfigError, match=r"trainer\.packing"):
        fit("seq2seq", packing=32)
    with pytest.raises(ConfigError, match=r"trainer\.packing"):
        fit("encoder", packing=32)


def test_only_the_first_samples_are_answered_where_the_task_says_so(fit, monkeypatch):
    f = fit("decoder", data=texts.task(written=5), eval_batch_size=7)
    answered = []
    write = f.model.write

    def counted(inputs, *rest, **how):
        answered.append(len(inputs["input_ids"]))
        return write(inputs, *rest, **how)

    monkeypatch.setattr(f.model, "write", counted)
    found = f.evaluate(f.task.split("val"))
    assert sum(answered) == 5
    assert found.metrics["accuracy"] * 5 == round(found.metrics["accuracy"] * 5)


@pytest.mark.parametrize("layout", ["seq2seq", "decoder"])
@pytest.mark.parametrize("written", [None, 5])
def test_a_network_that_cannot_use_a_cache_is_scored_without_one(fit, layout, written):
    f = fit(layout, "lst", data=texts.task(written=written), max_steps=1)
    f.run()
    found = []
    for size in (1, 30):
        object.__setattr__(f.cfg, "eval_batch_size", size)
        scored = f.evaluate(f.task.split("val"))
        found.append((f.task.answers(scored.scores_NC[: written or 30]), scored.metrics))
    assert found[0][0] == found[1][0] and any(found[0][0])
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


def test_tokens_in_packed_rows_are_refused_with_the_key(fit):
    with pytest.raises(IncompatibleError, match=r"trainer\.packing=null"):
        fit("decoder", "prompt_tuning", packing=24).run()
