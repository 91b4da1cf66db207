"""Join printed pages of the book into one PDF: links between them, bookmarks, page numbers (for tools/pdf.py)."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

from pypdf import PdfReader, PdfWriter
from pypdf.constants import PageLabelStyle
from pypdf.generic import ArrayObject, Fit, FloatObject, NameObject, NullObject, TextStringObject


@dataclass(frozen=True)
class Entry:
    """A page of the book: its name without suffix, the part it belongs to, whether it opens the part."""

    name: str
    part: str
    opens: bool


@dataclass
class Printed:
    """A printed page of the site: the PDF, title, sections as (anchor, title), number of its first sheet."""

    entry: Entry
    content: bytes
    title: str
    sections: list[tuple[str, str]] = field(default_factory=list)
    first: int = 0
    sheets: int = 0


def sheets_of(content: bytes) -> int:
    """How many sheets a PDF has."""
    return len(PdfReader(io.BytesIO(content)).pages)


def join(site: Path, front: Printed, printed: Sequence[Printed], about: dict[str, str], target: Path) -> int:
    """Write the one PDF of all pieces, with working links, bookmarks and page numbers; return its number of sheets."""
    writer = PdfWriter()
    places: dict[tuple[str, str], tuple[int, float]] = {}  # (page, anchor) -> sheet from 0, height on it
    owner: list[str] = []
    for piece in (front, *printed):
        reader = PdfReader(io.BytesIO(piece.content))
        start = len(owner)
        top = float(reader.pages[0].mediabox.top)
        places[piece.entry.name, ""] = (start, top)
        for name, found in reader.named_destinations.items():
            sheet = reader.get_destination_page_number(found)
            if sheet is not None and sheet >= 0:
                height = float(found.top) if isinstance(found.top, (int, float)) else top
                places[piece.entry.name, unquote(name.removeprefix("/"))] = (start + sheet, height)
        owner += [piece.entry.name] * len(reader.pages)
        for sheet_page in reader.pages:
            writer.add_page(sheet_page)

    def destination(sheet: int, height: float) -> Any:
        page = writer.pages[sheet].indirect_reference
        return ArrayObject([page, NameObject("/XYZ"), NullObject(), FloatObject(height), NullObject()])

    root = site.resolve().as_uri() + "/"
    for number, page in enumerate(writer.pages):
        kept = ArrayObject()
        for reference in page.get("/Annots") or []:
            note = reference.get_object()
            action = note.get("/A", {})
            address = str(action.get("/URI", ""))
            if "/Dest" in note and not isinstance(note["/Dest"], ArrayObject):
                place = places.get((owner[number], unquote(str(note["/Dest"]).removeprefix("/"))))
            elif address.startswith(root):
                path, anchor = urldefrag(address[len(root) :])
                name = unquote(path).removesuffix(".html")
                place = places.get((name, unquote(anchor))) or places.get((name, ""))
            else:
                kept.append(reference)
                continue
            if place:  # a link to what is not in the file, such as the reference, becomes plain text
                note.pop("/A", None)
                note[NameObject("/Dest")] = destination(*place)
                kept.append(reference)
        page[NameObject("/Annots")] = kept

    bookmarks(writer, printed, places)
    count = front.sheets
    writer.set_page_label(0, count - 1, style=PageLabelStyle.LOWERCASE_ROMAN, start=1)
    writer.set_page_label(count, len(owner) - 1, style=PageLabelStyle.DECIMAL, start=1)
    writer.add_metadata(about)
    writer.page_mode = "/UseOutlines"
    writer.root_object[NameObject("/Lang")] = TextStringObject("en")
    writer.compress_identical_objects(remove_unreferenced=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        writer.write(unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return len(owner)


def bookmarks(writer: PdfWriter, printed: Sequence[Printed], places: dict[tuple[str, str], tuple[int, float]]) -> None:
    """Add the outline: parts, their chapters, the chapters' sections."""
    whole_part, part = None, ""
    writer.add_outline_item(title="Cover", page_number=0)
    for piece in printed:
        start = places[piece.entry.name, ""][0]
        if piece.entry.part != part:
            part = piece.entry.part
            whole_part = writer.add_outline_item(title=part, page_number=start, is_open=False)
        above = whole_part if part else None
        chapter = writer.add_outline_item(title=piece.title, page_number=start, parent=above, is_open=False)
        for anchor, title in piece.sections:
            if place := places.get((piece.entry.name, anchor)):
                fit = Fit.xyz(top=place[1])
                writer.add_outline_item(title=title, page_number=place[0], parent=chapter, fit=fit)
