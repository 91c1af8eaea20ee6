"""Inspect on a model under an intervention, and the trust score beside each sample.

    inspect eval task.py --model neurotrace/organism -M intervention=runs/demo -M direction=to_reasoning

with ``Task(..., scorer=[match(), trust_score("runs/demo/trust")])`` in task.py.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    get_model,
    modelapi,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState
from inspect_ai.tool import ToolChoice, ToolInfo

from neurotrace.core.errors import InputError

# Inspect reads this file at each start: what needs torch is imported where it is used


class NeurotraceAPI(ModelAPI):
    """`--model neurotrace/NAME`: what `nt.load_model` takes; `-M` arguments: those of `Source.load`."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        from neurotrace.evaluation.source import Source

        self.source = Source.load(model_name, **model_args)

    def prompt(self, messages: list[ChatMessage]) -> str:
        """By the tokenizer's chat template; without one the messages' texts, one a line."""
        if getattr(self.source.tokenizer, "chat_template", None):
            return self.source.chat([{"role": m.role, "content": m.text} for m in messages])
        return "\n".join(message.text for message in messages)

    def max_connections(self) -> int:
        return 1  # calls on one model take turns

    async def count_text_tokens(self, text: str) -> int:
        return len(self.source.tokenizer(text).input_ids)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        from neurotrace.interventions.continuing import continuations

        if tools or config.temperature or (config.num_choices or 1) > 1:
            raise InputError("neurotrace writes one greedy text: no tools, temperature 0")
        ids = self.source.tokenizer(self.prompt(input)).input_ids
        (text,) = continuations(
            self.source.model,
            [ids],
            self.source.intervention,
            max_new_tokens=config.max_tokens or 16,
            stop=config.stop_seqs or (),
            **self.source.how,
        )
        output = ModelOutput.from_content(self.model_name, text)
        output.metadata = self.source.about()
        return output


@modelapi(name="neurotrace")
def neurotrace() -> type[ModelAPI]:
    return NeurotraceAPI


@scorer(metrics={name: [mean(), stderr()] for name in ("p_memory", "margin", "abstain")})
def trust_score(circuit: str) -> Scorer:
    """P(from memory) and the causal margin of the model's own next token after each sample's prompt.

    It is of the unchanged model, whatever intervention the samples run under. The score's metadata holds
    the row of `nt.trust`.

    Args:
        circuit: a calibrated circuit, as `neurotrace circuit` writes it: its folder or file.
    """

    async def score(state: TaskState, target: Target) -> Score:
        from neurotrace.answers.circuit import Circuit
        from neurotrace.answers.trust import trust

        api: Any = get_model().api
        if not isinstance(api, NeurotraceAPI):
            raise InputError("the trust score reads neurons: expected --model neurotrace/...")
        said = len(state.messages) - (state.messages[-1].role == "assistant")
        prompt = api.prompt(state.messages[:said])
        (row,) = trust(api.source.model, [prompt], Circuit.load(circuit), margin=True).rows()
        values = {name: float(row[name]) for name in ("p_memory", "margin", "abstain")}
        about = f"the unchanged model's next token {row['answer']!r}; abstain: outside the calibration"
        return Score(value=values, answer=row["answer"], explanation=about, metadata=row)

    return score
