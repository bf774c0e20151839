"""What makes a dataset usable by others: a card for people and the Hugging Face hub, and Croissant metadata."""

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from ...manifests.dataset import Dataset
from ...manifests.manifest import Manifest, Record, StreamEntry, read_records
from ...manifests.wds_info import info_name, make_info

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
# Streams of more are described by their lists of shards alone: Croissant names each archive that it looks into.
CROISSANT_SHARDS = 10_000
ENCODINGS = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "mask.png": "image/png",
    "cls": "text/plain",
}
PAPER = "https://arxiv.org/abs/2012.12265"


def write_card(dataset: Dataset, manifest: Manifest) -> None:
    """Write README.md and croissant.json beside the streams, and in each stream's folder its `_info.json`."""
    dataset.storage.write("README.md", make_readme(dataset, manifest).encode())
    dataset.storage.write("croissant.json", make_croissant(dataset, manifest).encode())
    for stream in manifest.streams:
        shard_samples = [record.samples for record in read_records(dataset.storage, stream)]
        dataset.storage.write(info_name(stream.name), make_info(stream.name, stream.split, shard_samples))


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
Each sample has an image, `cls` (the class label) and `json` (everything needed to make that sample again), and where
objects are known, `mask.png`. Built with
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
    """Croissant 1.0 metadata (MLCommons): of each stream its images, its class labels, and its shards.

    Images and labels are record sets of their own, in one order and with the same keys: members of archives cannot be
    joined by a part of their names.
    """
    distribution: list[dict[str, Any]] = []
    record_sets: list[dict[str, Any]] = []
    for stream in manifest.streams:
        parts = f"{stream.name}-manifest"
        distribution.append(
            _file_set(parts, "application/jsonlines", f"manifest/{stream.name}-?????.jsonl", "A line a shard.")
        )
        if stream.shards <= CROISSANT_SHARDS:
            shards = [describe_shard(record) for record in read_records(dataset.storage, stream)]
            distribution += shards
            contents = [
                _Content("image", "images", stream.image_extension, "sc:ImageObject", "The picture."),
                _Content("class_label", "labels", "cls", "sc:Integer", f"0 to {len(stream.class_names) - 1}."),
            ]
            if dataset.recipe.stream(stream.name).has_masks:
                types = ["sc:ImageObject", "cr:SegmentationMask"]
                contents.append(_Content("mask", "masks", "mask.png", types, "How much of a pixel is the object."))
            for content in contents:
                files, record_set = _members(stream, content, [{"@id": shard["@id"]} for shard in shards])
                distribution.append(files)
                record_sets.append(record_set)
        record_sets.append(
            {
                "@type": "cr:RecordSet",
                "@id": f"{stream.name}-shards",
                "name": f"{stream.name}-shards",
                "description": f"The WebDataset shards of stream {stream.name}: {stream.samples} {stream.role} samples "
                f"({stream.source}), split {stream.split}. A sample has the members .{stream.image_extension} (image), "
                ".cls (class label) and .json (everything needed to make it again).",
                "field": [
                    _field(f"{stream.name}-shards", parts, column, data_type, {"column": column}, description)
                    for column, data_type, description in (
                        ("path", "sc:Text", "The shard's file."),
                        ("sha256", "sc:Text", "Its digest."),
                        ("samples", "sc:Integer", "Samples in it."),
                    )
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


@dataclass(frozen=True)
class _Content:
    """What one member of each sample holds: the name of its field and of its record set, extension and type."""

    field: str
    plural: str
    extension: str
    data_type: str | list[str]
    description: str


def _members(
    stream: StreamEntry, content: _Content, shards: list[dict[str, str]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file set and the record set of one member of each sample: key and content."""
    files = f"{stream.name}-{content.plural}-files"
    encoding = ENCODINGS[content.extension]
    # Eight digits, so that no .mask.png is taken for a .png.
    includes = f"{stream.name}-{'?' * 8}.{content.extension}"
    file_set = _file_set(files, encoding, includes, f"The .{content.extension} of each sample.")
    record_set = f"{stream.name}-{content.plural}"
    key = _field(record_set, files, "key", "sc:Text", {"fileProperty": "filename"}, "The sample's key.")
    key["source"]["transform"] = {"regex": rf"^(.+)\.{re.escape(content.extension)}$"}
    value = _field(
        record_set, files, content.field, content.data_type, {"fileProperty": "content"}, content.description
    )
    return {**file_set, "containedIn": shards}, {
        "@type": "cr:RecordSet",
        "@id": record_set,
        "name": record_set,
        "description": f"The {content.plural} of stream {stream.name}, {stream.samples} in the order of their keys.",
        "field": [key, value],
    }


def describe_shard(record: Record) -> dict[str, Any]:
    """A shard as a file of Croissant.

    mlcroissant keeps what it has extracted under the digest of the address alone, and would take another dataset's
    shard of the same name for this one. So the address has the shard's digest in it: slashes, with a dot or without.
    """
    folder, _, rest = record.path.partition("/")
    digest = "".join("/." if bit == "1" else "/" for bit in f"{int(record.sha256[:8], 16):032b}")
    name = rest.rpartition("/")[2]
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": f"{folder}{digest}/{rest}",
        "contentSize": f"{record.bytes} B",
        "encodingFormat": "application/x-tar",
        "sha256": record.sha256,
    }


def _field(
    record_set: str, file_set: str, name: str, data_type: str | list[str], extract: dict[str, str], description: str
) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": description,
        "dataType": data_type,
        "source": {"fileSet": {"@id": file_set}, "extract": extract},
    }


def _glob(stream: StreamEntry) -> str:
    last = stream.shards - 1
    return f"{stream.name}/0000/{stream.name}-{{0000000..{min(last, 3999):07d}}}.tar"


def _size_category(samples: int) -> str:
    for limit, name in ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M")):
        if samples < limit:
            return name
    return "10M<n<100M"
