"""`verify` names whatever is not as built: bytes against digests, and samples against the plan where digests agree."""

import gzip
import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import FormatError
from genint.manifests.manifest import Record, digest_parameters, dump_json, load_manifest, read_records
from genint.manifests.shard import ShardWriter, index_path, load_index, read_sample
from genint.manifests.storage import Storage
from genint.manifests.verification import verify_shard
from genint.pipeline.cli import cli
from PIL import Image

Samples = dict[str, dict[str, bytes]]

SHARD = "interventional/0000/interventional-0000001.tar"
PART = "manifest/interventional-00000.jsonl"
DIRECTIONS = "directions/mini-generator-gen_z.npz"


@pytest.fixture(scope="module")
def built(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    photos = folder / "photos"
    for name in ("ant", "bee"):
        (photos / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (i * 50, 0, 0)).save(photos / name / f"{i}.png")
    recipe = folder / "recipe.toml"
    natural = '[[streams]]\nname = "photos"\nsource = "natural"\nimages = "photos"\n'
    recipe.write_text(f"{tiny_recipe.read_text()}\n{natural}")
    cli(
        ["build-shards", str(recipe), "--input", f"photos={photos}", "--out", str(folder / "dataset"),
         "--workers", "1", "--device", "cpu"],
        standalone_mode=False,
    )  # fmt: skip
    return folder / "dataset"


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(built, tmp_path / "dataset"))


@pytest.fixture
def verify(dataset: Path, run_cli: Callable[..., Any]) -> Callable[[], list[str]]:
    """Verify the copy; the lines of its complaint, none if it is sound."""

    def run() -> list[str]:
        result = run_cli("verify", dataset)
        lines = [line for line in result.err.splitlines() if not line.startswith(("verify: ", "next: "))]
        assert result.exit_code == (1 if lines else 0)
        assert "Traceback" not in result.err
        return lines

    return run


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def read_shard(path: Path) -> Samples:
    with open(path, "rb") as file:
        return {key: read_sample(file.fileno(), members) for key, members in load_index(path).items()}


def write_shard(path: Path, samples: Samples) -> dict[str, Any]:
    with ShardWriter(path) as shard:
        for key, members in samples.items():
            shard.add(key, members)
    parameters = [members["json"] for members in samples.values() if "json" in members]
    return {**vars(shard.summary), "parameters_sha256": digest_parameters(parameters)}


def edit_manifest(dataset: Path, edit: Callable[[dict[str, Any]], None], seal: bool = True) -> None:
    """Change the manifest, and by default its digests of the plan and of itself."""
    path = dataset / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    if seal:
        manifest["plan_sha256"] = hashlib.sha256((dataset / "records/plan.json").read_bytes()).hexdigest()
        rest = {key: value for key, value in manifest.items() if key != "sha256"}
        manifest["sha256"] = hashlib.sha256(dump_json(rest)).hexdigest()
    path.write_text(json.dumps(manifest))


def edit_record(dataset: Path, **changes: Any) -> None:
    """Change the record of SHARD, and every digest above it: only the plan still knows better."""
    path = dataset / PART
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1].update(changes)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))

    sums = (dataset / "SHA256SUMS").read_text()
    for name, digest in ((SHARD, records[1]["sha256"]), (SHARD.replace(".tar", ".idx"), records[1]["index_sha256"])):
        sums = re.sub(rf"^\w+  {name}$", f"{digest}  {name}", sums, flags=re.MULTILINE)
    (dataset / "SHA256SUMS").write_text(sums)

    def fix_digests(manifest: dict[str, Any]) -> None:
        manifest["sums_sha256"] = hashlib.sha256(sums.encode()).hexdigest()
        for stream in manifest["streams"]:
            for part in stream["parts"]:
                if part["path"] == PART:
                    part["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
                    stream["bytes"] = sum(record["bytes"] for record in records)

    edit_manifest(dataset, fix_digests)


@pytest.fixture
def samples(dataset: Path) -> Samples:
    """The samples of SHARD, to alter and put back with `forge`."""
    return read_shard(dataset / SHARD)


@pytest.fixture
def forge(dataset: Path) -> Callable[[Samples], None]:
    """Replace SHARD and every digest of it."""
    return lambda samples: edit_record(dataset, **write_shard(dataset / SHARD, samples))


def test_sound_dataset_passes(verify: Callable[[], list[str]]) -> None:
    assert verify() == []


def test_forging_without_a_change_passes(
    verify: Callable[[], list[str]], samples: Samples, forge: Callable[[Samples], None]
) -> None:
    forge(samples)
    assert verify() == []


# Bytes against digests.


@pytest.mark.parametrize("place", ["first header", "content", "padding", "end"])
def test_flipped_byte_of_a_shard_is_caught(dataset: Path, verify: Callable[[], list[str]], place: str) -> None:
    member = next(iter(next(iter(load_index(dataset / SHARD).values())).values()))
    offset = {"first header": 0, "content": member.offset, "padding": member.offset + member.size, "end": -1}[place]
    flip(dataset / SHARD, offset)
    problem, summary = verify()
    assert problem == f"{SHARD}: sha256 differs from its record"
    assert summary.endswith("1 problems")


def test_flipped_byte_of_an_index_is_caught(dataset: Path, verify: Callable[[], list[str]]) -> None:
    path = index_path(dataset / SHARD)
    flip(path, path.read_bytes().index(b" 512 ") + 1)
    problems = verify()
    assert problems[0] == f"{path.relative_to(dataset)}: sha256 differs from its record"
    assert "does not describe its tar" in problems[1]


@pytest.mark.parametrize("kind", ["tar", "idx"])
def test_missing_file_is_named(dataset: Path, verify: Callable[[], list[str]], kind: str) -> None:
    lost = (dataset / SHARD).with_suffix(f".{kind}")
    lost.unlink()
    problem, _ = verify()
    assert problem.startswith(f"{lost.relative_to(dataset)}: missing, expected ")


def test_tar_cut_at_any_block_is_caught(dataset: Path) -> None:
    loaded = load_dataset(str(dataset))
    entry = load_manifest(loaded.storage).stream("photos")
    (record,) = read_records(loaded.storage, entry)
    path = dataset / record.path
    assert verify_shard(loaded, record) == []
    for size in range(record.bytes - tarfile.BLOCKSIZE, -1, -tarfile.BLOCKSIZE):
        os.truncate(path, size)
        (problem,) = verify_shard(loaded, record)
        assert problem == f"{record.path}: {size} bytes, expected {record.bytes}"
        # Not even a record that agrees with the cut file hides it, unless tar's own end mark is still there.
        if size % (8 * tarfile.BLOCKSIZE) == 0 and size < last_needed_byte(record, loaded.storage):
            cut = record.model_copy(update={"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
            assert verify_shard(loaded, cut) != []


def last_needed_byte(record: Record, storage: Storage) -> int:
    index = load_index(storage.local_path(record.path))
    end = max(member.offset + member.size for members in index.values() for member in members.values())
    return -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE


def test_swapped_shards_are_both_named(dataset: Path, verify: Callable[[], list[str]]) -> None:
    folder = dataset / "natural" / "0000"
    for kind in ("tar", "idx"):
        first, second = (folder / f"natural-000000{i}.{kind}" for i in (0, 1))
        first.rename(folder / "aside")
        second.rename(first)
        (folder / "aside").rename(second)
    problems = verify()[:-1]
    assert {problem.partition(":")[0].removesuffix(".idx").removesuffix(".tar") for problem in problems} == {
        "natural/0000/natural-0000000", "natural/0000/natural-0000001"
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"0" * 64 + b"  x\n"])
def test_altered_sums_are_caught(dataset: Path, verify: Callable[[], list[str]], content: bytes) -> None:
    (dataset / "SHA256SUMS").write_bytes(content)
    assert verify()[0] == "SHA256SUMS: missing or altered"


def test_missing_sums_are_caught(dataset: Path, verify: Callable[[], list[str]]) -> None:
    (dataset / "SHA256SUMS").unlink()
    assert verify()[0] == "SHA256SUMS: missing or altered"


def test_altered_directions_are_caught(dataset: Path, verify: Callable[[], list[str]]) -> None:
    flip(dataset / DIRECTIONS, -1)
    assert verify()[0] == f"{DIRECTIONS}: sha256 differs from SHA256SUMS"


@pytest.mark.parametrize("offset", [0, 200, 5000])
def test_damaged_directions_are_one_line(dataset: Path, verify: Callable[[], list[str]], offset: int) -> None:
    flip(dataset / DIRECTIONS, offset)
    assert any(DIRECTIONS in line for line in verify())


@pytest.mark.parametrize("name", [DIRECTIONS, "inputs/photos.tsv.gz", PART, "records/plan.json", "manifest.json"])
def test_missing_file_of_the_dataset_is_named(dataset: Path, verify: Callable[[], list[str]], name: str) -> None:
    (dataset / name).unlink()
    assert any(name in line and ("missing" in line or "not a finished dataset" in line) for line in verify())


@pytest.mark.parametrize("offset", [0, 4, 12, -12, -1])
def test_damaged_list_of_inputs_is_named(dataset: Path, verify: Callable[[], list[str]], offset: int) -> None:
    flip(dataset / "inputs" / "photos.tsv.gz", offset)
    assert any("inputs/photos.tsv.gz" in line for line in verify())


def test_altered_list_of_inputs_is_caught(dataset: Path, verify: Callable[[], list[str]]) -> None:
    path = dataset / "inputs" / "photos.tsv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"ant/0.png", b"ant/0.jpg")))
    problems = verify()
    assert problems[0] == "inputs/photos.tsv.gz: sha256 differs from SHA256SUMS"
    assert any("inputs/photos.tsv.gz: " in problem for problem in problems[1:])


def test_altered_manifest_part_is_caught(dataset: Path, verify: Callable[[], list[str]]) -> None:
    path = dataset / PART
    path.write_bytes(path.read_bytes().replace(b'"samples":16', b'"samples":15', 1))
    assert any("15 samples and 0 holes, planned 16 samples" in line for line in verify())


def test_a_part_of_another_text_is_caught(dataset: Path, verify: Callable[[], list[str]]) -> None:
    path = dataset / PART
    path.write_bytes(path.read_bytes().replace(b'"attempt":1', b'"attempt": 1', 1))
    assert verify()[0] == f"{PART}: sha256 differs from the manifest's"


@pytest.mark.parametrize(
    ("before", "after"), [("seed = 7", "seed = 8"), ("latents_per_class = 2", "latents_per_class = 3")]
)
def test_altered_recipe_is_caught(dataset: Path, verify: Callable[[], list[str]], before: str, after: str) -> None:
    path = dataset / "recipe.toml"
    path.write_text(path.read_text().replace(before, after))
    (line,) = verify()
    assert line.endswith("recipe.toml: not the recipe of records/plan.json; one was altered: restore it from a copy")


def test_altered_comment_in_the_recipe_is_caught(dataset: Path, verify: Callable[[], list[str]]) -> None:
    with open(dataset / "recipe.toml", "a") as file:
        file.write("# harmless\n")
    assert verify()[0] == "recipe.toml: sha256 differs from SHA256SUMS"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"name = ", b"seed = 1\n"])
def test_damaged_recipe_is_one_line(dataset: Path, verify: Callable[[], list[str]], content: bytes) -> None:
    (dataset / "recipe.toml").write_bytes(content)
    (line,) = verify()
    assert "recipe.toml: damaged" in line


@pytest.mark.parametrize("name", ["manifest.json", "records/plan.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"schema_version": 99}'])
def test_damaged_manifest_or_plan_is_one_line(
    dataset: Path, verify: Callable[[], list[str]], name: str, content: bytes
) -> None:
    (dataset / name).write_bytes(content)
    (line,) = verify()
    assert name in line


def test_plan_of_another_build_is_caught(dataset: Path, verify: Callable[[], list[str]]) -> None:
    path = dataset / "records" / "plan.json"
    plan = json.loads(path.read_text())
    plan["fingerprint"]["weights_sha256"] = "0" * 64
    path.write_text(json.dumps(plan))
    assert "records/plan.json: altered since the dataset was finished" in verify()
    edit_manifest(dataset, lambda manifest: None)
    assert "records/plan.json is not the plan of the manifest" in verify()


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["streams"][0]["class_names"].reverse(),
        lambda m: m["streams"][1].pop("remarks"),
        lambda m: m["streams"][0].update(samples=1),
        lambda m: m.update(sha256="0" * 64),
    ],
)
def test_a_manifest_altered_by_accident_is_refused_wherever_it_is_read(
    dataset: Path, verify: Callable[[], list[str]], edit: Callable[[dict[str, Any]], None]
) -> None:
    edit_manifest(dataset, edit, seal=False)
    with pytest.raises(FormatError, match=r"manifest\.json: altered since it was written; restore it from a copy, or "):
        load_manifest(Storage(str(dataset)))
    assert "manifest.json: altered since it was written" in verify()


def test_a_recipe_that_is_not_the_plan_s_is_refused_by_every_command(
    dataset: Path, run_cli: Callable[..., Any]
) -> None:
    path = dataset / "recipe.toml"
    path.write_text(path.read_text().replace("seed = ", "seed = 1", 1))
    for words in (
        ["status", dataset],
        ["preview", dataset],
        ["inspect", dataset, "natural-00000000"],
        ["verify", dataset],
    ):
        result = run_cli(*words)
        assert result.exit_code == 1
        assert "recipe.toml: not the recipe of records/plan.json; one was altered" in result.err


def test_a_manifest_without_digests_of_its_own_is_read_and_named_by_verify(
    dataset: Path, verify: Callable[[], list[str]]
) -> None:
    def before(manifest: dict[str, Any]) -> None:
        del manifest["sha256"], manifest["plan_sha256"]

    edit_manifest(dataset, before, seal=False)
    assert load_manifest(Storage(str(dataset))).streams
    assert "without the digests that this version writes; the command that built the dataset adds them" in verify()[0]


def empty_all(manifest: dict[str, Any]) -> None:
    for stream in manifest["streams"]:
        stream["parts"] = []


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (empty_all, "manifest.json: stream natural: parts = [], expected ["),
        (lambda m: m["streams"].pop(0), "manifest.json: streams observational, "),
        (lambda m: m["streams"].reverse(), "the recipe makes natural, observational"),
        (lambda m: m["streams"][0]["class_names"].reverse(), "manifest.json: stream natural: class_names = "),
        (lambda m: m["streams"][0].update(role="generated"), "role = generated, expected natural"),
        (lambda m: m["streams"][0].update(split="test"), "split = test, expected train"),
        (lambda m: m["streams"][0].update(source="natural"), "source = natural, expected mini-world"),
        (lambda m: m["streams"][0].update(image_extension="jpg"), "image_extension = jpg, expected png"),
        (lambda m: m["streams"][0].update(bytes=1), "bytes = 1, expected "),
        (lambda m: m["streams"][0]["parts"][0].update(samples=1), "parts = "),
        (lambda m: m.update(name="other"), "name 'other', the recipe says 'tiny'"),
        (lambda m: m.update(directions=None), "records/plan.json is not the plan of the manifest"),
        (lambda m: next(iter(m["environments"].values())).update(torch="1.0"), "altered"),
        (lambda m: m.update(environments={}), "environments = []"),
        (lambda m: m.update(shard_seconds=0.0), "shard_seconds = 0.0"),
        (lambda m: m["fingerprint"]["inputs"]["photos"].update(files=1), "is not the plan of the manifest"),
    ],
)
def test_every_field_of_the_manifest_is_compared_with_what_it_must_say(
    dataset: Path, verify: Callable[[], list[str]], edit: Callable[[dict[str, Any]], None], expected: str
) -> None:
    edit_manifest(dataset, edit)
    assert any(expected in problem for problem in verify())


def test_shards_that_no_part_lists_any_more_are_missed(dataset: Path, verify: Callable[[], list[str]]) -> None:
    edit_manifest(dataset, empty_all)
    for shard in dataset.glob("*/0000/*.tar"):
        shard.write_bytes(b"")
    assert verify()[-1].endswith("problems")


@pytest.mark.parametrize(
    "name", ["natural/0000/natural-0000099.tar", "natural/0001/x", "other/x.tar", "x.tar", "inputs/x.gz", "manifest/x"]
)
def test_files_that_the_dataset_does_not_have_are_named(
    dataset: Path, verify: Callable[[], list[str]], name: str
) -> None:
    (dataset / name).parent.mkdir(exist_ok=True)
    shutil.copy(dataset / SHARD, dataset / name)
    (problem, _) = verify()
    assert name.startswith(problem.partition(":")[0])


def test_what_timm_is_told_must_be_what_the_records_say(dataset: Path, verify: Callable[[], list[str]]) -> None:
    info = dataset / "interventional" / "_info.json"
    told = json.loads(info.read_text())
    told["splits"]["train"]["num_samples"] -= 1
    info.write_text(json.dumps(told))
    assert "interventional/_info.json: not what the records say" in verify()


def test_what_people_put_beside_a_dataset_is_no_problem(dataset: Path, verify: Callable[[], list[str]]) -> None:
    (dataset / "LICENSE").touch()
    (dataset / ".cache" / "huggingface").mkdir(parents=True)
    (dataset / "natural" / "0000" / f"x.tmp.{'0' * 32}").touch()
    assert verify() == []


def test_sums_must_list_what_the_records_say(dataset: Path, verify: Callable[[], list[str]]) -> None:
    path = dataset / "SHA256SUMS"
    lines = path.read_text().splitlines(keepends=True)
    for content, expected in (
        (["0" * 64 + lines[0][64:], *lines[1:]], "natural/0000/natural-0000000.tar: sha256 differs from SHA256SUMS"),
        (lines[:-1], "SHA256SUMS: 1 lines are missing"),
        ([*lines, lines[-1]], "SHA256SUMS: lists more than there is"),
    ):
        path.write_text("".join(content))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit_manifest(dataset, lambda manifest, digest=digest: manifest.update(sums_sha256=digest))
        assert verify()[0] == expected


def test_verify_says_what_it_checked(dataset: Path, run_cli: Callable[..., Any]) -> None:
    said = run_cli("verify", dataset).out
    assert said.startswith("4 streams, 11 shards, 156 samples and 14 other files: every byte ")


def test_stream_that_lost_shards_from_its_manifest_is_caught(dataset: Path, verify: Callable[[], list[str]]) -> None:
    def lose_shards(manifest: dict[str, Any]) -> None:
        manifest["streams"][0]["shards"] = 2
        manifest["streams"][0]["samples"] = 40

    edit_manifest(dataset, lose_shards)
    assert verify()[:2] == [
        "stream natural: 2 shards, the recipe makes 3",
        "stream natural: 40 samples and 0 holes, the recipe makes 60",
    ]


@pytest.mark.parametrize("path", ["../outside.tar", "/etc/passwd"])
def test_record_that_points_outside_the_dataset_is_refused(
    dataset: Path, verify: Callable[[], list[str]], path: str
) -> None:
    edit_record(dataset, path=path)
    problem, _ = verify()
    assert problem.endswith(f"path {path}, planned path {SHARD}")


# Samples against the plan: every digest agrees.


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("step_size", lambda value: value + 1e-9),
        ("step_size", lambda value: "0"),
        ("direction", lambda value: (value + 1) % 6),
        ("class_label", lambda value: (value + 1) % 10),
        ("latent_index", lambda value: 1 - value),
        ("stream", lambda value: "observational"),
        ("seed", lambda value: 8),
        ("truncation", lambda value: None),
    ],
)
def test_altered_parameter_contradicts_the_plan(
    verify: Callable[[], list[str]], samples: Samples, forge: Callable[[Samples], None], key: str, change: Any
) -> None:
    name, members = list(samples.items())[3]
    parameters = json.loads(members["json"])
    planned = parameters[key]
    parameters[key] = change(planned)
    members["json"] = json.dumps(parameters).encode()
    forge(samples)
    problem, _ = verify()
    assert problem == f"{SHARD}: {name}: {key} = {parameters[key]!r}, planned {planned!r}"


def test_float_of_another_machine_passes(
    verify: Callable[[], list[str]], samples: Samples, forge: Callable[[Samples], None]
) -> None:
    for members in samples.values():
        parameters = json.loads(members["json"])
        parameters["step_size"] *= 1 + 1e-15
        members["json"] = json.dumps(parameters).encode()
    forge(samples)
    assert verify() == []


@pytest.mark.parametrize("content", [b"", b"not json", b"[1]", b"\xff", b"3"])
def test_parameters_that_are_no_table_are_named(
    verify: Callable[[], list[str]], samples: Samples, forge: Callable[[Samples], None], content: bytes
) -> None:
    name, members = next(iter(samples.items()))
    members["json"] = content
    forge(samples)
    problem, _ = verify()
    assert problem.startswith(f"{SHARD}: {name}: parameters are ")


def test_altered_label_is_named(
    verify: Callable[[], list[str]], samples: Samples, forge: Callable[[Samples], None]
) -> None:
    name, members = next(iter(samples.items()))
    planned = int(members["cls"])
    members["cls"] = b"%d" % (planned + 1)
    forge(samples)
    assert verify()[0] == f"{SHARD}: {name}: label b'{planned + 1}', planned {planned}"


def lose_sample(samples: Samples) -> Iterator[tuple[str, dict[str, bytes]]]:
    yield from list(samples.items())[1:]


def reorder_samples(samples: Samples) -> Iterator[tuple[str, dict[str, bytes]]]:
    yield from reversed(samples.items())


def add_sample(samples: Samples) -> Iterator[tuple[str, dict[str, bytes]]]:
    yield from samples.items()
    yield "interventional-99999999", next(iter(samples.values()))


@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        (lose_sample, "15 samples and 0 holes, planned 16 samples and 0 holes"),
        (reorder_samples, f"{SHARD}: keys differ from the plan"),
        (add_sample, "17 samples and 0 holes, planned 16 samples and 0 holes"),
    ],
)
def test_lost_added_or_reordered_samples_differ_from_the_plan(
    verify: Callable[[], list[str]],
    samples: Samples,
    forge: Callable[[Samples], None],
    alter: Callable[..., Any],
    expected: str,
) -> None:
    forge(dict(alter(samples)))
    assert any(expected in problem for problem in verify())


@pytest.mark.parametrize("extension", ["jpg", "cls", "json"])
def test_lost_member_is_named(
    verify: Callable[[], list[str]], samples: Samples, forge: Callable[[Samples], None], extension: str
) -> None:
    name = list(samples)[2]
    del samples[name][extension]
    forge(samples)
    assert verify()[0] == f"{SHARD}: {name}: no member .{extension}"


def test_records_digest_of_parameters_is_checked(dataset: Path, verify: Callable[[], list[str]]) -> None:
    edit_record(dataset, parameters_sha256="0" * 64)
    assert verify()[0] == f"{SHARD}: digest of the parameters differs from its record"


def test_all_problems_are_counted_and_the_first_twenty_told(dataset: Path, verify: Callable[[], list[str]]) -> None:
    for path in [*dataset.glob("*/0000/*.tar"), *dataset.glob("*/0000/*.idx")]:
        flip(path, 600 if path.suffix == ".tar" else 0)
    (dataset / "SHA256SUMS").unlink()
    lines = verify()
    assert len(lines) == 13
    assert lines[-1] == f"error: {dataset}: 12 problems"
