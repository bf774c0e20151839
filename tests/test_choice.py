"""Which preset a run takes that names none."""

import pytest
from genint.manifests.errors import UsageError
from genint.train.choice import MINI, MNIST, PHOTOGRAPHS, choose_preset
from genint.train.configuration import load_configuration
from genint.train.streams import TERM_OF_ROLE, Term, TrainStream

TERMS: dict[str, Term] = {
    "observational": "int", "interventional": "int", "transfer": "transfer", "stylized": "transfer",
    "counterfactual": "counterfactual", "recomposed": "counterfactual",
}  # fmt: skip


class Sized:
    """As many pixels a side as its name says."""


def choose(monkeypatch: pytest.MonkeyPatch, side: int, *sources: str) -> tuple[str, tuple[str, ...]]:
    monkeypatch.setattr("genint.train.choice.image_size", lambda images: (side + 10, side))
    streams = [TrainStream(s, TERMS.get(s, "natural"), Sized(), s) for s in sources]  # type: ignore[arg-type]
    choice = choose_preset(streams)
    assert choice.preset in choice.note and f"{side} px" in choice.note
    return choice.preset, choice.overrides


@pytest.mark.parametrize("family", [MINI, MNIST, PHOTOGRAPHS])
def test_each_preset_takes_the_kinds_that_it_stands_for(family: dict[str, set[str]]):
    for name, kinds in family.items():
        configuration = load_configuration(name)
        stages = configuration.stages
        terms = {term for stage in stages for term in stage.terms}
        assert terms == {TERMS.get(kind, "natural") for kind in kinds}, name
        sources = {source for stage in stages for own in stage.sources.values() for source in own}
        assert kinds - {"natural"} <= (sources or set(configuration.streams or ())), name
    assert set(TERMS.values()) | {"natural"} == set(TERM_OF_ROLE.values())


def test_the_preset_that_takes_most_of_the_data_is_chosen(monkeypatch: pytest.MonkeyPatch):
    everything = ["mini-world", *TERMS]
    assert choose(monkeypatch, 32, *everything) == ("mini-genint-cgn", ())
    assert choose(monkeypatch, 32, "mini-world", "observational", "interventional") == ("mini-genint", ())
    assert choose(monkeypatch, 32, "mini-world", "recomposed") == ("mini-recomposed", ())
    assert choose(monkeypatch, 32, "wildlife-mnist", "counterfactual") == ("mnist-cnn-cgn", ())
    assert choose(monkeypatch, 256, "natural", "interventional", "transfer") == ("resnet18-genint-transfer", ())
    assert choose(monkeypatch, 256, "natural", "stylized") == ("resnet18-stylized", ())
    assert choose(monkeypatch, 256, "observational") == ("resnet50-observational", ())


def test_images_are_not_enlarged(monkeypatch: pytest.MonkeyPatch):
    assert choose(monkeypatch, 128, "natural", "interventional") == ("resnet18-genint", ("size=128",))
    assert choose(monkeypatch, 150, "natural") == ("resnet18-imagenet-only", ("size=128",))
    assert choose(monkeypatch, 64, "natural") == ("mini-erm", ("size=64", "resize=64"))


def test_what_no_preset_takes_is_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="no preset is for transfer images alone; give natural images with --imagenet"):
        choose(monkeypatch, 256, "transfer")
