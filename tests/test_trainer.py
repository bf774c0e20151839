"""Runs on the tiny dataset. As a script, one rank of a run of several: `test_trainer.py DATASET OUT`."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from genint.manifests.errors import GenintError, UsageError
from genint.train.checkpoint import load_classifier
from genint.train.configuration import Configuration, Stage, load_configuration
from genint.train.distributed import LostRank, Ranks, join
from genint.train.inputs import open_inputs
from genint.train.learner import Learner, make_optimizer
from genint.train.plan import plan_stages
from genint.train.run import RunFolder
from genint.train.trainer import Progress, Settings, make_loader, train
from torch import nn

CPU = Ranks(0, 1, torch.device("cpu"))
SMALL = [
    "arch=mobilenet_v3_small",
    "batch_sizes.natural=8",
    "batch_sizes.int=5",
    "warmup_steps=0",
    "lr=0.05",
    "steps=12",
]


class TinyClassifier(nn.Sequential):
    """No batch norm and no dropout: what it learns does not depend on how a batch is divided."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)
        )


def configure(*overrides: str, preset: str = "mini-genint") -> Configuration:
    return load_configuration(preset, [*SMALL, *overrides])


def run(
    configuration: Configuration, dataset: Path, out: Path, stop: int | None = None, **settings: Any
) -> list[Progress]:
    """Train, and end without a word at step `stop`, as a process that is killed."""
    reports = []
    inputs = open_inputs(configuration, [str(dataset)])
    progress = train(configuration, inputs, out, CPU, Settings(log_every=5, **settings))
    for report in progress:
        reports.append(report)
        if report.step == stop:
            break
    progress.close()  # type: ignore[attr-defined]  # a generator
    return reports


def read_last(out: Path, name: str = "last.pt") -> dict[str, Any]:
    return dict(torch.load(out / name, weights_only=True))


def lines(out: Path) -> list[dict[str, Any]]:
    """Lines of metrics without what depends on the clock."""
    parsed = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in parsed]


def assert_equal(first: Any, second: Any) -> None:
    """Bit for bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list):
        for ours, theirs in zip(first, second, strict=True):
            assert_equal(ours, theirs)
    else:
        assert first == second


@pytest.fixture(scope="module")
def uninterrupted(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    run(configure("validation_share=0.2"), reference, out)
    return out


def test_a_run_killed_twice_ends_bit_for_bit_as_one_that_was_not(reference: Path, uninterrupted: Path, tmp_path: Path):
    out, configuration = tmp_path / "run", configure("validation_share=0.2")
    # Epochs have 6 steps: killed in the first and in the second, the last steps since a checkpoint lost both times.
    assert [report.step for report in run(configuration, reference, out, stop=5, save_every=2)] == [0, 1, 2, 3, 4, 5]
    again = run(configuration, reference, out, stop=9, save_every=3, workers=1)
    assert [report.step for report in again] == [4, 5, 6, 7, 8, 9]
    run(configuration, reference, out)
    ours, theirs = read_last(out), read_last(uninterrupted)
    for key in ("model", "optimizer", "step", "best_top1", "identity", "class_names"):
        assert_equal(ours[key], theirs[key])
    assert lines(out) == lines(uninterrupted)
    assert [line["step"] for line in lines(out)] == [5, 6, 10, 12, 12]


def test_a_run_writes_what_it_is_and_what_it_measured(uninterrupted: Path):
    names = {path.name for path in uninterrupted.iterdir()}
    assert {"run.json", "configuration.toml", "metrics.jsonl", "tensorboard", "last.pt", "best.pt"} <= names
    first = lines(uninterrupted)[0]
    weight = configure().stages[0].lambda_int
    assert weight
    assert first["loss"] == pytest.approx(first["loss_natural"] + weight * first["loss_int"], rel=1e-5)
    assert (first["stage"], first["epoch"], first["lr"]) == ("train", pytest.approx(5 / 6, abs=1e-3), 0.05)
    validations = [line for line in lines(uninterrupted) if "validation_top1" in line]
    assert [line["step"] for line in validations] == [6, 12]
    assert {line["validation_images"] for line in validations} == {12}
    best = max(validations, key=lambda line: line["validation_top1"])  # the first of equals
    assert read_last(uninterrupted, "best.pt")["step"] == best["step"]
    assert read_last(uninterrupted)["configuration"]["stages.train.lambda_int"] == weight
    assert load_configuration(str(uninterrupted / "configuration.toml")) == configure("validation_share=0.2")


def test_a_finished_run_does_nothing_more_and_a_longer_one_goes_on(reference: Path, tmp_path: Path):
    out = tmp_path / "run"
    run(configure("steps=3"), reference, out)
    assert [report.step for report in run(configure("steps=3"), reference, out)] == [3]
    assert [report.step for report in run(configure("steps=4"), reference, out)] == [3, 4]
    with pytest.raises(UsageError, match="at step 4 already"):
        run(configure("steps=3"), reference, out)


def test_another_configuration_is_refused_by_what_changed(reference: Path, tmp_path: Path):
    run(configure("steps=1"), reference, tmp_path)
    before = configure().stages[0].lambda_int
    changes = f"stages.train.lambda_int: {before} -> 0.5; stages.train.lr: 0.05 -> 0.1"
    with pytest.raises(UsageError, match=rf"{changes} \(to go on as it was, --preset .*; or name a new folder\)$"):
        run(configure("steps=1", "lambda_int=0.5", "lr=0.1"), reference, tmp_path)
    with pytest.raises(UsageError, match=r"stages\.train\.sources\.int: .*; stream observational: absent -> "):
        run(configure("steps=1", 'sources.int=["observational"]'), reference, tmp_path)


def test_a_stream_that_takes_no_part_need_not_be_whole_and_may_change(reference: Path, tmp_path: Path):
    dataset = tmp_path / "dataset"
    shutil.copytree(reference, dataset)
    for shard in (dataset / "observational").rglob("*.tar"):
        shard.write_bytes(b"")
    run(configure("steps=1"), dataset, tmp_path / "run")
    # A run of an earlier version has noted it.
    identity = {
        key: of for key, of in json.loads((tmp_path / "run" / "run.json").read_text()).items() if key != "sha256"
    }
    assert "stream observational" not in identity
    RunFolder(tmp_path / "run").create(configure("steps=1"), {**identity, "stream observational": {"kind": "genint"}})
    assert run(configure("steps=2"), dataset, tmp_path / "run")[-1].step == 2


def test_a_run_that_is_under_way_is_left_to_its_process(reference: Path, tmp_path: Path):
    configuration, out = configure(), tmp_path / "run"
    going = train(configuration, open_inputs(configuration, [str(reference)]), out, CPU, Settings())
    while next(going).step < 2:
        pass
    with pytest.raises(UsageError, match=rf"under way \(process {os.getpid()} on "):
        run(configuration, reference, out)
    going.close()  # type: ignore[attr-defined]  # a generator
    assert run(configuration, reference, out)[-1].step == 12


def test_only_the_newest_checkpoints_and_the_best_are_kept(reference: Path, tmp_path: Path):
    run(configure("validation_share=0.2", "steps=6"), reference, tmp_path, keep=2, save_every=1, validate_every=2)
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-00000005.pt", "step-00000006.pt"]
    assert read_last(tmp_path)["step"] == 6
    assert read_last(tmp_path, "best.pt")["step"] in (2, 4, 6)


def test_a_run_that_is_asked_to_stop_saves_first(reference: Path, uninterrupted: Path, tmp_path: Path):
    configuration = configure("validation_share=0.2")
    inputs = open_inputs(configuration, [str(reference)])
    before = signal.getsignal(signal.SIGTERM)
    for report in train(configuration, inputs, tmp_path, CPU, Settings(log_every=5)):
        if report.step == 3 and report.signal is None:
            os.kill(os.getpid(), signal.SIGTERM)
    assert (report.step, report.signal) == (3, signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    assert read_last(tmp_path)["step"] == 3
    run(configuration, reference, tmp_path)
    assert_equal(read_last(tmp_path)["model"], read_last(uninterrupted)["model"])
    # The line of step 5 covers steps from before the stop.
    assert lines(tmp_path) == lines(uninterrupted)


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_images(reference: Path, tmp_path: Path):
    configuration = configure("lr=1e30", "decay_epochs=[]")
    with pytest.raises(
        GenintError, match=r"step (\d+): the loss is not finite .*natural: .*; interventional: "
    ) as error:
        run(configuration, reference, tmp_path, save_every=1)
    step = int(str(error.value).split()[1].rstrip(":"))
    assert read_last(tmp_path)["step"] == step > 0
    told = json.loads((tmp_path / f"not-finite-step-{step:08d}.json").read_text())
    loader = make_loader(
        configuration, plan_stages(configuration, open_inputs(configuration, [str(reference)]))[0], CPU, Settings()
    )
    for name in ("natural", "interventional"):
        assert told["keys"][name] == ["/".join(Path(key).parts[-2:]) for key in loader.step_keys(step, name)]
    assert len(told["keys"]["natural"]) == 8


def test_stages_follow_with_a_fresh_optimizer_and_resume_inside_the_second(reference: Path, tmp_path: Path):
    preset = tmp_path / "two.toml"
    preset.write_text(
        'extends = "mini-erm"\nstreams = ["natural", "observational", "interventional"]\n[[stages]]\nname = "first"\n'
        '[[stages]]\nname = "second"\nlambda_int = 0.5\nlr = 0.01\noptimizer = "adam"\n'
    )
    configuration = configure("steps=3", "mixup=0.4", preset=str(preset))
    run(configuration, reference, tmp_path / "whole")
    run(configuration, reference, tmp_path / "parts", stop=5, save_every=1)
    reports = run(configuration, reference, tmp_path / "parts", save_every=1)
    assert [report.step for report in reports] == [5, 6]
    assert_equal(read_last(tmp_path / "parts")["model"], read_last(tmp_path / "whole")["model"])
    stages = [(line["stage"], line["step"], "loss_int" in line) for line in lines(tmp_path / "whole")]
    assert stages == [("first", 3, False), ("second", 5, True), ("second", 6, True)]


def test_a_recipe_of_the_field_resumes_exactly_and_its_length_is_part_of_its_cosine(reference: Path, tmp_path: Path):
    recipe = [
        "steps=4", "schedule=cosine", "warmup_steps=1", "norm_weight_decay=0.0", "augmentation=trivialaugment",
        "random_erasing=0.5", "label_smoothing=0.1", "mixup=0.2", "cutmix=1.0", "evaluation_size=40", "resize=42",
    ]  # fmt: skip
    configuration = configure(*recipe)
    run(configuration, reference, tmp_path / "whole")
    run(configuration, reference, tmp_path / "parts", stop=2, save_every=2)
    run(configuration, reference, tmp_path / "parts", workers=1)
    assert_equal(read_last(tmp_path / "parts")["model"], read_last(tmp_path / "whole")["model"])
    classifier = load_classifier(str(tmp_path / "whole"))
    assert (classifier.preprocessing.resize, classifier.preprocessing.crop) == (42, 40)
    with pytest.raises(UsageError, match=r"stages\.train\.steps: 4 -> 5"):
        run(configure(*recipe, "steps=5"), reference, tmp_path / "whole")


def test_a_run_of_before_a_key_was_known_goes_on_with_its_default(reference: Path, tmp_path: Path):
    run(configure("steps=1"), reference, tmp_path)
    new = {"freeze_batch_norm", "stages.train.label_smoothing", "stages.train.batch_sizes.counterfactual", "sha256"}
    identity = json.loads((tmp_path / "run.json").read_text())
    assert new <= identity.keys()
    RunFolder(tmp_path).create(configure("steps=1"), {key: identity[key] for key in identity.keys() - new})
    with pytest.raises(UsageError, match=r"stages\.train\.label_smoothing: 0\.0 -> 0\.1 "):
        run(configure("steps=2", "label_smoothing=0.1"), reference, tmp_path)
    assert run(configure("steps=2"), reference, tmp_path)[-1].step == 2


def test_decay_of_normalisation_is_its_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2))
    (one,) = make_optimizer(Stage(steps=1, optimizer="adadelta"), model).param_groups
    assert one["weight_decay"] == 1e-4 and len(one["params"]) == 8
    rest, norms = make_optimizer(Stage(steps=1, weight_decay=0.1, norm_weight_decay=0.0), model).param_groups
    assert (rest["weight_decay"], norms["weight_decay"]) == (0.1, 0.0)
    assert [tuple(p.shape) for p in norms["params"]] == [(4,)] * 4
    assert len(rest["params"]) == 4


@pytest.mark.parametrize(
    "overrides", [["precision=bf16", "channels_last=false"], ["bn_statistics=natural", "mixup=0.4"]]
)
def test_precisions_formats_and_statistics_train(reference: Path, tmp_path: Path, overrides: list[str]):
    (*_, last) = run(configure("steps=2", "arch=shufflenet_v2_x0_5", *overrides), reference, tmp_path)
    assert last.metrics is not None and last.metrics["loss"] < 10


def test_a_preset_that_fine_tunes_needs_its_start_and_takes_it(reference: Path, uninterrupted: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="give the classifier to start from with --init"):
        run(configure("init=required", "steps=1"), reference, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(configure(f"init={uninterrupted}", "steps=1", "lr=1e-30"), reference, tmp_path / "run")
    name = "classifier.3.weight"
    assert torch.equal(read_last(tmp_path / "run")["model"][name], read_last(uninterrupted)["model"][name])
    with pytest.raises(UsageError, match="init: "):
        run(configure("steps=1", "lr=1e-30"), reference, tmp_path / "run")


def test_a_step_too_small_for_its_parts_is_refused(reference: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="13 images a step are too few for 10 parts"):
        run(configure(), reference, tmp_path / "run", accumulate=10)


# One step in one part, in several, or on several ranks.


def learn(dataset: Path, ranks: Ranks, accumulate: int = 1, *overrides: str) -> dict[str, Any]:
    """Losses of three steps, the gradients of the last, and the parameters: of 7 natural and 5 generated images."""
    configuration = configure("batch_sizes.natural=7", *overrides)
    inputs = open_inputs(configuration, [str(dataset)])
    (plan,) = plan_stages(configuration, inputs)
    torch.manual_seed(0)
    model = TinyClassifier()
    learner = Learner(model, configuration, 10, ranks, accumulate)
    learner.begin(plan)
    losses, gradients = [], {}
    for batch in make_loader(configuration, plan, ranks, Settings(accumulate=accumulate)).steps(0, 3):
        losses.append(ranks.sum(learner.gradients(batch)).tolist())
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        if ranks.world_size > 1:  # in the buckets that are exchanged, not beside them
            pieces = [value.grad.untyped_storage().data_ptr() for value in model.parameters() if value.grad is not None]
            assert len(set(pieces)) < len(pieces)
        learner.update(0.1)
    return {"losses": losses, "gradients": gradients, "model": dict(model.state_dict())}


def assert_close(first: dict[str, Any], second: dict[str, Any]) -> None:
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_a_step_in_parts_is_the_step_in_one(reference: Path):
    whole = learn(reference, CPU)
    for accumulate in (2, 5):
        assert_close(learn(reference, CPU, accumulate), whole)
    mixed = learn(reference, CPU, 1, "mixup=0.4")
    assert_close(learn(reference, CPU, 3, "mixup=0.4"), mixed)
    assert mixed["losses"] != whole["losses"]


def test_a_profile_says_where_the_time_of_its_steps_goes(reference: Path, tmp_path: Path):
    reports = run(configure("steps=5"), reference, tmp_path / "run", profile=3)
    (said,) = [report.notes for report in reports if any(note.startswith("profile") for note in report.notes)]
    of_steps, of_images = [note for note in said if note.startswith("profile")]
    assert of_steps.startswith("profile of 3 steps: ") and reports[-1].step == 5
    whole, *parts = (float(found) for found in re.findall(r"([\d.]+) ms", of_steps))
    assert len(re.findall("(wait|copy|forward|backward|update|other) ", of_steps)) == len(parts) == 6
    assert sum(parts) == pytest.approx(whole, abs=0.5)
    check, read, decode = (float(found) for found in re.findall(r"([\d.]+) ms", of_images))
    assert check + read + decode <= parts[0] + 0.5 and decode > 0  # without workers all of it is waited for
    with pytest.raises(UsageError, match="--profile 4: the run has 5 steps left, of which the first 2 are not timed"):
        run(configure("steps=5"), reference, tmp_path / "other", profile=4)
    assert not (tmp_path / "other").exists()


def start_ranks(count: int, command: list[object]) -> list[subprocess.Popen[str]]:
    """Processes as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


RESUMED = ["validation_share=0.2", "arch=shufflenet_v2_x0_5", "steps=4"]


def test_two_processes_learn_what_one_does_and_go_on_with_its_run(reference: Path, tmp_path: Path):
    run(configure(*RESUMED), reference, tmp_path / "run", stop=2, save_every=1)
    processes = start_ranks(2, [__file__, reference, tmp_path])
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    for accumulate in (1, 2):
        first, second = (torch.load(tmp_path / f"{rank}-{accumulate}.pt", weights_only=True) for rank in range(2))
        assert_equal(first, second)
        assert_close(first, learn(reference, CPU))
    last = read_last(tmp_path / "run")
    assert (last["step"], last["world_size"]) == (4, 2)
    assert [line["validation_images"] for line in lines(tmp_path / "run") if "validation_images" in line] == [12]


def main(dataset: str, out: str) -> None:
    """One rank: learn three steps, then go on with a run that is in the first rank's folder alone."""
    with join("cpu") as ranks:
        for accumulate in (1, 2):
            torch.save(learn(Path(dataset), ranks, accumulate), Path(out) / f"{ranks.rank}-{accumulate}.pt")
        configuration = configure(*RESUMED)
        folder = Path(out) / ("run" if ranks.is_main else f"local-{ranks.rank}")
        steps = [report.step for report in train(configuration, open_inputs(configuration, [dataset]), folder, ranks)]
        assert steps == [2, 3, 4]
        # Whatever else differs is said by all, before anything is done.
        other = configure(*RESUMED, f"seed={ranks.rank}")
        with pytest.raises(UsageError, match="seed: 0 on rank 0, 1 on rank 1; give each the same command"):
            next(train(other, open_inputs(other, [dataset]), Path(out) / "other", ranks))
        assert not (Path(out) / "other").exists()
        # A folder that the first rank refuses ends all of them, not the others in a wait for it.
        with pytest.raises(UsageError if ranks.is_main else LostRank):
            next(train(configuration, open_inputs(configuration, [dataset]), Path(out), ranks))


if __name__ == "__main__":
    main(*sys.argv[1:])
