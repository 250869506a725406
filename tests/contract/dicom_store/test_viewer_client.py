"""dicomweb-client reads from the department's door over a real socket: searches, metadata, frames, pictures."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
import uvicorn
from pydicom import Dataset

from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.viewer_door import BASE, ViewerDoor, viewer_door

api = pytest.importorskip("dicomweb_client.api")

SPEC = StudySpec(series=(SeriesSpec("CT", 30), SeriesSpec("NM", 1, frames=3)), patient_name="Lefèvre^Ana")
STUDY = SPEC.study_instance_uid


@pytest.fixture(scope="module")
def images() -> list[Dataset]:
    return list(study_datasets(SPEC))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, images: list[Dataset]) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("viewer")
    with viewer_door(root) as door:
        door.put(*images)
        yield from _served(door)


def _served(door: ViewerDoor) -> Iterator[Any]:
    listening = socket.create_server(("127.0.0.1", 0))
    door.url = f"http://127.0.0.1:{listening.getsockname()[1]}{BASE}"
    config = uvicorn.Config(
        door.application, http="h11", lifespan="off", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        await server.serve(sockets=[listening])
        await door.made.close()  # its workers belong to this loop

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    session = requests.Session()
    yield api.DICOMwebClient(door.url, session=session)
    session.close()
    server.should_exit = True
    thread.join(10)
    listening.close()


def test_searches(client: Any) -> None:
    (study,) = client.search_for_studies(search_filters={"PatientName": "lef*"}, fields=["PatientAge"])
    assert Dataset.from_json(study).PatientName == "Lefèvre^Ana"
    assert Dataset.from_json(study).ModalitiesInStudy == ["CT", "NM"]
    assert client.search_for_studies(search_filters={"PatientID": "NOBODY"}) == []
    assert len(client.search_for_series(STUDY)) == 2
    paged = client.search_for_instances(STUDY, limit=7, get_remaining=True)
    assert [Dataset.from_json(one).InstanceNumber for one in paged] == [*range(1, 31), 1]


def test_metadata(client: Any, images: list[Dataset]) -> None:
    for described, image in zip(client.retrieve_study_metadata(STUDY), images, strict=True):
        read = Dataset.from_json(described, bulk_data_uri_handler=lambda _uri: b"")
        del read.PixelData
        expected = Dataset({element.tag: element for element in image if element.keyword != "PixelData"})
        expected.SpecificCharacterSet = "ISO_IR 192"
        assert read == expected


def test_bulk_data(client: Any, images: list[Dataset]) -> None:
    first = client.retrieve_study_metadata(STUDY)[0]
    (content,) = client.retrieve_bulkdata(first["7FE00010"]["BulkDataURI"])
    assert content == images[0].PixelData


def test_frames(client: Any, images: list[Dataset]) -> None:
    image = images[-1]
    frames = client.retrieve_instance_frames(STUDY, image.SeriesInstanceUID, image.SOPInstanceUID, [3, 1])
    pixels = np.frombuffer(image.PixelData, "<i2").reshape(3, 32, 32)
    assert frames == [pixels[2].tobytes(), pixels[0].tobytes()]


def test_pictures(client: Any, images: list[Dataset]) -> None:
    one = (STUDY, images[0].SeriesInstanceUID, images[0].SOPInstanceUID)
    assert client.retrieve_instance_rendered(*one, media_types=("image/png",)).startswith(b"\x89PNG")
    assert client.retrieve_instance_rendered(*one).startswith(b"\xff\xd8")
    frame = client.retrieve_instance_frames_rendered(*one, [1], media_types=("image/jpeg",))
    assert frame.startswith(b"\xff\xd8")
