"""What a card says of a dataset in words: its recipe's, or what follows from what its samples are made of."""

from ...manifests.origins import all_origins, find_origin, stream_license, trained_on
from ...manifests.recipe import Card, Recipe
from ...manifests.sources import AnyStream

PAPER = "https://arxiv.org/abs/2012.12265"
PAPER_TITLE = "Mao et al., Generative Interventions for Causal Learning, CVPR 2021"
CGN_PAPER = "https://arxiv.org/abs/2101.06046"

# What one knows of samples by how they are made.
METHODS = {
    "observational": "A generated image has the label that the generator was asked for; nobody looked at it.",
    "interventional": "An intervention that is too strong loses the object: the label is the one that the generator "
    "was asked for, and nobody looked at the image. Directions are not disentangled: one changes several things.",
    "transfer": "A transferred image keeps its content's label, though a style may hide the object.",
    "stylized": "A stylized image keeps its content's label, though a style may hide the object.",
    "counterfactual": "A counterfactual has the label of its shape; masks of a network may lose parts of the object.",
    "imported": "An imported image has the label that came with it; nobody looked at it here.",
    "recomposed": "A recomposed image has the label of its object; a mask may lose parts of it or keep background.",
}
USE_CASES = [
    "Training and measuring image classifiers whose nuisances (background, pose, light) are intervened upon: causal "
    "learning, robustness under distribution shift.",
    "Not for anything but research on classifiers: the images say nothing about how often things occur in the world, "
    "and no class of them was checked by people.",
]
SOCIAL_IMPACT = (
    "Classifiers that rely less on backgrounds may work better for those whom the usual data show rarely. Generated "
    "images inherit what their generator's data leave out or show one-sidedly, and may be taken for photographs."
)


def is_synthetic(stream: AnyStream) -> bool:
    """Whether a generator or another network had a part in a stream's pictures."""
    return stream.role != "natural"


def limitations(recipe: Recipe) -> list[str]:
    own = _card(recipe).limitations
    methods = [METHODS[source] for source in dict.fromkeys(s.source for s in recipe.streams) if source in METHODS]
    return own or [*methods, *_of_origins(recipe, "limitations")]


def biases(recipe: Recipe) -> list[str]:
    return _card(recipe).biases or _of_origins(recipe, "biases")


def personal_information(recipe: Recipe) -> list[str]:
    return _card(recipe).personal_information or _of_origins(recipe, "personal_information")


def use_cases(recipe: Recipe) -> list[str]:
    return _card(recipe).use_cases or USE_CASES


def social_impact(recipe: Recipe) -> str:
    return _card(recipe).social_impact or SOCIAL_IMPACT


def terms(recipe: Recipe) -> list[str]:
    """What licences forbid that their names do not say, of all that is in the pictures or was learnt from."""
    names = all_origins(recipe)
    found = [find_origin(recipe, name).terms for name, kind in names.items() if kind != "network"]
    for name, kind in names.items():
        if kind != "generator":
            continue
        for other in trained_on(recipe, name):
            origin = find_origin(recipe, other)
            if origin.terms and other not in names:
                found.append(
                    f"{find_origin(recipe, name).title} was trained on {origin.title}, and its images are bound to be "
                    f"like those. {origin.terms} Whether this holds for a generator's images is not settled."
                )
    return list(dict.fromkeys(filter(None, found)))


def licenses(recipe: Recipe) -> dict[str, str]:
    """SPDX expression of each stream, in words where there is none."""
    return {s.name: stream_license(recipe, s.name) or "unknown" for s in recipe.streams}


def citation(recipe: Recipe) -> str:
    return f"{PAPER_TITLE}. {PAPER}"


def _card(recipe: Recipe) -> Card:
    return recipe.card or Card()


def _of_origins(recipe: Recipe, field: str) -> list[str]:
    """What is known of all origins and of what generators were trained on; said too where nothing is known."""
    names = {name: kind for name, kind in all_origins(recipe).items() if kind != "network"}
    for name, kind in list(names.items()):
        if kind == "generator":
            names |= {other: "pictures" for other in trained_on(recipe, name) if other not in names}
    found = []
    for name, kind in names.items():
        origin = find_origin(recipe, name)
        text = getattr(origin, field)
        if text:
            found.append(text)
        elif kind == "pictures" and not (origin.limitations or origin.biases or origin.personal_information):
            found.append(f"{origin.title}: nothing is known; its recipe can say it in [origins.{name}].")
    return list(dict.fromkeys(found))
