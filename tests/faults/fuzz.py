"""Generated inputs against the command line's readers: a line and exit code 0 or 2, whatever comes.

    python tests/faults/fuzz.py --times 10000

Pairs files, specs, manifests and Parquet parts: good ones with bytes or values changed, many of them
with hash or seal set right again, so that what is behind those is met. Each runs as `neurotrace sweep`
would in this process, up to where a model would be loaded; more than two minutes is a hang, and any file
outside the run's folder that is new or changed is a failure. A run that passes its check after a
manifest or a part was changed must have the very same rows, whole and filtered.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import functools
import json
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer.main

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.folders.content import content_hash
from neurotrace.sweeps.parts import sealed

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from benchmarks.open_million import made_up
from commands import neurotrace

SECONDS = 120  # of wall time, on a machine that may be busy
MODEL = "this is where a model would be loaded"
NASTY = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "0/0",
    "../../etc/x",
    "/etc/passwd",
    "a\0b",
    "\x1b[31m",
    "\ud800",
    "<script>",
    "\u202e",
    "9" * 5000,
    "x" * 10**6,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    ["../x"] * 50,
    "yes",
    "1-99999",
    "shift:nan",
    "L1.N99999999999999999999",
]
PAIR = {
    "id": "a",
    "family": "f",
    "template": "t",
    "group": "g",
    "memorization": "recall 1+1=",
    "reasoning": "think 1+1=",
    "memorized_answer": "3",
    "reasoned_answer": "2",
}
SPEC = {
    "models": ["organism", "x/y"],
    "probes": ["arithmetic", ["letters", "inference"]],
    "modes": ["zero", "shift:2"],
    "seeds": [0, 1],
    "max_pairs": 3,
    "layers": "0-2,3",
    "positions": "read",
    "part_rows": 100,
    "memory_gb": 1.5,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as home, readers_only():
        box = Path(home, "box")
        box.mkdir()
        good = rows(made_up(Path(home, "good"), pairs=3, layers=2, width=40))
        kinds: list[Callable[..., list[str]]] = [pairs_file, spec_file, manifest, part]
        for turn in range(options.times):
            kind = kinds[turn % len(kinds)]
            run = box / "run"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(Path(home, "good"), run)
            words = kind(draw, box)
            before = outside(Path(home), run)
            try:
                with watched():
                    refused = call(words, run)
                    if kind in (manifest, part):
                        refused = noticed(run, good)
            except BaseException as error:
                keep = Path(tempfile.mkdtemp(prefix="neurotrace-fuzz-"))
                shutil.copytree(box, keep / "box")
                raise SystemExit(f"{kind.__name__} {turn}: {error!r}; kept in {keep}") from error
            after = outside(Path(home), run)
            assert before == after, f"{kind.__name__} {turn}: files outside the run's folder"
            counts[f"{kind.__name__}: {'refused' if refused else 'read'}"] += 1
    print(f"{options.times} inputs: {dict(sorted(counts.items()))}; no traceback, hang or stray file")


def pairs_file(draw: random.Random, box: Path) -> list[str]:
    good = [PAIR | {"id": f"p{number}"} for number in range(3)]
    lines = [json.dumps(changed(draw, one) if draw.random() < 0.5 else one) for one in good]
    raw = "\n".join(lines).encode()
    (box / "pairs.jsonl").write_bytes(raw if draw.random() < 0.5 else scrambled(draw, raw))
    return ["--model", "organism", "--probes", str(box / "pairs.jsonl"), "--dry-run"]


def spec_file(draw: random.Random, box: Path) -> list[str]:
    record = changed(draw, SPEC) if draw.random() < 0.8 else SPEC
    raw = json.dumps(record).encode()  # JSON is YAML
    (box / "sweep.yaml").write_bytes(raw if draw.random() < 0.7 else scrambled(draw, raw))
    return ["--spec", str(box / "sweep.yaml"), "--dry-run"]


def manifest(draw: random.Random, box: Path) -> list[str]:
    path = box / "run" / "manifest.json"
    raw = path.read_bytes()
    if draw.random() < 0.6:
        record = changed(draw, json.loads(raw))
        if isinstance(record, dict) and draw.random() < 0.8:
            with contextlib.suppress(ValueError, TypeError):
                record["content_sha256"] = content_hash(record.get("content"))
        raw = json.dumps(record).encode()
    if draw.random() < 0.4:
        raw = scrambled(draw, raw)
    path.write_bytes(raw)
    return ["--resume"]


def part(draw: random.Random, box: Path) -> list[str]:
    parts = box / "run" / "parts"
    path = draw.choice(sorted(parts.glob("*.parquet")))
    if draw.random() < 0.6:
        path.write_bytes(scrambled(draw, path.read_bytes()))
    else:
        table = pq.read_table(path)
        note = json.loads(table.schema.metadata[b"neurotrace"])
        meta = {b"neurotrace": json.dumps(changed(draw, note) if draw.random() < 0.6 else note).encode()}
        name = draw.choice(table.column_names)
        table = draw.choice(
            [
                lambda: table.slice(draw.randrange(10)),
                lambda: table.drop_columns([name]),
                lambda: table.rename_columns([one.replace(name, "\0") for one in table.column_names]),
                lambda: pa.concat_tables([table, table]),
                lambda: table,
            ]
        )().replace_schema_metadata(meta if draw.random() < 0.7 else None)
        pq.write_table(table, path)
        if draw.random() < 0.7:
            path.write_bytes(sealed(path.read_bytes()))
    odd = [
        "part-1.parquet",
        "part-00000000.parquet.x",
        "part-٠٠٠٠٠٠٠٠.parquet",
        "..parquet",
        "part-99999999.parquet",
        "\x1b.parquet",
        "part-00000000.parquet\n",
    ]
    if draw.random() < 0.3:
        shutil.copy(path, parts / draw.choice(odd))
    return ["--resume"]


def changed(draw: random.Random, record: object) -> object:
    """The record with one to three of its values or names replaced, or gone."""
    copied = json.loads(json.dumps(record))
    for _ in range(draw.randint(1, 3)):
        spots: list[tuple[object, object]] = []
        collect(copied, spots)
        if not spots:
            return copy.deepcopy(draw.choice(NASTY))
        where, key = draw.choice(spots)
        action = draw.random()
        if action < 0.7:
            where[key] = copy.deepcopy(draw.choice(NASTY))  # type: ignore[index]
        elif action < 0.85:
            del where[key]  # type: ignore[attr-defined]
        elif isinstance(where, dict):
            where[draw.choice(["", "../x", "\0", "extra", "model", "x" * 1000])] = where.pop(key)
        else:
            where.append(copy.deepcopy(draw.choice(NASTY)))  # type: ignore[attr-defined]
    return copied


def collect(value: object, spots: list[tuple[object, object]]) -> None:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        spots.append((value, key))
        collect(value[key], spots)  # type: ignore[index]


def scrambled(draw: random.Random, raw: bytes) -> bytes:
    """Bytes flipped, cut out, put in, doubled, or the rest cut off."""
    data = bytearray(raw)
    for _ in range(draw.randint(1, 8)):
        if not data:
            break
        at, many = draw.randrange(len(data)), draw.randint(1, 40)
        action = draw.randrange(6)
        if action == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif action == 1:
            del data[at : at + many]
        elif action == 2:
            data[at:at] = draw.randbytes(many)
        elif action == 3:
            data[at:at] = data[at : at + many] * draw.choice([1, 2, 1000])
        elif action == 4:
            data[at:at] = draw.choice([b"[", b"{", b'"', b"\n", b"\0", b"&a ", b"*a", b"!!x "]) * many
        elif draw.random() < 0.3:
            del data[at:]
    return bytes(data)


def call(words: list[str], run: Path) -> bool:
    """Whether `neurotrace sweep …` refused: with exit code 2 and clean lines, else code 0."""
    done = neurotrace("sweep", *words, "--out", str(run))
    lines = done.stderr.splitlines()
    assert done.returncode in (0, 2), lines
    assert done.returncode == 0 or lines, "refused without a word"
    assert all(line.startswith(("neurotrace: ", "warning: ")) for line in lines), lines
    text = re.sub(r"\s", "", done.stderr)
    assert text.isprintable(), repr(done.stderr[:300])
    assert re.sub(r"\s", "", done.stdout).isprintable(), repr(done.stdout[:300])
    assert len(text) < 5000, f"{len(text)} characters for a mistake"
    return done.returncode == 2 and MODEL not in done.stderr


def rows(run: nt.SweepRun) -> list[pa.Table]:
    """All of them, and those that each of some filters leaves."""
    kept = [
        None,
        pc.field("effect") > 1,
        pc.field("pair") == "capitals-0001",
        pc.field("layer") < 1,
    ]
    return [run.dataset().to_table(filter=where) for where in kept]


def noticed(run: Path, good: list[pa.Table]) -> bool:
    """Whether the check of the run fails; if it doesn't, its rows are what they were."""
    try:
        opened = nt.open_run(run)
        opened.check()
    except InputError:
        return True
    found = rows(opened)
    assert all(a.equals(b) for a, b in zip(found, good, strict=True)), "other rows pass the check"
    return False


@contextlib.contextmanager
def watched():
    """More than `SECONDS` inside is an error, or, where Arrow hears no signal, the end."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def readers_only():
    """No model is loaded: what would load one is refused instead. The command tree is built once."""

    def refuse(*_: object, **__: object) -> None:
        raise InputError(MODEL)

    with (
        mock.patch("neurotrace.sweeps.driver.load", refuse),
        mock.patch("neurotrace.sweeps.estimate.estimate", refuse),
        mock.patch("typer.main.get_command", functools.cache(typer.main.get_command)),
    ):
        yield


def outside(home: Path, run: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of change, of all that is not in the run's folder."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in home.rglob("*")
        if run not in path.parents and path != run and path.is_file()
    }


if __name__ == "__main__":
    main()
