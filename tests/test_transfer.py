"""Transferred streams through the command line: plan, pixels, holes, resume, verification."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import RecipeError, UsageError
from genint.manifests.inputs import Listing, list_pictures
from genint.manifests.manifest import load_manifest, read_records
from genint.manifests.recipe import load_recipe, read_recipe
from genint.manifests.shard import load_index, read_sample, sha256_of_file
from genint.manifests.sources.stream import Facts
from genint.manifests.sources.transfer import TransferStream
from genint.manifests.storage import Storage
from genint.pipeline.images.pictures import fit_thumbnail
from genint.pipeline.mini.fit_encoder import EncoderSettings, fit_encoder, measure_encoder
from genint.pipeline.release import preview
from genint.pipeline.shards import estimate, worker
from genint.pipeline.shards.settle import gather
from genint.pipeline.sources.transfer import DIVERGED, optimisation_flop
from genint.pipeline.style import vgg
from genint.pipeline.style.adain import make_random_adain
from genint.pipeline.style.gatys import evaluation_flop
from genint.pipeline.style.network_files import network_place
from genint.pipeline.style.vgg import load_vgg, make_random_vgg, random_state
from PIL import ExifTags, Image

RunCli = Callable[..., Any]

# An earlier natural and an earlier generated stream; then every kind of transfer.
RECIPE = """
name = "tiny-transfer"
seed = 3

[generator]
name = "mini"
batch_size = 10

[[streams]]
name = "natural"
source = "mini-world"
objects = "train"
num_samples = 24
samples_per_shard = 10
image_format = "png"

[[streams]]
name = "observational"
source = "observational"
latents_per_class = 3
samples_per_shard = 10
image_format = "png"

[[streams]]
name = "transfer"
source = "transfer"
content = "natural"
style = "observational"
encoder = "tiny-vgg"
evaluations = [3, 8]
resize = 32
crop = 32
batch_size = 3
samples_per_shard = 10
image_format = "png"

[[streams]]
name = "fast"
source = "transfer"
content = "photos"
style = "observational"
method = "adain"
resize = 40
crop = 32
batch_size = 4
samples_per_shard = 7
max_failures = 0.0

[[streams]]
name = "stylized"
source = "stylized"
content = "photos"
style = "paintings"
num_samples = 8
alpha = 0.5
resize = 40
crop = 32
samples_per_shard = 5
image_format = "png"
"""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random networks in files of the public layouts, by the input's name."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(random_state((4, 4, 6, 6, 8), seed=1), folder / "tiny-vgg.pth")
    adain = make_random_adain((3, 4, 4, 6, 6, 8, 8, 8, 8, 10), (8, 8, 8, 8, 6, 6, 4, 4, 3))
    torch.save(adain.encoder.state_dict(), folder / "vgg-normalised.pth")
    torch.save(adain.decoder.state_dict(), folder / "decoder.pth")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photographs of two classes, of various sizes."""
    root = tmp_path / "photos"
    for number in range(12):
        folder = root / ("ant", "bee")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (30 + 5 * number, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture
def paintings(tmp_path: Path) -> Path:
    """Five paintings, in no class folder."""
    root = tmp_path / "paintings"
    root.mkdir()
    for number in range(5):
        Image.new("RGB", (50, 70), (40 * number, 90, 200 - 40 * number)).save(root / f"{number}.jpg")
    return root


@pytest.fixture
def build(run_cli: RunCli, weights: dict[str, Path], photos: Path, paintings: Path, tmp_path: Path) -> RunCli:
    """Build the recipe into a folder of tmp_path, with further options."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    inputs = [f"--input={name}={path}" for name, path in (weights | {"photos": photos, "paintings": paintings}).items()]

    def run(name: str = "dataset", *options: object) -> Any:
        arguments = options if "--workers" in options else ("--workers", 1, *options)
        return run_cli("build-shards", recipe, "--out", tmp_path / name, "--device", "cpu", *inputs, *arguments)

    run.inputs = inputs  # type: ignore[attr-defined]
    return run


def read_stream(dataset: Path, stream: str) -> dict[str, dict[str, bytes]]:
    """Members of every sample by key."""
    samples = {}
    for path in sorted(dataset.glob(f"{stream}/*/*.tar")):
        with open(path, "rb") as file:
            for key, members in load_index(path).items():
                samples[key] = read_sample(file.fileno(), members)
    return samples


def sums(dataset: Path) -> str:
    return (dataset / "SHA256SUMS").read_text()


# Building.


def test_samples_carry_their_contents_label_the_pair_and_the_losses(build: RunCli, tmp_path: Path) -> None:
    result = build()
    assert result.exit_code == 0, result.err
    dataset = tmp_path / "dataset"
    assert [s.samples for s in load_manifest(Storage(dataset)).streams] == [24, 30, 24, 12, 8]
    assert {s.role for s in load_manifest(Storage(dataset)).streams[2:]} == {"transferred"}

    naturals = read_stream(dataset, "natural")
    transferred = read_stream(dataset, "transfer")
    for sample in transferred.values():
        parameters = json.loads(sample["json"])
        content, style = parameters["content"], parameters["style"]
        assert sample["cls"] == naturals[content["key"]]["cls"]
        assert content["stream"] == "natural" and style["stream"] == "observational"
        assert 3 <= parameters["evaluations"] <= 8
        assert parameters["style_loss"] > 0 and parameters["content_loss"] >= 0
        assert decode(sample["png"]).shape == (32, 32, 3)
        assert not np.array_equal(decode(sample["png"]), decode(naturals[content["key"]]["png"]))
    assert len({json.loads(sample["json"])["content"]["key"] for sample in transferred.values()}) == 24

    for sample in read_stream(dataset, "fast").values():
        parameters = json.loads(sample["json"])
        assert parameters["class_name"] == parameters["content"]["path"].partition("/")[0]
        assert sample["cls"] == b"%d" % ["ant", "bee"].index(parameters["class_name"])
        assert parameters["alpha"] == 1.0 and "evaluations" not in parameters
    for sample in read_stream(dataset, "stylized").values():
        parameters = json.loads(sample["json"])
        assert parameters["style"]["path"] in {f"{number}.jpg" for number in range(5)}
        assert parameters["alpha"] == 0.5


def decode(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def test_two_workers_and_a_resumed_build_make_the_bytes_of_one(build: RunCli, tmp_path: Path) -> None:
    assert build("one").exit_code == 0
    assert build("two", "--workers", 2).exit_code == 0
    assert build("resumed", "--stream", "natural", "--stream", "observational").exit_code == 0
    assert build("resumed", "--stream", "stylized").exit_code == 0
    assert build("resumed").exit_code == 0
    (tmp_path / "resumed" / "transfer" / "0000" / "transfer-0000001.tar").unlink()
    assert build("resumed").exit_code == 0
    assert sums(tmp_path / "one") == sums(tmp_path / "two") == sums(tmp_path / "resumed")


def test_dataset_verifies_and_its_shards_can_be_made_again(build: RunCli, run_cli: RunCli, tmp_path: Path) -> None:
    assert build().exit_code == 0
    result = run_cli("verify", tmp_path / "dataset", "--rebuild", 100, "--device", "cpu", *build.inputs)
    assert result.exit_code == 0, result.err
    assert result.out.count("parameters equal, bytes equal") == 13
    # Without inputs, everything but the pixels can be checked.
    assert run_cli("verify", tmp_path / "dataset").exit_code == 0


def test_losses_of_another_device_are_no_difference_of_parameters(
    build: RunCli, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert build().exit_code == 0
    monkeypatch.setattr(vgg, "STANDARD_DEVIATION", (0.23, 0.23, 0.23))  # stands for another device's floating point
    rebuild = ("verify", tmp_path / "dataset", "--rebuild", 100, "--device", "cpu", *build.inputs)
    result = run_cli(*rebuild)
    assert result.exit_code == 1
    assert result.out.count("transfer shard") == result.out.count("parameters DIFFERENT, bytes differ") == 3
    other = worker.describe_environment("cpu").model_copy(update={"device": "cpu: another"})
    monkeypatch.setattr(worker, "describe_environment", lambda device: other)
    result = run_cli(*rebuild, "--report", tmp_path / "report.html")
    assert result.exit_code == 0, result.err
    assert result.out.count("parameters equal, bytes differ in another environment") == 3
    report = " ".join((tmp_path / "report.html").read_text().split())
    assert "All 13 shards" in report and "10 are equal to the byte" in report
    assert report.count('<tr class="differs">') == 3


def test_other_weights_are_refused_on_resume_and_on_rebuild(
    build: RunCli, run_cli: RunCli, weights: dict[str, Path], tmp_path: Path
) -> None:
    assert build().exit_code == 0
    other = tmp_path / "other.pth"
    torch.save(random_state((4, 4, 6, 6, 8), seed=2), other)
    result = build("dataset", f"--input=tiny-vgg={other}")
    assert result.exit_code == 2
    assert "input tiny-vgg" in result.err and "choose another --out" in result.err
    result = run_cli("verify", tmp_path / "dataset", "--rebuild", 1, *build.inputs, f"--input=tiny-vgg={other}")
    assert result.exit_code == 2
    assert "the dataset is rendered with" in result.err


def test_what_cannot_be_read_is_a_hole_with_its_path_and_spoils_no_other(
    build: RunCli, run_cli: RunCli, photos: Path, paintings: Path, tmp_path: Path
) -> None:
    assert build("sound").exit_code == 0
    (photos / "ant" / "04.png").write_bytes(b"no image")
    (paintings / "3.jpg").write_bytes(b"")
    result = build()
    assert result.exit_code == 1
    unknown = "no image of a known format"
    assert f"stream fast: 1 of 12 samples lost (1 unreadable image; ant/04.png: {unknown})" in result.err
    assert f"(3 unreadable image; ant/04.png: {unknown}, 3.jpg: {unknown})" in result.err

    dataset = Storage(tmp_path / "dataset")
    failures = {
        failure.key: failure
        for entry in load_manifest(dataset).streams
        for record in read_records(dataset, entry)
        for failure in record.failures
    }
    details = Counter(failure.detail.partition(":")[0] for failure in failures.values())
    assert details.keys() <= {"ant/04.png", "3.jpg"}
    assert all(failure.reason == "unreadable image" for failure in failures.values())
    for stream in ("transfer", "fast", "stylized"):
        sound, found = read_stream(tmp_path / "sound", stream), read_stream(tmp_path / "dataset", stream)
        assert list(found) == [key for key in sound if key not in failures]
        assert all(found[key] == sound[key] for key in found)
    assert run_cli("verify", dataset.url).exit_code == 0


def test_hole_in_an_earlier_stream_is_a_hole_by_its_key(run_cli: RunCli, weights, photos: Path, tmp_path: Path) -> None:
    (photos / "bee" / "05.png").write_bytes(b"")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("""
        name = "holes"
        seed = 1
        [[streams]]
        name = "repacked"
        source = "natural"
        images = "photos"
        max_failures = 1.0
        [[streams]]
        name = "transfer"
        source = "transfer"
        content = "repacked"
        style = "photos-as-style"
        encoder = "tiny-vgg"
        evaluations = [1, 2]
        resize = 40
        crop = 32
        max_failures = 1.0
    """)
    styles = shutil.copytree(photos, tmp_path / "styles", ignore=shutil.ignore_patterns("05.png"))
    inputs = {"photos": photos, "photos-as-style": styles, "tiny-vgg": weights["tiny-vgg"]}
    options = [f"--input={name}={path}" for name, path in inputs.items()]
    result = run_cli("build-shards", recipe, "--out", tmp_path / "dataset", "--workers", 1, *options)
    assert result.exit_code == 0, result.err
    storage = Storage(tmp_path / "dataset")
    (record,) = read_records(storage, load_manifest(storage).stream("transfer"))
    (failure,) = record.failures
    assert failure.reason == "its source is a hole"
    assert failure.detail.startswith("repacked-")


# The plan.


def test_styles_are_drawn_by_class_and_then_uniformly_in_it() -> None:
    recipe = read_recipe(
        RECIPE.replace("num_samples = 24", "num_samples = 6000").replace(
            "latents_per_class = 3", "classes = [4, 7]\nlatents_per_class = 2"
        ),
        "test",
        ["generator.name=mini"],
    )
    facts = gather_facts(recipe)
    stream = recipe.stream("transfer")
    samples = stream.samples(facts, np.arange(6000))
    drawn = Counter(sample.parameters["style"]["sample_index"] for sample in samples)
    assert drawn.keys() == {0, 1, 2, 3}
    assert all(abs(count - 1500) < 150 for count in drawn.values())
    counts = Counter(sample.parameters["evaluations"] for sample in samples)
    assert counts.keys() == set(range(3, 9))
    assert all(abs(count - 1000) < 120 for count in counts.values())
    # Each sample is drawn by itself.
    assert stream.samples(facts, np.array([4711]))[0] == samples[4711]


def test_released_schedule_counts_in_tens_and_measures_after_the_last_move() -> None:
    overrides = ["streams.transfer.evaluations=[20, 70]", "streams.transfer.schedule=released"]
    recipe = read_recipe(RECIPE.replace("num_samples = 24", "num_samples = 6000"), "test", overrides)
    stream = recipe.stream("transfer")
    samples = stream.samples(gather_facts(recipe), np.arange(6000))
    counts = Counter(sample.parameters["evaluations"] for sample in samples)
    # Of 51 numbers, one stays 20, and ten each become 30, 40, 50, 60 and 70.
    assert sorted(counts) == [21, 31, 41, 51, 61, 71]
    assert counts[21] == pytest.approx(6000 / 51, rel=0.3)
    assert all(counts[count] == pytest.approx(60000 / 51, rel=0.12) for count in (31, 41, 51, 61, 71))
    assert isinstance(stream, TransferStream)
    assert stream.mean_evaluations == pytest.approx((21 + 10 * (31 + 41 + 51 + 61 + 71)) / 51)
    assert samples[0].parameters["schedule"] == "released" and "keep" not in samples[0].parameters


def test_keys_of_the_released_code_are_in_no_digest_where_they_are_not_used() -> None:
    text = read_recipe(RECIPE, "test").to_toml()
    assert not [key for key in ("geometry", "schedule", "keep", "statistics_truncation") if key in text]


def test_released_thumbnail_bounds_the_longer_side_and_leaves_black_bars() -> None:
    wide, small = Image.new("RGB", (600, 400), "white"), Image.new("RGB", (100, 60), "white")
    rows = np.asarray(fit_thumbnail(wide, 300, 256)).any(axis=(1, 2))
    assert rows.sum() == 200 and rows[28:228].all()
    pixels = np.asarray(fit_thumbnail(small, 300, 256))
    assert pixels.shape == (256, 256, 3)
    assert (pixels[98:158, 78:178] == 255).all() and pixels.sum() == 255 * 3 * 100 * 60
    assert small.size == (100, 60)


def test_transfers_that_end_worse_than_they_began_are_counted_for_those_who_build_and_use_them(
    build: RunCli, tmp_path: Path
) -> None:
    changes = ("evaluations=[2, 3]", "content_weight=1.0", "style_weight=1000.0")
    result = build("dataset", *(part for change in changes for part in ("--set", f"streams.transfer.{change}")))
    assert result.exit_code == 0, result.err
    storage = Storage(tmp_path / "dataset")
    entry = load_manifest(storage).stream("transfer")
    count = sum(record.remarks.get(DIVERGED, 0) for record in read_records(storage, entry))
    assert count > 0 and entry.remarks == {DIVERGED: count}
    assert f"stream transfer: {count} of 24 samples ended with a larger loss than they began with" in result.out
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert f"In `transfer`, {count} of 24 samples ended with a larger loss than they began with." in card


def test_transfers_as_released_are_built_and_made_again(
    run_cli: RunCli, weights: dict[str, Path], photos: Path, paintings: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text("""
        name = "released"
        seed = 1
        [[streams]]
        name = "transfer"
        source = "transfer"
        content = "photos"
        style = "paintings"
        encoder = "tiny-vgg"
        evaluations = [1, 9]
        geometry = "released"
        schedule = "released"
        keep = "best"
        num_samples = 3
        resize = 40
        crop = 32
        image_format = "png"
    """)
    roots = {"photos": photos, "paintings": paintings, "tiny-vgg": weights["tiny-vgg"]}
    inputs = [f"--input={name}={path}" for name, path in roots.items()]
    out = tmp_path / "dataset"
    built = run_cli("build-shards", tmp_path / "recipe.toml", "--out", out, "--workers", 1, "--device", "cpu", *inputs)
    assert built.exit_code == 0, built.err
    for sample in read_stream(out, "transfer").values():
        parameters = json.loads(sample["json"])
        assert (parameters["evaluations"], parameters["geometry"], parameters["keep"]) == (11, "released", "best")
        assert decode(sample["png"]).shape == (32, 32, 3)
    again = run_cli("verify", out, "--rebuild", 1, "--device", "cpu", *inputs)
    assert again.exit_code == 0 and "parameters equal, bytes equal" in again.out


def gather_facts(recipe: Any) -> Facts:
    """Facts of a recipe whose inputs do not matter."""
    from genint.manifests.sources.stream import GeneratorFacts
    from genint.manifests.world import CLASSES

    generator = GeneratorFacts("mini", 32, 32, tuple(CLASSES))
    return Facts(recipe.seed, generator, streams={stream.name: stream for stream in recipe.streams})


def test_few_samples_are_spread_over_the_content(build: RunCli, tmp_path: Path) -> None:
    assert build("dataset", "--set", "streams.transfer.num_samples=6").exit_code == 0
    samples = load_dataset(str(tmp_path / "dataset")).plan("transfer").samples(0)
    indices = [sample.parameters["content"]["sample_index"] for sample in samples]
    assert len(set(indices)) == 6 and max(indices) > 6


def test_classes_of_folders_are_ranges_even_where_names_sort_around_the_slash() -> None:
    paths = tuple(sorted(["a/1", "a/2", "a b/1", "a-b/1", "a0/1", "b/1"]))
    listing = Listing.from_bytes(Listing("", (), paths, (1,) * len(paths)).to_bytes(), "")
    assert listing.folders == ("a", "a b", "a-b", "a0", "b")
    found = {
        folder: {listing.paths[i] for i in r} for folder, r in zip(listing.folders, listing.class_ranges(), strict=True)
    }
    assert found == {folder: {path for path in paths if path.startswith(f"{folder}/")} for folder in listing.folders}


def test_folder_with_loose_images_is_one_class(paintings: Path) -> None:
    (paintings / "more").mkdir()
    shutil.copy(paintings / "0.jpg", paintings / "more" / "x.jpg")
    listing = list_pictures(paintings, "paintings")
    assert listing.folders == () and listing.class_ranges() == [range(6)]
    assert "more/x.jpg" in listing.paths
    assert Listing.from_bytes(listing.to_bytes(), listing.root) == listing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("transfer", "content", "observational"), "a generated stream; expected a natural one"),
        (("fast", "style", "transfer"), "a transferred stream is no style"),
        (("transfer", "style", "natural"), "content and style are both 'natural'"),
        (("transfer", "num_samples", 25), "content 'natural' has 24 images"),
    ],
)
def test_pair_that_makes_no_sense_is_named(build: RunCli, change: tuple[str, str, Any], message: str) -> None:
    stream, key, value = change
    result = build("dataset", "--set", f"streams.{stream}.{key}={value}")
    assert result.exit_code == 2
    assert message in result.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("streams.transfer.style=fast", "reads 'fast', which is not an earlier stream"),
        ("streams.transfer.crop=33", "crop = 33: larger than resize = 32"),
        ("streams.transfer.evaluations=[8, 3]", "the least is more than the most"),
        ("streams.transfer.evaluations=[0, 3]", "greater than or equal to 1"),
        ("streams.fast.geometry=released", 'geometry = "released" is for method = "gatys" only'),
        ("streams.stylized.style=decoder", "input 'decoder' is read as weights and as images"),
    ],
)
def test_recipe_that_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(RECIPE, "test", [override])


# Weights that are not there.


def test_adain_without_its_files_says_which_ones_and_where_to_put_them(
    monkeypatch: pytest.MonkeyPatch, photos: Path, paintings: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    recipe = load_recipe("stylized-imagenet-256", ["streams.stylized.labels=folders"])
    inputs = {"imagenet-train": str(photos), "paintings": str(paintings)}
    with pytest.raises(
        UsageError, match=r"vgg_normalised\.pth \(80 MB\) of https://.*--input vgg-normalised=FILE"
    ) as error:
        gather(recipe, inputs=inputs)
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / "vgg_normalised.pth") in str(error.value)
    # Put there, they are found.
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("vgg_normalised.pth", "decoder.pth"):
        torch.save({}, folder / name)
    found = gather(recipe, inputs=inputs)
    assert found.networks["decoder"] == (folder / "decoder.pth").resolve()


def test_vgg19_that_cannot_be_downloaded_says_what_to_get(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Exception, match=r"vgg19: cannot download .*--input vgg19=FILE"):
        vgg.download_vgg((tmp_path / "nowhere" / "vgg19-dcbb9e9d.pth").as_uri())
    assert {path.suffix for path in tmp_path.rglob("*.pth*")} <= {".lock"}


def test_encoder_of_an_unknown_name_has_to_be_bound(build: RunCli) -> None:
    result = build("dataset", "--set", "streams.transfer.encoder=mine")
    assert result.exit_code == 2
    assert "--input mine=FILE" in result.err or "has no such input" in result.err


# Shipped recipes.


@pytest.mark.parametrize("name", ["genint-transfer-256", "genint-transfer-adain-256", "stylized-imagenet-256"])
def test_shipped_recipes_name_their_inputs(name: str) -> None:
    recipe = load_recipe(name)
    kinds = recipe.inputs()
    assert kinds["imagenet-train"] == "class folders"
    assert ("paintings" in kinds) == (name == "stylized-imagenet-256")
    assert ("vgg19" in kinds) == (name == "genint-transfer-256")
    assert ("decoder" in kinds) == ("vgg19" not in kinds)


def test_dry_run_names_the_networks_that_random_weights_stand_for(
    build: RunCli, run_cli: RunCli, weights: dict[str, Path], photos: Path, paintings: Path, tmp_path: Path
) -> None:
    assert "random weights" not in build("dataset", "--dry-run").out
    inputs = [f"--input={name}={path}" for name, path in {"photos": photos, "paintings": paintings}.items()]
    recipe = tmp_path / "recipe.toml"
    result = run_cli("build-shards", recipe, "--dry-run", *inputs, f"--input=tiny-vgg={weights['tiny-vgg']}")
    assert "random weights of the same shape for vgg-normalised, decoder" in result.out


def test_dry_run_times_transfers_without_weights_or_earlier_streams(build: RunCli, tmp_path: Path) -> None:
    result = build("dataset", "--dry-run")
    assert result.exit_code == 0, result.err
    rows = {line.split()[0]: line.split()[1] for line in result.out.splitlines() if line}
    assert rows["transfer"] == "24" and rows["fast"] == "12" and rows["stylized"] == "8"
    assert not (tmp_path / "dataset").exists()


# Long work.


def test_flop_of_an_evaluation_are_those_of_the_paper() -> None:
    # 14.7 GFLOP forward and as many back, and 5.4 of the Gram matrices.
    assert evaluation_flop(make_random_vgg(), 256) == pytest.approx(34.8e9, rel=0.01)


def test_pictures_as_released_are_optimised_at_twice_their_size(weights: dict[str, Path]) -> None:
    roots = {"tiny-vgg": str(weights["tiny-vgg"])}
    plain, released = (
        optimisation_flop(read_recipe(RECIPE, "test", overrides).stream("transfer"), roots)
        for overrides in ([], ["streams.transfer.geometry=released"])
    )
    assert released == pytest.approx(4 * plain)


def test_optimisation_of_more_than_an_hour_on_a_cpu_is_announced_with_its_flop(
    build: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "warning" not in build("dataset").err
    monkeypatch.setattr(estimate, "CPU_FLOP_PER_SECOND", 1e3)
    result = build("slow")
    # 24 images of 5.5 evaluations of 1.9 MFLOP; the streams of one forward pass say nothing.
    (line,) = [line for line in result.err.splitlines() if line.startswith("warning")]
    assert line.startswith("warning: stream transfer: 24 images by optimisation are 0.3 GFLOP, about ")
    assert "warning" not in build("slow").err  # nothing is left to do


@pytest.mark.parametrize(("flop", "text"), [(2.0e18, "2.0 EFLOP"), (3.5e10, "35.0 GFLOP"), (7e21, "7000.0 EFLOP")])
def test_flop_are_said_in_units_people_use(flop: float, text: str) -> None:
    assert estimate.format_flop(flop) == text


# The mini world.


def test_shipped_encoder_is_the_one_that_was_measured_and_small() -> None:
    folder = network_place("mini-encoder").parent
    report = json.loads((folder / "report.json").read_text())
    assert report["weights_sha256"] == sha256_of_file(folder / "encoder.pth")
    assert (folder / "encoder.pth").stat().st_size <= 2_000_000
    assert report["recognised"] >= 0.95
    assert all(abs(activation - 1) < 0.05 for activation in report["activations"])
    assert measure_encoder(folder, 0.8)["recognised"] == pytest.approx(report["recognised"], abs=0.005)


def test_encoder_of_a_short_training_has_activations_of_size_one_and_can_be_loaded(tmp_path: Path) -> None:
    settings = EncoderSettings(epochs=1, num_objects=300)
    steps = list(fit_encoder(tmp_path, settings))
    assert [step.step for step in steps] == [1, 2, 3]
    again = tmp_path / "again"
    list(fit_encoder(again, settings))
    assert (again / "encoder.pth").read_bytes() == (tmp_path / "encoder.pth").read_bytes()
    outputs = load_vgg(tmp_path / "encoder.pth")(torch.rand(2, 3, 32, 32))
    assert [output.shape[2] for output in outputs] == [32, 32, 16, 16, 8]
    report = measure_encoder(tmp_path, 0.8)
    assert all(abs(activation - 1) < 0.1 for activation in report["activations"])


def test_contact_sheet_of_transfers_shows_content_style_and_result(build: RunCli, tmp_path: Path) -> None:
    assert build().exit_code == 0
    dataset = load_dataset(str(tmp_path / "dataset"))
    (sample, *_) = dataset.plan("transfer").samples(0)
    stored = read_stream(tmp_path / "dataset", "transfer")[sample.key]
    ((*tiles, (result, _)),) = preview.draw_samples(dataset, "transfer", [sample], [stored])
    content = read_stream(tmp_path / "dataset", "natural")[sample.parameters["content"]["key"]]["png"]
    style = read_stream(tmp_path / "dataset", "observational")[sample.parameters["style"]["key"]]["png"]
    assert [caption for _, caption in tiles] == ["content", "style"]
    assert all(np.array_equal(image, decode(png)) for (image, _), png in zip(tiles, (content, style), strict=True))
    assert np.array_equal(result, decode(stored["png"]))
    # Pictures of an input that is not here are grey, and the sheet is drawn all the same.
    (sample, *_) = dataset.plan("stylized").samples(0)
    ((*tiles, _),) = preview.draw_samples(dataset, "stylized", [sample], [stored])
    assert [np.unique(image).tolist() for image, _ in tiles] == [[128]] * 2
    assert preview.draw_previews(dataset, ["stylized", "natural"])


# Real photographs.


@pytest.mark.parametrize("stream", ["transfer", "stylized"])
def test_photographs_of_every_kind_are_upright_and_of_one_geometry(
    run_cli: RunCli, weights: dict[str, Path], tmp_path: Path, stream: str
) -> None:
    folder = tmp_path / "photos" / "ant"
    folder.mkdir(parents=True)
    picture = Image.new("RGB", (60, 40), "white")
    picture.paste("black", (0, 0, 60, 20))  # the upper half
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3
    picture.transpose(Image.Transpose.ROTATE_180).save(folder / "exif.jpg", exif=turned)
    for name, mode in (("plain", "RGB"), ("grey", "L"), ("cmyk", "CMYK")):
        picture.convert(mode).save(folder / f"{name}.jpg")
    picture.resize((3, 2)).save(folder / "tiny.png")
    picture.resize((1500, 1000)).save(folder / "large.jpg")
    (folder / "cut.jpg").write_bytes((folder / "large.jpg").read_bytes()[:400])
    recipe = tmp_path / "recipe.toml"
    options = 'encoder = "tiny-vgg"\nevaluations = [1, 1]' if stream == "transfer" else "alpha = 0.0"
    recipe.write_text(
        f'name = "kinds"\nseed = 1\n[[streams]]\nname = "made"\nsource = "{stream}"\ncontent = "photos"\n'
        f'style = "styles"\n{options}\nresize = 40\ncrop = 32\nmax_failures = 1.0\nimage_format = "png"\n'
    )
    (tmp_path / "styles").mkdir()
    picture.convert("CMYK").save(tmp_path / "styles" / "cmyk.jpg")
    used = {"tiny-vgg"} if stream == "transfer" else {"vgg-normalised", "decoder"}
    inputs = {"photos": tmp_path / "photos", "styles": tmp_path / "styles", **{name: weights[name] for name in used}}
    bound = [f"--input={name}={path}" for name, path in inputs.items()]
    result = run_cli("build-shards", recipe, "--out", tmp_path / "dataset", "--workers", 1, *bound)
    assert result.exit_code == 0, result.err
    made = {
        Path(json.loads(sample["json"])["content"]["path"]).stem: decode(sample["png"]).astype(int)
        for sample in read_stream(tmp_path / "dataset", "made").values()
    }
    assert made.keys() == {"exif", "plain", "grey", "cmyk", "tiny", "large"}
    assert {pixels.shape for pixels in made.values()} == {(32, 32, 3)}
    if stream == "transfer":  # an image that was evaluated once is its content
        for name in ("exif", "grey", "cmyk", "large"):
            assert made[name][:12].max() < 40 and made[name][20:].min() > 215, name
    else:
        assert np.abs(made["exif"] - made["plain"]).mean() < 3 and np.abs(made["grey"] - made["plain"]).mean() < 3
    storage = Storage(tmp_path / "dataset")
    (record,) = read_records(storage, load_manifest(storage).stream("made"))
    assert [failure.detail.partition(":")[0] for failure in record.failures] == ["ant/cut.jpg"]


def test_photographs_of_imagenet_are_transferred(
    run_cli: RunCli, shared_data: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    source = shared_data / "imagenet-sample"
    if not source.is_dir():
        pytest.skip("no imagenet-sample in ../shared/data")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("""
        name = "photographs"
        seed = 1
        [[streams]]
        name = "stylized"
        source = "stylized"
        content = "photos"
        labels = "imagenet"
        style = "paintings"
        resize = 75
        crop = 64
        [[streams]]
        name = "transfer"
        source = "transfer"
        content = "photos"
        labels = "imagenet"
        style = "paintings"
        encoder = "tiny-vgg"
        evaluations = [2, 4]
        num_samples = 20
        resize = 75
        crop = 64
    """)
    inputs = {"photos": source, "paintings": source, **weights}
    options = [f"--input={name}={path}" for name, path in inputs.items()]
    result = run_cli("build-shards", recipe, "--out", tmp_path / "dataset", "--workers", 1, *options)
    assert result.exit_code == 0, result.err
    for stream, count in (("stylized", 100), ("transfer", 20)):
        samples = read_stream(tmp_path / "dataset", stream)
        assert len(samples) == count
        for sample in samples.values():
            parameters = json.loads(sample["json"])
            assert parameters["content"]["path"].startswith(parameters["class_name"])
            assert decode(sample["jpg"]).shape == (64, 64, 3)
    assert run_cli("verify", tmp_path / "dataset").exit_code == 0
