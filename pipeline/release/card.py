"""A dataset's card for people and for the Hugging Face hub, and the files beside it that other readers want."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import yaml
from numpy.typing import NDArray

from ...manifests.dataset import Dataset
from ...manifests.fidelity import TABLE, Collected
from ...manifests.manifest import CARD, CROISSANT, StreamEntry, read_records
from ...manifests.origins import all_origins, dataset_license, find_origin, license_terms, trained_on
from ...manifests.recipe import Card, Recipe
from ...manifests.wds_info import info_name, make_info
from . import description
from .croissant import make_croissant

# Of SPDX's identifiers those that the hub knows; it writes them in small letters.
HUB_LICENSES = frozenset({
    "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0",
    "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0", "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0", "GPL-3.0", "ODbL-1.0", "PDDL-1.0",
})  # fmt: skip


# Classes that the card shows, those that are read as something else most often.
DOUBTFUL = 12
# Of the shares of samples by score.
SCORE_EDGES = (0.0, 0.1, 0.5, 0.9, 1.0)


def write_card(dataset: Dataset, streams: Sequence[StreamEntry], scores: Collected | None = None) -> None:
    """Write README.md and croissant.json beside the streams, and in each stream's folder its `_info.json`.

    All of them follow from recipe, plan, records and scores: nothing of the clock or the machine is in them.
    """
    dataset.storage.write(CARD, make_readme(dataset, streams, scores).encode())
    dataset.storage.write(CROISSANT, make_croissant(dataset, streams).encode())
    for stream in streams:
        shard_samples = [record.samples for record in read_records(dataset.storage, stream)]
        dataset.storage.write(info_name(stream.name), make_info(stream.name, stream.split, shard_samples))


def make_readme(dataset: Dataset, streams: Sequence[StreamEntry], scores: Collected | None = None) -> str:
    """The dataset card. Configs are explicit: the hub would choose a builder by the json files beside the tars."""
    recipe = dataset.recipe
    header = {
        "pretty_name": recipe.name,
        **hub_license(recipe),
        "task_categories": ["image-classification"],
        "size_categories": [_size_category(sum(stream.samples for stream in streams))],
        "configs": [
            {
                "config_name": stream.name,
                "data_files": [{"split": stream.split, "path": f"{stream.name}/*/*.tar"}],
                # What loads where nobody says which: timm cannot.
                **({"default": True} if stream is streams[0] else {}),
            }
            for stream in streams
        ],
    }
    licenses = description.licenses(recipe)
    rows = "\n".join(
        f"| {s.name} | {s.source} | {s.role} | {s.split} | {s.samples:,} | {s.shards:,} | {s.bytes / 1e6:,.1f} "
        f"| {sum(s.failures.values())} | {licenses[s.name]} |"
        for s in streams
    )
    remarks = "".join(
        f"\nIn `{stream.name}`, {count:,} of {stream.samples:,} samples {remark}.\n"
        for stream in streams
        for remark, count in sorted(stream.remarks.items())
    )
    pictures = "\n\n".join(f"![{s.name}](preview/{s.name}.jpg)" for s in streams)
    first = streams[0].name
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}
---
# {recipe.name}

{recipe.notes.strip() or "Built with genint."}

{_version(recipe)}
{_missing(recipe, streams)}
| stream | source | role | split | samples | shards | MB | lost | licence |
|---|---|---|---|---|---|---|---|---|
{rows}
{remarks}
Each sample has an image, `cls` (the class label) and `json` (everything needed to make that sample again), and where
objects are known, `mask.png`.{_marks(recipe)} Built with
[genint](https://pypi.org/project/genint/) from `recipe.toml`; method: [Generative Interventions for Causal
Learning]({description.PAPER}).

```python
import webdataset
for sample in webdataset.WebDataset("{_glob(streams[0])}", shardshuffle=False).decode("pil"): ...

from datasets import load_dataset
dataset = load_dataset("THIS_FOLDER", "{first}", split="{streams[0].split}")
```

`sha256sum -c SHA256SUMS` checks the bytes, `genint-pipeline verify .` their meaning too.

{pictures}
{_fidelity(scores, streams) if scores else ""}
## What it is made of, and licences

{_origins(recipe)}

The whole: {dataset_license(recipe) or "unknown, since that of an origin is"}.
{_paragraphs(description.terms(recipe))}
## Limitations
{_paragraphs(description.limitations(recipe))}
## Biases
{_paragraphs(description.biases(recipe))}
## Personal and sensitive information
{_paragraphs(description.personal_information(recipe))}
## Uses
{_paragraphs(description.use_cases(recipe))}
## Social impact
{_paragraphs([description.social_impact(recipe)])}"""


def _fidelity(scores: Collected, streams: Sequence[StreamEntry]) -> str:
    """Scores by stream and class: how many samples are read as their label, and how the score is distributed."""
    names = {stream.name: stream.class_names for stream in streams}
    rows, by_class = [], []
    for stream, classes in scores.by_class.items():
        if not classes:
            continue
        values, hits = (np.concatenate(columns) for columns in zip(*classes.values(), strict=True))
        shares = " | ".join(f"{100 * share:.1f}" for share in np.histogram(values, SCORE_EDGES)[0] / len(values))
        rows.append(f"| {stream} | {len(values):,} | {100 * hits.mean():.1f} | {shares} | {_quantiles(values)} |")
        by_class += [
            (float(own_hits.mean()), f"| {stream} | {names[stream][label]} | {len(own):,} "
             f"| {100 * own_hits.mean():.1f} | {_quantiles(own)} |")
            for label, (own, own_hits) in classes.items()
        ]  # fmt: skip
    bins = " | ".join(f"{low:g} to {high:g}" for low, high in pairwise(SCORE_EDGES))
    worst = [row for _, row in sorted(by_class, key=lambda entry: entry[0])[:DOUBTFUL]]
    shown = f"the {DOUBTFUL} that are read as something else most often" if len(by_class) > DOUBTFUL else "all of them"
    return f"""
## Label fidelity

`{scores.fidelity.checkpoint}` (sha256 {scores.fidelity.checkpoint_sha256[:12]}) has read every sample that a network
had a part in. The score is the probability that it gives to the sample's label. `fidelity/STREAM/` has a file of them
for each shard, whose first line names classifier and shard by their digests. A threshold leaves the doubtful samples
out: `genint-train --min-fidelity 0.5`.

| stream | samples | read as label, % | {bins.replace(" |", ", % |")}, % | 5 % | median | 95 % |
|{"---|" * (len(SCORE_EDGES) + 5)}
{chr(10).join(rows)}

By class, {shown} ([{TABLE}]({TABLE}) has all):

| stream | class | samples | read as label, % | 5 % | median | 95 % |
|---|---|---|---|---|---|---|
{chr(10).join(worst)}
"""


def _quantiles(scores: NDArray[np.float64]) -> str:
    return " | ".join(f"{value:.3f}" for value in np.quantile(scores, (0.05, 0.5, 0.95)))


def _marks(recipe: Recipe) -> str:
    if not any(description.is_synthetic(stream) for stream in recipe.streams):
        return ""
    if not recipe.marks:
        return " Nothing in the pictures says that a network made them."
    kinds = dict.fromkeys(s.digital_source_type for s in recipe.streams if s.digital_source_type)
    return f" Pictures that a network had a part in say so in XMP: IPTC's Digital Source Type `{'` or `'.join(kinds)}`."


def _version(recipe: Recipe) -> str:
    card = recipe.card or Card()
    date = f" of {card.date}" if card.date else ""
    creators = f" by {', '.join(card.creators)}" if card.creators else ""
    places = [card.url, f"https://doi.org/{card.doi}" if card.doi else ""]
    return f"Version {recipe.data_version}{date}{creators}.{''.join(f' <{place}>' for place in places if place)}"


def _missing(recipe: Recipe, streams: Sequence[StreamEntry]) -> str:
    missing = [stream.name for stream in recipe.streams if stream.name not in {entry.name for entry in streams}]
    return f"\nA part: streams that are not made yet: {', '.join(missing)}.\n" if missing else ""


def _origins(recipe: Recipe) -> str:
    lines = []
    for name in all_origins(recipe):
        origin = find_origin(recipe, name)
        title = f"[{origin.title}]({origin.url})" if origin.url else origin.title
        learnt = [find_origin(recipe, other).title for other in trained_on(recipe, name)]
        lines.append(
            f"- {title}: {origin.license or 'licence unknown'}{f'; trained on {learnt[0]}' if learnt else ''}"
            f"{''.join(f' and {title}' for title in learnt[1:])}"
        )
    return "\n".join(lines)


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"\n- {text}" for text in texts) + "\n" if texts else ""


def hub_license(recipe: Recipe) -> Mapping[str, object]:
    """The licence as the hub's header has it: its own identifiers, or "other" with a name and an address."""
    expression = dataset_license(recipe)
    terms = license_terms(expression)
    if not terms:
        return {"license": "unknown"}
    if HUB_LICENSES.issuperset(terms):
        small = [term.lower() for term in terms]
        return {"license": small[0] if len(small) == 1 else small}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", expression.lower()).strip("-")}


def _glob(stream: StreamEntry) -> str:
    last = stream.shards - 1
    return f"{stream.name}/0000/{stream.name}-{{0000000..{min(last, 3999):07d}}}.tar"


def _size_category(samples: int) -> str:
    for limit, name in ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M")):
        if samples < limit:
            return name
    return "10M<n<100M"
