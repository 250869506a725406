"""The DICOM JSON of an instance: prepared when it arrives, or made from its file."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dicom_store.dicom_json import instance_json
from dicom_store.header import HeaderRefused
from dicom_store.instance import InstanceHeader
from dicom_store.part10 import data_set_offset
from dicom_store.scanner import Buffer
from dicom_store.series_template import Matched, Templates

log = logging.getLogger(__name__)


def prepare(
    header: InstanceHeader,
    data_set: Buffer,
    file_offset: int,
    relax: Callable[[], None] | None = None,
    templates: Templates | None = None,
    matched: Matched | None = None,
) -> bytes | None:
    """The DICOM JSON of a data set that begins at `file_offset` of its file; None, and logged, when that fails.

    Whatever fails: no image is lost for what can be made again. Raises `HeaderRefused` for what says twice,
    differently, which instance it is. `relax` as in `instance_json`. `templates`: of the association, which learn
    from what was not `matched` when its header was read.
    """
    try:
        if matched is None and templates is not None:
            matched = templates.learn(header, data_set)
        if matched is not None:
            return matched.json(data_set, file_offset, relax)
        return instance_json(data_set, header.TransferSyntaxUID, file_offset, relax, strict=True)
    except HeaderRefused:
        raise
    except Exception as error:  # noqa: BLE001  # see above
        # no traceback: it could show values of the data set
        said = {"action": "metadata_not_prepared", "study": header.StudyInstanceUID}
        log.error("no metadata of %s: %s", header.SOPInstanceUID, type(error).__name__, extra=said)  # noqa: TRY400
        return None


def of_file(file: memoryview, transfer_syntax: str) -> bytes:
    """The DICOM JSON of a DICOM file that `part10.file_start` began. Raises ValueError for another."""
    begin = data_set_offset(file)
    return instance_json(file[begin:], transfer_syntax, begin)
