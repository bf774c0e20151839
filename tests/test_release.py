"""What a release says of itself: versions, licences, limits and provenance, each file of it pinned by the sums."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genint.manifests.errors import RecipeError
from genint.manifests.manifest import load_manifest
from genint.manifests.origins import dataset_license, find_origin, known_origins, stream_license, unlicensed
from genint.manifests.recipe import load_recipe, read_recipe, shipped_recipes
from genint.manifests.storage import Storage
from genint.pipeline.release import description
from genint.pipeline.release.card import hub_license

PHOTOS = """
name = "own"
seed = 1
[[streams]]
name = "photos"
source = "natural"
images = "photos"
"""


@pytest.fixture
def dataset(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "dataset"))


def make_it_of_before(dataset: Path) -> None:
    """Take what version 0.1.0 did not have: the card among the sums, a version, and keys that decide nothing."""
    recipe = dataset / "recipe.toml"
    head, _, rest = recipe.read_text().partition("[card]")
    words = 'notes = "words"\nlicense = "MIT (objects), and more"\n'
    recipe.write_text(head.replace('notes = ""\nlicense = ""\n', words) + rest[rest.index("[generator]") :])
    plan = json.loads((dataset / "records" / "plan.json").read_text())
    plan["fingerprint"]["recipe"] |= {"notes": "words", "license": "MIT (objects), and more"}
    (dataset / "records" / "plan.json").write_text(json.dumps(plan))
    (dataset / "README.md").write_text("# built on a Tuesday\n")
    lines = (dataset / "SHA256SUMS").read_text().splitlines(keepends=True)
    digest = hashlib.sha256(recipe.read_bytes()).hexdigest()
    kept = [line for line in lines if line.rstrip().endswith((".tar", ".idx", ".npz"))] + [f"{digest}  recipe.toml\n"]
    (dataset / "SHA256SUMS").write_text("".join(kept))
    manifest = json.loads((dataset / "manifest.json").read_text())
    for name in ("version", "sha256", "plan_sha256"):
        del manifest[name]
    manifest["fingerprint"] = plan["fingerprint"]
    manifest["recipe_sha256"] = read_recipe(recipe.read_text(), "before").digest()
    manifest["sums_sha256"] = hashlib.sha256("".join(kept).encode()).hexdigest()
    (dataset / "manifest.json").write_text(json.dumps(manifest))


def shard_sums(dataset: Path) -> list[str]:
    return [line for line in (dataset / "SHA256SUMS").read_text().splitlines() if line.endswith(".tar")]


# Reproducible to the last file.


def test_datasets_of_before_are_read_and_brought_up_to_date(
    dataset: Path, tiny_recipe: Path, run_cli: Callable[..., Any]
) -> None:
    shards = shard_sums(dataset)
    make_it_of_before(dataset)
    (problem, summary) = [line for line in run_cli("verify", dataset).err.splitlines() if "verify: " not in line]
    assert "the command that built the dataset adds them" in problem and summary.endswith("1 problems")
    assert load_manifest(Storage(dataset)).version is None

    again = run_cli("build-shards", tiny_recipe, "--out", dataset, "--workers", 1)
    assert again.exit_code == 0, again.err
    assert load_manifest(Storage(dataset)).version == "1.0.0"
    assert "Version 1.0.0 of 2026-11-25." in (dataset / "README.md").read_text()
    assert shard_sums(dataset) == shards
    assert run_cli("verify", dataset).exit_code == 0


def test_words_change_without_a_shard_being_made_again(
    dataset: Path, tiny_recipe: Path, run_cli: Callable[..., Any]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*.tar")}
    command = ("build-shards", tiny_recipe, "--out", dataset, "--workers", 1)
    assert run_cli(*command, "--set", "version=1.0.1", "--set", "notes=Said better.").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*.tar")} == before
    assert "Said better." in (dataset / "README.md").read_text()
    assert json.loads((dataset / "croissant.json").read_text())["version"] == "1.0.1"
    assert run_cli("verify", dataset).exit_code == 0


@pytest.mark.parametrize("name", ["README.md", "croissant.json", "preview/natural.jpg", "records/plan.json"])
def test_an_altered_card_is_named(dataset: Path, run_cli: Callable[..., Any], name: str) -> None:
    with open(dataset / name, "ab") as file:
        file.write(b"\n")
    found = run_cli("verify", dataset)
    assert found.exit_code == 1
    assert f"{name}: sha256 differs from SHA256SUMS" in found.err


def test_a_finished_datasets_sheets_stay_as_they_are(dataset: Path, run_cli: Callable[..., Any]) -> None:
    (dataset / "preview" / "natural.jpg").unlink()
    assert len(run_cli("preview", dataset).out.splitlines()) == 3
    assert run_cli("verify", dataset).exit_code == 0


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "1.0.0-rc1", "01.0.0", "one"])
def test_a_version_is_three_numbers(version: str) -> None:
    with pytest.raises(RecipeError, match="version"):
        load_recipe("mini", [f'version="{version}"'])


# Licences.


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_knows_its_licences_and_limits(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.version and recipe.card and recipe.card.date
    assert unlicensed(recipe) == {}
    assert all(stream_license(recipe, stream.name) for stream in recipe.streams)
    for words in (description.limitations, description.biases, description.personal_information):
        assert words(recipe)
        assert not any("nothing is known" in word for word in words(recipe))


def test_a_streams_licence_is_that_of_all_its_pictures_are_made_of() -> None:
    recipe = load_recipe("genint-transfer-256")
    assert stream_license(recipe, "interventional") == "Apache-2.0"
    # vgg19 (BSD-3-Clause) only looks at them.
    assert stream_license(recipe, "transfer") == "Apache-2.0 AND LicenseRef-ImageNet"
    assert dataset_license(load_recipe("mini")) == "Apache-2.0 AND MIT"
    assert dataset_license(load_recipe("mini", ["license=CC0-1.0 OR MIT"])) == "CC0-1.0 OR MIT"


def test_what_derives_from_imagenet_says_what_that_forbids() -> None:
    (contained,) = description.terms(load_recipe("genint-transfer-256"))
    assert "must not be published" in contained
    (learnt,) = description.terms(load_recipe("genint-imagenet-256"))
    assert "trained on ImageNet" in learnt and "not settled" in learnt
    assert description.terms(load_recipe("mini")) == []


def test_known_origins_refer_to_known_ones_and_say_the_terms_of_their_own_licences() -> None:
    for name, origin in known_origins().items():
        assert origin.license, name
        assert set(origin.trained_on) <= known_origins().keys()
        assert bool(origin.terms) == origin.license.startswith("LicenseRef-"), name


def test_a_photographs_licence_is_not_known_until_somebody_says_it() -> None:
    recipe = read_recipe(PHOTOS, "own")
    assert unlicensed(recipe) == {"photos": ["photos"]}
    assert dataset_license(recipe) == ""
    assert "photos: nothing is known" in description.biases(recipe)[0]
    said = read_recipe(PHOTOS, "own", ["origins.photos.license=cc-by-4.0", "origins.photos.title=Our photographs"])
    assert (dataset_license(said), find_origin(said, "photos").title) == ("CC-BY-4.0", "Our photographs")
    assert said.deciding() == recipe.deciding()


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("license=MIT (objects)", "license = 'MIT (objects)': not an SPDX licence expression"),
        ("origins.mini.license=unknown", "origins.mini.license = 'unknown': not an SPDX licence expression"),
        ("origins.mini.licence=MIT", "unknown key 'origins.mini.licence'; did you mean 'license'?"),
        ("origins.photos.license=MIT", "origins.photos: nothing is made of it; known: fashion-mnist, mini, "),
        ("card.date=today", "card.date = 'today'"),
        ("card.limits=none", "unknown key 'card.limits'; did you mean 'limitations'?"),
    ],
)
def test_what_is_said_wrongly_is_refused_by_its_place(override: str, found: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("mini", [override])
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("override", "header"),
    [
        ("license=MIT", {"license": "mit"}),
        ("license=MIT AND Apache-2.0", {"license": ["mit", "apache-2.0"]}),
        ("license=LicenseRef-Ours AND MIT", {"license": "other", "license_name": "licenseref-ours-and-mit"}),
        ("origins.fashion-mnist.title=x", {"license": ["apache-2.0", "mit"]}),
    ],
)
def test_the_hub_reads_the_licence(override: str, header: dict[str, Any]) -> None:
    assert hub_license(load_recipe("mini", [override])) == header
