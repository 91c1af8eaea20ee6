"""A tokenizer by name, and what it puts before a prompt."""

import pytest

import neurotrace as nt
from neurotrace.decoding.tokenizers import load_tokenizer, with_bos


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("organism")  # begins with BOS


def test_bos_is_put_before_each_prompt_or_taken_away(tokenizer):
    first, *rest = tokenizer("recall").input_ids
    assert first == tokenizer.bos_token_id
    plain = with_bos(tokenizer, False)
    assert plain("recall").input_ids == rest
    assert with_bos(plain, True)("recall").input_ids == [first, *rest]
    assert tokenizer("recall").input_ids == [first, *rest]  # the one that was given stays
    assert with_bos(tokenizer, True) is tokenizer
    assert with_bos(plain, None) is plain


def test_a_tokenizer_without_bos_is_refused():
    none = load_tokenizer("organism")
    none.bos_token = None
    with pytest.raises(nt.InputError, match="has no BOS token"):
        with_bos(none, True)


def test_a_slow_tokenizer_is_refused(tokenizer):
    class Slow:
        bos_token, bos_token_id, is_fast = "<s>", 1, False  # not what it puts there

        def __call__(self, text):
            return tokenizer(text)

    with pytest.raises(nt.InputError, match="no fast tokenizer"):
        with_bos(Slow(), True)
