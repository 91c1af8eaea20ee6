"""Checked by mypy in `make lint`, never run: a type checker sees the signatures behind `nt`.

If it did not, the `type: ignore` below would be unused, which is an error here.
"""

# mypy: warn-unused-ignores
from typing_extensions import assert_type

import neurotrace as nt

model = nt.load_model("organism")
pairs = nt.load_pairs("arithmetic")
scores = nt.gradient(model, pairs, donor="reasoning")
assert_type(scores, nt.Scores)
assert_type(nt.patch(scores.top(8)), nt.Intervention)
nt.gradient(model, pairs, donor="up")  # type: ignore[arg-type]
nt.gradient(model, pairs, nonsense=3)  # type: ignore[call-arg]
