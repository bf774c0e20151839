"""`genint-evaluate run`: numbers with their conditions, one self-contained page, and mistakes named in one line."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from genint.evaluate.cli import main
from genint.evaluate.metrics.seed_difference import difference_over_seeds
from genint.evaluate.report.means import mean_over_seeds
from genint.evaluate.report.page import embed_file
from genint.evaluate.report.paper import paper_accuracy
from genint.evaluate.report.report import accuracy_lines, write_report
from genint.evaluate.report.results import (
    Accuracy,
    Analysis,
    CheckpointEntry,
    Clustered,
    CorruptionErrors,
    Difference,
    Results,
    RowDifference,
    load_results,
    save_results,
    shown_locations,
)
from genint.evaluate.report.seeds import compare_rows
from genint.evaluate.report.sentences import difference_sentences
from genint.evaluate.report.summary import summarize
from genint.evaluate.run import corruption_errors
from genint.manifests.errors import FormatError
from genint.manifests.json_files import parse_json
from genint.manifests.lock import only_process
from genint.manifests.world import CLASSES
from genint.train.checkpoint import Preprocessing, describe_model, make_model, save_checkpoint
from genint.train.configuration import shipped_presets
from PIL import Image


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two run folders with untrained classifiers of the mini world, and one of other classes."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, (name, classes) in enumerate({"a": CLASSES, "b": CLASSES, "other": ("cat", "dog")}.items()):
        torch.manual_seed(seed)
        (folder / name).mkdir()
        content = describe_model("resnet18", tuple(classes), Preprocessing(None, 32))
        model = make_model("resnet18", len(classes)).state_dict()
        configuration = {"preset": "mini-erm", "seed": seed}
        save_checkpoint(
            folder / name / "last.pt", {**content, "model": model, "step": 5, "configuration": configuration}
        )
    return folder


@pytest.fixture
def evaluate(run_main) -> Callable[..., tuple[int, str, str]]:
    """Run `genint-evaluate` with arguments, in this process: exit code, stdout and stderr."""
    return lambda *arguments: astuple(run_main(main, *arguments))


@pytest.fixture(scope="module")
def report(runs, reference, tmp_path_factory) -> Path:
    """A report on two checkpoints of one row, and one by itself."""
    out = tmp_path_factory.mktemp("report") / "out"
    command = [sys.executable, "-c", "from genint.evaluate.cli import main; main()", "run", "--corruptions", "0"]
    checkpoints = [f"--checkpoint=both={runs / 'a'}", f"--checkpoint=both={runs / 'b'}", f"--checkpoint={runs / 'a'}"]
    subprocess.run([*command, *checkpoints, "--shards", f"{reference}:natural", "--out", out], check=True)
    return out


def test_every_number_has_its_protocol_digest_count_and_environment(report):
    content = json.loads((report / "results.json").read_text())
    assert len(content["accuracy"]) == 3
    for entry in content["accuracy"]:
        assert entry["images"] == 60
        assert entry["protocol"]
        assert re.fullmatch("[0-9a-f]{64}", entry["digest"])
        assert content["environments"][entry["environment"]]["precision"] == "fp32"
        low, high = entry["top1_interval"]
        assert low <= entry["top1"] <= high
    assert [(e["name"], e["group"], e["seed"]) for e in content["checkpoints"]] == [
        ("both/a", "both", 0), ("both/b", "both", 1), ("a", "a", 0),
    ]  # fmt: skip
    first, second = content["differences"]
    assert (first["baseline"], first["checkpoint"]) == ("both/a", "both/b")
    assert second["difference"] == 0.0  # the same classifier under another name


def test_differences_are_said_in_words_where_each_row_is_one_classifier():
    difference = Difference("natural", "ours", "mini/shifted", 2000, 0.189, (0.17, 0.208))
    equal = Difference("natural", "ours", "mini/test", 2000, -0.003, (-0.011, 0.005))
    copy = Difference("natural", "ours", "mini-corrupted/fog/1", 50, 0.5, (0.4, 0.6))
    checkpoints = [CheckpointEntry(name, name, None, "resnet18", "0" * 64, 1, 0, ".") for name in ("natural", "ours")]
    corrupted = CorruptionErrors("ours", "mini-corrupted", "generated", {}, 1.0)
    results = Results(checkpoints=checkpoints, differences=[difference, equal, copy], corruption=[corrupted])
    assert difference_sentences(results) == [
        "mini/shifted: ours is right on 378 more of 2,000 images than natural (+18.9 points, 95 % interval +17.0 to "
        "+20.8).",
        "mini/test: 2,000 images show no difference between ours and natural (-0.3 points, 95 % interval -1.1 to "
        "+0.5).",
    ]
    results.checkpoints[1] = CheckpointEntry("ours", "row", None, "resnet18", "0" * 64, 1, 0, ".")
    assert difference_sentences(results) == []  # one of several seeds


def test_a_page_opens_with_where_classifiers_look(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "grad-cam-0.png")
    looks = Analysis("Where classifiers look", [], [], [], None, {"grad-cam-0.png": "what both saw"})
    page = write_report(tmp_path, Results(analyses={"grad-cam": looks})).read_text()
    assert page.index("In short") < page.index("what both saw") < page.index("Where classifiers look")


def test_page_needs_nothing_outside_itself(report):
    page = (report / "index.html").read_text()
    assert "<svg" in page
    outside = re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']+)""", page)
    assert outside == []


def test_page_opens_with_a_summary_and_says_every_figure_in_words(report):
    page = (report / "index.html").read_text()
    top, _, rest = page.partition("<nav")
    assert "In short" in top and "3 checkpoints in 2 rows, 1 test set. Differences are to both." in top
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page and "@media print" in page
    sections = re.findall(r'<h2 id="([^"]+)"', rest)
    assert re.findall(r'<a href="#([^"]+)"', rest) == sections
    assert re.findall(r"<svg(?! role=.img. aria-label=.\w)", page) == re.findall(r'<img alt=""', page) == []


def test_page_looks_right_in_a_browser(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=2000"]
    dumped = subprocess.run(
        [browser, *flags, "--dump-dom", (report / "index.html").as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    # What the browser made of the page, not what was written.
    assert dumped.count("<table") == 6
    assert dumped.count("<svg") == 1
    assert "tiny/natural" in dumped


def test_second_run_adds_to_the_folder_and_reuses_predictions(report, runs, reference, evaluate, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(report, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "cache").iterdir()}
    arguments = ["--shards", f"{reference}:natural", "--corruptions", 0, "--out", out, "--json"]
    code, printed, error = evaluate("run", "--checkpoint", runs / "b", *arguments)
    assert code == 0, error
    assert json.loads(printed) == json.loads((out / "results.json").read_text())
    assert "writes to" not in error  # there was nothing to do that takes its time
    assert f"look at {out / 'index.html'}" in error
    assert {path: path.stat().st_mtime_ns for path in (out / "cache").iterdir()} == before
    assert [entry.name for entry in load_results(out).checkpoints] == ["both/a", "both/b", "a", "b"]


def test_corrupted_copy_is_made_once_and_told_apart(runs, reference, evaluate, tmp_path):
    arguments = ("run", "--checkpoint", runs / "a", "--shards", f"{reference}:natural", "--corruptions", 1)
    code, _, error = evaluate(*arguments, "--out", tmp_path / "out")
    assert code == 0, error
    (entry,) = load_results(tmp_path / "out").corruption
    assert (entry.marked, entry.mce, entry.ce) == ("generated", None, None)
    assert len(entry.error) == 15
    page = (tmp_path / "out" / "index.html").read_text()
    assert "do not apply" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere"], "nowhere: no such checkpoint"),
        (["--checkpoint", "{runs}/other"], "other knows no class"),
        (["--checkpoint", "x={runs}/a", "--checkpoint", "x={runs}/a"], "given twice"),
        (["--checkpoint", "{runs}/a", "--shards", "{reference}:nothing"], "no stream 'nothing'"),
        (["--checkpoint", "{runs}/a", "--imagenet", "{runs}"], "imagenet={runs}"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(evaluate, runs, reference, tmp_path, arguments, message):
    filled = [argument.format(runs=runs, reference=reference) for argument in arguments]
    if "--shards" not in filled and "--imagenet" not in filled:
        filled += ["--shards", f"{reference}:natural"]
    code, _, error = evaluate("run", *filled, "--corruptions", 0, "--out", tmp_path / "out")
    assert code == 2
    assert message.format(runs=runs) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "results.json").exists()


def test_without_data_the_default_dataset_is_named(evaluate, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = evaluate("run", "--checkpoint", runs / "a", "--out", "out")
    assert code == 2
    assert "genint-pipeline build-shards" in error


def test_folder_with_other_things_is_refused(evaluate, runs, reference, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    code, _, error = evaluate("run", "--checkpoint", runs / "a", "--shards", f"{reference}:natural", "--out", tmp_path)
    assert code == 2
    assert "holds something else" in error


def test_mean_over_seeds_has_students_interval():
    mean = mean_over_seeds([0.80, 0.82, 0.84], (0.0, 1.0))
    assert mean.value == pytest.approx(0.82)
    # t(0.975, 2) = 4.302653; s.d. 0.02, over the square root of 3
    assert mean.high - mean.value == pytest.approx(4.302653 * 0.02 / 3**0.5)
    assert mean_over_seeds([0.5], (0.4, 0.6)) == type(mean)(0.5, 0.4, 0.6, 1)


def test_differences_over_seeds_are_paired_by_seed_and_told_beside_the_unpaired(tmp_path):
    found = difference_over_seeds([0.50, 0.62, 0.71], [0.48, 0.59, 0.70])
    # Differences 0.02, 0.03, 0.01: s.d. 0.01, over the root of 3, times t(0.975, 2) = 4.302653.
    assert found.difference == pytest.approx(0.02)
    assert found.paired[1] - 0.02 == pytest.approx(4.302653 * 0.01 / 3**0.5)
    # Variances 0.0111 and 0.0121, over 3: s.e. 0.087939; freedom 0.0232^2 * 2 / (0.0111^2 + 0.0121^2) = 3.992565.
    assert found.unpaired[1] - 0.02 == pytest.approx(2.777897 * 0.087939, abs=1e-4)
    assert difference_over_seeds([0.5, 0.6], [0.4, 0.5]).paired == pytest.approx((0.1, 0.1))
    assert difference_over_seeds([0.5, 0.5], [0.5, 0.5]).unpaired == (0.0, 0.0)

    def checkpoint(name: str, seed: int | None) -> CheckpointEntry:
        return CheckpointEntry(name, name.partition("/")[0], None, "resnet18", "0" * 64, None, seed, "")

    def accuracy(name: str, top1: float) -> Accuracy:
        return Accuracy(name, "set", "", "own", "", 100, top1, (0.0, 1.0), 1.0, (0.0, 1.0), "")

    # Of a: seeds 0 to 2. Of b: 0 and 1, once more 2 twice, and one of unknown seed: two pairs.
    names = {"a/0": 0, "a/1": 1, "a/2": 2, "b/0": 0, "b/1": 1, "b/2": 2, "b/2-again": 2, "b/x": None, "c/0": 0}
    top1 = [0.1, 0.2, 0.9, 0.3, 0.5, 0.0, 0.0, 0.0, 0.7]
    copies = [
        CorruptionErrors(name, "copy", "generated", {"fog": error}, error, images=7)
        for name, error in (("a/0", 50.0), ("a/1", 40.0), ("b/0", 45.0), ("b/1", 36.0))
    ]
    results = Results(
        checkpoints=[checkpoint(name, seed) for name, seed in names.items()],
        accuracy=[accuracy(name, value) for name, value in zip(names, top1, strict=True)],
        corruption=copies,
    )
    results.row_differences = compare_rows(results)
    first, second = results.row_differences
    assert (first.baseline, first.row, first.test_set, first.measure, first.seeds) == ("a", "b", "set", "top-1", [0, 1])
    assert first.difference == pytest.approx(25.0) and first.images == 100
    # Differences of 20 and 30 points: t(0.975, 1) = 12.706205 times 5.
    assert first.paired == pytest.approx((25 - 63.531, 25 + 63.531), abs=1e-3)
    assert (second.test_set, second.measure, second.difference) == ("copy", "mean error", -4.5)
    page = write_report(tmp_path, results).read_text()
    assert "set, top-1, n = 100" in page and "-38.53 to +88.53" in page and "copy, mean error, n = 7" in page
    save_results(tmp_path, results)
    assert load_results(tmp_path) == results


def entry(name: str, group: str, preset: str | None = None) -> CheckpointEntry:
    return CheckpointEntry(name, group, preset, "resnet18", "0" * 64, None, None, "")


def test_table_has_a_row_a_group():
    results = Results(
        checkpoints=[entry("g/1", "g"), entry("g/2", "g"), entry("single", "single")],
        accuracy=[
            Accuracy(name, "set", "", "own", "", 100, top1, (0.0, 1.0), 1.0, (0.0, 1.0), "")
            for name, top1 in (("g/1", 0.4), ("g/2", 0.6), ("single", 0.7))
        ],
    )
    header, first, second = accuracy_lines(results)
    assert header == "top-1, %  set (n = 100)"
    assert first.split()[:2] == ["g", "50.00"]
    assert second.split()[:2] == ["single", "70.00"]


def test_summary_says_who_is_best_and_by_how_much():
    def summary(first: float, *paired: float, protocol: str = "") -> list[str]:
        names = [f"{row}/{seed}" for row in "ab" for seed in (0, 1)]
        return summarize(
            Results(
                checkpoints=[entry(name, name[0]) for name in names],
                accuracy=[
                    Accuracy(name, "set", protocol, "own", "", 100, top1, (0.0, 1.0), 1.0, (0.0, 1.0), "")
                    for name, top1 in zip(names, (first, first + 0.01, 0.57, 0.59), strict=True)
                ],
                row_differences=[
                    RowDifference("a", "b", "set", "top-1", 100, [0, 1], 8.0, (low, 16.0), (0.0, 1.0)) for low in paired
                ],
            ),
            ["set"],
        )

    gain = "set: b is right on 58.00 % of the images, 8.00 points more than a; "
    assert summary(0.495, 1.0) == [
        "4 checkpoints in 2 rows, 1 test set. Differences are to a.",
        gain + "over 2 pairs of seeds, 95 % interval +1.0 to +16.0.",
    ]
    assert summary(0.495)[1] == gain + "their 95 % intervals overlap."
    assert summary(0.6)[1] == "set: a is right on 60.50 % of the images; no other row is right on more."
    lacking = "Incomplete, and not to be compared with published numbers: set."
    assert summary(0.495, protocol="incomplete")[2] == lacking
    assert summarize(Results(), []) == []


def test_captions_cannot_act_in_alt_texts(tmp_path):
    (tmp_path / "figure.svg").write_text("<svg/>")
    assert 'alt="&#34;&gt;&lt;script&gt;"' in embed_file(tmp_path / "figure.svg", '"><script>').markup


def test_intervals_over_clusters_are_named_and_stand_for_those_over_images(tmp_path):
    def results(unit: str) -> Results:
        clustered = Clustered(unit, 20, (0.25, 0.75))
        own = Accuracy("x", "s", "", "own", "", 60, 0.5, (0.4, 0.6), 1.0, (0.9, 1.0), "", clustered=clustered)
        return Results(
            checkpoints=[entry("x", "x")],
            accuracy=[own],
            differences=[Difference("w", "x", "s", 60, 0.1, (0.05, 0.15), Clustered(unit, 20, (-0.01, 0.21)))],
            corruption=[CorruptionErrors("x", "c", "generated", {"fog": 50.0}, 50.0, images=30, clustered=clustered)],
        )

    page = write_report(tmp_path, results("latent")).read_text()
    assert "40.0 to 60.0; over 20 latents 25.0 to 75.0" in page
    assert "+5.00 to +15.00; over 20 latents -1.00 to +21.00" in page
    assert "over 20 latents 0.2 to 0.8" in page and "30 images of each corruption and severity" in page
    assert "50.00 (25.0 to 75.0)" in accuracy_lines(results("latent"))[1]
    # Other classes are another question: the images' interval stays.
    assert "50.00 (40.0 to 60.0)" in accuracy_lines(results("class"))[1]
    assert "over 20 classes 25.0 to 75.0" in write_report(tmp_path, results("class")).read_text()


def test_papers_numbers_stand_beside_official_sets_alone(tmp_path):
    def page(marked: str) -> str:
        results = Results(
            checkpoints=[entry("x", "x", "resnet18-genint")],
            accuracy=[Accuracy("x", "imagenet", "", marked, "", 9, 0.5, (0.1, 0.9), 0.6, (0.2, 0.9), "")],
        )
        return write_report(tmp_path, results).read_text()

    assert "paper 70.41" in page("official")
    assert "paper 70.41" not in page("own")


def test_presets_of_tables_1_to_3_are_found_in_the_papers_tables():
    # Of figure 5, and the field's stronger baselines, which the paper does not have.
    others = re.compile("figure-5|augmix|cutmix|label-smoothing|randaugment|random-erasing|trivialaugment")
    presets = [name for name in shipped_presets() if re.match("resnet(18|152)-", name) and not others.search(name)]
    assert len(presets) > 20
    assert [name for name in presets if paper_accuracy(name, "objectnet:genint") is None] == []


def test_relative_mce_needs_the_clean_accuracy():
    from genint.evaluate.metrics.corruption_error import ALEXNET_CLEAN_ERROR, ALEXNET_SEVERITY_ERRORS

    errors = {name: dict(enumerate(values, 1)) for name, values in ALEXNET_SEVERITY_ERRORS.items()}
    found = corruption_errors("alexnet", "imagenet-c", "official", errors, 1.0 - ALEXNET_CLEAN_ERROR)
    assert found.mce == pytest.approx(100.0, abs=1e-3)
    assert found.relative_mce == pytest.approx(100.0, abs=1e-2)
    assert corruption_errors("alexnet", "imagenet-c", "official", errors, None).relative_mce is None


def test_a_report_of_corrupted_sets_alone_has_their_section_and_no_other(tmp_path):
    results = Results(
        checkpoints=[entry("x", "x"), entry("y", "y")],
        accuracy=[Accuracy("x", "copy/fog/1", "", "generated", "", 9, 0.5, (0.1, 0.9), 0.6, (0.2, 0.9), "")],
        corruption=[
            CorruptionErrors("x", "copy", "generated", {"fog": 50.0}, 50.0),
            CorruptionErrors("y", "copy", "generated", {"fog": 20.0, "spatter": 30.0}, 25.0),
        ],
    )
    page = write_report(tmp_path, results).read_text()
    assert "Corruptions" in page and "spatter" in page and "Test sets" not in page
    assert accuracy_lines(results)[1:] == ["x         50.00", "y         25.00"]


def test_a_row_shows_a_set_that_only_one_of_its_seeds_was_measured_on(tmp_path):
    results = Results(
        checkpoints=[entry("g/1", "g"), entry("g/2", "g")],
        accuracy=[Accuracy("g/2", "set", "", "own", "", 9, 0.25, (0.1, 0.9), 0.6, (0.2, 0.9), "")],
    )
    assert "25.00" in write_report(tmp_path, results).read_text()


def test_results_survive_a_round_trip_and_numbers_without_a_word_in_json_become_null(tmp_path):
    results = Results(
        checkpoints=[entry("x", "x")],
        corruption=[CorruptionErrors("x", "copy", "generated", {"fog": 50.0}, 50.0)],
        analyses={"nuisances": Analysis("title", ["text"], ["a"], [["1"]], {"spread": 2.0})},
    )
    save_results(tmp_path, results)
    assert load_results(tmp_path) == results
    results.analyses["nuisances"] = Analysis("title", [], [], [], {"spread": [float("inf"), 1.0]})
    save_results(tmp_path, results)
    assert load_results(tmp_path).analyses["nuisances"].data == {"spread": [None, 1.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="other"), "not version 1 of genint-evaluate"),
        (lambda r: r.update(environments=[]), "environments: Input should be"),
        (lambda r: r["accuracy"][0].update(top1="x"), "accuracy.0.top1: Input should be a valid number"),
        (lambda r: r["accuracy"][0].update(top1=float("nan")), "not JSON: NaN is no number"),
        (lambda r: r["accuracy"][0].update(top5=1.5), "accuracy.0.top5: Input should be less than or equal to 1"),
        (lambda r: r["accuracy"][0].update(checkpoint="y"), "no checkpoint 'y'"),
        (lambda r: r["accuracy"][0].update(more=1), "accuracy.0.more: "),
        (lambda r: r["accuracy"][0].pop("digest"), "accuracy.0.digest: "),
        (lambda r: r["analyses"]["a"].update(figures={"../secret.txt": ""}), "should match pattern"),
        (lambda r: r["analyses"]["a"].update(rows=[["1", "2"]]), "rows and columns differ"),
    ],
)
def test_damaged_results_are_named_with_their_place(tmp_path, change, message):
    results = Results(
        checkpoints=[entry("x", "x")],
        accuracy=[Accuracy("x", "set", "", "own", "", 9, 0.5, (0.1, 0.9), 0.6, (0.2, 0.9), "")],
        analyses={"a": Analysis("title", ["text"], ["a"], [["1"]], None)},
    )
    save_results(tmp_path, results)
    tree = json.loads((tmp_path / "results.json").read_text())
    change(tree)
    (tmp_path / "results.json").write_text(json.dumps(tree))
    with pytest.raises(FormatError, match=rf"results\.json: .*{re.escape(message)}"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"\xff\xfe", b'{"a": 1, "a": 2}', b'{"a": 1e999}', b'"\\ud800"', b"9" * 5000]
)
def test_json_that_cannot_be_believed_is_refused_with_its_place(content):
    with pytest.raises(FormatError, match=r"^here: not JSON: "):
        parse_json(content, "here")


def test_a_figure_of_the_page_is_a_file_of_the_folder(tmp_path):
    (tmp_path / "secret").write_text("key")
    (tmp_path / "a.png").symlink_to(tmp_path / "secret")
    results = Results(analyses={"a": Analysis("title", [], [], [], None, {"a.png": "caption"})})
    with pytest.raises(FormatError, match=r"a\.png: not a file of its own"):
        write_report(tmp_path, results)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FormatError, match=r"a\.png: missing; run the analysis again"):
        write_report(tmp_path, results)


def test_a_second_evaluation_into_one_folder_is_refused_and_says_by_whom(evaluate, runs, reference, tmp_path):
    with only_process(tmp_path / "out" / "lock", ""):
        code, _, error = evaluate(
            "run", "--checkpoint", runs / "a", "--shards", f"{reference}:natural", "--out", tmp_path / "out"
        )
    assert code == 2
    assert re.search(r"out: another command writes its results there \(process \d+ on .*, since ", error)
    assert os.listdir(tmp_path / "out") == ["lock"]


def test_no_folder_of_this_machine_stands_in_a_report(report, runs):
    page = (report / "index.html").read_text() + (report / "results.json").read_text()
    assert str(runs) not in page and str(report.parent) not in page
    assert [e.location for e in load_results(report).checkpoints] == ["a", "b", "a"]


def test_locations_are_shown_by_what_tells_them_apart():
    assert shown_locations(["/x/y/a/last.pt", "runs/b", "/x/y/c/last.pt"]) == ["a/last.pt", "runs/b", "c/last.pt"]
    assert shown_locations(["s3://key:secret@bucket/run?X-Amz-Signature=1"]) == ["run"]


def test_alexnet_on_an_official_copy_is_a_self_check():
    alexnet = CheckpointEntry("alexnet-V1", "alexnet-V1", None, "alexnet", "0" * 64, None, None, "torchvision:alexnet")
    results = Results(
        checkpoints=[alexnet, entry("x", "x")],
        corruption=[
            CorruptionErrors(name, "imagenet-c", "official", {"fog": 50.0}, 50.0, {"fog": 99.0}, mce, None)
            for name, mce in (("alexnet-V1", 100.04), ("x", 80.0))
        ],
    )
    assert accuracy_lines(results)[-1] == "self-check: mCE of alexnet-V1 on imagenet-c is 100.0; it must be 100.0"
    assert sum("self-check" in line for line in accuracy_lines(results)) == 1


def test_numbers_of_another_checkpoint_of_the_same_name_are_dropped_and_predictions_exported(
    evaluate, runs, reference, tmp_path
):
    arguments = ("--corruptions", 0, "--out", tmp_path / "out")
    code, _, error = evaluate(
        "run", "--checkpoint", f"mine={runs / 'a'}", "--shards", f"{reference}:natural", "--export", *arguments
    )
    assert code == 0, error
    (table,) = (tmp_path / "out" / "predictions").glob("mine/*.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    measured = load_results(tmp_path / "out").accuracy[0]
    assert len(rows) == measured.images == 60
    assert sum(row["answer_1"] == row["labels"] for row in rows) == round(60 * measured.top1)
    assert all(0 < float(row["label_probability"]) <= float(row["confidence"]) <= 1 for row in rows)
    code, _, error = evaluate(
        "run", "--checkpoint", f"mine={runs / 'b'}", "--shards", f"{reference}:observational", *arguments
    )
    assert code == 0, error
    assert "mine: another checkpoint had this name" in error
    (left,) = load_results(tmp_path / "out").accuracy
    assert left.test_set.endswith("/observational")


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--checkpoint=x", "--shards=x"],
        ["correlation", "--predictor=x:y", "--distribution=x:y", "--test=x:y"],
        ["causal-bound", "--checkpoint=x", "--shards=x", "--queries=x:y"],
        ["nuisances", "--reader=x:y", "--reference=x:y", "--held-out=x:y", "--distribution=x:y"],
        ["grad-cam", "--checkpoint=x", "--shards=x:y"],
    ],
)
def test_every_measurement_takes_a_device_and_refuses_one_that_is_not_there(evaluate, tmp_path, command):
    code, _, error = evaluate(*command, "--out", tmp_path / "out", "--device", "cuda:99")
    assert code == 2
    assert "--device cuda:99: this process sees" in error
    assert not (tmp_path / "out").exists()
