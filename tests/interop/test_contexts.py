"""One context of a network leaves by the same doors as an ordinary adapter."""

import pytest
import tiny
import torch

import peftbench
from peftbench.errors import ConfigError
from peftbench.interop import merge, write_peft
from peftbench.interop.contexts import one_context
from peftbench.train.artefact import describe, load_adapter, save_adapter


def stored(folder, inner="lora", use="llama"):
    """Store an adapter with every tensor moved; return inputs and logits of each context."""
    base = tiny.fresh(tiny.USES[use][0])
    model = peftbench.attach(
        tiny.method("context", inner=tiny.config("method", inner)), base, classes=None
    )
    tiny.perturb(model, 0.05)
    save_adapter(folder / "adapter", model, base.sha256, None, "a task")
    given = tiny.inputs(use)
    shape = given["input_ids"].shape
    with torch.no_grad():
        found = {
            name: model.eval()(given, {"context": torch.full(shape, i)}).logits
            for i, name in enumerate(("text", "image"))
        }
    assert not torch.allclose(found["text"], found["image"], atol=1e-4)
    return given, found


@pytest.mark.parametrize("inner", ["lora", "bitfit", "ia3"])
@pytest.mark.parametrize("name", ["text", "image"])
def test_merged_weights_of_one_context(inner, name, tmp_path):
    given, wanted = stored(tmp_path, inner)
    merged = merge(one_context(load_adapter(tmp_path), name))
    with torch.no_grad():
        assert (merged.logits(given) - wanted[name]).abs().max() <= 1e-5


@pytest.mark.parametrize("inner", ["lora", "ia3"])
def test_peft_loads_one_context(inner, tmp_path):
    from peft import PeftModel

    given, wanted = stored(tmp_path, inner)
    _, description = describe(tmp_path)
    model = one_context(load_adapter(tmp_path), "image")
    _, difference = write_peft(model, description, tmp_path / "peft")
    assert difference is not None
    network = PeftModel.from_pretrained(tiny.fresh("llama_tiny_random").model, tmp_path / "peft")
    with torch.no_grad():
        found = network.eval()(**given).logits
    assert (found - wanted["image"]).abs().max() <= 1e-5


def test_a_wrong_context_is_named(tmp_path):
    stored(tmp_path)
    with pytest.raises(ConfigError, match="context=text or image"):
        one_context(load_adapter(tmp_path), None)
    with pytest.raises(ConfigError, match="Did you mean 'text'"):
        one_context(load_adapter(tmp_path), "txt")
    with tiny.adapted(tiny.method("lora"), "llama") as model:
        assert one_context(model, None) is model
        with pytest.raises(ConfigError, match="tells no contexts apart"):
            one_context(model, "text")
