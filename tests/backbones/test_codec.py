"""What a network's codec asks of a tokenizer."""

import pytest
import texts
from transformers import PreTrainedTokenizerFast

from peftbench.backbones.codec import Codec
from peftbench.errors import IncompatibleError


def test_a_tokenizer_without_an_end_is_refused_in_words():
    own = texts.tokenizer("decoder")
    bare = PreTrainedTokenizerFast(tokenizer_object=own._tokenizer, unk_token="<unk>")
    for name in ("end", "pad"):
        with pytest.raises(IncompatibleError, match="eos_token"):
            getattr(Codec(bare, "decoder"), name)
    bare.sep_token = "[SEP]"
    assert Codec(bare, "encoder").end == texts.WORDS.index("[SEP]")
