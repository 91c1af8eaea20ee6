"""What a framework is told about a model: which one, which intervention, where it acts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neurotrace.core.errors import InputError, one_of
from neurotrace.interventions.continuing import POSITIONS, Positions
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.identity import model_identity
from neurotrace.models.loading import load_model
from neurotrace.models.origins import tokenizer_of
from neurotrace.results.reading import load_intervention


@dataclass(frozen=True)
class Source:
    """A model under an intervention (None: unchanged).

    `how` holds what `likelihoods` and `continuations` take besides: positions and batch size.
    """

    model: Any
    intervention: Intervention | None
    how: dict[str, Any]

    @classmethod
    def load(
        cls,
        pretrained: Any,
        *,
        intervention: str | None = None,
        family: str | None = None,
        direction: str | None = None,
        fold: int | str = "all",
        positions: Positions = "onward",
        batch_size: int | str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        trust_remote_code: bool = False,
    ) -> Source:
        """Args:
            pretrained: what `nt.load_model` takes.
            intervention: a file of `Intervention.save`, or a run's folder, where `family`, `direction` and
                `fold` pick one. A patch writes the mean of its donor class.
            positions: where it acts. ``"read"``: at the context's last token; ``"onward"``: there and at
                each token behind it; ``"all"``: at every token.
            batch_size: prompts of equal length that run together; auto: 32.

        Raises:
            InputError: no such model or intervention, another model's, a value that is not expected.
        """
        if positions not in POSITIONS:
            raise InputError(f"positions={positions}: {one_of(positions, POSITIONS)}")
        size = str(32 if batch_size in (None, "auto") else batch_size)
        if not size.isdigit() or not int(size):
            raise InputError(f"batch_size={batch_size}: expected auto or a number from 1 on")
        change = None
        if intervention is not None:
            change = load_intervention(str(intervention), family=family, direction=direction, fold=fold)
        model = load_model(pretrained, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        if change is not None:
            change.check(model)
            change = change.without_donor()
        return cls(model, change, {"positions": positions, "batch_size": int(size)})

    @property
    def tokenizer(self) -> Any:
        return tokenizer_of(self.model)

    def chat(self, messages: Sequence[dict[str, str]], go_on: bool = True) -> str:
        """The prompt of a chat, by the tokenizer's template; `InputError` if it has none."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError("the model's tokenizer has no chat template: give it plain text")
        text: str = self.tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=go_on,
            continue_final_message=not go_on,
        )
        return text

    def about(self) -> dict[str, Any]:
        """Model, weights and intervention, for a framework's log: JSON types."""
        found: dict[str, Any] = {"neurotrace": dict(model_identity(self.model)), **self.how}
        if (change := self.intervention) is not None:
            found["intervention"] = {
                "kind": change.kind,
                "neurons": change.names,
                "provenance": dict(change.provenance),
            }
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return plain
