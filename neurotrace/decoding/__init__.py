"""Answers as tokens: what counts as one, how probable it is, and whether greedy decoding writes it.

tokens     prompts and answers of pairs as token ids
tokenizers a tokenizer by name; BOS, or none
unknown    what a tokenizer has no token for
sequences  answers as sequences of tokens, read teacher-forced from logits
places     which tokens of a pair's two prompts correspond: the last, those that differ, any
spans      the same by name, that of a part of the prompts, too
endings    where a word ends, by the text of its tokens

May import: core, organism. The caller makes the forward passes.
"""
