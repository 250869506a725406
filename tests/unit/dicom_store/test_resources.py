"""Paths of the DICOMweb door: what they name, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_store.resources import IMAGES, Kind, Resource, check_method, find_resource
from dicom_store.status import HttpRefusal

BASE = "/dicom-web-rs"
ALL = frozenset(Kind)
INSTANCE = "/studies/1.2/series/1.3/instances/1.4"


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/studies", Resource(Kind.STUDIES)),
        ("/studies/1.2", Resource(Kind.STUDY, "1.2")),
        ("/studies/1.2/metadata", Resource(Kind.METADATA, "1.2")),
        ("/studies/1.2/rendered", Resource(Kind.RENDERED, "1.2")),
        ("/studies/1.2/series", Resource(Kind.SEARCH_SERIES, "1.2")),
        ("/studies/1.2/instances", Resource(Kind.SEARCH_INSTANCES, "1.2")),
        ("/studies/1.2/series/1.3", Resource(Kind.SERIES, "1.2", "1.3")),
        ("/studies/1.2/series/1.3/metadata", Resource(Kind.METADATA, "1.2", "1.3")),
        ("/studies/1.2/series/1.3/rendered", Resource(Kind.RENDERED, "1.2", "1.3")),
        ("/studies/1.2/series/1.3/instances", Resource(Kind.SEARCH_INSTANCES, "1.2", "1.3")),
        (INSTANCE, Resource(Kind.INSTANCE, "1.2", "1.3", "1.4")),
        (f"{INSTANCE}/metadata", Resource(Kind.METADATA, "1.2", "1.3", "1.4")),
        (f"{INSTANCE}/rendered", Resource(Kind.RENDERED, "1.2", "1.3", "1.4")),
        (f"{INSTANCE}/frames/1,3", Resource(Kind.FRAMES, "1.2", "1.3", "1.4", "1,3")),
        (f"{INSTANCE}/frames/2/rendered", Resource(Kind.RENDERED, "1.2", "1.3", "1.4", "2")),
        (f"{INSTANCE}/bulkdata/100-20", Resource(Kind.BULK_DATA, "1.2", "1.3", "1.4", None, "100-20")),
        ("/series", Resource(Kind.SEARCH_SERIES)),
        ("/instances", Resource(Kind.SEARCH_INSTANCES)),
    ],
)
def test_what_a_path_names(path: str, resource: Resource) -> None:
    assert find_resource(BASE, BASE + path, ALL) == resource
    assert find_resource("", path, ALL) == resource


@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [
        ("", 404, "not-found"),
        ("/", 404, "not-found"),
        ("/studies/", 404, "not-found"),
        ("/studies//series/1.3", 404, "not-found"),
        ("/studies/1.2/", 404, "not-found"),
        ("/studies/1.2/unknown", 404, "not-found"),
        ("/series/1.3", 404, "not-found"),
        ("/instances/1.4", 404, "not-found"),
        ("/studies/1.2/instances/1.4", 404, "not-found"),
        (f"{INSTANCE}/bulkdata/x", 404, "not-found"),
        (f"{INSTANCE}/bulkdata/1-2-3", 404, "not-found"),
        (f"{INSTANCE}/frames/1/frames/1", 404, "not-found"),
        ("/studies/abc", 400, "uid-invalid"),
        ("/studies/1.02", 400, "uid-invalid"),
        ("/studies/1.2/series/x", 400, "uid-invalid"),
        ("/studies/1.2/series/1.3/instances/x", 400, "uid-invalid"),
        (f"{INSTANCE}/frames/0", 400, "frames-invalid"),
        (f"{INSTANCE}/frames/1,,2", 400, "frames-invalid"),
        (f"{INSTANCE}/frames/1,2,", 400, "frames-invalid"),
    ],
)
def test_what_is_refused(path: str, status: int, slug: str) -> None:
    with pytest.raises(HttpRefusal) as refusal:
        find_resource(BASE, BASE + path, ALL)
    assert (refusal.value.status, refusal.value.slug) == (status, slug)


def test_a_kind_that_is_not_served_does_not_exist() -> None:
    with pytest.raises(HttpRefusal) as refusal:
        find_resource(BASE, f"{BASE}/studies/1.2/metadata", IMAGES)
    assert refusal.value.status == 404


@given(st.text(alphabet="/studeinacfrm1.2,-%\0x", max_size=120))
def test_any_path_is_a_resource_or_a_refusal(path: str) -> None:
    try:
        assert find_resource(BASE, BASE + path, ALL).kind in ALL
    except HttpRefusal as refusal:
        assert refusal.status in (400, 404)


def test_methods() -> None:
    check_method("HEAD", ("GET", "HEAD"))
    with pytest.raises(HttpRefusal) as refusal:
        check_method("POST", ("GET", "HEAD"))
    assert refusal.value.headers == {"Allow": "GET, HEAD"}
