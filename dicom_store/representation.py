"""Which transfer syntax an instance leaves in, for an Accept header, and how instances are put in the answer.

PS3.18 8.7.3, 8.7.8; drim-m-data 3.3, 3.5. Frames alone, metadata and rendered images: `frame_representation`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dicom_store.negotiation import AS_STORED, Acceptable, Form, MediaRange, ServingPolicy
from dicom_store.status import HttpRefusal
from dicom_store.study import InstanceRef
from dicom_store.transfer_syntax import (
    DICOM,
    EXPLICIT_VR_LE,
    IRREVERSIBLE,
    REVERSIBLE,
    SYNTAXES,
    Kind,
    Leaves,
    carries,
    has_pixels,
    syntax_of,
)

Can = Callable[[str, str], bool]  # (stored, target): whether the one can be made from the other

_MAX_SITUATIONS = 8  # listed in a refusal
_DEFAULT_POLICY = ServingPolicy()


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What negotiation needs of one instance.

    `bits_allocated`: BitsAllocated, None = not known (then no syntax is left out for the depth of the pixels, and a
    conversion may still fail); `has_pixels`: None = as its SOP class says.
    """

    TransferSyntaxUID: str
    SOPClassUID: str
    bits_allocated: int | None = None
    has_pixels: bool | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The form of the answer and the transfer syntax of each instance, in the order of the facts."""

    form: Form
    syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Case:
    stored: str
    has_pixels: bool
    bits_allocated: int | None


@dataclass(frozen=True, slots=True)
class _Offer:
    syntax: str
    at_home: bool  # as stored, or Explicit VR LE for what does not leave as stored
    quality: float
    order: int


def plan(
    acceptable: Acceptable,
    facts: Sequence[InstanceFacts],
    alone: bool,
    can: Can,
    policy: ServingPolicy = _DEFAULT_POLICY,
) -> Plan:
    """How to send instances. `alone`: one instance was asked by its UID, and may come as a single part.

    Raises `HttpRefusal` 406 when one of them is not acceptable in any way; the detail says what could be had.
    """
    cases = {one: _case(one) for one in set(facts)}
    forms = (Form.MULTIPART, Form.SINGLE) if alone else (Form.MULTIPART,)
    decided = [
        (form, offers) for form in forms if (offers := _offers(acceptable, form, cases.values(), can, policy))
    ]
    if not decided and facts:
        raise HttpRefusal(406, "not-acceptable", "Not acceptable", _could_be_had(cases.values(), alone, can))
    form, offers = min(decided, key=lambda d: _by_preference(d[1], policy), default=(Form.MULTIPART, {}))
    chosen = {one: offers[case].syntax for one, case in cases.items()}
    return Plan(form, tuple([chosen[one] for one in facts]))


def choose_syntax(
    acceptable: Acceptable,
    form: Form,
    stored_syntax: str,
    has_pixels: bool,
    can: Can,
    policy: ServingPolicy = _DEFAULT_POLICY,
    bits_allocated: int | None = None,
) -> str | None:
    """The transfer syntax in which one instance leaves in that form; None = not acceptable."""
    offer = _offer(acceptable, form, _Case(stored_syntax, has_pixels, bits_allocated), can, policy)
    return offer.syntax if offer else None


def check_frames(frames: str, ref: InstanceRef) -> None:
    """Frame 1 of a one-frame instance, as application/dicom, is that instance; others have no such form.

    `frames`: numbers with commas. Raises `HttpRefusal` 404 for a frame that does not exist, 406 for the others
    (drim-m-data 3.5.4).
    """
    count = ref.NumberOfFrames or 1
    if any(int(number) > count for number in frames.split(",")):
        raise HttpRefusal(404, "not-found", "Not found", f"The instance has {count} frame(s).")
    if count > 1 or frames != "1":
        detail = "These frames are not available as application/dicom; ask for the instance."
        raise HttpRefusal(406, "not-acceptable", "Not acceptable", detail)


def _case(one: InstanceFacts) -> _Case:
    pixels = has_pixels(one.SOPClassUID) if one.has_pixels is None else one.has_pixels
    return _Case(one.TransferSyntaxUID, pixels, one.bits_allocated)


def _offers(
    acceptable: Acceptable, form: Form, cases: Collection[_Case], can: Can, policy: ServingPolicy
) -> Mapping[_Case, _Offer]:
    """An offer for every case; nothing when there is a case without."""
    offers: dict[_Case, _Offer] = {}
    for case in cases:
        offer = _offer(acceptable, form, case, can, policy)
        if offer is None:
            return {}
        offers[case] = offer
    return offers


def _by_preference(offers: Mapping[_Case, _Offer], policy: ServingPolicy) -> tuple[bool, float, int]:
    """Of one instance alone: the form in which it leaves as stored, then the quality, then the order written."""
    offer = next(iter(offers.values()))
    return (policy.prefer == "stored" and not offer.at_home, -offer.quality, offer.order)


def _offer(acceptable: Acceptable, form: Form, case: _Case, can: Can, policy: ServingPolicy) -> _Offer | None:
    """The rules, in order: as stored; converted, by quality; as stored because nothing else exists."""
    home = _home(acceptable, form, case, can)
    if home and policy.prefer == "stored":
        return home
    offers = [*([home] if home else []), *_conversions(acceptable, form, case, can, policy)]
    best = min(offers, key=lambda o: (-o.quality, not o.at_home, o.order), default=None)
    return best or _only_lossy(acceptable, form, case)


def _home(acceptable: Acceptable, form: Form, case: _Case, can: Can) -> _Offer | None:
    """As stored; or Explicit VR LE for Implicit VR, Big Endian, Deflated and RLE (PS3.18 8.7.3, drim-m-data 3.3)."""
    found = acceptable.match(DICOM, case.stored, form)
    leaves = syntax_of(case.stored).leaves
    named = found is not None and found.transfer_syntax == case.stored
    if leaves is Leaves.ALWAYS or (leaves is Leaves.NAMED and named and found and found.quality > 0):
        return _offered(found, case.stored, at_home=True)
    if can(case.stored, EXPLICIT_VR_LE):
        return _offered(acceptable.match(DICOM, EXPLICIT_VR_LE, form), EXPLICIT_VR_LE, at_home=True)
    return None


def _conversions(
    acceptable: Acceptable, form: Form, case: _Case, can: Can, policy: ServingPolicy
) -> Iterator[_Offer]:
    """What can be made of the instance and is acceptable. Without pixels there is nothing to compress."""
    targets = dict.fromkeys([*acceptable.named, EXPLICIT_VR_LE]) if case.has_pixels else [EXPLICIT_VR_LE]
    for target in targets:
        if target == case.stored or not can(case.stored, target):
            continue
        found = acceptable.match(DICOM, target, form)
        if found and found.transfer_syntax == AS_STORED and target != EXPLICIT_VR_LE:
            continue  # "any" asks for nothing in particular
        offer = _offered(found, target, at_home=False)
        if offer and _may_make(acceptable, form, case, offer, policy):
            yield offer


def _may_make(acceptable: Acceptable, form: Form, case: _Case, offer: _Offer, policy: ServingPolicy) -> bool:
    """Never a video, nor what shall not be sent; a lossy syntax if allowed and liked better than all that is not."""
    row = syntax_of(offer.syntax)
    if not carries(row, case.bits_allocated):
        return False
    if row.kind is not Kind.LOSSY:
        return row.kind in REVERSIBLE and row.leaves is not Leaves.NEVER
    return policy.allow_lossy and offer.quality > _best_not_lossy(acceptable, form)


def _best_not_lossy(acceptable: Acceptable, form: Form) -> float:
    """The highest quality of anything acceptable that is not lossy by its syntax, whether it can be had or not."""
    syntaxes = [EXPLICIT_VR_LE, AS_STORED, *acceptable.named]
    return max(
        acceptable.quality(syntax, form) for syntax in syntaxes if syntax_of(syntax).kind is not Kind.LOSSY
    )


def _only_lossy(acceptable: Acceptable, form: Form, case: _Case) -> _Offer | None:
    """PS3.18 8.7.3: no syntax is named and the pixels only exist in lossy form (a video): as stored all the same."""
    default = acceptable.match(DICOM, EXPLICIT_VR_LE, form)
    refused = acceptable.match(DICOM, case.stored, form)
    unnamed = default is not None and default.transfer_syntax is None
    if unnamed and refused is None and syntax_of(case.stored).kind in IRREVERSIBLE:
        return _offered(default, case.stored, at_home=True)
    return None


def _offered(found: MediaRange | None, syntax: str, at_home: bool) -> _Offer | None:
    if found is None or found.quality == 0:
        return None
    return _Offer(syntax, at_home, found.quality, found.order)


def _could_be_had(cases: Collection[_Case], alone: bool, can: Can) -> str:
    """The transfer syntaxes in which all could be had; if there is none, those of each kind of instance."""
    forms = " or ".join(form.value for form in Form if alone or form is Form.MULTIPART)
    situations = dict.fromkeys(_available(case, can) for case in sorted(set(cases), key=repr))
    common = [syntax for syntax in SYNTAXES if all(syntax in available for available in situations)]
    texts = [", ".join(common)] if common else [", ".join(available) for available in situations]
    listed = "; and ".join(text or "none" for text in texts[:_MAX_SITUATIONS])
    return f"Could be had: {forms}; transfer-syntax={listed}."


def _available(case: _Case, can: Can) -> tuple[str, ...]:
    rows = SYNTAXES.items() if case.has_pixels else [(EXPLICIT_VR_LE, SYNTAXES[EXPLICIT_VR_LE])]
    made = [
        uid
        for uid, row in rows
        if row.kind in REVERSIBLE
        and row.leaves is not Leaves.NEVER
        and carries(row, case.bits_allocated)
        and can(case.stored, uid)
    ]
    kept = [] if syntax_of(case.stored).leaves is Leaves.NEVER else [case.stored]
    return tuple(dict.fromkeys([*kept, *made]))
