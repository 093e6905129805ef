"""Extra words, and a text encoder that never knew."""

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.layers.tokens import Row, vocabulary_row, words

WIDTH = 32


def rows(count: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.02)


def table(backbone: Backbone) -> nn.Embedding:
    return backbone.text_encoder.get_input_embeddings()


def test_a_word_with_a_known_words_row_reads_like_it(tiny: Backbone) -> None:
    index = tiny.tokenizer.convert_tokens_to_ids("dog</w>")
    plain = tiny.encode_text("photo of a dog running")
    with words(tiny, {"<new1>": vocabulary_row(tiny, index)}):
        learned = tiny.encode_text("photo of a <new1> running")
    assert torch.equal(learned.embeddings, plain.embeddings)
    assert int((learned.ids != plain.ids).sum()) == 1


def test_against_a_resized_table(tiny: Backbone, own_tiny: Backbone) -> None:
    parameter = rows(2)
    prompt = "a <new2> dog <new1> on the beach <new1>"
    own_tiny.tokenizer.add_tokens(["<new1>", "<new2>"])
    own_tiny.text_encoder.resize_token_embeddings(len(own_tiny.tokenizer))
    with torch.no_grad():
        table(own_tiny).weight[-2:] = parameter
        expected = own_tiny.encode_text(prompt)
        with words(tiny, {"<new1>": parameter[0], "<new2>": parameter[1]}):
            ours = tiny.encode_text(prompt)
    assert torch.equal(ours.ids, expected.ids)
    torch.testing.assert_close(ours.embeddings, expected.embeddings)


def test_gradient_reaches_the_rows_and_nothing_else(tiny: Backbone) -> None:
    parameter = rows(2)
    with words(tiny, {"<new1>": lambda: parameter[0], "<new2>": lambda: parameter[1]}):
        for _ in range(2):  # rows given as functions are read anew at every call
            tiny.encode_text("a <new1> dog").embeddings.square().sum().backward()
            with torch.no_grad():
                parameter.sub_(0.1 * parameter.grad)
    assert parameter.grad[0].abs().sum() > 0
    assert parameter.grad[1].abs().sum() == 0
    assert all(p.grad is None for p in tiny.text_encoder.parameters())


def test_rows_may_be_views_entered_once_and_trained(tiny: Backbone) -> None:
    parameter = rows(2)
    with words(tiny, {"<new1>": parameter[0], "<new2>": parameter[1]}):
        first = tiny.encode_text("a <new1> dog").embeddings
        first.square().sum().backward()
        with torch.no_grad():
            parameter.sub_(parameter.grad.sign())
        second = tiny.encode_text("a <new1> dog").embeddings
        second.square().sum().backward()
    assert not torch.equal(first, second)


def test_off_again_bit_for_bit(tiny: Backbone) -> None:
    prompt = "photo of a <new1> dog"
    tokenizer, size, before = tiny.tokenizer, len(tiny.tokenizer), tiny.encode_text(prompt)
    shape = table(tiny).weight.shape
    with pytest.raises(RuntimeError, match="on purpose"), words(tiny, {"<new1>": rows(1)[0]}):  # noqa: PT012
        assert not torch.equal(tiny.encode_text(prompt).embeddings, before.embeddings)
        assert table(tiny).weight.shape == shape
        assert tiny.tokenizer is not tokenizer
        raise RuntimeError("on purpose")
    assert tiny.tokenizer is tokenizer
    assert len(tokenizer) == size
    after = tiny.encode_text(prompt)
    assert torch.equal(after.ids, before.ids)
    assert torch.equal(after.embeddings, before.embeddings)
    assert not table(tiny)._forward_hooks
    assert not table(tiny)._forward_pre_hooks


def test_nested_words(tiny: Backbone) -> None:
    parameter = rows(3)
    named = {f"<new{i}>": row for i, row in enumerate(parameter)}
    prompt = "a <new0> dog <new2> and <new1>"
    with words(tiny, named):
        expected = tiny.encode_text(prompt)
    with words(tiny, {"<new0>": parameter[0]}):
        outer = tiny.encode_text(prompt)
        with words(tiny, {"<new1>": parameter[1], "<new2>": parameter[2]}):
            both = tiny.encode_text(prompt)
        assert torch.equal(tiny.encode_text(prompt).embeddings, outer.embeddings)
    assert torch.equal(both.ids, expected.ids)
    assert torch.equal(both.embeddings, expected.embeddings)


def test_an_id_beyond_the_words_still_fails_loudly(tiny: Backbone) -> None:
    with words(tiny, {"<new1>": rows(1)[0]}):
        with pytest.raises(IndexError):
            table(tiny)(torch.tensor([[10_000]]))
        first = table(tiny)(torch.tensor([[5, len(tiny.tokenizer) - 1]]))
        assert torch.equal(first[0, 0], table(tiny).weight[5])


def test_words_next_to_each_other_and_prefixes_of_each_other(tiny: Backbone) -> None:
    parameter = rows(11)
    with words(tiny, {f"<new{i + 1}>": row for i, row in enumerate(parameter)}):
        tokens = tiny.tokenizer.tokenize("a <new1><new10> <new11> dog")
    assert tokens == ["a</w>", "<new1>", "<new10>", "<new11>", "dog</w>"]


def test_a_table_with_spare_rows() -> None:
    class Speaker:
        def __init__(self, tokenizer: object, text_encoder: nn.Module) -> None:
            self.tokenizer, self.text_encoder = tokenizer, text_encoder

    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer) + 28, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).eval()
    speaker, row = Speaker(tokenizer, encoder), torch.ones(16)
    with words(speaker, {"<new1>": row}):
        ids = torch.tensor([speaker.tokenizer("a <new1>")["input_ids"]])
        assert int(ids.max()) == len(tokenizer) + 28
        assert torch.equal(encoder.get_input_embeddings()(ids)[ids == ids.max()], row[None])


def test_rows_in_another_precision(tiny: Backbone) -> None:
    row: Tensor = rows(1)[0].detach()
    with words(tiny, {"<new1>": row.half()}):
        half = tiny.encode_text("a <new1>").embeddings
    with words(tiny, {"<new1>": row.half().float()}):
        assert torch.equal(tiny.encode_text("a <new1>").embeddings, half)


@pytest.mark.parametrize(
    ("word", "row", "says"),
    [
        ("dog</w>", torch.zeros(WIDTH), "already has dog"),
        ("two words", torch.zeros(WIDTH), "one run of characters"),
        ("", torch.zeros(WIDTH), "one run of characters"),
        ("<new1>", torch.zeros(768), "another backbone family"),
        ("<new1>", lambda: torch.zeros(768), "another backbone family"),
    ],
)
def test_words_that_cannot_be(tiny: Backbone, word: str, row: Row, says: str) -> None:
    tokenizer = tiny.tokenizer
    with pytest.raises(StarringError, match=says), words(tiny, {word: row}):
        pass
    assert tiny.tokenizer is tokenizer


def test_putting_the_same_words_on_again_is_free_and_never_stale(own_tiny: Backbone) -> None:
    parameter = rows(2)
    with words(own_tiny, {"<new1>": parameter[0]}):
        first = own_tiny.tokenizer
    with words(own_tiny, {"<new1>": parameter[1]}):
        assert own_tiny.tokenizer is first
    with words(own_tiny, {"<new2>": parameter[1]}):
        assert own_tiny.tokenizer.tokenize("<new2>") == ["<new2>"]
        assert own_tiny.tokenizer.tokenize("<new1>") != ["<new1>"]
        own_tiny.tokenizer.add_tokens(["<meddling>"])
    with words(own_tiny, {"<new2>": parameter[1]}):
        assert own_tiny.tokenizer.tokenize("<meddling>") != ["<meddling>"]


def test_no_words_at_all(tiny: Backbone) -> None:
    tokenizer = tiny.tokenizer
    with words(tiny, {}):
        assert tiny.tokenizer is tokenizer
    with pytest.raises(StarringError, match="no row"):
        vocabulary_row(tiny, 10_000)
