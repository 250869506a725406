"""Images and their DICOM doors. Knows DICOM; knows no XDS, no DMP, none of the other packages.

Pure: instance, study, paths, negotiation, multipart, status, header. Edges: segments, index, archive, scp,
wado_rs. Bytes are kept exactly as sent; `archive.py` is the way in and out.
"""
