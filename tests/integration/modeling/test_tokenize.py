"""What is learnt of an answer: its words and the token that ends it, and nothing that the template adds."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from finetuneflow.modeling.tokenize import IGNORED, encode, end_token_ids
from finetuneflow.schemas.example import Example, Message

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One whose turns end with a special token that has no role, as Gemma's `<end_of_turn>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    fast.add_tokens([AddedToken("<turn>", special=True), AddedToken("</turn>", special=True)])
    fast.chat_template = (
        "{% for message in messages %}<turn>{{ message.role }}\n{{ message.content }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
    return fast


def test_the_loss_ends_with_the_token_that_ends_the_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    example = Example(
        messages=[Message(role="user", content="Où ?"), Message(role="assistant", content="À Brest.")]
    )
    encoded = encode(tokenizer, example)
    learnt = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(learnt) == "À Brest.</turn>"
    assert tokenizer.decode(encoded.input_ids).endswith("</turn>\n")


def test_generation_stops_at_the_end_of_a_turn_and_of_a_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.decode([token]) for token in end_token_ids(tokenizer)] == ["<eos>", "</turn>"]
