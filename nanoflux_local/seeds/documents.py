"""Imports documents as a dataset whose items are passages, each with its document and its place in the document.

A split contains whole documents. A passage that repeats an earlier one is left out; held-out documents are read first,
so that no train passage repeats a held-out passage.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.errors import DataError, NothingMatchedError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import digest
from nanoflux_local.seeds.near_duplicates import NearDuplicates
from nanoflux_local.seeds.reading import check_own_name
from nanoflux_local.seeds.splits import SPLITS, split_documents
from nanoflux_local.tools.documents import Document, Passage, list_documents, read_document
from nanoflux_local.transcript import Seed

MIN_WORDS = 8
"""The minimum number of words in a passage. Shorter passages, such as a page number or a lone heading, say too little
for a question.
"""
HELD_OUT_FIRST = tuple(reversed(SPLITS))
"""The splits in the order in which their documents are read."""


@dataclass(frozen=True, slots=True)
class DocumentsRequest:
    """A request to import the files and folders in `paths` under `name`. The documents in `held_out` become the test
    split; if it is empty, a share of all documents is held out. `skip_bad` leaves unreadable documents out. `replace`
    replaces the items that are stored under the name.
    """

    name: str
    paths: Sequence[Path]
    held_out: Sequence[Path] = ()
    skip_bad: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True)
class DocumentsSummary:
    """An import's result, as `data documents --json` prints it. `documents` and `passages` are counts by split;
    `near_duplicates` and `short` count the passages that were left out. `held_out` lists the documents of the test
    split, `skipped` the unreadable ones, each with the reason. `imported` is False if the same documents had been
    imported before.
    """

    dataset: str
    documents: dict[str, int]
    passages: dict[str, int]
    near_duplicates: int
    short: int
    held_out: tuple[str, ...]
    skipped: tuple[str, ...]
    imported: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _NamedDocument:
    """A document with its split and the name under which its passages are cited."""

    name: str
    split: str
    content: Document


def import_documents(home: Home, request: DocumentsRequest) -> DocumentsSummary:
    """Read the documents, split them into passages, and store all of the passages, or none.

    Raises:
        UsageError: the name is refused, or the dataset already has items of the same split.
        DataError: a document cannot be read.
        NothingMatchedError: a folder holds no documents, or no train document has a passage that is long enough.
    """
    check_own_name(request.name)
    documents, skipped = _read_documents(request)
    items, left_out_counts = _collect_passages(request.name, documents)
    if not any(split == "train" for _, split in items):
        paths = ", ".join(map(str, request.paths))
        raise NothingMatchedError(
            f"no train document in {paths} has a passage that is long enough for a question",
            f"pass documents with paragraphs of at least {MIN_WORDS} words, and hold out fewer of them",
        )
    documents_by_split = Counter(document.split for document in documents)
    passages_by_split = Counter(split for _, split in items)
    return DocumentsSummary(
        dataset=request.name,
        documents={split: documents_by_split[split] for split in SPLITS},
        passages={split: passages_by_split[split] for split in SPLITS},
        near_duplicates=left_out_counts["near_duplicates"],
        short=left_out_counts["short"],
        held_out=tuple(document.name for document in documents if document.split == "test"),
        skipped=skipped,
        imported=_store(home, request, documents, items, len(skipped)),
    )


def _collect_passages(dataset: str, documents: Sequence[_NamedDocument]) -> tuple[list[tuple[Seed, str]], Counter[str]]:
    """The passages as items with their splits, and how many were left out as "short" or "near_duplicates"."""
    items: list[tuple[Seed, str]] = []
    left_out_counts: Counter[str] = Counter()
    seen_passages = NearDuplicates()
    documents_in_order = sorted(documents, key=lambda document: HELD_OUT_FIRST.index(document.split))
    for document in documents_in_order:
        passages = document.content.passages
        places = _list_places(passages)
        for number, (passage, place) in enumerate(zip(passages, places, strict=True), 1):
            if len(passage.text.split()) < MIN_WORDS:
                left_out_counts["short"] += 1
            elif not seen_passages.add(passage.text):
                left_out_counts["near_duplicates"] += 1
            else:
                item_id = f"{dataset}/{document.name}#{number}"
                item = Seed(item_id, dataset, passage.text, answer="", source=document.name, place=place)
                items.append((item, document.split))
    return items, left_out_counts


def _list_places(passages: Iterable[Passage]) -> list[str]:
    """The place of each passage in its document: the heading above it, or its page or line if there is no heading. The
    second passage below a heading has the place "HEADING, part 2".
    """
    count_by_heading: Counter[str] = Counter()
    places = []
    for passage in passages:
        count_by_heading[passage.heading] += 1
        part = count_by_heading[passage.heading]
        if not passage.heading:
            places.append(passage.place)
        elif part == 1:
            places.append(passage.heading)
        else:
            places.append(f"{passage.heading}, part {part}")
    return places


def _read_documents(request: DocumentsRequest) -> tuple[list[_NamedDocument], tuple[str, ...]]:
    """The readable documents with their names and splits, and why the others were left out."""
    held_out_paths = {path.resolve() for path in list_documents(request.held_out)}
    all_paths = [path.resolve() for path in list_documents(request.paths)] + sorted(held_out_paths)
    documents: dict[Path, Document] = {}
    skipped: list[str] = []
    distinct_paths = dict.fromkeys(all_paths)
    for path in distinct_paths:
        try:
            documents[path] = read_document(path)
        except DataError as error:
            if not request.skip_bad:
                raise
            skipped.append(error.message)
    if held_out_paths:
        splits = ["test" if path in held_out_paths else "train" for path in documents]
    else:
        splits = split_documents([document.sha256 for document in documents.values()])
    names = _name_documents(documents)
    named_documents = [
        _NamedDocument(name, split, document)
        for name, split, document in zip(names, splits, documents.values(), strict=True)
    ]
    return named_documents, tuple(skipped)


def _name_documents(paths: Collection[Path]) -> list[str]:
    """The names of the documents at these paths: the paths relative to their common folder ("wards/hygiene.pdf")."""
    if not paths:
        return []
    common_folder = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common_folder).as_posix() for path in paths]


def _store(
    home: Home,
    request: DocumentsRequest,
    documents: Sequence[_NamedDocument],
    items: Sequence[tuple[Seed, str]],
    skipped_count: int,
) -> bool:
    """Store the passages. Returns False if the same documents were imported before."""
    content_digest = digest(sorted([document.name, document.split, document.content.sha256] for document in documents))
    with Ledger(home.prepare().ledger) as ledger:
        source = format_quantity(len(documents), "document")
        return ledger.import_dataset(
            request.name, source, content_digest, items, skipped_count, replace=request.replace
        )
