"""Writes a folder of invented guidelines as PDF, Word, HTML, Markdown and text files, for `bench/documents.py`.

Devices refer to forms, rooms, roles and suppliers that other documents describe, so that many questions need several
documents. Everything depends on the seed alone.
"""

import html
import math
import random
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

WORDS_PER_PAGE = 280
"""The number of words that count as one page in formats without pages."""
SECTIONS_PER_DOCUMENT = 12
SECTIONS_PER_PAGE = 3
"""The number of sections on one page of a PDF file."""
SUFFIXES = (".pdf", ".docx", ".html", ".md", ".txt")
"""The formats, which take turns from document to document."""
ADJECTIVES = (
    "blue", "small", "mobile", "old", "quiet", "double", "narrow", "heated", "cooled", "spare", "heavy", "covered",
    "digital", "manual", "upper", "lower", "eastern", "western", "rapid", "sealed", "wide", "round", "tall", "folding",
    "wireless", "insulated", "portable", "rotating", "ceramic", "wooden", "copper", "brass", "curved", "hanging",
)  # fmt: skip
NOUNS = (
    "centrifuge", "incubator", "refrigerator", "steriliser", "ventilator", "scale", "pump", "microscope", "dryer",
    "freezer", "compressor", "printer", "stretcher", "monitor", "mixer", "cabinet", "lamp", "boiler", "lift", "filter",
)  # fmt: skip
DEPARTMENTS = (
    "laboratory", "dialysis ward", "pharmacy", "radiology", "kitchen", "laundry", "emergency room", "archive",
    "blood bank", "workshop", "day clinic", "delivery room", "school", "garden", "gate", "intensive care",
    "hospice", "depot",
)  # fmt: skip
ROLES = (
    "shift leader", "head nurse", "porter", "pharmacist", "technician", "hygiene officer", "night warden",
    "registrar", "fire marshal", "quartermaster", "instructor", "duty doctor", "archivist", "storekeeper",
    "dispatcher", "bookkeeper",
)  # fmt: skip
SUPPLIERS = (
    "Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse", "Hazel", "Ivy", "Juniper", "Larch", "Maple", "Oak",
    "Pine", "Rowan", "Spruce", "Teak", "Willow", "Yew", "Linden",
)  # fmt: skip
DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays")
COLOURS = ("red", "green", "yellow", "white", "grey", "orange")


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a guideline."""

    heading: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """All sentences in one paragraph."""
        return " ".join(self.sentences)

    @property
    def words(self) -> int:
        """The number of words of the heading and the sentences."""
        return sum(len(sentence.split()) for sentence in (self.heading, *self.sentences))


def write_guidelines(folder: Path, pages: int, seed: int = 0) -> tuple[int, int]:
    """Write documents until they have `pages` pages. Returns the numbers of documents and pages.

    Documents that already exist are counted, but not written again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document_count = 0
    written_pages = 0
    for name, sections in _compose_documents(random.Random(seed)):
        if written_pages >= pages:
            break
        path = folder / f"{name}{SUFFIXES[document_count % len(SUFFIXES)]}"
        written_pages += _count_pages(path, sections)
        document_count += 1
        if not path.exists():
            _write_document(path, sections)
    return document_count, written_pages


def _count_pages(path: Path, sections: Sequence[Section]) -> int:
    """The number of pages of a document with these sections, in the format of `path`."""
    if path.suffix == ".pdf":
        return math.ceil(len(sections) / SECTIONS_PER_PAGE)
    return sum(section.words for section in sections) // WORDS_PER_PAGE


def _compose_documents(rng: random.Random) -> Iterator[tuple[str, list[Section]]]:
    """Yield the names and sections of documents: four reference documents, then eight about devices, and so on."""
    devices = [f"{adjective} {noun}" for noun in NOUNS for adjective in ADJECTIVES]
    rng.shuffle(devices)
    references = [
        ("forms", (_describe_form(number, rng) for number in range(10, 10_000))),
        ("rooms", (_describe_room(number, rng) for number in range(101, 10_000))),
        ("roles", (_describe_role(role, department, rng) for department in DEPARTMENTS for role in ROLES)),
        ("suppliers", (_describe_supplier(name, department, rng) for department in DEPARTMENTS for name in SUPPLIERS)),
    ]
    for volume in range(1, 1000):
        for name, sections in references:
            yield f"{name}-{volume}", _take_sections(sections)
        for index in range(8):
            department = DEPARTMENTS[(8 * volume + index) % len(DEPARTMENTS)]
            document_devices = [devices.pop() for _ in range(SECTIONS_PER_DOCUMENT) if devices]
            if not document_devices:
                return
            device_sections = [_describe_device(device, department, rng) for device in document_devices]
            yield f"{department.replace(' ', '-')}-{volume}", device_sections


def _take_sections(sections: Iterator[Section]) -> list[Section]:
    """The sections of the next reference document of a series."""
    # `zip` consumes one section more than it returns, and so changes the random numbers of later sections.
    return [section for section, _ in zip(sections, range(SECTIONS_PER_DOCUMENT), strict=False)]


def _describe_device(device: str, department: str, rng: random.Random) -> Section:
    """A section about a device, with references to a form, a room, a role and a supplier."""
    form = rng.randrange(10, 70)
    room = rng.randrange(101, 161)
    role = rng.choice(ROLES)
    supplier = rng.choice(SUPPLIERS)
    sentences = [
        rng.choice([
            f"The {device} of the {department} stands in room {room} and may be used by trained staff only.",
            f"In the {department}, the {device} is kept in room {room}; nobody moves it without asking.",
        ]),
        rng.choice([
            f"It is checked every {rng.randrange(3, 60)} days, and the result is entered in form F-{form}.",
            f"Form F-{form} records each check of the {device}, due after {rng.randrange(20, 400)} hours of use.",
        ]),
        rng.choice([
            f"A fault is reported to the {role} within {rng.randrange(5, 90)} minutes.",
            f"If the {device} stops, the {role} is called before anyone tries to start it again.",
        ]),
        rng.choice([
            f"Spare parts come from {supplier}; the {department} keeps {rng.randrange(2, 15)} sets of them.",
            f"{supplier} delivers the filters of the {device} in boxes of {rng.randrange(4, 48)}.",
        ]),
        rng.choice([
            f"Its tank holds {rng.randrange(2, 90)} litres and is emptied when the {rng.choice(COLOURS)} light is on.",
            f"It carries a load of at most {rng.randrange(5, 180)} kilograms, and less when the floor is wet.",
            f"The {rng.choice(COLOURS)} switch is off at night and in position {rng.randrange(1, 9)} by day.",
        ]),
        rng.choice([
            f"Cleaning takes {rng.randrange(6, 75)} minutes with {rng.randrange(1, 12)} ml of agent per litre.",
            f"After each use it cools down for {rng.randrange(4, 55)} minutes before the cover is closed.",
        ]),
    ]  # fmt: skip
    return Section(f"{device.capitalize()} ({department})", tuple(_shuffle_tail(sentences, rng)))


def _describe_form(number: int, rng: random.Random) -> Section:
    """A section about a form, which names two roles."""
    role, second_role = rng.sample(ROLES, 2)
    sentences = [
        f"Form F-{number} has {rng.randrange(2, 12)} fields and is signed by the {role}.",
        rng.choice([
            f"It is archived for {rng.randrange(2, 30)} years in a {rng.choice(COLOURS)} folder.",
            f"The {rng.choice(COLOURS)} copy stays with the {second_role} for {rng.randrange(3, 48)} months.",
        ]),
        f"A form F-{number} that arrives more than {rng.randrange(2, 20)} days late is returned to the {second_role}.",
        f"The {second_role} orders new sheets when fewer than {rng.randrange(15, 200)} are left.",
    ]  # fmt: skip
    return Section(f"Form F-{number}", tuple(_shuffle_tail(sentences, rng)))


def _describe_room(number: int, rng: random.Random) -> Section:
    """A section about a room, which names a role."""
    role = rng.choice(ROLES)
    sentences = [
        f"Room {number} is locked from {rng.randrange(5, 12)} in the evening and opened by the {role}.",
        f"The temperature in room {number} is kept at {rng.randrange(8, 26)} degrees.",
        f"At most {rng.randrange(2, 25)} people may be in the room at the same time.",
        f"The way out leads through the {rng.choice(COLOURS)} door to assembly point {rng.randrange(1, 40)}.",
        f"The floor is cleaned {rng.randrange(2, 6)} times a week, before {rng.randrange(6, 11)} in the morning.",
    ]
    return Section(f"Room {number}", tuple(_shuffle_tail(sentences, rng)))


def _describe_role(role: str, department: str, rng: random.Random) -> Section:
    """A section about a role in a department, which names another role as its deputy."""
    deputy = rng.choice([candidate for candidate in ROLES if candidate != role])
    sentences = [
        f"The {role} of the {department} is reached at extension {rng.randrange(200, 999)}.",
        f"During a leave, the {deputy} takes over for up to {rng.randrange(3, 40)} days.",
        f"The {role} decides alone on purchases up to {50 * rng.randrange(2, 60)} euros.",
        f"A handover in the {department} takes {rng.randrange(8, 45)} minutes"
        f" and goes into the {rng.choice(COLOURS)} book.",
    ]
    return Section(f"{role.capitalize()} of the {department}", tuple(_shuffle_tail(sentences, rng)))


def _describe_supplier(supplier: str, department: str, rng: random.Random) -> Section:
    """A section about a supplier of a department, which names a role."""
    sentences = [
        f"{supplier} delivers to the {department} on {rng.choice(DAYS)}, if ordered {rng.randrange(2, 9)} days before.",
        f"The smallest order of the {department} at {supplier} is {10 * rng.randrange(3, 60)} euros.",
        f"Goods from {supplier} that are damaged are sent back within {rng.randrange(3, 28)} days.",
        f"The {rng.choice(ROLES)} checks the invoices of {supplier} and pays them after {rng.randrange(7, 60)} days.",
    ]
    return Section(f"{supplier} and the {department}", tuple(_shuffle_tail(sentences, rng)))


def _shuffle_tail(sentences: Sequence[str], rng: random.Random) -> list[str]:
    """The first sentence, which names the subject, and the others in random order."""
    subject_sentence, *other_sentences = sentences
    return [subject_sentence, *rng.sample(other_sentences, len(other_sentences))]


def _write_document(path: Path, sections: Sequence[Section]) -> None:
    """Write a document in the format of `path`."""
    title = path.stem.replace("-", " ")
    if path.suffix == ".pdf":
        _write_pdf(path, title, sections)
    elif path.suffix == ".docx":
        _write_docx(path, sections)
    elif path.suffix == ".html":
        elements = [
            f"<h2>{html.escape(section.heading)}</h2><p>{html.escape(section.text)}</p>" for section in sections
        ]
        body = "".join(elements)
        path.write_text(f"<html><head><title>{title}</title></head><body>{body}</body></html>", encoding="utf-8")
    else:
        heading_mark = "## " if path.suffix == ".md" else ""
        paragraphs = [f"{heading_mark}{section.heading}\n\n{section.text}\n\n" for section in sections]
        path.write_text("".join(paragraphs), encoding="utf-8")


def _write_pdf(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write a PDF file with `SECTIONS_PER_PAGE` sections on each page."""
    import textwrap

    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with PdfPages(path, metadata={"Title": title}) as pdf:
        for start in range(0, len(sections), SECTIONS_PER_PAGE):
            page = sections[start : start + SECTIONS_PER_PAGE]
            texts = [f"{section.heading}\n\n{textwrap.fill(section.text, 80)}" for section in page]
            figure = Figure(figsize=(8.3, 11.7))
            figure.text(0.08, 0.94, "\n\n\n".join(texts), va="top", fontsize=10)
            pdf.savefig(figure)


def _write_docx(path: Path, sections: Sequence[Section]) -> None:
    """Write a minimal Word document with headings and paragraphs."""
    namespace = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    paragraphs = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="H"/></w:pPr><w:r><w:t>{html.escape(section.heading)}</w:t></w:r></w:p>'
        f"<w:p><w:r><w:t>{html.escape(section.text)}</w:t></w:r></w:p>"
        for section in sections
    )
    style = f'<w:styles {namespace}><w:style w:styleId="H"><w:name w:val="heading 1"/></w:style></w:styles>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f"<w:document {namespace}><w:body>{paragraphs}</w:body></w:document>")
        archive.writestr("word/styles.xml", style)
