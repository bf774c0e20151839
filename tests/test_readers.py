"""A release is read without us: by webdataset, Hugging Face datasets, sha256sum, tar and Croissant's own library."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from genint.manifests.manifest import load_manifest, read_records
from genint.manifests.shard import load_index, read_sample
from genint.manifests.storage import Storage
from genint.pipeline.cli import cli
from genint.pipeline.release.croissant import describe_shard
from PIL import Image

SAMPLES = {"natural": 60, "observational": 30, "interventional": 60}
EXTENSION = {"natural": "png", "observational": "jpg", "interventional": "jpg"}


@pytest.fixture(scope="module")
def release(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "tiny"
    arguments = ["build-shards", str(tiny_recipe), "--out", str(folder), "--workers", "1", "--device", "cpu"]
    cli(arguments, standalone_mode=False)
    return folder


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hugging Face datasets without network, progress bars or the user's cache."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def shards(release: Path, stream: str) -> list[str]:
    return [str(path) for path in sorted(release.glob(f"{stream}/*/*.tar"))]


def read_labels(release: Path, stream: str) -> dict[str, int]:
    """Labels by key, read with our own index."""
    labels = {}
    for path in map(Path, shards(release, stream)):
        with open(path, "rb") as file:
            for key, members in load_index(path).items():
                labels[key] = int(read_sample(file.fileno(), members)["cls"])
    return labels


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves tars to the collector
@pytest.mark.parametrize("stream", SAMPLES)
def test_webdataset_reads_every_sample_in_order(release: Path, stream: str) -> None:
    samples = list(webdataset.WebDataset(shards(release, stream), shardshuffle=False).decode("pil"))
    assert {sample["__key__"]: sample["cls"] for sample in samples} == read_labels(release, stream)
    assert [sample["__key__"] for sample in samples] == list(read_labels(release, stream))
    assert len(samples) == SAMPLES[stream]
    for sample in samples:
        assert sample["json"]["class_label"] == sample["cls"]
        assert sample[EXTENSION[stream]].size == (32, 32)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_the_glob_that_the_card_shows(release: Path) -> None:
    card = (release / "README.md").read_text()
    pattern = card.partition('webdataset.WebDataset("')[2].partition('"')[0]
    samples = list(webdataset.WebDataset(str(release / pattern), shardshuffle=False))
    assert len(samples) == SAMPLES["natural"]


@pytest.mark.parametrize("stream", SAMPLES)
def test_hugging_face_reads_the_shards(release: Path, stream: str, offline: None) -> None:
    from datasets import load_dataset

    table = load_dataset("webdataset", data_files={"train": shards(release, stream)}, split="train")
    assert dict(zip(table["__key__"], table["cls"], strict=True)) == read_labels(release, stream)
    assert isinstance(table[0][EXTENSION[stream]], Image.Image)


@pytest.mark.parametrize("stream", SAMPLES)
def test_hugging_face_reads_a_stream_of_the_folder_by_the_cards_configs(
    release: Path, stream: str, offline: None
) -> None:
    from datasets import get_dataset_config_names, load_dataset

    assert get_dataset_config_names(str(release)) == list(SAMPLES)
    table = load_dataset(str(release), stream, split="train")
    assert len(table) == SAMPLES[stream]
    first = table[0]
    assert first["json"]["stream"] == stream
    assert np.asarray(first[EXTENSION[stream]]).shape == (32, 32, 3)


def test_hugging_face_streams_without_a_copy(release: Path, offline: None) -> None:
    from datasets import load_dataset

    streamed = load_dataset(str(release), "interventional", split="train", streaming=True)
    found = {sample["__key__"]: sample["json"]["direction"] for sample in streamed}
    assert len(found) == 60
    assert set(found.values()) == set(range(6))


def test_card_is_valid_yaml_with_a_config_for_each_stream(release: Path) -> None:
    _, header, body = (release / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert [config["config_name"] for config in card["configs"]] == list(SAMPLES)
    assert card["size_categories"] == ["n<1K"]
    for name, samples in SAMPLES.items():
        assert f"| {name} |" in body
        assert f"| {samples} |" in body
        assert (release / "preview" / f"{name}.jpg").is_file()


def test_sha256sum_checks_the_release(release: Path) -> None:
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release, capture_output=True, text=True, timeout=120
    )
    assert checked.returncode == 0, checked.stderr
    listed = {line.partition(":")[0] for line in checked.stdout.splitlines()}
    on_disk = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.suffix in {".tar", ".idx"}}
    described = {"README.md", "croissant.json", "recipe.toml", "records/plan.json"}
    for stream in SAMPLES:
        described |= {f"preview/{stream}.jpg", f"{stream}/_info.json"}
    assert listed == on_disk | described | {"directions/mini-generator-gen_z.npz"}


def test_system_tar_extracts_a_shard(release: Path, tmp_path: Path) -> None:
    first = release / "natural" / "0000" / "natural-0000000.tar"
    subprocess.run(["tar", "-xf", first, "-C", tmp_path], check=True, timeout=120)
    assert len(list(tmp_path.iterdir())) == 20 * 4
    parameters = json.loads(min(tmp_path.glob("*.json")).read_text())
    with Image.open(tmp_path / f"natural-{parameters['sample_index']:08d}.png") as image:
        assert image.size == (32, 32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib.*")
def test_croissant_is_valid_and_lists_the_shards(release: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(release / "croissant.json")
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert not issues.warnings
    sums = dict(reversed(line.split("  ")) for line in (release / "SHA256SUMS").read_text().splitlines())
    for stream, samples in SAMPLES.items():
        records = list(dataset.records(f"{stream}-shards"))
        assert sum(record[f"{stream}-shards/samples"] for record in records) == samples
        found = {
            record[f"{stream}-shards/path"].decode(): record[f"{stream}-shards/sha256"].decode() for record in records
        }
        assert found == {
            path: digest for path, digest in sums.items() if path.startswith(f"{stream}/") and ".tar" in path
        }


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib.*")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # mlcroissant leaves members to the collector
def test_croissant_yields_every_image_and_its_label(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", extract.epath.Path(tmp_path / "extracted"))
    dataset = mlcroissant.Dataset(release / "croissant.json")
    for stream in SAMPLES:
        images, labels = (list(dataset.records(f"{stream}-{part}")) for part in ("images", "labels"))
        keys = [record[f"{stream}-images/key"].decode() for record in images]
        assert keys == [record[f"{stream}-labels/key"].decode() for record in labels]
        found = {key: record[f"{stream}-labels/class_label"] for key, record in zip(keys, labels, strict=True)}
        assert found == read_labels(release, stream)
        assert images[0][f"{stream}-images/image"].size == (32, 32)
        if stream == "natural":
            masks = list(dataset.records("natural-masks"))
            assert [record["natural-masks/key"].decode() for record in masks] == keys
            assert all(record["natural-masks/mask"].size == (32, 32) for record in masks)
    assert "cr:SegmentationMask" in (release / "croissant.json").read_text()


def test_croissant_says_what_venues_ask_for(release: Path) -> None:
    facts = json.loads((release / "croissant.json").read_text())
    assert facts["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    for field in (
        "dataLimitations", "dataBiases", "personalSensitiveInformation", "dataUseCases", "dataSocialImpact",
    ):  # fmt: skip
        assert facts[f"rai:{field}"]
    assert facts["rai:hasSyntheticData"] is True
    assert facts["license"] == ["https://spdx.org/licenses/Apache-2.0", "https://spdx.org/licenses/MIT"]
    assert (facts["version"], facts["datePublished"]) == ("1.0.0", "2026-11-25")
    assert "url" not in facts  # nobody has said where this dataset is
    # Where it comes from: digests of what was used, and what that was trained on.
    manifest = load_manifest(Storage(release))
    assert manifest.generator is not None
    origins = {entity["@id"]: entity for entity in facts["prov:wasDerivedFrom"]}
    assert origins["origin/mini"]["sc:sha256"] == manifest.generator.weights_sha256
    assert origins["origin/mini"]["prov:wasDerivedFrom"] == [{"@id": "origin/fashion-mnist"}]
    (build,) = facts["prov:wasGeneratedBy"]
    used = {entity["prov:label"]: entity["sc:sha256"] for entity in build["prov:used"] if "prov:label" in entity}
    for name in ("recipe.toml", "directions/mini-generator-gen_z.npz"):
        assert used[name] == hashlib.sha256((release / name).read_bytes()).hexdigest()
    derived = {record_set["@id"]: record_set.get("prov:wasDerivedFrom") for record_set in facts["recordSet"]}
    assert derived["natural-shards"] == [{"@id": "origin/fashion-mnist"}]
    assert derived["interventional-shards"] == [{"@id": "origin/mini"}]


def test_croissant_addresses_tell_shards_of_one_name_apart(release: Path) -> None:
    # mlcroissant keeps what it has extracted by address, and would read another dataset's shard of the same name.
    storage = Storage(release)
    entry = load_manifest(storage).stream("natural")
    addresses = set()
    for record in read_records(storage, entry):
        for digest in (record.sha256, hashlib.sha256(record.sha256.encode()).hexdigest()):
            address = describe_shard(record.model_copy(update={"sha256": digest}))["contentUrl"]
            assert (release / address).samefile(release / record.path)
            addresses.add(address)
    assert len(addresses) == 2 * entry.shards


def test_hugging_face_reads_the_first_stream_where_nobody_says_which(release: Path, offline: None) -> None:
    from datasets import load_dataset

    # As timm's hfds/ calls it.
    assert load_dataset(str(release), split="train")[0]["json"]["stream"] == "natural"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("stream", SAMPLES)
def test_timm_is_told_files_and_lengths_of_each_split(release: Path, stream: str) -> None:
    info = json.loads((release / stream / "_info.json").read_text())
    (split,) = info["splits"].values()
    assert info["splits"].keys() == {split["name"]} == {"train"}
    assert split["num_samples"] == sum(split["shard_lengths"]) == SAMPLES[stream]
    for name, length in zip(split["filenames"], split["shard_lengths"], strict=True):
        shard = str(release / stream / name)
        assert len(list(webdataset.WebDataset(shard, shardshuffle=False))) == length
    assert [str(release / stream / name) for name in split["filenames"]] == shards(release, stream)
