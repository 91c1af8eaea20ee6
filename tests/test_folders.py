"""Folders and files, ours and somebody else's: no link is followed, nothing is replaced but a file."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import neurotrace, refused

import neurotrace as nt
from neurotrace.core import writing
from neurotrace.core.errors import InputError


@pytest.fixture(scope="module")
def asked(planted_folder):
    return nt.Sweep(str(planted_folder), (str(planted_folder),), part_rows=100, threads=1)


@pytest.fixture
def secret(tmp_path):
    """A file outside, which must stay as it is."""
    path = tmp_path / "secret"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


@pytest.fixture
def run(asked, tmp_path):
    nt.sweep(asked, tmp_path / "run")
    return tmp_path / "run"


# -- a sweep's folder


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("hard", [False, True])
def test_a_lock_that_is_a_link_is_not_written(asked, run, secret, tmp_path, hard, there):
    lock = run / "locks" / "shard-1-of-1.lock"
    lock.unlink()
    target = secret if there else tmp_path / "new"
    if hard:
        os.link(secret, lock)
    else:
        lock.symlink_to(target)
    with pytest.raises(InputError, match=r"symbolic link|file of its own"):
        nt.sweep(asked, run)
    assert not (tmp_path / "new").exists()


def test_a_lock_that_is_a_fifo_does_not_hang(asked, run):
    lock = run / "locks" / "shard-1-of-1.lock"
    lock.unlink()
    os.mkfifo(lock)
    os.mkfifo(run / "locks" / "shard-1-of-2.lock")
    with pytest.raises(InputError, match="file of its own"):
        nt.sweep(asked, run)


@pytest.mark.parametrize("name", ["parts", "locks"])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_a_link_is_not_entered(asked, run, tmp_path, name, there):
    outside = tmp_path / "outside"
    (run / name).rename(tmp_path / "kept")
    if there:
        outside.mkdir()
        (outside / "part-00000000.parquet").write_text("somebody's")
    (run / name).symlink_to(outside)
    with pytest.raises(InputError, match="symbolic link"):
        nt.sweep(asked, run)
    if name == "parts":
        with pytest.raises(InputError, match="symbolic link"):
            nt.open_run(run)
    assert outside.exists() is there
    assert [each.name for each in outside.glob("*")] == ["part-00000000.parquet"] * there


def test_special_files_in_a_sweep_are_damaged_parts(asked, run):
    expected = nt.open_run(run).to_frame()
    parts = sorted((run / "parts").iterdir())
    for part in parts[:2]:
        part.unlink()
    os.mkfifo(parts[0])
    parts[1].symlink_to("/dev/zero")
    assert len(nt.open_run(run).broken) == 2
    with pytest.warns(UserWarning, match="set aside"):
        assert nt.sweep(asked, run).computed == 2
    assert nt.open_run(run).to_frame().equals(expected)


@pytest.mark.parametrize("kind", ["fifo", "zero", "link"])
def test_a_manifest_that_is_no_file_is_refused(run, tmp_path, kind):
    manifest = run / "manifest.json"
    manifest.rename(tmp_path / "manifest.json")
    if kind == "fifo":
        os.mkfifo(manifest)
    else:
        manifest.symlink_to("/dev/zero" if kind == "zero" else tmp_path / "manifest.json")
    with pytest.raises(InputError, match=r"manifest\.json"):
        nt.open_run(run)


# -- --out


def special(path: Path, kind: str, secret: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        except PermissionError:
            pytest.skip("only root makes devices")
    elif kind == "link":
        path.symlink_to(secret)
    else:
        path.symlink_to(secret.parent / "nowhere")


IMPORT = ("--columns", "memorization=memorization")
KINDS = ("fifo", "device", "link", "dangling")


@pytest.mark.parametrize("kind", KINDS)
def test_only_files_are_replaced(kind, tmp_path, secret):
    out = tmp_path / "out.jsonl"
    special(out, kind, secret)
    before = os.lstat(out)
    for write in (
        lambda: writing.write_atomically(out, b"x"),
        lambda: writing.write_whole(out, lambda path: path.write_bytes(b"x")),
        lambda: writing.save_file(out, b"x"),
        lambda: writing.prepare_file(out),
        lambda: writing.prepare_folder(tmp_path, (out.name,), overwrite=True),
        lambda: writing.write_folder(out, lambda folder: None),
    ):
        with pytest.raises(InputError, match=r"out\.jsonl"):
            write()
    assert os.lstat(out) == before
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_a_command_is_no_device_fifo_or_link(kind, tmp_path, secret, planted_folder):
    out = tmp_path / "out.jsonl"
    special(out, kind, secret)
    pairs = str(planted_folder / "pairs.jsonl")
    refused(neurotrace("probes", "import", pairs, *IMPORT, "--out", str(out)), "out.jsonl")
    refused(neurotrace("probes", "mine", pairs, "--model", "x/y", "--out", str(out)), "out.jsonl")


def test_an_import_does_not_replace_its_source(tmp_path, planted_folder):
    source = tmp_path / "pairs.jsonl"
    source.write_bytes((planted_folder / "pairs.jsonl").read_bytes())
    os.link(source, tmp_path / "same.jsonl")
    before = source.read_bytes()
    for out in ("pairs.jsonl", "same.jsonl"):
        done = neurotrace("probes", "import", str(source), *IMPORT, "--out", str(tmp_path / out))
        refused(done, "the source itself")
    assert source.read_bytes() == before


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_have_the_mode_of_the_umask_and_keep_their_own(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        writing.write_atomically(tmp_path / "a", b"x")
        writing.write_whole(tmp_path / "b", lambda path: path.write_bytes(b"x"))
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
        (tmp_path / "a").chmod(0o640)
        writing.write_atomically(tmp_path / "a", b"y")
        assert (modes, stat.S_IMODE((tmp_path / "a").stat().st_mode)) == ([mode, mode], 0o640)
    finally:
        os.umask(before)


@pytest.mark.parametrize("out", ["memory://run", "s3://bucket/run", "file:///x/run"])
def test_a_url_is_no_folder_of_a_run(out, tmp_path, planted_folder):
    words = ["--model", "x/y", "--probes", str(planted_folder), "--out", out]
    for command in ("run", "rank"):
        refused(neurotrace(command, *words, cwd=tmp_path), "expected a path")
    assert not list(tmp_path.iterdir())


def test_a_sweep_into_memory_is_refused(planted_folder):
    """It would be gone when the process ends."""
    words = ["--model", str(planted_folder), "--probes", str(planted_folder)]
    refused(neurotrace("sweep", *words, "--out", "memory://run"), "memory")


# -- one way to write a file

PACKAGE = Path(nt.__file__).parent
WRITES = ("write_text", "write_bytes", "write_html", "write_image", "savefig", "save_pretrained")
MOVES = (
    "os.replace",
    "os.rename",
    "shutil.move",
    "shutil.copy",
    "shutil.rmtree",
    "tempfile.mkstemp",
)
ELSEWHERE = {
    ("core/writing.py", "os.replace"),
    ("core/writing.py", "shutil.rmtree"),
    ("plots/style.py", "write_image"),  # under a name of `save_whole`
    ("exports/checkpoint.py", "save_pretrained"),  # into a folder of `write_folder`
    ("models/activations.py", "open xb"),  # a new file, mapped while it is filled
    ("core/files.py", "shutil.copy"),  # a copy to read
    ("organism/training.py", "save_pretrained"),
    ("organism/mixture.py", "save_pretrained"),
    ("organism/mixture.py", "write_text"),
    ("organism/training.py", "write_text"),
    ("organism/probes.py", "write_text"),
    ("organism/truth.py", "write_text"),
    ("organism/card.py", "write_text"),
    ("organism/__main__.py", "write_text"),  # made once, packaged
    ("paper/training.py", "save_pretrained"),
    ("paper/lora.py", "save_pretrained"),
}


def writes(tree: ast.AST) -> Iterator[str]:
    """What puts bytes under a name, call by call."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        last = called.rpartition(".")[2]
        words = [each.value for each in node.args if isinstance(each, ast.Constant)]
        modes = [word for word in words if isinstance(word, str) and set(word) & set("wxa+")]
        if last in WRITES:
            yield last
        elif called in MOVES:
            yield called
        elif last == "open" and modes and "fs." not in called:  # fsspec's: `Folder.writing`
            yield f"open {modes[0]}"
        elif last in ("to_csv", "to_json", "to_parquet", "dump") and (
            (node.args and last != "dump") or (last == "dump" and "json" in called)
        ):
            yield last


def test_one_module_writes_files():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        found |= {(name, what) for what in writes(ast.parse(path.read_text("utf-8")))}
    assert found - ELSEWHERE == set()
    assert ELSEWHERE - found == set()  # no exception outlives its reason


@pytest.fixture
def full(monkeypatch):
    """A disk on which nothing more can be synced."""

    def fail(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def test_a_write_that_is_cut_loses_nothing(tmp_path, full, model, pairs):
    import plotly.graph_objects as go

    explorer = nt.Explorer({"format": "neurotrace.explorer/1", "model": "m"})
    scores = nt.Scores("gradient", torch.zeros(2, 3))
    saves = {
        "a.json": explorer.save,
        "b.html": explorer.save,
        "d.safetensors": scores.save,
        "c.html": lambda path: nt.save_figure(go.Figure(), path),
    }
    for name, save in saves.items():
        (tmp_path / name).write_text("old")
        with pytest.raises(InputError, match="No space left"):
            save(tmp_path / name)
        with pytest.raises(InputError, match="No space left"):
            save(tmp_path / f"new-{name}")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(saves, "old")


def test_a_folder_is_put_in_place_whole(tmp_path, monkeypatch):
    def fill(folder: Path) -> None:
        (folder / "new").write_text("new")
        (folder / "deep").mkdir()

    folder = tmp_path / "folder"
    writing.write_folder(folder, fill)
    (folder / "old").write_text("old")
    with monkeypatch.context() as cut:
        cut.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "cut")))
        with pytest.raises(OSError, match="cut"):
            writing.write_folder(folder, fill)
    assert sorted(each.name for each in folder.iterdir()) == ["deep", "new", "old"]
    writing.write_folder(folder, fill)
    assert sorted(each.name for each in folder.iterdir()) == ["deep", "new"]
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_pages_load_and_send_nothing(tmp_path):
    import plotly.graph_objects as go

    nt.save_figure(go.Figure(), tmp_path / "a.html")
    nt.Explorer({"model": "m", "width": 1, "layers": 1, "scores": []}).save(tmp_path / "b.html")
    for path in tmp_path.iterdir():
        head = path.read_text().partition("</head>")[0][:1000]
        assert "Content-Security-Policy" in head
        assert "default-src 'none'" in head
    templates = [
        path for path in (PACKAGE / "results" / "templates").glob("*.j2") if "<html" in path.read_text()
    ]
    assert len(templates) == 3
    said = ("{{ policy }}", "Content-Security-Policy")
    assert all(any(word in path.read_text() for word in said) for path in templates)


# -- when all the work is done, it is saved

ODD = (os.fsdecode(b"a\xffb"), "a[/b]x", "[bold]", "\x1b[31m")


@pytest.mark.parametrize("name", ODD)
def test_no_name_of_a_folder_costs_the_work(name, planted_folder, tmp_path):
    of = ["--model", str(planted_folder), "--probes", str(planted_folder), "--out", name]
    for words in (
        ["rank", *of, "--methods", "random"],
        [
            "run",
            *of,
            "--folds",
            "2",
            "--intervention",
            "patch",
            "--method",
            "gradient",
            "--overwrite",
        ],
        ["report", name],
    ):
        done = neurotrace(*words, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    assert "report.html" in os.listdir(os.fsencode(tmp_path / name).decode("utf-8", "surrogateescape"))


def test_memory_that_ends_in_the_report_costs_only_the_report(planted_folder, tmp_path, monkeypatch):
    from neurotrace.results import report

    def ends(*_, **__):
        raise MemoryError

    of = ["--model", str(planted_folder), "--probes", str(planted_folder), "--out", "out"]
    with monkeypatch.context() as patch:
        for name in ("write_report", "write_comparison"):
            patch.setattr(report, name, ends)
        patch.setattr("neurotrace.results.explorer.explore", ends)
        for words in (
            ["rank", *of, "--methods", "random"],
            ["run", *of, "--folds", "2", "--intervention", "patch", "--method", "gradient", "--overwrite"],
        ):
            done = neurotrace(*words, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert "memory ran out while report.html was made" in done.stderr
    assert neurotrace("report", "out", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("file", ["manifest.json", "summary.json", "effects.parquet", "neurons.csv"])
@pytest.mark.parametrize("kind", ["fifo", "zero"])
def test_special_files_in_a_run_are_refused(file, kind, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / file).unlink()
    if kind == "fifo":
        os.mkfifo(run / file)
    else:
        (run / file).symlink_to("/dev/zero")
    with pytest.raises(InputError, match=file):
        nt.load_run(run)


@pytest.fixture(scope="module")
def finished(planted_folder, tmp_path_factory):
    """A run's folder."""
    out = tmp_path_factory.mktemp("finished") / "run"
    of = ["--model", str(planted_folder), "--probes", str(planted_folder), "--out", str(out)]
    done = neurotrace("run", *of, "--folds", "2", "--intervention", "patch", "--method", "gradient")
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("name", ["n_layer", "num_hidden_layers", "n_embd", "vocab_size"])
def test_absurd_configurations_are_refused(name, planted_folder, tmp_path):
    from neurotrace.sweeps.cost import config_from_file
    from neurotrace.sweeps.estimate import _read

    folder = tmp_path / "model"
    shutil.copytree(planted_folder, folder)
    settings = json.loads((folder / "config.json").read_text()) | {name: 10**9}
    (folder / "config.json").write_text(json.dumps(settings))
    for read in (nt.load_model, config_from_file, _read):
        with pytest.raises(InputError, match=f"{name} is 1000000000"):
            read(str(folder))


@pytest.mark.parametrize("name", ["block_count", "embedding_length", "head_count", "feed_forward_length"])
def test_absurd_headers_are_refused(name, tmp_path):
    import gguf
    from tiny_gguf import write_tiny_gguf

    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    place = f"attention.{name}" if "head" in name else name
    field = gguf.GGUFReader(path, "r+").fields[f"llama.{place}"]
    field.parts[field.data[0]][0] = 10**9

    with pytest.raises(InputError, match=f"{name} is 1000000000, expected 1 to"):
        nt.load_model(path)


def test_offline_means_no_url(monkeypatch):
    from neurotrace.sweeps.folders import open_folder

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for url in ("http://127.0.0.1:9/x", "simplecache::http://127.0.0.1:9/x", "s3://bucket/run"):
        with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
            open_folder(url)
    assert open_folder("memory://x").url == "memory://x"


# -- two writers

HOLDS = """
import sys
from pathlib import Path
from neurotrace.core.writing import hold_folder
hold_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("command", ["run", "rank", "detect", "circuit", "checkpoints"])
def test_a_second_writer_is_refused_and_the_first_named(command, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert first.stdout.readline() == b"held\n"
        model = ["x/y"] if command == "checkpoints" else ["--model", "x/y"]
        words = [command, *model, "--probes", "arithmetic", "--out", str(out)]
        refused(neurotrace(*words), f"process {first.pid}")
    finally:
        first.kill()  # with -9
        first.communicate()
    assert os.listdir(out) == []
    assert "being written" not in neurotrace(*words).stderr
