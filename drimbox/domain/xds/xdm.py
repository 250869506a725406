"""The XDM archive of published lots: folder layout, METADATA.XML and the texts for people (drim-m-data 5.6).

    KA<yyyyMM>/INDEX.HTM
               README.TXT
               IHE_XDM/SS000001/METADATA.XML  the frozen SubmitObjectsRequest, and where its documents are
                                KOS_1_1.DCM   the manifest
                                SIGN_1.XML    the signature of the lot
                                CR.TXT        which report it came from

One KA folder per month of creation; SS folders are numbered in the order of the lots. Where the samples
differ from the schemas, the schemas win: slots stand first, METADATA.XML is a bare SubmitObjectsRequest,
well-formed, with its declaration and its namespaces. `xdm_reader` reads it back; a lot that was read from an
archive is written again bit for bit when that archive was ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import takewhile

from lxml import etree

from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.xds.vocabulary import APPROVED, DELETED, DEPRECATED, RIM
from drimbox.domain.xds.xdm_documents import hash_agrees, is_redacted
from drimbox.domain.xds.xdm_request import lone_request

METADATA_FILE = "METADATA.XML"
REPORT_FILE = "CR.TXT"
KOS_FILE = "KOS_1_1.DCM"
SIGNATURE_FILE = "SIGN_1.XML"
ENTRY_UUID_SCHEME = "1.2.3"  # of the ANS export; not an XDS scheme, but valid where the schema puts it
ENTRY_UUID_NAME = "XDSDocumentEntry.EntryUUID"

# Which file holds the document of an entry, by its mimeType.
_FILES = {"application/dicom": KOS_FILE, "text/xml": SIGNATURE_FILE}
# README.TXT is read by people.
_FRENCH: Mapping[str, str] = {APPROVED: "publié", DEPRECATED: "remplacé", DELETED: "dépublié"}
# Order of the children of an entry (rim.xsd, RegistryObjectType).
_ORDER = ("Slot", "Name", "Description", "VersionInfo", "Classification", "ExternalIdentifier")


class InconsistentLot(ValueError):
    """The parts of a lot contradict each other, or cannot be written; the message names the part."""


@dataclass(frozen=True, slots=True)
class ArchivedLot:
    """One published lot: its frozen bytes, where it came from, and what became of it.

    `created`: when the manifest was made; its month names the KA folder. `entry_uuid`: that of the manifest
    in the registry, None while unknown. `status`: that of the manifest's entry, a URN, also told to people in
    README.TXT. `signature` and `report_id` are None only for a lot that was imported without them.
    `submit_objects_request`: as frozen, or the METADATA.XML that it was imported from.
    """

    created: datetime
    submit_objects_request: bytes
    kos: bytes
    signature: bytes | None
    report_id: Identifier | None
    ins: Ins
    ipp: Identifier | None
    entry_uuid: str | None
    status: str

    @property
    def files(self) -> tuple[str, ...]:
        """The files of its folder, in the order of the official README.TXT."""
        optional = ((REPORT_FILE, self.report_id), (SIGNATURE_FILE, self.signature))
        return (METADATA_FILE, *(name for name, part in optional if part is not None), KOS_FILE)


@dataclass(frozen=True, slots=True)
class ArchiveSender:
    """Who sends the archive, as README.TXT says it; an empty line is left out."""

    organisation: str
    structure_id: str
    application: str
    version: str
    publisher: str
    address: str = ""
    phone: str = ""


def archive_files(
    submissions: Sequence[ArchivedLot], *, sender: ArchiveSender
) -> Iterator[tuple[str, bytes]]:
    """Every file of the archive as (relative path with slashes, bytes), folder by folder.

    Raises `InconsistentLot`, `UnreadableXml` for a request that is no XML.
    """
    months: dict[str, list[ArchivedLot]] = {}
    for lot in submissions:
        months.setdefault(f"KA{lot.created:%Y%m}", []).append(lot)
    for folder, lots in sorted(months.items()):
        named = [(f"SS{number:06}", lot) for number, lot in enumerate(lots, 1)]
        yield f"{folder}/INDEX.HTM", _index(sender)
        yield f"{folder}/README.TXT", _readme(sender, named)
        for name, lot in named:
            for file, content in _lot_files(name, lot):
                yield f"{folder}/IHE_XDM/{name}/{file}", content


def metadata(lot: ArchivedLot, folder: str) -> bytes:
    """METADATA.XML: the request with a URI slot per entry (`<folder>/<file>`); hash and size if it has none.

    The manifest's entry has the `status` of the lot; its entryUUID is an ExternalIdentifier of scheme 1.2.3, as in
    the ANS export, last, where the schema wants it. Raises `InconsistentLot` when the request is not of these
    documents, `UnreadableXml` when it is none.
    """
    root = lone_request(lot.submit_objects_request)
    contents = {KOS_FILE: lot.kos, SIGNATURE_FILE: lot.signature}
    found = [_place(entry, folder, contents) for entry in root.iter(f"{{{RIM}}}ExtrinsicObject")]
    needed = {name for name, content in contents.items() if content is not None}
    if len(found) != len(set(found)) or not needed <= set(found):
        raise InconsistentLot("the request must have one entry for the manifest and one for its signature")
    for entry in root.iter(f"{{{RIM}}}ExtrinsicObject"):
        if _FILES[entry.get("mimeType", "")] == KOS_FILE:
            entry.set("status", lot.status)
            if lot.entry_uuid:
                _set_entry_uuid(entry, lot.entry_uuid)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def report_reference(report_id: Identifier, ins: Ins, ipp: Identifier | None) -> str:
    """CR.TXT: `cdaRoot;cdaExtension;INS;INS OID;IPP;IPP OID`.

    Raises `InconsistentLot` if a part holds a delimiter.
    """
    local = ipp or Identifier("")
    parts = [report_id.root, report_id.extension, ins.value, ins.oid, local.extension, local.root]
    if any(character in part for part in parts for character in ";\r\n"):
        raise InconsistentLot("an identifier holds a semicolon or a line break: CR.TXT cannot carry it")
    return ";".join(parts)


def _lot_files(folder: str, lot: ArchivedLot) -> Iterator[tuple[str, bytes]]:
    yield METADATA_FILE, metadata(lot, folder)
    yield KOS_FILE, lot.kos
    if lot.signature is not None:
        yield SIGNATURE_FILE, lot.signature
    if lot.report_id is not None:
        yield REPORT_FILE, report_reference(lot.report_id, lot.ins, lot.ipp).encode("utf-8")


def _place(entry: etree._Element, folder: str, contents: Mapping[str, bytes | None]) -> str:
    """Write into the entry where its document is; return the file's name."""
    file = _FILES.get(entry.get("mimeType", ""))
    if file is None:
        raise InconsistentLot("an entry is neither application/dicom nor text/xml")
    _sort(entry)
    content = contents[file]
    if content is not None:
        if file == KOS_FILE or not is_redacted(content):
            _verify(entry, content, file)
        _set_slot(entry, "URI", f"{folder}/{file}")
    return file


def _sort(entry: etree._Element) -> None:
    """Put the children in the order of the schema; nothing moves in a lot of ours."""
    places = {f"{{{RIM}}}{name}": place for place, name in enumerate(_ORDER)}
    ordered = sorted(entry, key=lambda child: places.get(str(child.tag), len(_ORDER)))
    if ordered != list(entry):
        entry[:] = ordered


def _verify(entry: etree._Element, content: bytes, file: str) -> None:
    """Hash and size must be those of the document; they are written where the request has none."""
    digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    for name, value, agrees in (
        ("hash", digest, lambda said: hash_agrees(said, content)),
        ("size", str(len(content)), lambda said: said.strip() == str(len(content))),
    ):
        slot = _slot(entry, name)
        if slot is None:
            _set_slot(entry, name, value)
        elif not agrees(slot.findtext(f"{{{RIM}}}ValueList/{{{RIM}}}Value", "")):
            raise InconsistentLot(f"{name} of the request is not that of {file}")


def _slot(entry: etree._Element, name: str) -> etree._Element | None:
    return next((slot for slot in entry.findall(f"{{{RIM}}}Slot") if slot.get("name") == name), None)


def _set_slot(entry: etree._Element, name: str, value: str) -> None:
    """Add or replace a slot; slots stand before every other child (rim.xsd)."""
    old = _slot(entry, name)
    if old is not None:
        entry.remove(old)
    slot = etree.Element(f"{{{RIM}}}Slot", name=name)
    values = etree.SubElement(slot, f"{{{RIM}}}ValueList")
    etree.SubElement(values, f"{{{RIM}}}Value").text = value
    entry.insert(sum(1 for _ in takewhile(lambda child: child.tag == slot.tag, entry)), slot)


def _set_entry_uuid(entry: etree._Element, entry_uuid: str) -> None:
    known = entry.find(f"{{{RIM}}}ExternalIdentifier[@identificationScheme='{ENTRY_UUID_SCHEME}']")
    if known is not None:
        known.set("value", entry_uuid)
        return
    owner = entry.get("id", "")
    identifier = etree.SubElement(
        entry,
        f"{{{RIM}}}ExternalIdentifier",
        id=f"{owner}.entryUUID",
        identificationScheme=ENTRY_UUID_SCHEME,
        registryObject=owner,
        value=entry_uuid,
    )
    name = etree.SubElement(identifier, f"{{{RIM}}}Name")
    etree.SubElement(name, f"{{{RIM}}}LocalizedString", value=ENTRY_UUID_NAME)


def _line(text: str) -> str:
    return " ".join(text.split())


def _index(sender: ArchiveSender) -> bytes:
    who = escape(_line(f"{sender.organisation} ({sender.structure_id})"))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="fr" lang="fr">
<head><title>Archive IHE XDM</title></head>
<body>
<p>Émetteur : {who}</p>
<p>Voir le fichier <a href="README.TXT">README.TXT</a></p>
</body>
</html>
""".encode()


def _readme(sender: ArchiveSender, lots: Sequence[tuple[str, ArchivedLot]]) -> bytes:
    blocks = (
        _block(
            "Émetteur",
            ("Organisme", f"{sender.organisation} ({sender.structure_id})"),
            ("Adresse", sender.address),
            ("Téléphone", sender.phone),
        ),
        _block(
            "Application de l'émetteur",
            ("Nom", sender.application),
            ("Version", sender.version),
            ("Éditeur", sender.publisher),
        ),
        _title("Instructions") + ". Consultez ces fichiers dans votre logiciel de professionnel de santé.\n",
        _tree(lots),
    )
    return "\n".join(blocks).encode()


def _title(text: str) -> str:
    return f"{text} :\n{'=' * (len(text) + 2)}\n"


def _block(heading: str, *lines: tuple[str, str]) -> str:
    return _title(heading) + "".join(f"    . {name} : {_line(value)}\n" for name, value in lines if value)


def _tree(lots: Sequence[tuple[str, ArchivedLot]]) -> str:
    tree = "     README.TXT\n     INDEX.HTM\n     IHE_XDM\n"
    for folder, lot in lots:
        state = _FRENCH.get(lot.status, lot.status.rpartition(":")[2])
        tree += f"          {folder} ({lot.created:%d/%m/%Y %H:%M}, état : {_line(state)})\n"
        tree += "".join(f"               {file}\n" for file in lot.files)
    return _title("Arborescence") + tree
