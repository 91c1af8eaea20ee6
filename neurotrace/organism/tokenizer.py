"""The tokenizer: whole words, single digits, `<bos>` in front, a real `<unk>`."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .language import vocabulary


def make_tokenizer() -> PreTrainedTokenizerFast:
    """WordLevel over `language.vocabulary()`; `"23+45="` and `"2 3 + 4 5 ="` are the same ids."""
    vocab = vocabulary()
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    )
