"""What a tester reads in a homologation file, in French: the steps, the rules, and what each file is (pure)."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from whitelist.proof_rules import RuleResult
from whitelist.trust import Held, Report

WIDTH = 110
OUTCOMES: Mapping[Held, str] = {
    Held.HELD: "OK",
    Held.WARNED: "OK, alerte",
    Held.FAILED: "ÉCHEC",
    Held.SKIPPED: "non jugée",
}
# trust-and-identity 3.5
TITLES: Mapping[int, str] = {
    1: "Récupération du fichier (TLS vérifié, HTTP 200, taille)",
    2: "XML sans DTD ni entité, racine ListeBlancheDRIM-M",
    3: "Une seule signature, fille de la racine",
    4: "SignedInfo : algorithmes et références attendus",
    5: "Transformations du document attendues",
    6: "Empreinte du document",
    7: "Propriétés signées : empreinte, certificat, date",
    8: "Valeur de la signature",
    9: "Certificat : chaîne aux autorités épinglées, validité, usages, politique, environnement",
    10: "Sujet du signataire (CN et OU)",
    11: "Non-révocation (CRL de l'autorité et de la racine)",
    12: "Pas de retour à une liste plus ancienne",
    13: "Contenu : au moins un domaine avec un hôte",
    14: "Archivage de la liste et du rapport",
    15: "Verdict d'un eSignSanté externe",
}
FILES: Mapping[str, str] = {
    "LISTE.xml": "la liste blanche, octet pour octet telle qu'elle a été vérifiée",
    "RAPPORT.json": "le rapport de vérification, pour un programme",
    "RAPPORT.txt": "le même, pour un lecteur",
    "PREUVE.xml": "la preuve ASIPProof signée (XAdES-BASELINE-B) par le certificat de l'éditeur",
    "PREUVE-ESIGNSANTE.xml": "la preuve rendue par un eSignSanté externe",
    "CERTIFICAT": "certificat utilisé (signataire, autorité intermédiaire, racine)",
    "CRL": "liste de révocation utilisée",
}


def report_text(report: Report, results: Sequence[RuleResult]) -> str:
    """RAPPORT.txt: the verdict, the steps as a table, the rules of eSignSanté as a table."""
    lines = [
        "VÉRIFICATION DE LA LISTE BLANCHE DRIM-M",
        "",
        f"Vérifiée à        {_moment(report.at)}",
        f"SHA-256           {report.sha256}",
        f"Signée le         {_moment(report.signed_at) if report.signed_at else '(inconnu)'}",
        f"Domaines          {len(report.trusted.domains) if report.trusted else '(non lus)'}",
        f"Verdict           {'ACCEPTÉE' if report.accepted else 'REFUSÉE'}",
        "",
        "Étapes",
        *_table(
            (str(s.number), OUTCOMES[s.outcome], TITLES.get(s.number, s.title), s.why) for s in report.steps
        ),
        "",
        "Règles (noms et codes d'eSignSanté ; ceux en DRIMBOX sont propres au produit)",
        *_table(
            (
                ",".join(map(str, r.rule.steps)),
                OUTCOMES[r.outcome],
                f"{r.rule.name} : {r.rule.meaning}",
                _error(r),
            )
            for r in results
        ),
        "",
    ]
    return "\n".join(lines)


def readme_text(report: Report, contents: Mapping[str, bytes]) -> str:
    """LISEZMOI.txt: what each of `contents` is, with its SHA-256, and how to verify again."""
    lines = [
        "DOSSIER DE PREUVE : VÉRIFICATION DE LA SIGNATURE DE LA LISTE BLANCHE DRIM-M",
        "",
        f"La liste a été {'acceptée' if report.accepted else 'refusée'} le {_moment(report.at)}.",
        "" if "PREUVE.xml" in contents else "Aucune preuve signée n'est jointe.",
        "Fichiers",
    ]
    for name, content in contents.items():
        lines += [
            f"  {name}",
            f"      {_purpose(name)}",
            f"      SHA-256 {hashlib.sha256(content).hexdigest()}",
        ]
    lines += [
        "",
        "Refaire la vérification",
        f"  drimbox whitelist verify LISTE.xml --at {report.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "Lire un certificat, une liste de révocation",
        "  openssl x509 -in FICHIER.pem -noout -text",
        "  openssl crl -inform DER -in FICHIER.crl -noout -text",
        "",
    ]
    return "\n".join(lines)


def _table(rows: Iterable[tuple[str, str, str, str]]) -> Iterable[str]:
    for number, outcome, title, why in rows:
        head = f"  {number:>4}  {outcome:<10}  "
        yield from textwrap.wrap(title, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
        if why:
            indent = " " * (len(head) + 2)
            yield from textwrap.wrap(_printable(why), WIDTH, initial_indent=indent, subsequent_indent=indent)


def _error(result: RuleResult) -> str:
    return f"{result.rule.error} : {result.why}" if result.outcome is Held.FAILED else result.why


def _purpose(name: str) -> str:
    return FILES.get(name) or FILES[name.partition("-")[0]]


def _printable(text: str) -> str:
    """A report quotes the file that was judged: nothing of it drives a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d à %H:%M:%S} UTC"
