"""A dataset's Croissant metadata (MLCommons, version 1.1): what is in it, what it was made of, and what to mind."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...manifests.dataset import Dataset
from ...manifests.manifest import RECIPE, Record, StreamEntry, read_records
from ...manifests.origins import (
    Kind,
    all_origins,
    dataset_license,
    find_origin,
    license_terms,
    stream_origins,
    trained_on,
)
from ...manifests.recipe import Card, Recipe
from . import description

CROISSANT_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
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


def make_croissant(dataset: Dataset, streams: Sequence[StreamEntry]) -> str:
    """The file's text: of each stream its images, class labels and masks, and its shards.

    Images and labels are record sets of their own, in one order and with the same keys: members of archives cannot be
    joined by a part of their names.
    """
    recipe, card = dataset.recipe, dataset.recipe.card or Card()
    distribution: list[dict[str, Any]] = []
    record_sets: list[dict[str, Any]] = []
    for stream in streams:
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
                "prov:wasDerivedFrom": [_reference(name) for name in stream_origins(recipe, stream.name)],
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
    facts = {
        "@context": CROISSANT_CONTEXT,
        "@type": "sc:Dataset",
        "name": recipe.name,
        "description": recipe.notes.strip() or f"{recipe.name}, built with genint.",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "citeAs": description.citation(recipe),
        "creator": [{"@type": "sc:Organization", "name": name} for name in card.creators],
        "datePublished": card.date,
        "identifier": f"https://doi.org/{card.doi}" if card.doi else "",
        "url": card.url,
        "version": recipe.data_version,
        "license": _licenses(recipe),
        "usageInfo": [{"@type": "sc:CreativeWork", "text": text} for text in description.terms(recipe)],
        "rai:dataLimitations": description.limitations(recipe),
        "rai:dataBiases": description.biases(recipe),
        "rai:personalSensitiveInformation": description.personal_information(recipe),
        "rai:dataUseCases": description.use_cases(recipe),
        "rai:dataSocialImpact": description.social_impact(recipe),
        "rai:hasSyntheticData": any(description.is_synthetic(stream) for stream in recipe.streams),
        "prov:wasDerivedFrom": [_entity(dataset, name, kind) for name, kind in _entities(recipe).items()],
        "prov:wasGeneratedBy": [_activity(dataset)],
        "distribution": distribution,
        "recordSet": record_sets,
    }
    return json.dumps({key: value for key, value in facts.items() if value not in ("", [])}, indent=1)


def _licenses(recipe: Recipe) -> list[str]:
    """Each licence by its address at SPDX, or by that of its terms."""
    addresses: dict[str, str] = {}
    for name in _entities(recipe):
        origin = find_origin(recipe, name)
        addresses |= {term: origin.url for term in license_terms(origin.license) if term.startswith("LicenseRef-")}
    terms = license_terms(dataset_license(recipe))
    known = {term: f"https://spdx.org/licenses/{term}" for term in terms if re.fullmatch(r"[\w.+-]+", term)}
    return [
        addresses.get(term) or (term if term.startswith("LicenseRef-") else known.get(term, term)) for term in terms
    ]


def _entities(recipe: Recipe) -> dict[str, Kind]:
    """Whatever samples were made of, and what that was trained on."""
    names = all_origins(recipe)
    for name in list(names):
        names |= {other: "pictures" for other in trained_on(recipe, name) if other not in names}
    return names


def _reference(name: str) -> dict[str, str]:
    return {"@id": f"origin/{name}"}


def _entity(dataset: Dataset, name: str, kind: Kind) -> dict[str, Any]:
    """An origin with the digest of what it was here: of a network's file, or of a list of pictures."""
    origin = find_origin(dataset.recipe, name)
    entry = dataset.entry
    fingerprint = entry.fingerprint
    digest = fingerprint.inputs[name].sha256 if name in fingerprint.inputs else ""
    if entry.generator is not None and name == entry.generator.name:
        digest = entry.generator.weights_sha256
    of = "names and sizes of its files" if kind == "pictures" else "its weights"
    said = f"The digest is that of {of}." if digest else ""
    if entry.generator is not None and name == entry.generator.name and dataset.recipe.has_code:
        assert dataset.recipe.generator is not None
        said += f" Its code is {dataset.recipe.generator.code}, of digest {fingerprint.code_sha256}."
    facts: Mapping[str, Any] = {
        "@type": "prov:Entity",
        **_reference(name),
        "prov:label": origin.title,
        "sc:url": origin.url,
        "sc:license": origin.license,
        "sc:sha256": digest,
        "sc:description": said,
        "prov:wasDerivedFrom": [_reference(other) for other in origin.trained_on],
    }
    return {key: value for key, value in facts.items() if value not in ("", [])}


def _activity(dataset: Dataset) -> dict[str, Any]:
    """The build: what it used, by digest, and the software that did it."""
    used: list[dict[str, Any]] = [_reference(name) for name in all_origins(dataset.recipe)]
    used.append({"@type": "prov:Plan", "prov:label": RECIPE, "sc:sha256": dataset.storage.sha256(RECIPE)})
    if dataset.entry.directions is not None:
        digest = dataset.entry.fingerprint.directions_sha256
        used.append({"@type": "prov:Entity", "prov:label": dataset.entry.directions, "sc:sha256": digest})
    synthetic = any(description.is_synthetic(stream) for stream in dataset.recipe.streams)
    return {
        "@type": "prov:Activity",
        "@id": "build",
        "prov:label": "Synthetic data generation" if synthetic else "Data packing",
        "sc:description": "genint-pipeline build-shards of recipe.toml; each sample's json says how it was made, "
        "manifest.json with which versions and on which device.",
        "prov:used": used,
        "prov:wasAssociatedWith": {
            "@type": "prov:SoftwareAgent",
            "prov:label": "genint",
            "sc:url": "https://pypi.org/project/genint/",
        },
    }


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
