"""Every generated sample has a score beside its shard, and whoever trains or evaluates can leave the doubtful out."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genint.evaluate.test_sets.streams import open_streams, read_as_labelled
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import RecipeError, UsageError
from genint.manifests.fidelity import load_stream_scores
from genint.manifests.manifest import load_manifest
from genint.manifests.pictures import decode_picture
from genint.manifests.recipe import load_recipe
from genint.manifests.samples import StreamSamples
from genint.manifests.storage import Storage
from genint.manifests.world import CLASSES
from genint.pipeline.cli import cli
from genint.pipeline.mini.fit_reader import ReaderSettings, fit_reader
from genint.pipeline.mini.reader import load_reader
from genint.pipeline.mini.world import compose_pictures
from genint.pipeline.release.score import open_reader, score
from genint.train.checkpoint import Preprocessing, describe_model, make_model, save_checkpoint
from genint.train.cli import main as train_main

FIRST = "fidelity/interventional/0000/interventional-0000000.jsonl"
SHIPPED = Path(str(files("genint.pipeline") / "data" / "mini-reader"))


@pytest.fixture(scope="module")
def scored(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset, read by the shipped reader. Not to be changed."""
    folder = Path(shutil.copytree(reference, tmp_path_factory.mktemp("scored") / "dataset"))
    cli(["score", str(folder), "--device", "cpu"], standalone_mode=False)
    return folder


@pytest.fixture
def dataset(scored: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(scored, tmp_path / "dataset"))


def scores_of(folder: Path, stream: str) -> Any:
    storage = Storage(folder)
    manifest = load_manifest(storage)
    return load_stream_scores(storage, manifest, manifest.stream(stream))


def score_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("fidelity/*/*/*.jsonl"))}


# What is kept.


def test_a_score_is_the_probability_of_the_samples_label(scored: Path) -> None:
    storage = Storage(scored)
    samples = StreamSamples(storage, load_manifest(storage).stream("interventional"))
    members = [samples.read(position) for position in range(len(samples))]
    found = load_reader().read([decode_picture(each["jpg"]) for each in members])
    expected = found[np.arange(len(found)), [int(each["cls"]) for each in members]]
    assert scores_of(scored, "interventional") == pytest.approx(expected, abs=1e-5)
    header, *lines = [json.loads(line) for line in (scored / FIRST).read_text().splitlines()]
    record = samples.records[0]
    assert header == {"checkpoint": load_reader().sha256, "shard": record.sha256}
    assert [line["key"] for line in lines] == [samples.key(position) for position in range(record.samples)]
    assert [line["read"] for line in lines] == [CLASSES[row.argmax()] for row in found[: record.samples]]


def test_a_scored_dataset_is_whole_and_its_shards_are_as_they_were(
    scored: Path, reference: Path, run_cli: Callable[..., Any]
) -> None:
    sums, before = ((folder / "SHA256SUMS").read_text().splitlines() for folder in (scored, reference))
    shards = [line for line in before if line.endswith((".tar", ".idx"))]
    assert sums[: len(shards)] == shards
    assert run_cli("verify", scored).exit_code == 0
    time = (scored / "manifest.json").stat().st_mtime_ns
    again = run_cli("score", scored, "--json")
    assert again.exit_code == 0 and 60 in [row["samples"] for row in json.loads(again.out)]
    assert (scored / "manifest.json").stat().st_mtime_ns == time


def test_the_card_shows_the_distribution_by_stream_and_class(scored: Path) -> None:
    card = (scored / "README.md").read_text()
    values = scores_of(scored, "observational")
    row = next(line for line in card.splitlines() if line.startswith("| observational | 30 | "))
    _, _, _, _, *shares, low, middle, _, _ = (cell.strip() for cell in row.split("|"))
    assert [float(share) for share in shares] == [
        round(100 * float(share), 1)
        for share in (
            (values < 0.1).mean(),
            ((values >= 0.1) & (values < 0.5)).mean(),
            ((values >= 0.5) & (values < 0.9)).mean(),
            (values >= 0.9).mean(),
        )
    ]
    assert (low, middle) == tuple(f"{value:.3f}" for value in np.quantile(values, (0.05, 0.5)))
    table = (scored / "fidelity" / "classes.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * len(CLASSES) and table[1].startswith('observational,"t-shirt",3,')


# What is damaged, interrupted, added or joined.


@pytest.mark.parametrize(
    "name", [FIRST, "fidelity/classifier.json", "fidelity/classes.csv", "fidelity/interventional.00000.jsonl"]
)
def test_what_is_altered_of_scores_is_named_and_repaired(
    dataset: Path, scored: Path, run_cli: Callable[..., Any], name: str
) -> None:
    path = dataset / name
    path.write_bytes(path.read_bytes().replace(b"e", b"E", 1))
    found = run_cli("verify", dataset)
    assert found.exit_code == 1 and name in found.err
    refused = run_cli("score", dataset)
    assert refused.exit_code == 1 and "genint-pipeline repair mends it" in refused.err
    assert run_cli("repair", dataset, "--workers", 1, "--device", "cpu").exit_code == 0
    assert score_files(dataset) == score_files(scored)
    assert (dataset / "SHA256SUMS").read_bytes() == (scored / "SHA256SUMS").read_bytes()
    assert run_cli("verify", dataset).exit_code == 0


def test_datasets_that_are_joined_keep_their_scores(scored: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    stream = '[[streams]]\nname = "more"\nsource = "mini-world"\nobjects = "validation"\nnum_samples = 10\n'
    (tmp_path / "more.toml").write_text(f'name = "more"\nseed = 7\nmarks = true\n{stream}')
    words = ("--workers", 1, "--device", "cpu", "--out", tmp_path / "more")
    assert run_cli("build-shards", tmp_path / "more.toml", *words).exit_code == 0
    joined = run_cli("merge", scored, tmp_path / "more", "--out", tmp_path / "both")
    assert joined.exit_code == 0 and "warning" not in joined.err
    assert score_files(tmp_path / "both") == score_files(scored)
    assert len(scores_of(tmp_path / "both", "interventional")) == 60
    assert run_cli("verify", tmp_path / "both").exit_code == 0


def test_scoring_goes_on_where_it_was_interrupted_and_clean_takes_away_what_it_left(
    reference: Path, scored: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    dataset = Path(shutil.copytree(reference, tmp_path / "dataset"))
    under_way = score(load_dataset(str(dataset)), open_reader("mini-reader", "cpu"))
    for _ in range(3):
        next(under_way)
    under_way.close()
    assert list(score_files(dataset)) == list(score_files(scored))[-3:]
    assert run_cli("verify", dataset).exit_code == 0  # what is not closed yet harms nobody
    shutil.copytree(dataset, tmp_path / "other")
    assert "fidelity/classifier.json" in run_cli("clean", tmp_path / "other").out
    assert not score_files(tmp_path / "other")
    times = {name: (dataset / name).stat().st_mtime_ns for name in score_files(dataset)}
    assert run_cli("score", dataset).exit_code == 0
    assert {name: (dataset / name).stat().st_mtime_ns for name in times} == times
    assert (dataset / "SHA256SUMS").read_bytes() == (scored / "SHA256SUMS").read_bytes()


def test_samples_that_are_added_are_scored_too(dataset: Path, run_cli: Callable[..., Any]) -> None:
    before = score_files(dataset)
    words = ("--workers", 1, "--device", "cpu")
    extended = run_cli("extend", dataset, "--set", "streams.observational.latents_per_class=4", *words)
    assert extended.exit_code == 0, extended.err
    assert before.items() < score_files(dataset).items()
    assert len(scores_of(dataset, "observational")) == 40
    assert run_cli("verify", dataset).exit_code == 0


def test_published_and_fetched_releases_have_the_scores_of_their_streams(
    scored: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    assert run_cli("publish", scored, tmp_path / "there").exit_code == 0
    assert score_files(tmp_path / "there") == score_files(scored)
    assert run_cli("fetch", tmp_path / "there", tmp_path / "back", "--stream", "observational").exit_code == 0
    assert {name.split("/")[1] for name in score_files(tmp_path / "back")} == {"observational"}
    assert len(scores_of(tmp_path / "back", "observational")) == 30
    assert run_cli("publish", scored, f"zenodo-folder:{tmp_path / 'deposit'}").exit_code == 0
    assert (tmp_path / "deposit" / Path(FIRST).name).read_bytes() == (scored / FIRST).read_bytes()


def test_a_checkpoint_of_the_same_classes_takes_the_place_of_other_scores(
    dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    preprocessing = Preprocessing(None, 32)
    for name, classes in (("own", CLASSES), ("foreign", ("cat", "dog"))):
        model = make_model("mnist-cnn", len(classes))
        described = describe_model("mnist-cnn", classes, preprocessing)
        save_checkpoint(tmp_path / f"{name}.pt", {**described, "model": model.state_dict()})
    foreign = run_cli("score", dataset, "--checkpoint", tmp_path / "foreign.pt", "--device", "cpu")
    assert foreign.exit_code == 2 and "foreign.pt knows no class 't-shirt'" in foreign.err
    assert load_manifest(Storage(dataset)).fidelity is not None
    own = run_cli("score", dataset, "--checkpoint", tmp_path / "own.pt", "--device", "cpu")
    assert own.exit_code == 0, own.err
    fidelity = load_manifest(Storage(dataset)).fidelity
    assert fidelity is not None and fidelity.checkpoint == "own.pt"
    assert run_cli("verify", dataset).exit_code == 0


# The recipe's table.


def test_a_recipe_with_a_classifier_is_scored_when_it_is_built(
    dataset: Path, tiny_recipe: Path, scored: Path, run_cli: Callable[..., Any]
) -> None:
    shutil.rmtree(dataset / "fidelity")
    words = ("--out", dataset, "--workers", 1, "--device", "cpu", "--set", "fidelity.checkpoint=mini-reader")
    built = run_cli("build-shards", tiny_recipe, *words)
    assert built.exit_code == 0, built.err
    assert score_files(dataset) == score_files(scored)
    assert run_cli("verify", dataset).exit_code == 0
    absent = run_cli("build-shards", tiny_recipe, *words[:-1], "fidelity.checkpoint=ours", "--stream", "natural")
    assert absent.exit_code == 2 and "give it with --input ours=FILE" in absent.err


def test_keys_and_names_that_cannot_be_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'fidelity.by'; known: checkpoint"):
        load_recipe("mini", ["fidelity.checkpoint=mini-reader", "fidelity.by=me"])
    with pytest.raises(RecipeError, match=r"a stream cannot be named 'fidelity'"):
        load_recipe("mini", ["streams.natural.name=fidelity"])


# Training and evaluation.


def test_training_leaves_out_what_is_read_too_doubtfully_and_counts_it(
    scored: Path, reference: Path, run_main: Callable[..., Any]
) -> None:
    values = scores_of(scored, "interventional")
    threshold = float(np.median(values))
    words = ("--preset", "mini-genint", "--dry-run")
    words += ("--set", "batch_sizes.int=2", "--set", "batch_sizes.natural=4", "--min-fidelity", threshold)
    result = run_main(train_main, "--shards", scored, *words)
    assert result.exit_code == 0, result.err
    kept = int((values >= threshold).sum())
    line = next(line for line in result.out.splitlines() if line.startswith("# interventional"))
    assert f" {kept} images" in line and f"({60 - kept} others are below min_fidelity)" in line
    assert "min_fidelity = " in result.out
    unscored = run_main(train_main, "--shards", reference, *words)
    # Of the streams that take part alone: not of the observational one.
    assert unscored.exit_code == 2 and "stream 'interventional' has no scores of label fidelity" in unscored.err
    other = next(line for line in result.out.splitlines() if line.startswith("# observational"))
    assert " 30 images" in other and "min_fidelity" not in other


def test_evaluation_leaves_out_what_is_read_too_doubtfully_and_counts_it(scored: Path) -> None:
    values = scores_of(scored, "interventional")
    threshold = float(np.median(values))
    (whole,) = open_streams(f"{scored}:interventional", "here")
    part = read_as_labelled(whole, threshold)
    positions = np.flatnonzero(values >= threshold).tolist()
    assert [part.key(i) for i in range(len(part))] == [whole.key(position) for position in positions]
    assert [part.labels(i) for i in range(len(part))] == [whole.labels(position) for position in positions]
    assert f"{60 - len(part)} of 60 images left out" in part.protocol and part.digest() != whole.digest()
    (natural,) = open_streams(f"{scored}:natural", "here")
    assert read_as_labelled(natural, threshold) is natural
    with pytest.raises(UsageError, match="no image of tiny/interventional"):
        read_as_labelled(whole, 1.0)


# The mini world's reader.


def test_the_shipped_reader_reads_objects_whatever_the_background_and_its_report_is_its_own() -> None:
    report = json.loads((SHIPPED / "report.json").read_text())
    reader = load_reader()
    assert report["weights_sha256"] == reader.sha256
    assert min(report["recognised"], report["recognised_shifted"]) >= 0.8
    assert (SHIPPED / "reader.pth").stat().st_size <= 800_000
    pictures = compose_pictures("test", np.arange(200), 0.0, 0.0)
    hits = reader.read_pixels(pictures.images).argmax(1) == pictures.class_labels
    assert hits.mean() == pytest.approx(report["recognised_shifted"], abs=0.08)


def test_settings_alone_decide_the_readers_weights(tmp_path: Path) -> None:
    settings = ReaderSettings(epochs=1, batch_size=4, num_objects=10)
    weights = []
    for name in ("a", "b"):
        torch.rand(1)  # the global generator's state is nobody's business
        assert [progress.step for progress in fit_reader(tmp_path / name, settings)] == [1, 2, 3]
        weights.append(torch.load(tmp_path / name / "reader.pth", weights_only=True))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
