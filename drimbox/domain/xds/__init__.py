"""XDS.b as the DMP practises it: meaning (`metadata`), syntax (`ebxml`), rules (`rules`), three files.

`vocabulary` holds the constants, `response` reads what a registry answers, `xdm` lays out the archive folder.
"""
