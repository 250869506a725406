"""Which form an answer of WADO-RS takes, and which it cannot take (PS3.18 8.7, drim-m-data 3.5)."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_store.negotiation import Acceptable, Form
from dicom_store.status import HttpRefusal
from dicom_store.study import InstanceRef


def choose_form(acceptable: Acceptable, refs: Sequence[InstanceRef], alone: bool) -> Form:
    """The form of an answer that gives every instance as stored. `alone`: one instance was asked by its UID.

    Raises `HttpRefusal` 406, with the transfer syntaxes that the client does not accept.
    """
    stored = sorted({ref.TransferSyntaxUID for ref in refs})
    refused = [syntax for syntax in stored if acceptable.choose(syntax) is None]
    form: Form | None = Form.MULTIPART if not refused else None
    if alone:
        form, refused = acceptable.choose_form(stored[0]), stored
    if form is None:
        detail = f"Stored as {', '.join(refused)}; the Accept header does not allow it."
        raise HttpRefusal(406, "not-acceptable", "Not acceptable", detail)
    return form


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


def dicom_type(ref: InstanceRef) -> str:
    """Content-Type of an instance as stored."""
    return f"application/dicom;transfer-syntax={ref.TransferSyntaxUID}"
