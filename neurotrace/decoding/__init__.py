"""Answers as tokens: what counts as one, how probable it is, and whether greedy decoding writes it.

tokens     prompts and answers of pairs as token ids
unknown    what a tokenizer has no token for
sequences  answers as sequences of tokens, read teacher-forced from logits
endings    where a word ends, by the text of its tokens

May import: core. The caller makes the forward passes.
"""
