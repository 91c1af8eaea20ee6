"""Sharing through the hub, against a hub of a few routes on the loopback: nothing leaves this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote

import huggingface_hub.constants
import pytest
import torch

import neurotrace as nt
from neurotrace.core.errors import InputError

PAIRS = nt.load_pairs("arithmetic")[:4]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Repositories as commits of files: what `upload_folder` and `hf_hub_download` ask for."""
    repos: dict[str, dict] = {}  # type/owner/name -> {"private": ..., "commits": [(hash, files)]}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status=200, body=b"", **headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def read(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_POST(self):
            body, path = self.read(), unquote(self.path.partition("?")[0])
            asked.append(f"POST {path}")
            said = {}
            if path == "/api/repos/create":
                wish = json.loads(body)
                name = f"{wish.get('type') or 'model'}s/{wish.get('organization', 'me')}/{wish['name']}"
                known = name in repos
                repos.setdefault(
                    name,
                    {
                        "private": wish.get("visibility") == "private" or wish.get("private", False),
                        "commits": [],
                    },
                )
                said = {"url": f"{url}/{name.removeprefix('models/')}"}
                return self.answer(409 if known else 200, json.dumps(said).encode())
            name = "/".join(path.split("/")[2:5])
            if "/preupload/" in path:
                files = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                said = {"files": modes}
            elif "/commit/" in path:
                files = dict(repos[name]["commits"][-1][1]) if repos[name]["commits"] else {}
                for row in map(json.loads, body.splitlines()):
                    if row["key"] == "file":
                        files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                oid = hashlib.sha1(body).hexdigest()
                repos[name]["commits"].append((oid, files))
                said = {"success": True, "commitOid": oid, "commitUrl": f"{url}/{name}/commit/{oid}"}
            return self.answer(body=json.dumps(said).encode(), Content_Type="application/json")

        def do_GET(self):
            path = unquote(self.path.partition("?")[0])
            asked.append(f"{self.command} {path}")
            if "/resolve/" not in path:
                return self.answer(404)
            name, _, rest = path.strip("/").partition("/resolve/")
            name = name if name.startswith("datasets/") else f"models/{name}"
            revision, _, file = rest.partition("/")
            commits = repos.get(name, {"commits": []})["commits"]
            found = [c for c in commits if revision in ("main", c[0])][-1:]
            if not found:
                code = "RevisionNotFound" if name in repos else "RepoNotFound"
                return self.answer(404, X_Error_Code=code)
            oid, files = found[0]
            if file not in files:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
            etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
            return self.answer(body=files[file], X_Repo_Commit=oid, ETag=etag)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield SimpleNamespace(url=url, repos=repos, asked=asked, to={"endpoint": url, "token": "hf_none"})
    server.shutdown()
    server.server_close()


def intervention():
    change = nt.zero([nt.Neuron(1, 5), nt.Neuron(2, 7)], direction="to_reasoning")
    judged = {"on": "held-out pairs", "pairs": 4, "answers": 0.75, "answers_ci": [0.5, 0.9]}
    note = {"model": "tiny", "weights_sha256": "ab12", "family": "a`b\n# c", "fold": "0", "judged": judged}
    return replace(change, provenance=note)


def circuit():
    one = torch.ones(1)
    return nt.Circuit(
        (nt.Neuron(0, 1),), (nt.Neuron(1, 2),), one, 2 * one, torch.ones(2), {"model": "tiny"}
    )


def test_each_kind_comes_back_as_it_was(hub):
    for what, kind in ((intervention(), "intervention"), (circuit(), "circuit"), (PAIRS, "pairs")):
        commit = nt.push_to_hub(what, f"me/{kind}", licence="mit", **hub.to)
        again = nt.from_hub(f"me/{kind}", kind, revision=commit, **hub.to)
        if kind == "pairs":
            assert again == PAIRS
        else:
            assert again.to_frame().equals(what.to_frame())
            assert again.provenance == what.provenance
    assert set(hub.repos) == {"models/me/intervention", "models/me/circuit", "datasets/me/pairs"}
    assert all(repo["private"] is True for repo in hub.repos.values())
    for repo in hub.repos.values():
        (_, files) = repo["commits"][-1]
        assert len(files) == 2
        assert not any(b"pickle" in content or content[:2] == b"PK" for content in files.values())


def test_the_card_says_what_where_how_judged_and_the_licence(hub):
    nt.push_to_hub(intervention(), "me/a", licence="cc-by-4.0", about="A test.", judged="by hand", **hub.to)
    card = hub.repos["models/me/a"]["commits"][-1][1]["README.md"].decode()
    for words in (
        "license: cc-by-4.0",
        "A test.",
        "model `tiny`, weights sha256 ab12",
        "`zero`, to_reasoning: 2 neurons, L1.N5, L2.N7",
        "75.0% of answers flip, 95 % [50.0%, 90.0%] of 4 pairs (held-out pairs)",
        "by hand",
        'nt.from_hub("me/a", "intervention")',
    ):
        assert words in card
    assert "\n# c" not in card  # a family's name makes no heading
    nt.push_to_hub(PAIRS, "me/p", licence="mit", **hub.to)
    card = hub.repos["datasets/me/p"]["commits"][-1][1]["README.md"].decode()
    assert "4 pairs of" in card
    assert "Nothing was measured" in card
    nt.push_to_hub(circuit(), "me/c", licence="mit", private=False, **hub.to)
    assert "not calibrated" in hub.repos["models/me/c"]["commits"][-1][1]["README.md"].decode()
    assert hub.repos["models/me/c"]["private"] is False


def test_a_revision_is_the_one_asked_for(hub):
    first = nt.push_to_hub(PAIRS[:2], "me/p", licence="mit", **hub.to)
    nt.push_to_hub(PAIRS, "me/p", licence="mit", **hub.to)
    assert len(nt.from_hub("me/p", "pairs", revision=first, **hub.to)) == 2
    assert len(nt.from_hub("me/p", "pairs", **hub.to)) == 4
    with pytest.raises(InputError, match="me/p: the hub says"):
        nt.from_hub("me/p", "pairs", revision="0" * 40, **hub.to)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04", b'{"format": "other"}'])
def test_a_foreign_file_is_refused_as_a_local_one_is(hub, content):
    nt.push_to_hub(intervention(), "me/a", licence="mit", **hub.to)
    nt.push_to_hub(PAIRS, "me/p", licence="mit", **hub.to)
    hub.repos["models/me/a"]["commits"][-1][1]["intervention.safetensors"] = content
    hub.repos["datasets/me/p"]["commits"][-1][1]["pairs.jsonl"] = content
    with pytest.raises(InputError, match=r"^intervention\.safetensors of me/a: can't be read"):
        nt.from_hub("me/a", "intervention", **hub.to)
    with pytest.raises(InputError, match=r"pairs\.jsonl of me/p"):
        nt.from_hub("me/p", "pairs", **hub.to)
    with pytest.raises(InputError, match="the hub says"):  # the other kind's file is not there
        nt.from_hub("me/a", "circuit", **hub.to)


def test_what_the_hub_would_not_take_is_not_sent(hub):
    for what in ([], ["a"], {"a": 1}, nt.Neuron(0, 1)):
        with pytest.raises(InputError, match="expected a Circuit"):
            nt.push_to_hub(what, "me/a", licence="mit", **hub.to)
    with pytest.raises(InputError, match="owner/name"):
        nt.push_to_hub(PAIRS, "../a/b", licence="mit", **hub.to)
    with pytest.raises(InputError, match="licence='MIT\\\\nx'"):
        nt.push_to_hub(PAIRS, "me/a", licence="MIT\nx", **hub.to)
    with pytest.raises(InputError, match="kind='pickle'"):
        nt.from_hub("me/a", "pickle", **hub.to)
    assert hub.asked == []


def test_a_hub_out_of_reach_is_one_line(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its tries
    with pytest.raises(InputError, match=r"me/a: the hub can't be reached"):
        nt.from_hub("me/a", "pairs", endpoint="http://127.0.0.1:9", token="hf_none")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"me/a: the hub is switched off here"):
        nt.push_to_hub(PAIRS, "me/a", licence="mit", endpoint=hub.url, token="hf_none")
