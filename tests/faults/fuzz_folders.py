"""Generated folders and models against what reads them: an `InputError` in a line, or the result.

    python tests/faults/fuzz_folders.py --times 10000
    python tests/faults/fuzz_folders.py --times 2000 --kinds model gguf

Folders of `run`, `rank`, `circuit` and `detect`, units that are unfinished, saved circuits,
interventions, detectors and scores, and models (configuration, tokenizer, safetensors and GGUF headers):
one file of a good one is changed. In most of the folders the manifest is sealed again or its hashes taken
out, so that what is behind is met. More than two minutes is a hang, more than 12 GiB of memory or a new or
changed file outside a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gguf

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import pandas as pd
from commands import neurotrace
from fuzz import changed, outside, readers_only, scrambled, watched
from planted import planted_model, planted_pairs
from tiny_gguf import write_tiny_gguf

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.files import listed
from neurotrace.core.writing import noted
from neurotrace.folders.sealing import inside, sealed_json
from neurotrace.folders.units import JSON, TABLE, Units, many, several
from neurotrace.models.hooks import twin
from neurotrace.models.identity import model_identity
from neurotrace.results.tables import save_tables
from neurotrace.results.trust import prepare_trust, save_trust
from neurotrace.results.verify import verify

Call = Callable[[], object]
MOST = 12 << 30  # bytes of memory, beyond which an input is a failure
SLOW = 20  # seconds, after which an input is named
HUGE = [10**9, 2**31 - 1, 2**63 - 1, -1, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    draw = random.Random(options.seed)
    resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))
    counts: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        good, box = Path(home, "good"), Path(home, "box")
        make(good)
        box.mkdir()
        for turn in range(options.times):
            name = options.kinds[turn % len(options.kinds)]
            own = box / "own"
            shutil.rmtree(own, ignore_errors=True)
            call = KINDS[name](draw, good, own)
            before = outside(Path(home), own)
            begun = time.monotonic()
            try:
                with watched():
                    refused = not_taken(call)
            except BaseException as error:
                keep = Path(tempfile.mkdtemp(prefix="neurotrace-fuzz-"))
                shutil.copytree(box, keep / "box", symlinks=True)
                raise SystemExit(f"{name} {turn}: {error!r}; kept in {keep}") from error
            took = time.monotonic() - begun
            slowest = max(slowest, took)
            if took > SLOW:
                print(f"{name} {turn}: {took:.0f} s", flush=True)
            assert before == outside(Path(home), own), f"{name} {turn}: files outside the folder"
            counts[f"{name}: {'refused' if refused else 'read'}"] += 1
    print(
        f"{options.times} inputs: {dict(sorted(counts.items()))}; no traceback, hang or stray file; the "
        f"slowest took {slowest:.0f} s"
    )


def not_taken(call: Call) -> bool:
    """Whether it refused, with an InputError of one line."""
    said = None
    try:
        call()
    except InputError as error:
        said = str(error)
    assert said is None or 0 < len(said.strip()) < 5000, repr(said)[:300]
    return said is not None


def by_command(*words: str) -> Call:
    def call() -> None:
        with readers_only():
            done = neurotrace(*words)
        lines = done.stderr.splitlines()
        assert done.returncode in (0, 2), lines
        assert all(line.startswith(("neurotrace: ", "warning: ", "not shown: ")) for line in lines), lines
        assert "internal error" not in done.stderr
        if done.returncode == 2:
            raise InputError(lines[-1])

    return call


def make(good: Path) -> None:
    """One good folder of each kind."""
    for name in ("model", "gguf", "rank", "saved"):
        (good / name).mkdir(parents=True)
    model = planted_model(good / "model")
    pairs = planted_pairs()
    twin(model).save_pretrained(good / "model")
    write_tiny_gguf(good / "gguf" / "tiny.gguf")
    study = nt.study(model, pairs, kinds=["patch"], folds=2, ks=[1, 2], exact_neurons=2)
    explorer = nt.explore(model, study.encoded, study, neurons=2, pairs_each=2)
    nt.save_run(study, good / "run", model=model, probes=["planted"], explorer=explorer)
    organism = nt.load_model("organism", device="cpu")
    prompts = [prompt for name in ("arithmetic", "inference") for prompt in nt.load_prompts(name)[:120]]
    trust = nt.trust_study(organism, prompts, k=4, off="zero")
    save_trust(trust, prepare_trust(good / "run" / "trust"), model=organism, probes=["a"])
    table = pd.DataFrame([dict.fromkeys(("detector", "view", "train_family", "test_family"), "a")])
    numbers = dict.fromkeys(("auroc", "auroc_lo", "auroc_hi", "accuracy", "ece", "n"), 0.5)
    (good / "run" / "detectors.parquet").write_bytes(
        noted(table.assign(**numbers), model_identity(model) | {"command": "detect"})
    )
    found = nt.compare(model, pairs, ["gradient", "random"], ks=[1], exact_neurons=8, curve_pairs=0)
    save_tables(found, good / "rank", command="rank", seed=0)
    trust.circuit.save(good / "saved" / "circuit.safetensors")
    study.interventions[0].save(good / "saved" / "intervention.safetensors")
    next(iter(study.scores.values())).save(good / "saved" / "scores.safetensors")
    detector = nt.LinearDetector(C=1.0).fit([[0.0], [1.0], [0.1], [0.9]] * 8, [0, 1, 0, 1] * 8)
    nt.save_detector(detector, good / "saved" / "detector.safetensors")
    explorer.save(good / "saved" / "explorer.json")
    unfinished(good / "units", study)


UNIT = several(scores=many(nt.Scores), table=TABLE, said=JSON)


def unfinished(folder: Path, study: nt.Study | None = None) -> object:
    units = Units(folder)
    units.begin({"command": "fuzz"})
    made = study and {
        "scores": tuple(study.scores.values()),
        "table": study.effects.to_frame(),
        "said": study.settings,
    }
    return units.once("one", UNIT, lambda: made or {"scores": (), "table": pd.DataFrame(), "said": {}})


def spoilt(draw: random.Random, path: Path) -> None:
    """One file with bytes or values changed, or something else in its place."""
    raw = path.read_bytes()
    if path.suffix == ".json" and draw.random() < 0.6:
        with contextlib.suppress(ValueError):
            raw = json.dumps(changed(draw, json.loads(raw))).encode()
    elif path.suffix == ".parquet" and draw.random() < 0.5:
        frame = pd.read_parquet(path)
        name = draw.choice([*frame.columns] or ["x"])  # a table may be empty
        frame = draw.choice(
            [
                lambda: frame.drop(columns=name, errors="ignore"),
                lambda: frame.assign(**{name: None}),
                lambda: frame.assign(**{name: "x"}),
                lambda: frame.assign(**{name: float("nan")}),
                lambda: frame.head(0),
                lambda: frame.rename(columns={name: "\0"}),
            ]
        )()
        frame.to_parquet(path)
        return
    elif path.suffix == ".safetensors" and draw.random() < 0.6:
        raw = other_header(draw, raw)
    else:
        raw = scrambled(draw, raw)
    path.unlink()
    place = draw.random()
    if place < 0.94:
        path.write_bytes(raw)
    elif place < 0.96:
        path.symlink_to("/dev/zero")
    elif place < 0.98:
        path.mkdir()


def other_header(draw: random.Random, raw: bytes) -> bytes:
    """A safetensors file whose header, or the JSON inside it, is another."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    inner = header.get("__metadata__", {}).get("neurotrace")
    if inner and draw.random() < 0.7:
        header["__metadata__"]["neurotrace"] = json.dumps(changed(draw, json.loads(inner)))
    else:
        header = changed(draw, header)
    text = json.dumps(header).encode()
    length = draw.choice(HUGE[:3]) if draw.random() < 0.1 else len(text)
    return length.to_bytes(8, "little") + text + raw[8 + size :]


def sealed_again(draw: random.Random, folder: Path) -> None:
    """The manifest is made to fit (mostly), or names no hashes."""
    path = folder / "manifest.json"
    if path.is_symlink():  # to /dev/zero, by `spoilt`
        return
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(record, dict) or draw.random() < 0.2:
        return
    kept = {name: value for name, value in record.items() if name not in ("files", "seal")}
    if draw.random() < 0.6:
        files = {}
        for name in inside(folder):
            with contextlib.suppress(OSError):
                files[name] = listed(folder / name)
        path.write_bytes(sealed_json({**kept, "files": files}))
    else:
        path.write_bytes(json.dumps(kept).encode())


def one_of(draw: random.Random, folder: Path) -> Path:
    return draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def run(draw: random.Random, good: Path, own: Path) -> Call:
    shutil.copytree(good / "run", own)
    path = one_of(draw, own)
    spoilt(draw, path)
    sealed_again(draw, own / "trust" if path.parent.name == "trust" else own)
    page = own / "again.html"
    return draw.choice(
        [
            by_command("report", str(own), "--out", str(page)),
            by_command("compare", str(own), str(own)),
            by_command("card", str(own), "--out", str(page), "--direction", "to_reasoning"),
            by_command("verify", str(own)),
            by_command(
                "export", str(own), "--to", "json", "--out", str(own / "export"), "--model", "organism"
            ),
            lambda: nt.load_run(own).interventions(),
        ]
    )


def rank(draw: random.Random, good: Path, own: Path) -> Call:
    shutil.copytree(good / "rank", own)
    spoilt(draw, one_of(draw, own))
    sealed_again(draw, own)
    return lambda: verify(own)


def circuit(draw: random.Random, good: Path, own: Path) -> Call:
    shutil.copytree(good / "run" / "trust", own)
    spoilt(draw, own / "circuit.safetensors" if draw.random() < 0.7 else one_of(draw, own))
    sealed_again(draw, own)
    prompts = str(good / "prompts.jsonl")
    Path(prompts).write_text('{"prompt": "recall 1+1="}\n') if not Path(prompts).exists() else None
    words = ["trust", "--model", "organism", "--circuit", str(own), prompts]
    return by_command(*words) if draw.random() < 0.5 else lambda: nt.Circuit.load(own)


def saved(draw: random.Random, good: Path, own: Path) -> Call:
    shutil.copytree(good / "saved", own)
    path = one_of(draw, own)
    spoilt(draw, path)
    loads: dict[str, Callable[[Path], object]] = {
        "circuit": nt.Circuit.load,
        "intervention": nt.Intervention.load,
        "scores": nt.Scores.load,
        "detector": nt.load_detector,
        "explorer": nt.Explorer.load,
    }
    return lambda: repr(loads[path.stem](path))


def units(draw: random.Random, good: Path, own: Path) -> Call:
    shutil.copytree(good / "units", own)
    spoilt(draw, one_of(draw, own))
    return lambda: unfinished(own)


def model(draw: random.Random, good: Path, own: Path) -> Call:
    shutil.copytree(good / "model", own)
    path = one_of(draw, own)
    if path.name == "config.json" and draw.random() < 0.5:
        record = json.loads(path.read_bytes())
        record[draw.choice(["n_layer", "n_embd", "n_head", "n_inner", "vocab_size", "n_positions"])] = (
            draw.choice(HUGE)
        )
        path.write_bytes(json.dumps(record).encode())
    else:
        spoilt(draw, path)
    return lambda: nt.load_model(str(own), device="cpu")


def gguf_file(draw: random.Random, good: Path, own: Path) -> Call:
    own.mkdir()
    path = own / "tiny.gguf"
    shutil.copy(good / "gguf" / "tiny.gguf", path)
    if draw.random() < 0.6:
        reader = gguf.GGUFReader(path, "r+")
        fields = [each for each in reader.fields.values() if each.types and each.types[0].value == 4]
        field = draw.choice(fields)  # a number of 32 bits: block_count, embedding_length, ...
        field.parts[field.data[0]][0] = draw.choice([10**9, 2**31, 2**32 - 1, 0, 1])
        del reader
    else:
        path.write_bytes(scrambled(draw, path.read_bytes()))
    return lambda: nt.load_model(path, device="cpu")


KINDS: dict[str, Callable[[random.Random, Path, Path], Call]] = {
    "run": run,
    "rank": rank,
    "circuit": circuit,
    "saved": saved,
    "units": units,
    "model": model,
    "gguf": gguf_file,
}


if __name__ == "__main__":
    main()
