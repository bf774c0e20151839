"""A dataset's folder: the same operations, and the same bytes, on a local disk, in memory and in a bucket."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from genint.manifests.errors import FormatError, GenintError, UsageError, mask_credentials
from genint.manifests.shard import sha256_of_file
from genint.manifests.storage import Storage
from genint.pipeline.cli import cli

BUCKET = "genint-tests"
ESCAPES = ["../x", "a/../../x", "/etc/passwd", "..", "", "a\\..\\x"]


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """A bucket of a local S3 server, found as a user's would be: through the environment."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty dataset folder of each kind."""
    name = uuid.uuid4().hex
    if request.param == "s3":
        request.getfixturevalue("s3")
        return Storage(f"s3://{BUCKET}/{name}")
    return Storage(f"memory://{name}" if request.param == "memory" else tmp_path / "dataset")


# One file.


def test_what_is_written_is_read_listed_measured_and_removed(storage: Storage) -> None:
    assert storage.list() == []
    assert storage.size("a/b.bin") is None
    storage.write("a/b.bin", b"12345")
    storage.write("a/a.bin", b"")
    storage.write("top.bin", b"x")
    assert storage.read("a/b.bin") == b"12345"
    assert storage.size("a/b.bin") == 5
    assert storage.size("a/a.bin") == 0
    assert storage.list("a") == ["a.bin", "b.bin"]
    assert storage.list() == ["a", "top.bin"]
    assert storage.list("nowhere") == []
    assert storage.sha256("a/b.bin") == "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
    storage.write("a/b.bin", b"67")
    assert storage.read("a/b.bin") == b"67"
    storage.remove("top.bin")
    storage.remove("top.bin")
    storage.remove("a")
    assert not storage.exists("a/b.bin")
    assert storage.list() == []


def test_exception_while_replacing_leaves_the_former_file_and_nothing_else(storage: Storage) -> None:
    storage.write("a/b.bin", b"former")

    def fail_halfway(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"), storage.replacing("a/b.bin") as path:
        fail_halfway(path)
    assert storage.read("a/b.bin") == b"former"
    assert storage.list("a") == ["b.bin"]


def test_replacing_puts_the_whole_file_in_place(storage: Storage) -> None:
    with storage.replacing("a/b.bin") as path:
        path.write_bytes(b"new")
        assert not storage.exists("a/b.bin")
    assert storage.read("a/b.bin") == b"new"


def test_fetched_file_is_the_stored_one(storage: Storage) -> None:
    storage.write("a/b.bin", b"content")
    with storage.fetched("a/b.bin") as path:
        assert path.read_bytes() == b"content"
    assert path.exists() == storage.local


def test_files_of_another_process_are_seen_after_a_listing(storage: Storage) -> None:
    storage.write("a/first.bin", b"1")
    assert storage.list("a") == ["first.bin"]
    assert not storage.exists("a/second.bin")
    # A second connection that shares no cache with the first, as another worker has.
    other = Storage(storage.url)
    other._fs = type(storage._fs)(skip_instance_cache=True)
    other.write("a/second.bin", b"22")
    assert storage.exists("a/second.bin")
    assert storage.size("a/second.bin") == 2
    assert storage.list("a") == ["first.bin", "second.bin"]


@pytest.mark.parametrize("name", ESCAPES)
def test_paths_that_leave_the_dataset_are_refused(storage: Storage, name: str) -> None:
    with pytest.raises(FormatError, match="leaves the dataset folder"):
        storage.read(name)
    with pytest.raises(FormatError, match="leaves the dataset folder"):
        storage.write(name, b"x")
    with pytest.raises(FormatError, match="leaves the dataset folder"):
        storage.remove(name)
    assert storage.list() == []


# A bucket that does not answer.


class Flaky(MemoryFileSystem):
    """A memory whose connection fails so many times."""

    failures: ClassVar[int] = 0

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if Flaky.failures:
            Flaky.failures -= 1
            raise ConnectionResetError(104, "Connection reset by peer")
        content: bytes = super().cat_file(path, start, end, **options)
        return content


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr("genint.manifests.storage.WAITS", (0, 0))
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    storage._fs = Flaky()
    storage.write("a.bin", b"12345")
    return storage


def test_a_connection_that_comes_back_is_waited_for(flaky: Storage, caplog: pytest.LogCaptureFixture) -> None:
    Flaky.failures = 2
    assert flaky.read("a.bin") == b"12345"
    assert [record.message for record in caplog.records] == [
        f"{flaky}/a.bin: [Errno 104] Connection reset by peer; trying again in 0 s"
    ] * 2
    assert flaky.read_range("a.bin", 1, 3) == b"234"


def test_a_lost_connection_is_one_line(flaky: Storage) -> None:
    Flaky.failures = 99
    with pytest.raises(GenintError, match=rf"^{flaky}/a\.bin: \[Errno 104\] Connection reset by peer$"):
        flaky.read("a.bin")
    assert Flaky.failures == 96
    fresh = Storage(flaky.url)
    fresh._fs = flaky._fs
    with pytest.raises(GenintError, match="Connection reset"):
        fresh.read("a.bin")
    assert Flaky.failures == 95  # what never answered is not asked again
    Flaky.failures = 0


@pytest.mark.parametrize("credentials", [False, True])
def test_a_bucket_out_of_reach_is_one_line(
    run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials: bool
) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x") if credentials else monkeypatch.delenv(name, raising=False)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    result = run_cli("status", "s3://bucket/x")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    reason = "Could not connect to the endpoint" if credentials else "Unable to locate credentials"
    assert (result.exit_code, result.err.count("\n")) == (1, 1)
    assert result.err.startswith(f"error: s3://bucket/x/records/plan.json: {reason}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://someone:topsecret@127.0.0.1:9/x", "https://***@127.0.0.1:9/x"),
        ("https://topsecret@127.0.0.1:9/x", "https://***@127.0.0.1:9/x"),
        ("https://127.0.0.1:9/x?X-Amz-Signature=topsecret", "https://127.0.0.1:9/x/records/plan.json?***:"),
        ("s3://key:topsec/ret@bucket/x", "s3://***@bucket/x: credentials do not belong into the URL of a bucket"),
    ],
)
def test_credentials_of_urls_are_not_shown(run_cli: Callable[..., Any], url: str, shown: str) -> None:
    result = run_cli("status", url)
    assert result.exit_code and result.err.count("\n") == 1
    assert shown in result.err and "topsec" not in result.err


def test_a_query_is_not_shown_percent_encoded_either() -> None:
    text = 'Could not connect to the endpoint URL: "http://host:9/bucket/x%3FX-Amz-Signature%3Dtopsec/plan.json"'
    assert mask_credentials(text) == 'Could not connect to the endpoint URL: "http://host:9/bucket/x%3F***"'


def test_locations_without_credentials_are_shown_whole() -> None:
    for url in ("https://host:8080/a@b/c", "s3://bucket/a@b", "a user@host /x?", "memory://x/y"):
        assert mask_credentials(f"error: {url}: no") == f"error: {url}: no"


# Where.


@pytest.mark.parametrize(
    "url",
    ["pipe:cat /etc/passwd", "pipe:curl https://example.org/x", "pipe:", "exec:rm", "pipe: cat s3://b/x", "s3:b/x"],
)
def test_command_urls_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="command URLs are refused"):
        Storage(url)


def test_unknown_scheme_is_a_users_mistake() -> None:
    with pytest.raises(UsageError, match="nonsense"):
        Storage("nonsense://bucket/name")


def test_free_bytes_of_a_folder_that_does_not_exist_yet_are_those_of_its_disk(tmp_path: Path) -> None:
    free = Storage(tmp_path / "not" / "yet").free_bytes()
    assert free is not None
    assert free > 0
    assert not (tmp_path / "not").exists()
    assert Storage("memory://x").free_bytes() is None


def test_absolute_location_does_not_depend_on_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Storage("here").absolute == str(tmp_path / "here")
    assert Storage("~/data").absolute == str(tmp_path / "home" / "data")
    assert Storage(f"file://{tmp_path}/x").absolute == str(tmp_path / "x")
    assert Storage("memory://x/y").absolute == "memory://x/y"
    assert Storage("here") / "a/b" == "here/a/b"
    assert Storage("memory://x/") / "a/b" == "memory://x/a/b"


# A whole build.


def build(recipe: Path, out: str, *options: str) -> None:
    arguments = ["build-shards", str(recipe), "--out", out, "--workers", "1", "--device", "cpu", *options]
    cli(arguments, standalone_mode=False)


@pytest.fixture(scope="module")
def local_dataset(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "dataset"
    build(tiny_recipe, str(folder))
    return folder


def test_build_into_memory_gives_the_bytes_of_a_local_build(local_dataset: Path, tiny_recipe: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    build(tiny_recipe, url)
    assert Storage(url).read("SHA256SUMS") == (local_dataset / "SHA256SUMS").read_bytes()


def test_build_into_a_bucket_is_stopped_resumed_verified_and_the_same(
    local_dataset: Path, tiny_recipe: Path, run_cli: Callable[..., Any], s3: None
) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    storage = Storage(url)
    build(tiny_recipe, url, "--stream", "natural")
    lost = "natural/0000/natural-0000001.tar"
    kept = storage._fs.info(f"{storage._root}/natural/0000/natural-0000000.tar")["LastModified"]
    storage.remove(lost)
    build(tiny_recipe, url)
    assert storage.sha256(lost) == sha256_of_file(local_dataset / lost)
    assert storage._fs.info(f"{storage._root}/natural/0000/natural-0000000.tar")["LastModified"] == kept
    assert storage.read("SHA256SUMS") == (local_dataset / "SHA256SUMS").read_bytes()
    assert storage.list("records") == ["environments", "plan.json"]

    result = run_cli("verify", url)
    assert result.exit_code == 0, result.err
    assert "10 shards, 150 samples" in result.out

    storage.write(lost, storage.read(lost)[:-512])
    result = run_cli("verify", url)
    assert result.exit_code == 1
    assert lost in result.err


def test_build_into_a_bucket_that_does_not_exist_is_one_line(
    tiny_recipe: Path, run_cli: Callable[..., Any], s3: None
) -> None:
    result = run_cli("build-shards", tiny_recipe, "--out", "s3://no-such-bucket/x", "--workers", 1, "--device", "cpu")
    assert result.exit_code == 2
    assert "s3://no-such-bucket/x" in result.err
    assert "Traceback" not in result.err
