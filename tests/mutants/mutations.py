"""One-line changes of the package, and the tests that must notice each."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    name: str
    file: str  # below neurotrace/
    old: str  # occurs once in the file
    new: str
    tests: tuple[str, ...]


PICKED = ("tests/core/test_neurons_scores.py",)
INTERVALS = ("tests/core/test_statistics.py",)
METRICS = ("tests/engine/test_metrics.py",)
KINDS = ("tests/interventions/test_kinds.py",)
EFFECTS = (
    "tests/interventions/test_effects.py::test_rates_count_what_happened",
    "tests/interventions/test_effects.py::test_other_donor_takes_another_pairs_values",
    "tests/interventions/test_effects.py::test_another_donor_is_of_another_group_with_other_answers",
)
RANKERS = ("tests/rankers/test_rankers.py",)
TRUST = ("tests/answers/test_leakage.py",)
ENVIRONMENTS = ("tests/detectors/test_environments.py",)
WEIGHTS = "tests/detectors/test_weights.py::"
ABLATION = ("tests/ablation/test_ablation.py",)
SCORES = ("tests/core/test_neurons_scores.py", "tests/rankers/test_registry.py")
PAIRS = ("tests/core/test_pairs.py",)
STATISTICS = ("tests/core/test_statistics.py", "tests/studies/test_significance.py")
ENCODING = ("tests/models/test_tokens_activations.py",)
SEQUENCES = ("tests/decoding/test_sequences.py",)
HOOKS = ("tests/models/test_hooks.py",)
SAME = ("tests/models/test_sameness.py",)
CHECKS = ("tests/models/test_checks.py",)
ENGINE = ("tests/engine/test_suffix.py",)
MARGIN = ("tests/answers/test_circuits.py",)
SITES = ("tests/models/test_sites.py",)
RIVALS = ("tests/answers/test_rivals.py",)
CALIBRATION = ("tests/answers/test_trust.py",)
SWEEPS = ("tests/sweeps/test_sweeps.py",)
STUDY = ("tests/studies/test_study.py",)
SELECTION = ("tests/studies/test_selection.py",)
QUIET_SEARCH = ("tests/interventions/test_quiet_search.py",)
VERDICT = ("tests/studies/test_verdict.py",)

MUTATIONS = (
    # signs
    Mutation(
        "L is turned round",
        "engine/metrics.py",
        "return (_pick(logits, memorized) - _pick(logits, reasoned)).float()",
        "return (_pick(logits, reasoned) - _pick(logits, memorized)).float()",
        METRICS,
    ),
    Mutation(
        "the sign of a direction",
        "core/sides.py",
        "return -1.0 if self is Direction.TO_REASONING else 1.0",
        "return 1.0 if self is Direction.TO_REASONING else -1.0",
        METRICS,
    ),
    Mutation(
        "donor and recipient change places",
        "core/sides.py",
        'return "reasoning" if self is Direction.TO_REASONING else "memorization"',
        'return "memorization" if self is Direction.TO_REASONING else "reasoning"',
        METRICS,
    ),
    Mutation(
        "top k from the wrong end",
        "core/scores.py",
        "return to.sign * self.value if self.signed else self.value.abs()",
        "return -to.sign * self.value if self.signed else self.value.abs()",
        PICKED,
    ),
    Mutation(
        "the sign of the shift",
        "interventions/kinds.py",
        "offset=-to.sign * s * moments_of(means).contrast",
        "offset=to.sign * s * moments_of(means).contrast",
        KINDS,
    ),
    Mutation(
        "the sign of steering",
        "interventions/kinds.py",
        "return direction.sign * strength * reference.gap * weight / total",
        "return -direction.sign * strength * reference.gap * weight / total",
        KINDS,
    ),
    Mutation(
        "a flip is counted the wrong way",
        "interventions/effects.py",
        "wanted = part.reasoned if to_reasoning else part.memorized",
        "wanted = part.memorized if to_reasoning else part.reasoned",
        EFFECTS,
    ),
    Mutation(
        "prefers is counted the wrong way",
        "interventions/effects.py",
        'moved = after["L_after"] < 0 if to_reasoning else after["L_after"] > 0',
        'moved = after["L_after"] > 0 if to_reasoning else after["L_after"] < 0',
        EFFECTS,
    ),
    Mutation(
        "KL the other way round",
        "engine/metrics.py",
        "return torch.linalg.vecdot(log_p.exp(), log_p - log_q).clamp(min=0)",
        "return torch.linalg.vecdot(log_q.exp(), log_q - log_p).clamp(min=0)",
        METRICS,
    ),
    Mutation(
        "the margin's parts change places",
        "answers/margin.py",
        "Margins(answer, found[0], found[1], found[2 + 2 * place], found[3 + 2 * place])",
        "Margins(answer, found[0], found[1], found[3 + 2 * place], found[2 + 2 * place])",
        MARGIN,
    ),
    # interventions and controls
    Mutation(
        "a patch of its own run",
        "interventions/kinds.py",
        "lambda _, __, s: Affine(keep=1 - s, gain=s)",
        "lambda _, __, s: Affine(keep=s, gain=1 - s)",
        KINDS,
    ),
    Mutation(
        "scale adds one",
        "interventions/kinds.py",
        "lambda _, __, s: Affine(keep=s)",
        "lambda _, __, s: Affine(keep=1 + s)",
        KINDS,
    ),
    Mutation(
        "steering ignores the rows' norms",
        "interventions/kinds.py",
        "weight = torch.where(norms > 0, slope / norms**2, 0.0)",
        "weight = torch.where(norms > 0, slope / norms**0, 0.0)",
        KINDS,
    ),
    Mutation(
        "other_donor takes the pair's own",
        "interventions/donors.py",
        "[next_of_other_group(encoded, place) for place in places] if foreign else places",
        "places if foreign else places",
        EFFECTS,
    ),
    Mutation(
        "another group may be the same group",
        "interventions/donors.py",
        "            other.family == own.family\n            and other.group != own.group\n",
        "            other.family == own.family\n",
        EFFECTS,
    ),
    Mutation(
        "all signs are right",
        "interventions/controls.py",
        "heads[torch.randperm(len(intervention), generator=generator)[: len(intervention) // 2]] = True",
        "heads[:] = True",
        KINDS,
    ),
    Mutation(
        "norm control writes as its activation says",
        "interventions/controls.py",
        "offset = written / values_at(reference.norms, neurons).clamp(min=1e-6)",
        "offset = written",
        KINDS,
    ),
    Mutation(
        "random neurons may be the chosen ones",
        "core/scores.py",
        "free[taken] = False",
        "free[taken] = True",
        PICKED,
    ),
    Mutation(
        "a map drops its offset",
        "interventions/intervention.py",
        "new = torch.where(keep == 0, 0, keep * values) + offset",
        "new = torch.where(keep == 0, 0, keep * values)",
        KINDS,
    ),
    # read position, batches, encoding
    Mutation(
        "the position before the last is read",
        "models/activations.py",
        "found[:, layer] = post[:, -1].detach().float().cpu()",
        "found[:, layer] = post[:, -2].detach().float().cpu()",
        ENCODING,
    ),
    Mutation(
        "slopes at the position before the last",
        "models/gradients.py",
        "changed[:, at] = changed[:, at] + nudges[layer]",
        "changed[:, at - 1] = changed[:, at - 1] + nudges[layer]",
        ENCODING,
    ),
    Mutation(
        "a pair that doesn't behave is kept",
        "models/encoding.py",
        "if recalls[row] and reasons[row]:",
        "if recalls[row] or reasons[row]:",
        ENCODING,
    ),
    Mutation(
        "answers with the same first token are kept",
        "decoding/tokens.py",
        "if set(answers[0]) & set(answers[1]):",
        "if set(answers[0]) & set(answers[1]) & {-1}:",
        ENCODING,
    ),
    Mutation(
        "a word that goes on counts as written",
        "decoding/endings.py",
        "not (rest[:1].isalnum() and before[-1:].isalnum())",
        "not (rest[:1].isalnum() and before[-1:].isalnum() and False)",
        SEQUENCES,
    ),
    Mutation(
        "one right token of a whole answer is enough",
        "decoding/sequences.py",
        "| ~self.counts).all(-1)",
        "| ~self.counts).any(-1)",
        SEQUENCES,
    ),
    Mutation(
        "the end is read behind another token",
        "decoding/sequences.py",
        "if branch[: len(sequence)] != sequence:",
        "if len(branch) < len(sequence):",
        SEQUENCES,
    ),
    Mutation(
        "the slope of a whole L adds the two answers",
        "models/gradients.py",
        "for sign, side in ((1, 0), (-1, 1)):",
        "for sign, side in ((1, 0), (1, 1)):",
        ("tests/models/test_whole.py",),
    ),
    Mutation(
        "onward ends at the prompt",
        "interventions/logits.py",
        "return tuple(range(end - 1, length))",
        "return tuple(range(end - 1, end))",
        ("tests/models/test_whole.py",),
    ),
    Mutation(
        "variance forgets the mean",
        "models/activations.py",
        "total = self.variance.mean(dim=0) + (self.contrast / 2) ** 2",
        "total = self.variance.mean(dim=0)",
        RANKERS,
    ),
    # splits
    Mutation(
        "a split by nothing",
        "core/pairs.py",
        "(test if (key, getattr(pair, by)) in held_out else train).append(pair)",
        "(test if len(test) < len(train) else train).append(pair)",
        PAIRS,
    ),
    Mutation(
        "a fold trains on its groups",
        "core/pairs.py",
        "elif not own_group and not own_template:",
        "elif not own_template:",
        PAIRS,
    ),
    Mutation(
        "a pair is held out in every fold",
        "core/pairs.py",
        "(test if own_group else train).append(pair)",
        "test.append(pair)",
        PAIRS,
    ),
    # statistics
    Mutation(
        "bootstrap over pairs instead of groups",
        "core/statistics.py",
        "names = {group: place for place, group in enumerate(dict.fromkeys(groups))}\n"
        "    member = np.array([names[group] for group in groups])",
        "names = dict(enumerate(groups))\n    member = np.arange(len(groups))",
        INTERVALS,
    ),
    Mutation(
        "an interval of 80 %",
        "core/statistics.py",
        "tail = (1 - level) / 2",
        "tail = (1 - level) * 2",
        INTERVALS,
    ),
    Mutation(
        "a rate of 1 has no interval",
        "core/statistics.py",
        "if rate in (0.0, 1.0):",
        "if rate in (2.0, 3.0):",
        INTERVALS,
    ),
    Mutation(
        "family-wise p is the single one",
        "core/statistics.py",
        "highest = sums.cummax(dim=1).values.maximum(peak[:, None])",
        "highest = sums",
        STATISTICS,
    ),
    Mutation(
        "p ends where the flips end",
        "core/statistics.py",
        "p[rare] = sign_flip_tail(values[:, rare])",
        "p[rare] = p[rare]",
        STATISTICS,
    ),
    # decisions
    Mutation(
        "the verdict compares estimates",
        "studies/verdict.py",
        "return self.low >= self.bar if self.above else self.high <= self.bar",
        "return self.rate >= self.bar if self.above else self.rate <= self.bar",
        VERDICT,
    ),
    Mutation(
        "a control that flips nothing is in doubt",
        "studies/verdict.py",
        "return rate > 0 and low <= rule.controls < high",
        "return low <= rule.controls < high",
        VERDICT,
    ),
    Mutation(
        "controls in doubt are not drawn again",
        "studies/held_out.py",
        'roles=["random", *doubtful]',
        'roles=["random"]',
        STUDY,
    ),
    Mutation(
        "a family of one group stops the others",
        "studies/selection.py",
        "    if not small or not kept:\n        return encoded\n",
        "    return encoded\n",
        STUDY,
    ),
    Mutation(
        "neurons are ranked on held-out pairs too",
        "studies/selection.py",
        "_candidates(ground, fold.train, reference, settings), reference)",
        "_candidates(ground, fold.train + fold.test, reference, settings), reference)",
        SELECTION,
    ),
    Mutation(
        "means are of held-out pairs too",
        "studies/selection.py",
        "reference = ground.evidence.reference(fold.train)",
        "reference = ground.evidence.reference(fold.train + fold.test)",
        SELECTION,
    ),
    Mutation(
        "the halves share groups",
        "studies/selection.py",
        "rest = [row for row in fold.train if pairs[row].group not in first]",
        "rest = list(fold.train)",
        SELECTION,
    ),
    Mutation(
        "each half is tried on itself",
        "studies/selection.py",
        "return [(own, rest), (rest, own)]",
        "return [(own, own), (rest, rest)]",
        SELECTION,
    ),
    Mutation(
        "candidates are compared on what ranked them",
        "studies/selection.py",
        "if len(groups) < 2:",
        "if groups:",
        SELECTION,
    ),
    Mutation(
        "near ties get no further pairs",
        "studies/selection.py",
        "if len(rivals) > 1 and further:",
        "if len(rivals) > 99 and further:",
        SELECTION,
    ),
    Mutation(
        "a control in doubt is not drawn again",
        "interventions/controls.py",
        "if int(heard.hits[place, 0].sum()) > self.few and not self.too_loud(each):",
        "if False:",
        SELECTION,
    ),
    Mutation(
        "a control is loud by its first draws alone",
        "interventions/controls.py",
        "((hits[:, 0] > self.few) & (hits.sum(-1) > self.most))",
        "(hits[:, 0] > self.few)",
        QUIET_SEARCH,
    ),
    Mutation(
        "a pair is measured twice",
        "interventions/controls.py",
        "if new := [pair for pair in pairs if not seen[pair]]:",
        "if new := list(pairs):",
        QUIET_SEARCH,
    ),
    Mutation(
        "controls don't count in the choice",
        "interventions/controls.py",
        "if not self.too_loud(each):\n                    return each",
        "if self.heard:\n                    return each",
        QUIET_SEARCH,
    ),
    Mutation(
        "a part's controls answer for the other's pairs",
        "studies/selection.py",
        "start += len(part.rows)",
        "start += 0",
        SELECTION,
    ),
    Mutation(
        "what bf16 can't tell is not run again",
        "engine/tops.py",
        "_SAFETY = 4",
        "_SAFETY = 0",
        ("tests/engine/test_tops.py",),
    ),
    Mutation(
        "rows of several prompts forget how long each is",
        "engine/edits.py",
        "places=None if self.places is None else self.places[prompts]",
        "places=None",
        ("tests/engine/test_kept.py",),
    ),
    Mutation(
        "prompts that run together answer for one another",
        "interventions/whole.py",
        "return [(batch, [prompts[row] for row in batch]) for batch in batches]",
        "return [(sorted(batch), [prompts[row] for row in batch]) for batch in batches]",
        ("tests/interventions/test_effects.py",),
    ),
    Mutation(
        "the regret compares unlike pairs",
        "studies/held_out.py",
        "if len(part) == len(chosen) and allowed(candidate):",
        "if allowed(candidate):",
        SELECTION,
    ),
    Mutation("p may be 0", "studies/held_out.py", "return (1 + sum(", "return (0 + sum(", SELECTION),
    Mutation("one random circuit", "answers/judging.py", "DRAWS = 20", "DRAWS = 1", CALIBRATION),
    # rankers
    Mutation(
        "one direction's sums serve the other",
        "rankers/gradient.py",
        'key = "sums", direction, both, *training.rows',
        'key = "sums", both, *training.rows',
        ("tests/rankers/test_from_evidence.py",),
    ),
    Mutation(
        "the gradient forgets where it goes",
        "rankers/gradient.py",
        "        total += (targets.changes(rows, values) * slopes).sum(dim=0)\n    return Scores(\n",
        "        total += slopes.sum(dim=0)\n    return Scores(\n",
        RANKERS,
    ),
    Mutation(
        "contrast is turned round",
        "models/activations.py",
        "return self.mean[1] - self.mean[0]",
        "return self.mean[0] - self.mean[1]",
        RANKERS,
    ),
    Mutation(
        "a study's two_ended is one-ended",
        "rankers/gradient.py",
        "slope = evidence.slopes[:, row].mean(dim=0) if both",
        "slope = evidence.slopes[place, row] if both",
        ("tests/rankers/test_from_evidence.py",),
    ),
    Mutation(
        "relevance through attention patterns",
        "rankers/relp_rules.py",
        "return func(*args, **kwargs).detach()",
        "return func(*args, **kwargs)",
        ("tests/rankers/test_rankers_relp_masks.py",),
    ),
    Mutation(
        "a router's softmax counts as attention",
        "rankers/relp_rules.py",
        "        patterns.met = met\n",
        "        del met\n",
        ("tests/rankers/test_rankers_relp_masks.py::test_a_routers_softmax_is_no_attention_pattern",),
    ),
    Mutation(
        "an expert's neuron is called by its index",
        "core/neurons.py",
        "return str(neuron) if experts is None else experts.name(neuron)",
        "return str(neuron)",
        ("tests/results/test_mixture_run.py",),
    ),
    # exact effects
    Mutation(
        "effects are not differences",
        "ablation/passes.py",
        "effect = one_by_one(task, of, part, new.flatten(1)[:, part].t()) - of.before",
        "effect = one_by_one(task, of, part, new.flatten(1)[:, part].t())",
        ABLATION,
    ),
    Mutation(
        "the search stops at once",
        "ablation/top.py",
        "self.count[some] += len(rows)",
        "self.count[some] += len(rows) + 1000",
        ABLATION,
    ),
    # engine and hooks
    Mutation(
        "hooks stay after an exception",
        "models/hooks.py",
        "with hooks_on(model, own_hooks), hooked(last_alone(model.unembed) if last else []):"
        "\n        return",
        "hooks_on(model, own_hooks).__enter__()\n    if True:\n        return",
        HOOKS,
    ),
    # the model that is measured is the model as it is
    Mutation(
        "a changed model goes on by its twin",
        "models/origins.py",
        "return None if what else own.twin",
        "return own.twin",
        SAME,
    ),
    Mutation(
        "weights may be missing",
        "models/checks.py",
        '_refuse(name, "lacks weights, which would be drawn at random", found["missing_keys"])',
        "pass",
        CHECKS,
    ),
    Mutation(
        "weights may be of another model",
        "models/checks.py",
        '_refuse(name, "holds weights that the model has no place for", spare)',
        "pass",
        CHECKS,
    ),
    Mutation(
        "an encoder passes",
        "models/hooks.py",
        "check_causal(name, lambda ids: run_hooked(model, ids, {})[0], info.d_vocab)",
        "pass",
        CHECKS,
    ),
    Mutation(
        "a way is never disproved",
        "engine/proof.py",
        "if not (error <= share * effect + rounding).all():",
        "if not (error <= 1e9).all():",
        ENGINE,
    ),
    Mutation(
        "how the model rounds is not measured",
        "engine/proof.py",
        "rounding = max(rounding, min(_SHAKEN * shaken, share * largest))",
        "pass",
        ENGINE,
    ),
    Mutation(
        "a prefix that is too short",
        "engine/engine.py",
        "cache = self.parts.model(ids[:, :start], use_cache=True).past_key_values",
        "cache = self.parts.model(ids[:, : start - 1], use_cache=True).past_key_values",
        ENGINE,
    ),
    Mutation(
        "blocks below the change run on",
        "engine/engine.py",
        "yield block, always(constant)",
        "yield block, block.forward",
        ENGINE,
    ),
    # sweeps on disk
    Mutation(
        "a broken part counts as whole",
        "sweeps/parts.py",
        "return seal is not None and zlib.crc32(raw[: -len(footer)]) == int(seal[1], 16)",
        "return seal is not None",
        (SWEEPS[0] + "::test_broken_parts_are_named_and_done_again",),
    ),
    Mutation(
        "another sweep is resumed",
        "sweeps/manifest.py",
        "    if found := first_differences(was, now):",
        "    if not (found := first_differences(was, now)):",
        (SWEEPS[0] + "::test_another_sweep_is_refused_by_name",),
    ),
    # trust
    Mutation(
        "the circuit is found on what is judged",
        "answers/judging.py",
        "slopes(model, data.first, progress=progress))",
        "slopes(model, data.asked, progress=progress))",
        TRUST,
    ),
    Mutation(
        "k is chosen on what is judged",
        "answers/judging.py",
        "for key in (cells := data.cells(train=True)):",
        "for key in (cells := data.cells(train=False)):",
        TRUST,
    ),
    Mutation(
        "a calibration scores what it was fitted on",
        "answers/tables.py",
        "for fitted, scored in ((held[first], held[~first]), (held[~first], held[first])):",
        "for fitted, scored in ((held, held[~first]), (held, held[first])):",
        TRUST,
    ),
    Mutation(
        "calibration from the first half too",
        "answers/tables.py",
        'held = frame[~frame["train"]]\n    groups',
        "held = frame\n    groups",
        TRUST,
    ),
    Mutation(
        "the combined score learns its own groups",
        "answers/tables.py",
        "train = known & (fold != place)",
        "train = known & (fold >= 0)",
        RIVALS,
    ),
    Mutation(
        "the combined score learns the tested family",
        "answers/tables.py",
        'train &= (strata != stratum) | (unseen == "items")',
        'train &= (strata == stratum) | (unseen == "items")',
        RIVALS,
    ),
    Mutation(
        "a rival is tuned on what is judged",
        "answers/rivals.py",
        "self.learner.choose(values[first], y[first], groups[first])",
        "self.learner.choose(values, y, groups)",
        RIVALS,
    ),
    Mutation(
        "how far unseen kinds are is taken from seen ones",
        "answers/calibration.py",
        "_axes(streams[fold != place], block).distance(",
        "_axes(streams, block).distance(",
        ("tests/answers/test_familiar.py",),
    ),
    Mutation(
        "abstention never",
        "answers/calibration.py",
        "return far | (np.abs(_margin(parts)) < self.least)",
        "return far & (np.abs(_margin(parts)) < self.least)",
        CALIBRATION,
    ),
    # detectors
    Mutation(
        "L_IP is gone",
        "detectors/environments.py",
        "return diverse + self.balance * uniform + preserve * alike",
        "return diverse + self.balance * uniform",
        ENVIRONMENTS,
    ),
    Mutation(
        "L_LI is gone",
        "detectors/environments.py",
        "return diverse + self.balance * uniform + preserve * alike",
        "return diverse + preserve * alike",
        ENVIRONMENTS,
    ),
    Mutation(
        "environments are divided once",
        "detectors/invariant.py",
        "for number in range(self.rounds):",
        "for number in range(1):",
        ENVIRONMENTS,
    ),
    Mutation(
        "the first division preserves",
        "detectors/invariant.py",
        "preserve = self.preserve if number else self.preserve_first",
        "preserve = self.preserve",
        ENVIRONMENTS,
    ),
    Mutation(
        "IRM's slope lacks the logit",
        "detectors/risks.py",
        "slope = ((torch.sigmoid(logit) - y) * logit) @ share",
        "slope = (torch.sigmoid(logit) - y) @ share",
        ("tests/detectors/test_detectors.py",),
    ),
    Mutation(
        "weights have another prior",
        "detectors/weights.py",
        "return np.exp((np.log(2) + log_g(x)) / 2)",
        "return np.exp(log_g(x) / 2)",
        (WEIGHTS + "test_without_data_the_prior_is_drawn",),
    ),
    Mutation(
        "the likelihood's gradient has another sign",
        "detectors/weights.py",
        "return x - gradient.ravel(),",
        "return x + gradient.ravel(),",
        (WEIGHTS + "test_a_narrow_likelihood_is_found_from_the_prior",),
    ),
    Mutation(
        "few effective draws converge",
        "detectors/weights.py",
        "(r_hat <= R_HAT).all() and",
        "(r_hat <= R_HAT).all() or",
        (WEIGHTS + "test_a_posterior_that_has_not_converged_is_refused",),
    ),
    Mutation(
        "patched sites: every change of a pass by the first one's rule",
        "locating/patching.py",
        "            own = padded[prompts, number, part.at]",
        "            own = padded[prompts, 0, part.at]",
        SITES,
    ),
    Mutation(
        "tokens that differ correspond from their spans' beginnings",
        "decoding/places.py",
        "found += zip(range(a_end - count, a_end), range(b_end - count, b_end), strict=True)",
        "found += zip(range(a, a + count), range(b, b + count), strict=True)",
        SITES,
    ),
    Mutation(
        "a token that one prompt has alone is no difference",
        "decoding/places.py",
        "kept = [(a, b) for a, b in both if max(a, b) >= same]",
        "kept = [(a, b) for a, b in both if min(a, b) >= same]",
        SITES,
    ),
    Mutation(
        "a part that stands twice is its first occurrence",
        "decoding/spans.py",
        "first = prompt.rindex(text)",
        "first = prompt.index(text)",
        SITES,
    ),
    Mutation(
        "tokens of a named part correspond from its beginning",
        "decoding/spans.py",
        "found[side].append(each[-count:])",
        "found[side].append(each[:count])",
        SITES,
    ),
    Mutation(
        "a pair with fewer places has the next one's at the first of them",
        "decoding/places.py",
        "rows = [[read] * (width - len(each)) + [place + read for place in each] for each in at]",
        "rows = [[0] * (width - len(each)) + [place + read for place in each] for each in at]",
        SITES,
    ),
    Mutation(
        "every place of the prompt is read out",
        "engine/parts.py",
        "return (args[0][:, -1:], *args[1:]), kwargs",
        "return (args[0][:, :1], *args[1:]), kwargs",
        SITES,
    ),
    Mutation(
        "what decides: controls don't count",
        "locating/deciding.py",
        "enough = pairs[(least >= FLIPPED) & (controls.max(axis=1, skipna=False) <= QUIET)]",
        "enough = pairs[least >= FLIPPED]",
        SITES,
    ),
    Mutation(
        "a tail is changed at its last token alone",
        "models/sites.py",
        "where: Any = tail.at if tail is ids else -1",
        "where: Any = slice(-1, None) if tail is ids else -1",
        SITES,
    ),
    Mutation(
        "slopes are not taken anew with the chosen units patched",
        "locating/pursuit.py",
        "change=change(found[-1].units))",
        "change=None)",
        SITES,
    ),
    Mutation(
        "of whole answers the wrong one is judged",
        "locating/patching.py",
        'judged.wrote[1 if donor == "reasoning" else 0]',
        'judged.wrote[0 if donor == "reasoning" else 1]',
        SITES,
    ),
    Mutation(
        "answer tokens take the places of the prompt's",
        "models/sites.py",
        "end = self.ids.shape[1] - self.behind",
        "end = self.ids.shape[1]",
        SITES,
    ),
    Mutation(
        "a GGUF header may name more than the file has",
        "models/loading.py",
        "if end > len(plain):",
        "if end > 2**62:",
        CHECKS,
    ),
    Mutation(
        "a device is read",
        "core/files.py",
        "if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):",
        "if stat.S_ISBLK(os.fstat(file.fileno()).st_mode):",
        ("tests/core/test_files.py::test_a_device_is_no_file",),
    ),
    Mutation(
        "the smallest drop",
        "answers/rivals.py",
        "np.maximum.at(drop, rows, r.own[rows] - without)",
        "np.maximum.at(drop, rows, without - r.own[rows])",
        ("tests/answers/test_rivals.py::test_less_of_the_prompt_is_asked_as_it_says",),
    ),
    Mutation(
        "a draw takes the other groups",
        "core/prompts.py",
        "if prompt.group in drawn]",
        "if prompt.group not in drawn]",
        ("tests/core/test_prompts.py",),
    ),
    Mutation(
        "what a study chose decides, however loud its control",
        "locating/studied.py",
        "decides = least >= FLIPPED and control <= QUIET",
        "decides = least >= FLIPPED",
        ("tests/models/test_sites.py::test_what_a_study_chose_is_a_row_beside_the_patches",),
    ),
    Mutation(
        "the study is left out of what decides",
        "cli/run.py",
        "found.append(pd.concat([own, patched], ignore_index=True))",
        "found.append(patched)",
        ("tests/results/test_report_trust.py::test_a_run_of_all_units_opens_with_what_decides",),
    ),
    Mutation(
        "folds' networks are pooled by their mean",
        "fusion/selector.py",
        "return softmax(np.log(np.clip(np.stack(said), 1e-12, 1)).mean(axis=0), axis=-1)",
        "return np.stack(said).mean(axis=0)",
        (
            "tests/fusion/test_deep_fusion.py::"
            "test_networks_that_agree_are_as_sure_together_and_one_that_is_not_counts_by_its_logarithm",
        ),
    ),
    Mutation(
        "a joint product is trained on its parts, too",
        "fusion/experts.py",
        "            if parts:\n",
        "            if True:\n",
        ("tests/fusion/test_modalities.py::test_a_joint_product_is_trained_on_all_views_together",),
    ),
    Mutation(
        "what decides is not sealed",
        "results/run.py",
        "files = FILES if decided is None else (*FILES, DECIDED)",
        "files = FILES",
        ("tests/results/test_report_trust.py::test_a_run_of_all_units_opens_with_what_decides",),
    ),
    Mutation(
        "the default score is the cheapest, good or not",
        "answers/tables.py",
        "        if not ahead > 0:\n            return name",
        "        if True:\n            return name",
        ("tests/answers/test_score.py",),
    ),
    Mutation(
        "a probe loses its constant",
        "answers/score.py",
        'np.einsum("pdw,dw->p", streams, self.weights)[:, None] + self.bias',
        'np.einsum("pdw,dw->p", streams, self.weights)[:, None]',
        ("tests/answers/test_score.py",),
    ),
)
