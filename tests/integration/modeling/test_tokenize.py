"""What is learnt of an answer: its words and the token that ends it, and nothing that the template adds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from finetuneflow.modeling.tokenize import IGNORED, encode, encode_prompt, end_token_ids, render
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


def test_every_answer_is_learnt_where_the_template_ends_a_conversation_apart(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = str(tokenizer.chat_template) + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    turns = ["Où ?", "À Brest.", "Et Vega ?", "À Lyon."]
    messages = [
        Message(role="assistant" if index % 2 else "user", content=text) for index, text in enumerate(turns)
    ]
    encoded = encode(tokenizer, Example(messages=messages))
    learnt = tokenizer.decode([label for label in encoded.labels if label != IGNORED])
    assert learnt.replace("\n", "") == "À Brest.</turn>À Lyon.</turn><eos>"
    whole = tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False)
    assert tokenizer.decode(encoded.input_ids) == whole


def test_the_plain_template_begins_as_the_tokenizer_begins_a_text(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    question = [{"role": "user", "content": "Où ?"}]
    for bos, adds in [(None, False), ("<turn>", False), ("<turn>", True)]:
        plain = AutoTokenizer.from_pretrained(tmp_path, bos_token=bos)
        plain.chat_template = None
        if adds:
            plain.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single="<turn> $A", special_tokens=[("<turn>", plain.bos_token_id)]
            )
        assert render(plain, question, prompt=True).startswith("<turn>### Question" if adds else "### Q")
        ids = encode_prompt(plain, question)
        assert (ids[0] == plain.bos_token_id) is adds
        assert ids.count(plain.bos_token_id) == adds
