"""Single prompts whose outcome, memory or reasoning, varies from item to item. No torch here.

The words of a pair name the behaviour; the words of these prompts do not, and the outcome is measured
for each model. A prompt may be the changed version of another one (`perturbs` names it). A reasoned
answer stays right after the change. An answer from memory does not, because nothing is memorized about
the changed version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from neurotrace.core.pairs import PromptPair
from neurotrace.core.records import Source, read_records, refuse_same_answers, text_fields


@dataclass(frozen=True)
class Prompt:
    """One prompt with the memorized and the reasoned answer; see the module's docstring."""

    id: str
    family: str
    template: str
    group: str
    prompt: str
    memorized_answer: str
    reasoned_answer: str
    perturbs: str | None = None  # id of the prompt that this one is a changed version of
    perturbation: str | None = None  # what was changed, e.g. "swap"


PROMPT_FIELDS = tuple(field.name for field in fields(Prompt))


def load_prompts(source: Source) -> list[Prompt]:
    """Read and validate prompts.

    Args:
        source: as in `load_pairs`; of a folder, its ``prompts.jsonl``.

    Raises:
        InputError: naming file, line, field and remedy.

    Example::

        prompts = nt.load_prompts("arithmetic")
    """
    return read_records(source, "prompts", prompt_from, PROMPT_FIELDS)


def prompts_of(pairs: Iterable[PromptPair | Prompt]) -> list[Prompt]:
    """The two prompts of every pair, as single ones; prompts as they are.

    Example::

        prompts = nt.prompts_of(nt.load_pairs("arithmetic"))
    """
    found: list[Prompt] = []
    for pair in pairs:
        if isinstance(pair, Prompt):
            found.append(pair)
            continue
        answers = pair.memorized_answer, pair.reasoned_answer
        found += [
            Prompt(f"{pair.id}/{side}", pair.family, pair.template, pair.group, text, *answers)
            for side, text in (("memorization", pair.memorization), ("reasoning", pair.reasoning))
        ]
    return found


def originals(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts that are not a changed version of another."""
    return [prompt for prompt in prompts if prompt.perturbs is None]


def prompt_from(record: Any, where: str) -> Prompt:
    """The prompt of the JSON line at `where`."""
    optional = ("perturbs", "perturbation")
    prompt = Prompt(**text_fields(record, where, PROMPT_FIELDS, optional))
    refuse_same_answers(prompt.memorized_answer, prompt.reasoned_answer, where)
    return prompt
