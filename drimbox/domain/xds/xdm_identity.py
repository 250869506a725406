"""Under whom an archived lot was published, so that it can be looked up, replaced and unpublished (FAQ 8801).

The assertion of the envelope says it all when METADATA.XML holds one (reference-drimbox 5.2); else the metadata
give person and structure, and the role only where an author has a specialty (dmp-kos-xds 2.8).
"""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.report import Code, Professional
from drimbox.domain.vihf import AUTOMATE, HL7, Role, VihfIdentity, identity_of, saml
from drimbox.domain.xds.metadata import Author, DocumentEntry, Lot
from drimbox.domain.xds.vocabulary import PS_ID_NAT, TRE_R02

# Attribute of the assertion, by field of the identity (reference-drimbox 4.3).
_ATTRIBUTES: Mapping[str, str] = {
    "subject_name": "urn:oasis:names:tc:xspa:1.0:subject:subject-id",
    "structure_id": "Identifiant_Structure",
    "sector": "Secteur_Activite",
    "patient": "urn:oasis:names:tc:xacml:2.0:resource:resource-id",
}
_CONFIDENTIALITY = "urn:oasis:names:tc:xspa:1.0:resource:patient:hl7:confidentiality-code"


def archived_identity(
    document: etree._Element, lot: Lot, kos: DocumentEntry, *, patient: Ins, sector: str
) -> VihfIdentity:
    """The identity that an archived lot was published under; `sector`: when the metadata name none (TRE_R02).

    A field that nothing gives stays empty: `vihf.check_identity` says so.
    """
    assertion = next(document.iter(saml("Assertion")), None)
    if assertion is not None:
        return _of_assertion(assertion)
    return _of_metadata(lot, kos, patient, sector)


def _of_assertion(assertion: etree._Element) -> VihfIdentity:
    values = {
        attribute.get("Name", ""): "".join(map(str, attribute.itertext())).strip()
        for attribute in assertion.iter(saml("Attribute"))
    }
    roles = [
        Role(node.get("code", ""), node.get("codeSystem", ""), node.get("displayName", ""))
        for node in assertion.iter(f"{{{HL7}}}Role")
    ]
    fields = {field: values.get(name, "") for field, name in _ATTRIBUTES.items()}
    fields["sector"] = fields["sector"].partition("^")[0]
    return VihfIdentity(
        name_id=assertion.findtext(f"{saml('Subject')}/{saml('NameID')}", "").strip(),
        profession=roles[0] if roles else AUTOMATE,
        know_how=roles[1] if len(roles) > 1 else None,
        secret_connection=_CONFIDENTIALITY in values,
        **fields,
    )


def _of_metadata(lot: Lot, kos: DocumentEntry, patient: Ins, sector: str) -> VihfIdentity:
    authors = (*lot.submission_set.authors, *(author for entry in lot.entries for author in entry.authors))
    persons = (kos.legal_authenticator, *(author.person for author in authors))
    person = next((xcn for xcn in persons if xcn.partition("^")[0]), "")
    facility = kos.healthcare_facility_type_code
    structures = (
        number for author in authors for xon in author.institutions if (number := _component(xon, 9))
    )
    return identity_of(
        Professional(
            id=Identifier(PS_ID_NAT, _component(person, 0)),
            family=_component(person, 1),
            given=_component(person, 2),
            specialty=_specialty(authors, person),
            role="",
            time=None,
            organization=None,
        ),
        structure_id=next(structures, ""),
        sector=facility.code if facility and facility.scheme == TRE_R02 else sector,
        patient=patient,
    )


def _specialty(authors: tuple[Author, ...], person: str) -> Code | None:
    own = (author for author in authors if _component(author.person, 0) == _component(person, 0))
    found = next((specialty for author in own for specialty in author.specialties), "")
    return Code(_component(found, 0), _component(found, 2), _component(found, 1)) if found else None


def _component(value: str, index: int) -> str:
    """Component `index` (from 0) of an HL7 value, "" when it has fewer."""
    parts = value.split("^")
    return parts[index].strip() if index < len(parts) else ""
