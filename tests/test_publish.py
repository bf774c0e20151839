"""A release reaches others whole or not at all, and comes back to them compared byte by byte."""

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import UsageError
from genint.manifests.recipe import load_recipe, read_recipe
from genint.pipeline.release.publish import check_terms


@pytest.fixture
def dataset(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "dataset"))


def files(folder: Path) -> dict[str, bytes]:
    """What a release is: all but what belongs to a build on one machine."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not re.match(r"records/(?!plan)", name)}


# Terms.


def test_a_natural_input_without_a_licence_is_not_published_until_somebody_says_it() -> None:
    text = 'name = "own"\nseed = 1\n[[streams]]\nname = "photos"\nsource = "natural"\nimages = "photos"\n'
    with pytest.raises(UsageError, match=r"the licence of 'photos' is not known, .* --license photos=SPDX"):
        check_terms(read_recipe(text, "own"), accepted=True)
    check_terms(read_recipe(text, "own", ["origins.photos.license=CC-BY-4.0"]), accepted=False)


def test_what_shows_imagenet_is_published_by_those_alone_who_say_that_they_may() -> None:
    with pytest.raises(UsageError, match=r"must not be published.* --accept-terms"):
        check_terms(load_recipe("genint-transfer-256"), accepted=False)
    check_terms(load_recipe("genint-transfer-256"), accepted=True)
    check_terms(load_recipe("mini"), accepted=False)


def test_publishing_under_another_licence_rewrites_the_words_alone(
    dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    shards = {name: content for name, content in files(dataset).items() if name.endswith((".tar", ".idx"))}
    result = run_cli("publish", dataset, tmp_path / "there", "--license", "fashion-mnist=CC0-1.0")
    assert result.exit_code == 0, result.err
    assert "| natural | mini-world | natural | train | 60 | 3 | 0.4 | 0 | CC0-1.0 |" in (
        (tmp_path / "there" / "README.md").read_text()
    )
    assert shards.items() <= files(tmp_path / "there").items()
    assert run_cli("verify", tmp_path / "there").exit_code == 0


# Buckets and folders.


def test_a_release_is_copied_and_fetched_whole_and_an_interrupted_copy_goes_on(
    dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    assert run_cli("publish", dataset, there).exit_code == 0
    assert files(there) == files(dataset)
    # As after an interruption: what is missing is brought, the rest is left alone.
    tar = there / "natural" / "0000" / "natural-0000001.tar"
    kept = there / "natural" / "0000" / "natural-0000000.tar"
    time = kept.stat().st_mtime_ns
    for path in (tar, there / "manifest.json"):
        path.unlink()
    assert run_cli("publish", dataset, there).exit_code == 0
    assert files(there) == files(dataset) and kept.stat().st_mtime_ns == time

    # One stream first, then the others: what is there is not read again.
    assert "(without observational, interventional)" in run_cli("fetch", there, back, "--stream", "natural").out
    assert {path.parts[-3] for path in back.rglob("*.tar")} == {"natural"}
    (there / "natural" / "0000" / "natural-0000000.tar").write_bytes(b"not read again")
    assert run_cli("fetch", there, back).exit_code == 0
    assert files(back) == files(dataset)
    assert run_cli("verify", back).exit_code == 0

    # Elsewhere, what is not as the release says is refused by name, and takes no place.
    refused = run_cli("fetch", there, tmp_path / "other")
    assert refused.exit_code == 1 and "natural-0000000.tar: not what the release says of it" in refused.err
    assert not (tmp_path / "other" / "manifest.json").exists()
    assert not list((tmp_path / "other" / "natural").rglob("*.tar"))


def test_nothing_is_published_that_does_not_verify_or_over_what_is_there(
    dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    refused = run_cli("publish", dataset, tmp_path / "full")
    assert refused.exit_code == 2 and "not empty; choose another place" in refused.err
    path = dataset / "interventional" / "0000" / "interventional-0000001.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"1")
    refused = run_cli("publish", dataset, tmp_path / "there")
    assert refused.exit_code == 1 and "interventional-0000001.tar: sha256 differs" in refused.err
    assert not (tmp_path / "there").exists()


def test_a_folder_of_another_dataset_is_not_fetched_into(
    dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    (other / "SHA256SUMS").write_bytes(b"")
    refused = run_cli("fetch", dataset, other)
    assert refused.exit_code == 2 and "holds another dataset, or another version of it" in refused.err
    missing = run_cli("fetch", dataset, tmp_path / "new", "--stream", "nature")
    assert missing.exit_code == 2 and "known: natural, observational, interventional" in missing.err


# A folder for a DOI.


def test_a_deposit_is_a_flat_folder_with_a_shard_of_each_stream(
    dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    folder = tmp_path / "deposit"
    assert run_cli("publish", dataset, f"zenodo-folder:{folder}").exit_code == 0
    names = {path.name for path in folder.iterdir()}
    assert len(names) < 100 and all(path.is_file() for path in folder.iterdir())
    assert {"recipe.toml", "manifest.json", "README.md", "croissant.json", "SHA256SUMS", "natural-00000.jsonl"} <= names
    assert {name for name in names if name.endswith(".tar")} == {
        f"{stream.name}-0000000.tar" for stream in load_dataset(str(dataset)).recipe.streams
    }
    listed = dict(line.split("  ")[::-1] for line in (folder / "DEPOSIT-SHA256SUMS").read_text().splitlines())
    assert listed.keys() == names - {"DEPOSIT-SHA256SUMS"}
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in listed.items())
    assert run_cli("publish", dataset, f"zenodo-folder:{folder}").exit_code == 2


# The hub, as far as its client talks to it.


@dataclass
class Hub:
    """A repository of the Hugging Face hub in memory: files, and the files that each commit added and removed."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[set[str], set[str]]] = field(default_factory=list)
    refuse_after: int = 1000  # commits
    tokens: set[str | None] = field(default_factory=set)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    utils = pytest.importorskip("huggingface_hub.utils")
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, content: Any, status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def entries(self, names: list[str]) -> list[dict[str, Any]]:
            return [
                {"type": "file", "path": name, "size": len(hub.files[name]), "oid": git_oid(hub.files[name])}
                for name in names
            ]

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if "/tree/main" in path:
                self.answer(self.entries(sorted(hub.files)))
            else:
                self.answer({"id": "lab/tiny", "sha": f"{len(hub.commits):040x}", "siblings": []})

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            path, body = urlsplit(self.path).path, self.body()
            if path == "/api/repos/create":
                self.answer({"url": f"{hub.address}/datasets/lab/tiny", "id": "lab/tiny"})
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                wanted = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in wanted]
                known = [{"oid": git_oid(hub.files[m["path"]])} if m["path"] in hub.files else {} for m in modes]
                self.answer({"files": [mode | oid for mode, oid in zip(modes, known, strict=True)]})
            elif "/commit/" in path and len(hub.commits) < hub.refuse_after:
                operations = [json.loads(line) for line in body.splitlines()]
                added = {o["value"]["path"]: o["value"] for o in operations if o["key"] == "file"}
                removed = {o["value"]["path"] for o in operations if o["key"] == "deletedFile"}
                hub.files = {name: content for name, content in hub.files.items() if name not in removed}
                hub.files |= {name: base64.b64decode(value["content"]) for name, value in added.items()}
                hub.commits.append((set(added), removed))
                url = f"{hub.address}/datasets/lab/tiny/commit/{len(hub.commits):040x}"
                self.answer({"success": True, "commitOid": f"{len(hub.commits):040x}", "commitUrl": url})
            else:
                self.answer({"error": "not now"}, 403)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    utils.disable_progress_bars()
    yield hub
    utils.enable_progress_bars()
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_hub_gets_a_release_with_its_manifest_last(
    dataset: Path, hub: Hub, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    hub.files = {
        "natural/0000/natural-0000099.tar": b"of an earlier release",
        ".gitattributes": b"",
        "manifest.json": b"",
    }
    hub.refuse_after = 1
    interrupted = run_cli("publish", dataset, "hf:lab/tiny")
    assert interrupted.exit_code == 1 and "hf:lab/tiny: " in interrupted.err and "hf_secret" not in interrupted.err
    assert "manifest.json" not in hub.files, interrupted.err
    hub.refuse_after = 1000
    result = run_cli("publish", dataset, "hf:lab/tiny")
    assert result.exit_code == 0, result.err
    assert result.out.endswith(f"published: {hub.address}/datasets/lab/tiny\n")
    assert {name: content for name, content in hub.files.items() if name != ".gitattributes"} == files(dataset)
    added, removed = hub.commits[0]
    assert "manifest.json" not in added
    assert removed == {"natural/0000/natural-0000099.tar", "manifest.json"}
    assert hub.commits[-1] == ({"manifest.json"}, set()) and len(hub.commits) == 2  # nothing was sent twice
    assert hub.tokens == {"Bearer hf_secret"}
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
