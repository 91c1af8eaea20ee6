"""lm-evaluation-harness on a model under an intervention.

lm_eval has no plug-ins, so its command is called through this module, which registers the model (as
``import neurotrace.evaluation.lm_eval`` does in Python):

    python -m neurotrace.evaluation.lm_eval run --model neurotrace \\
        --model_args pretrained=organism,intervention=runs/demo,family=letters,direction=to_reasoning \\
        --tasks TASK --include_path FOLDER
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from neurotrace.core.errors import InputError
from neurotrace.core.process import bars
from neurotrace.evaluation.source import Source
from neurotrace.interventions.continuing import continuations, likelihoods
from neurotrace.models.origins import context_length


@register_model("neurotrace")
class NeurotraceLM(TemplateLM):
    """`--model neurotrace`; the model arguments are those of `Source.load`."""

    def __init__(
        self,
        pretrained: Any,
        device: str | None = None,
        max_batch_size: Any = None,
        max_gen_toks: int = 256,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if device == "cuda:0" and not torch.cuda.is_available():
            device = None  # lm_eval's default
        self.source = Source.load(pretrained, device=device, **arguments)
        self.tokenizer = self.source.tokenizer
        self.limit = context_length(self.source.model)
        self.max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int:
        return self._special("eos", "bos")

    @property
    def prefix_token_id(self) -> int:
        return self._special("bos", "eos")

    def _special(self, *names: str) -> int:
        found = (getattr(self.tokenizer, f"{name}_token_id", None) for name in names)
        for token in found:
            if token is not None:
                return int(token)
        raise InputError("this task needs a first token, and the tokenizer has neither BOS nor EOS")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As the tokenizer's makers set it up, BOS included, if not told otherwise."""
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer(string, **special).input_ids)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        cut = [(context, continuation) for _, context, continuation in requests]
        if self.limit:  # of a long context the end counts
            cut = [(c[-max(1, self.limit + 1 - len(after)) :], after) for c, after in cut]
        answers = [(each.log_probability, each.greedy) for each in self._likelihoods(cut)]
        for (text, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def _likelihoods(self, asked: Sequence[Any], **how: Any) -> list[Any]:
        source = self.source
        return likelihoods(source.model, asked, source.intervention, **{**source.how, **how}, progress=bars)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts; the intervention acts at every token."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            size = self.limit or max(1, len(ids))
            for window in get_rolling_token_windows(ids, self.prefix_token_id, size, 1):
                windows.append(make_disjoint_window(window))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, each in zip(owners, self._likelihoods(windows, positions="all"), strict=True):
            totals[number] += each.log_probability
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy; requests with the same settings run together."""
        together: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            asked: dict[str, Any] = dict(normalize_gen_kwargs(request.args[1], self.max_gen_toks))
            if asked.get("do_sample") or asked.get("temperature"):
                raise InputError("neurotrace writes greedily: set do_sample: false, temperature: 0")
            key = (asked["max_gen_toks"], tuple(asked["until"]))
            together.setdefault(key, []).append(number)
        written = [""] * len(requests)
        for (tokens, stop), numbers in together.items():
            prompts = [self.tok_encode(requests[number].args[0]) for number in numbers]
            if self.limit:
                prompts = [ids[-max(1, self.limit - tokens) :] for ids in prompts]
            texts = continuations(
                self.source.model,
                prompts,
                self.source.intervention,
                max_new_tokens=tokens,
                stop=stop,
                progress=bars,
                **self.source.how,
            )
            for number, text in zip(numbers, texts, strict=True):
                written[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return written

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.source.chat(chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", "")).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Stands in the results, under `config`."""
        return self.source.about()


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except InputError as error:
        raise SystemExit(f"neurotrace: {error}") from None
