"""Who belongs to the DRIM-M mesh: the ANS list, its signature, its 48-hour rule. No DICOM, no database."""
