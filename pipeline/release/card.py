"""What makes a dataset usable by others: a card for people and the Hugging Face hub, and Croissant metadata."""

import json
from typing import Any

import yaml

from ...manifests.dataset import Dataset
from ...manifests.manifest import Manifest, StreamEntry

CROISSANT_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
PAPER = "https://arxiv.org/abs/2012.12265"


def write_card(dataset: Dataset, manifest: Manifest) -> None:
    """Write README.md and croissant.json beside the shards."""
    dataset.storage.write("README.md", make_readme(dataset, manifest).encode())
    dataset.storage.write("croissant.json", make_croissant(dataset, manifest).encode())


def make_readme(dataset: Dataset, manifest: Manifest) -> str:
    """The dataset card. Configs are explicit: the hub would choose a builder by the json files beside the tars."""
    header = {
        "pretty_name": manifest.name,
        **({"license": "other", "license_name": dataset.recipe.license} if dataset.recipe.license else {}),
        "task_categories": ["image-classification"],
        "size_categories": [_size_category(sum(stream.samples for stream in manifest.streams))],
        "configs": [
            {
                "config_name": stream.name,
                "data_files": [{"split": stream.split, "path": f"{stream.name}/*/*.tar"}],
                # What loads where nobody says which: timm cannot.
                **({"default": True} if stream is manifest.streams[0] else {}),
            }
            for stream in manifest.streams
        ],
    }
    rows = "\n".join(
        f"| {s.name} | {s.source} | {s.role} | {s.split} | {s.samples:,} | {s.shards:,} | {s.bytes / 1e6:,.1f} "
        f"| {sum(s.failures.values())} |"
        for s in manifest.streams
    )
    remarks = "".join(
        f"\nIn `{stream.name}`, {count:,} of {stream.samples:,} samples {remark}.\n"
        for stream in manifest.streams
        for remark, count in sorted(stream.remarks.items())
    )
    pictures = "\n\n".join(f"![{s.name}](preview/{s.name}.jpg)" for s in manifest.streams)
    first = manifest.streams[0].name
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}
---
# {manifest.name}

{dataset.recipe.notes.strip() or "Built with genint."}

| stream | source | role | split | samples | shards | MB | lost |
|---|---|---|---|---|---|---|---|
{rows}
{remarks}
Each sample has an image, `cls` (the class label) and `json` (everything needed to make that sample again). Built with
[genint](https://pypi.org/project/genint/) from `recipe.toml`; method: [Generative Interventions for Causal
Learning]({PAPER}).

```python
import webdataset
for sample in webdataset.WebDataset("{_glob(manifest.streams[0])}", shardshuffle=False).decode("pil"): ...

from datasets import load_dataset
dataset = load_dataset("THIS_FOLDER", "{first}", split="{manifest.streams[0].split}")
```

`sha256sum -c SHA256SUMS` checks the bytes, `genint-pipeline verify .` their meaning too.

{pictures}
"""


def make_croissant(dataset: Dataset, manifest: Manifest) -> str:
    """Croissant 1.0 metadata (MLCommons): a file set of shards a stream, and their records as the record set.

    Members of many archives cannot be joined to samples in Croissant, so samples are described in words.
    """
    distribution: list[dict[str, Any]] = []
    record_sets: list[dict[str, Any]] = []
    for stream in manifest.streams:
        shards, parts = f"{stream.name}-shards", f"{stream.name}-manifest"
        distribution.append(
            _file_set(
                shards,
                "application/x-tar",
                f"{stream.name}/*/*.tar",
                f"WebDataset shards: {stream.samples} {stream.role} images ({stream.source}), split {stream.split}. A "
                f"sample has the members .{stream.image_extension} (image), .cls (class label) and .json (everything "
                "needed to make it again).",
            )
        )
        distribution.append(
            _file_set(parts, "application/jsonlines", f"manifest/{stream.name}-?????.jsonl", "A line a shard.")
        )
        record_sets.append(
            {
                "@type": "cr:RecordSet",
                "@id": stream.name,
                "name": stream.name,
                "description": f"The shards of stream {stream.name}.",
                "field": [
                    _field(stream.name, parts, "path", "sc:Text", "The shard's file."),
                    _field(stream.name, parts, "sha256", "sc:Text", "Its digest."),
                    _field(stream.name, parts, "samples", "sc:Integer", "Samples in it."),
                ],
            }
        )
    return json.dumps(
        {
            "@context": CROISSANT_CONTEXT,
            "@type": "sc:Dataset",
            "name": manifest.name,
            "description": dataset.recipe.notes.strip() or f"{manifest.name}, built with genint.",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "citeAs": f"Mao et al., Generative Interventions for Causal Learning, CVPR 2021. {PAPER}",
            "datePublished": manifest.finished,
            "license": dataset.recipe.license or "unknown",
            "url": PAPER,
            "version": "1.0.0",
            "distribution": distribution,
            "recordSet": record_sets,
        },
        indent=1,
    )


def _file_set(name: str, encoding: str, includes: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": description,
        "encodingFormat": encoding,
        "includes": includes,
    }


def _field(stream: str, file_set: str, column: str, data_type: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{stream}/{column}",
        "name": column,
        "description": description,
        "dataType": data_type,
        "source": {"fileSet": {"@id": file_set}, "extract": {"column": column}},
    }


def _glob(stream: StreamEntry) -> str:
    last = stream.shards - 1
    return f"{stream.name}/0000/{stream.name}-{{0000000..{min(last, 3999):07d}}}.tar"


def _size_category(samples: int) -> str:
    for limit, name in ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M")):
        if samples < limit:
            return name
    return "10M<n<100M"
