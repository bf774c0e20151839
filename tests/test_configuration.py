import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genint.manifests.errors import UsageError
from genint.train.configuration import describe_preset, load_configuration, shipped_presets
from genint.train.inputs import Inputs, hold_out
from genint.train.mapped_images import ImagesWithout
from genint.train.plan import divide_batches, plan_stages
from genint.train.streams import Term, TrainStream

ROWS = ["imagenet-only", "stylized", "mixup", "autoaugment", "gan-augmentation", "genint", "genint-transfer"]


class TinyImages:
    """Images that are their own position."""

    class_names = ("a", "b")
    names_classes = False

    def __init__(self, *shard_sizes: int) -> None:
        self.shard_sizes = list(shard_sizes)
        self.checked: list[int] = []

    def __len__(self) -> int:
        return sum(self.shard_sizes)

    def read(self, position: int) -> tuple[bytes, int]:
        return b"%d" % position, position % 2

    def key(self, position: int) -> str:
        return f"key-{position}"

    def check(self) -> None:
        pass

    def check_shard(self, shard: int) -> None:
        self.checked.append(shard)

    def fingerprint(self) -> dict[str, Any]:
        return {"sizes": self.shard_sizes}


def streams(**sizes: int) -> list[TrainStream]:
    terms: dict[str, Term] = {"n": "natural", "i": "int", "t": "transfer"}
    return [TrainStream(name, terms[name[0]], TinyImages(size)) for name, size in sizes.items()]


def plan(streams: list[TrainStream], *overrides: str) -> Any:
    configuration = load_configuration("resnet18-imagenet-only", ["augmentation=none", *overrides])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genint.train.plan.image_size", lambda images: (224, 224))
        return plan_stages(configuration, Inputs(streams, ("a", "b"), []))


def test_every_row_of_the_tables_has_a_preset_that_resolves_and_says_what_it_is():
    names = set(shipped_presets())
    for arch in ("resnet18", "resnet152"):
        for row in ROWS:
            assert {f"{arch}-{row}", f"{arch}-{row}-additional"} <= names
    for name, text in shipped_presets().items():
        configuration = load_configuration(name)
        assert configuration.preset == name
        assert describe_preset(text).split(":")[0] in (
            "Tables 1-3", "Tables 1 and 3", "Table 1", "Table 4", "Figure 5", "The mini world",
            "CGN (Sauer & Geiger 2021), ImageNet", "CGN (Sauer & Geiger 2021), MNIST", "Baseline of the field",
        )  # fmt: skip
        if name.startswith("resnet"):
            assert "Paper" in text or "paper" in text or "agree" in text


def test_presets_have_the_numbers_of_the_paper():
    genint = load_configuration("resnet18-genint").stages[0]
    assert (genint.lambda_int, genint.epochs, genint.lr, genint.decay_epochs) == (0.05, 90, 0.1, [30, 60])
    assert (genint.batch_sizes["natural"], genint.batch_sizes["int"]) == (256, 64)
    first, second = load_configuration("resnet18-genint-transfer").stages
    assert (first.epochs, first.lambda_int, first.lambda_transfer, first.lr) == (90, None, 1.0, 0.1)
    assert (second.epochs, second.lambda_int, second.lambda_transfer, second.lr) == (40, 0.02, 1.0, 0.001)
    for stage in load_configuration("resnet152-genint-transfer-additional").stages:
        assert (stage.lambda_transfer, stage.epochs, stage.optimizer) == (0.2, 40, "sgd")
    assert load_configuration("resnet152-genint").init == "required"
    assert load_configuration("resnet50-interventional").stages[0].terms == ["int"]
    assert load_configuration("resnet18-mixup-additional").augmentation == "additional"
    assert load_configuration("resnet18-mixup-additional").stages[0].mixup == 0.4


def test_mini_rows_see_equally_many_natural_images():
    rows = [name for name in shipped_presets() if name.startswith("mini-") and name != "mini-generated"]
    assert {"mini-erm", "mini-genint-cgn", "mini-augmix"} <= set(rows)
    lengths = {
        (c.images_per_epoch, s.epochs, s.batch_sizes["natural"])
        for c in map(load_configuration, rows)
        for s in c.stages
    }
    assert len(lengths) == 1


def test_what_a_run_writes_is_a_preset_of_the_same_configuration(tmp_path: Path):
    configuration = load_configuration("resnet18-genint-transfer", ["seed=5"])
    path = tmp_path / "mine.toml"
    path.write_text(configuration.to_toml())
    assert load_configuration(str(path)) == configuration
    assert tomllib.loads(configuration.to_toml())["seed"] == 5


def test_a_file_may_extend_a_file_or_a_shipped_preset(tmp_path: Path):
    (tmp_path / "base.toml").write_text('extends = "mini-erm"\nlr = 0.5\nbatch_sizes = { natural = 8 }\n')
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\nlambda_int = 0.25\n')
    configuration = load_configuration(str(tmp_path / "mine.toml"))
    assert (configuration.preset, configuration.size) == ("mine", 32)
    assert (configuration.stages[0].lr, configuration.stages[0].lambda_int) == (0.5, 0.25)
    assert configuration.stages[0].batch_sizes == {"natural": 8, "int": 32, "transfer": 64, "counterfactual": 256}
    (tmp_path / "loop.toml").write_text('extends = "loop.toml"\n')
    with pytest.raises(UsageError, match="extends itself"):
        load_configuration(str(tmp_path / "loop.toml"))


def test_overrides_reach_all_stages_or_one_and_lambdas_those_that_have_them():
    name = "resnet18-genint-transfer"
    stages = load_configuration(name, ["lr=0.5", "batch_sizes.natural=8", "steps=7", "lambda_int=0.3"]).stages
    assert [stage.lr for stage in stages] == [0.5, 0.5]
    assert [stage.batch_sizes["natural"] for stage in stages] == [8, 8]
    assert [(stage.steps, stage.epochs) for stage in stages] == [(7, None), (7, None)]
    assert [stage.lambda_int for stage in stages] == [None, 0.3]
    stages = load_configuration(name, ["stages.transfer.lr=0.5", "stages.transfer.batch_sizes.natural=8"]).stages
    assert [stage.lr for stage in stages] == [0.5, 0.001]
    assert [stage.batch_sizes["natural"] for stage in stages] == [8, 256]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lamda_int=1", "unknown key 'lamda_int'; did you mean 'lambda_int'"),
        ("stages.train.lrr=1", "unknown key 'stages.train.lrr'; did you mean 'lr'"),
        ("stages.tran.lr=1", "no stage 'tran'; did you mean 'train'"),
        ("lr=fast", "stages.train.lr = 'fast'"),
        ("lr=-1", "greater than 0"),
        ("epochs=0", "stages.train.epochs = 0"),
        ("natural=false", "nothing to train on"),
        ("as_released=true", "as_released"),
        ("lr", "expected KEY=VALUE"),
        ("arch.x=1", "arch is a value, not a table"),
        ("precision=fp16", "precision = 'fp16'"),
    ],
)
def test_a_bad_override_is_named_with_what_was_expected(override: str, message: str):
    with pytest.raises(UsageError, match=message):
        load_configuration("resnet18-imagenet-only", [override])


def test_natural_statistics_need_natural_images():
    with pytest.raises(UsageError, match="has no natural images"):
        load_configuration("resnet50-observational", ["bn_statistics=natural"])


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'resnet18-genint'"):
        load_configuration("resnet18-genit")
    with pytest.raises(UsageError, match="no such preset file"):
        load_configuration("missing.toml")


def test_epochs_count_the_leading_term_with_the_cap_of_the_released_code():
    # 1,281,167 images: 1,000,000 of them are 3,907 batches of 256, as in the released loop
    (capped,) = plan(streams(natural=1_281_167))
    assert (capped.steps_per_epoch, capped.steps) == (3907, 90 * 3907)
    (whole,) = plan(streams(natural=1_281_167), "images_per_epoch=2000000")
    assert whole.steps_per_epoch == 5005
    (generated,) = plan(streams(i=1000), "natural=false", "lambda_int=1.0", "batch_sizes.int=100")
    assert generated.steps_per_epoch == 10


def test_the_rate_is_divided_at_the_decay_epochs_after_a_warm_up():
    (stage,) = plan(
        streams(natural=256), "decay_epochs=[1, 2]", "epochs=3", "batch_sizes.natural=256", "decay_factor=0.7"
    )
    assert [stage.lr(step) for step in range(3)] == pytest.approx([0.1, 0.07, 0.049])
    (stage,) = plan(
        streams(natural=256), "decay_epochs=[2, 3]", "epochs=4", "warmup_steps=2", "batch_sizes.natural=128"
    )
    assert [stage.lr(step) for step in range(8)] == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_along_a_cosine_the_rate_ends_near_zero_and_the_length_is_part_of_the_run():
    (stage,) = plan(
        streams(natural=256), "schedule=cosine", "epochs=5", "warmup_steps=2", "batch_sizes.natural=128", "lr=0.4"
    )
    assert [stage.lr(step) for step in range(2)] == pytest.approx([0.2, 0.4])
    assert stage.lr(2) == pytest.approx(0.4) and stage.lr(6) == pytest.approx(0.2)
    assert 0 < stage.lr(9) < 0.4 * 0.05


def test_stages_follow_each_other_and_take_their_own_streams():
    configuration = load_configuration("resnet18-genint-transfer", ["augmentation=none"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genint.train.plan.image_size", lambda images: (256, 256))
        first, second = plan_stages(configuration, Inputs(streams(t=600, i=600, natural=600), ("a", "b"), []))
    assert first.batch_sizes == {"natural": 256, "t": 256}
    assert list(second.batch_sizes.items()) == [("natural", 256), ("i", 64), ("t", 256)]
    assert (first.start, first.stop, second.start, second.steps) == (0, 270, 270, 120)


def test_streams_of_a_term_share_its_batch():
    two = streams(natural=300, i1=300, i2=300, i3=300)
    (shared,) = plan(two, "lambda_int=1.0")
    assert shared.batch_sizes == {"natural": 256, "i1": 22, "i2": 21, "i3": 21}
    (given,) = plan(two, "lambda_int=1.0", "stream_batch_sizes.i2=40")
    assert given.batch_sizes == {"natural": 256, "i1": 12, "i2": 40, "i3": 12}
    assert given.term_counts == {"natural": 256, "int": 64}
    with pytest.raises(UsageError, match="did you mean 'i2'"):
        plan(two, "lambda_int=1.0", "stream_batch_sizes.i22=40")
    with pytest.raises(UsageError, match="leaves 0 images a step for i1, i3"):
        plan(two, "lambda_int=1.0", "stream_batch_sizes.i2=64")
    stage = load_configuration("resnet18-imagenet-only").stages[0]
    assert divide_batches(stage, streams(n1=9, n2=9)) == {"n1": 128, "n2": 128}


def test_what_a_stage_lacks_is_named():
    with pytest.raises(UsageError, match=r"lambda_int = 0.5, but there is no generated .* stream; streams: natural"):
        plan(streams(natural=300), "lambda_int=0.5")
    with pytest.raises(UsageError, match=r"no natural stream; streams: i \(int\); give --imagenet"):
        plan(streams(i=300))
    with pytest.raises(UsageError, match="'natural' has 300 images, and a step takes 301"):
        plan(streams(natural=300), "batch_sizes.natural=301")


def test_held_out_images_are_in_validation_or_in_training_and_nowhere_twice():
    images = TinyImages(5, 1, 30, 4)
    kept, (part,) = hold_out([TrainStream("natural", "natural", images)], 0.25, seed=3)
    rest = kept[0].images
    assert part.positions is not None and len(part) == 10
    positions = [int(rest.read(i)[0]) for i in range(len(rest))]
    assert sorted([*positions, *part.positions]) == list(range(40))
    assert sum(rest.shard_sizes) == len(rest) == 30
    assert (rest.key(0), rest.fingerprint()["held out"]) == (f"key-{positions[0]}", 10)


def test_shards_that_are_held_out_whole_keep_the_others_names():
    images = TinyImages(2, 3, 2)
    rest = ImagesWithout(images, np.array([2, 3, 4]), "held out")
    assert rest.shard_sizes == [2, 2]
    rest.check_shard(1)
    assert images.checked == [2]
