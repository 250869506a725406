"""What pydicom says of data sets that peers send is neither said nor kept, in every process that serves."""

from __future__ import annotations

import warnings

from pydicom import config


def keep_no_words() -> None:
    """For this process and those that it forks.

    Our own rules judge what peers send. pydicom's warnings quote it, and Python remembers the text of every warning
    that it has shown, for ever: a peer would fill the memory with malformed values.
    """
    config.settings.reading_validation_mode = config.IGNORE
    warnings.filterwarnings("ignore", module=r"pydicom\.")
