"""Files of counterfactual networks that streams read: what each input must be, and where the shipped one is."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ...manifests.errors import FormatError, UsageError
from ...manifests.inputs import imagenet_wnids
from ...manifests.sources.stream import CgnFacts
from ..biggan.generator import PUBLISHED_CONFIGS
from .mechanisms import Form, LoadedCgn, load_cgn, make_random_cgn

OFFICIAL = "github.com/autonomousvision/counterfactual_generative_networks"


@dataclass(frozen=True)
class KnownNetwork:
    """A network with a name of its own: what to get, and from where. sha256: of the official file, if known."""

    form: Form
    what: str
    sha256: str = ""


KNOWN: Mapping[str, KnownNetwork] = {
    "imagenet-256-cgn": KnownNetwork("biggan", f"cgn.pth (1.1 GB), linked from {OFFICIAL}"),
    **{
        f"{world}-mnist-cgn": KnownNetwork(
            "mnist", f"mnists/experiments/cgn_{folder}_MNIST/weights/ckp.pth (2.7 MB) of {OFFICIAL}", sha256
        )
        for world, folder, sha256 in (
            ("colored", "colored", "6b178e7c1924b9efc532c467e7f0b77d2702efb536de9816bbd7e92c26d9b3fe"),
            ("double-colored", "double_colored", "7aa06c907f099c63a26127164a38d2ab353f1cdcafabdf8ca9303a0e9197b933"),
            ("wildlife", "wildlife", "db5bc3108f7bfbd74a85e2b267e65e95bd918920a02fd8de64c947fd8a0015f0"),
        )
    },
}
SHIPPED = "mini-cgn"


def cgn_place(name: str) -> Path | None:
    """Where a network of the package is; None for any other name."""
    return Path(str(files("genint.pipeline") / "data" / SHIPPED)) if name == SHIPPED else None


def find_cgn(name: str, reader: str) -> Path:
    """The folder of a network of the package. Raises UsageError that says what to get for any other name.

    reader: who asks for it, in the error's words.
    """
    place = cgn_place(name)
    if place is not None:
        return place
    if name in KNOWN:
        raise UsageError(f"{reader} needs {KNOWN[name].what}; give it with --input {name}=FILE")
    raise UsageError(f"{reader} reads input {name!r}: give it with --input {name}=FILE")


def open_cgn(name: str, path: Path, normalise: bool | None = None) -> LoadedCgn:
    """Load the network of a name. Raises UsageError where the file is none, or one of another form or world."""
    try:
        loaded = load_cgn(path, normalise)
    except FormatError as error:
        raise UsageError(f"input {name}: {error}") from error
    known = KNOWN.get(name)
    if known is not None:
        if loaded.facts.form != known.form:
            raise UsageError(f"input {name}: {path}: a CGN of the {loaded.facts.form} form; expected {known.what}")
        for other, entry in KNOWN.items():
            if other != name and entry.sha256 and entry.sha256 == loaded.facts.digests["cgn"]:
                raise UsageError(f"input {name}: {path}: the official file of {other}; expected {known.what}")
    return loaded


def make_stand_in(name: str) -> LoadedCgn:
    """A network of the same cost with random weights. Raises UsageError where nothing is known of the name."""
    if name not in KNOWN:
        raise UsageError(f"input {name}: give it with --input {name}=PATH, a folder of fit-cgn or an official file")
    config = PUBLISHED_CONFIGS["biggan-deep-256"] if KNOWN[name].form == "biggan" else None
    return make_random_cgn(KNOWN[name].form, config)


def cgn_facts(loaded: LoadedCgn) -> CgnFacts:
    """What planning needs to know. Classes without names are ImageNet's where there are 1,000, else numbers."""
    facts = loaded.facts
    names = facts.class_names
    if names is None:
        numbers = tuple(str(label) for label in range(facts.num_classes))
        names = imagenet_wnids() if facts.num_classes == 1000 else numbers
    return CgnFacts(
        form=facts.form,
        z_dim=facts.z_dim,
        resolution=facts.resolution,
        windows=facts.windows,
        class_names=list(names),
        digests=dict(facts.digests),
    )
