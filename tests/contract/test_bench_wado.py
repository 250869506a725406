"""`drimbox bench wado`: what it serves, how it counts, and the whole of it in small."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless

from drimbox.entrypoints import bench_wado, bench_wado_clients, bench_wado_peers, bench_wado_processes
from drimbox.entrypoints.bench_wado_exam import make_exam, make_search_exam
from drimbox.entrypoints.demo_stage import StepFailed

BODY = b"x" * 1000
TOOLS = all(shutil.which(name, path="/usr/sbin:/usr/bin:/bin") for name in bench_wado.PROGRAMS)
needs_tools = pytest.mark.skipif(not TOOLS, reason="apt-get install curl wrk orthanc orthanc-dicomweb")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        absent = self.path.endswith("absent")
        self.send_response(404 if absent else 200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/base"
        server.shutdown()


def test_the_exam_has_four_series_of_real_jpeg_ls(tmp_path: Path) -> None:
    exam = make_exam(tmp_path / "exam", 6)
    images = [dcmread(file) for file in exam.files]
    assert {image.file_meta.TransferSyntaxUID for image in images} == {JPEGLSLossless}
    assert {image.pixel_array.shape for image in images} == {(512, 512)}
    assert all(150_000 < file.stat().st_size < 175_000 for file in exam.files)
    assert len({image.SOPInstanceUID for image in images}) == 6
    assert len({image.PixelData for image in images}) > 1
    assert list(dict.fromkeys(image.SeriesInstanceUID for image in images)) == list(exam.series)
    assert (len(exam.series), len(exam.first_series)) == (4, 2)
    assert exam.paths[0].endswith(images[0].SOPInstanceUID)
    assert exam.report.acts[0].studies == (exam.study,)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="apt-get install dicom3tools")
def test_its_images_are_proper_ct(tmp_path: Path) -> None:
    for exam in (make_exam(tmp_path / "exam", 1), make_search_exam(tmp_path / "searched", 1)):
        done = subprocess.run(["dciodvfy", exam.files[0]], capture_output=True, text=True)
        assert "Error" not in done.stderr
        assert "CTImage" in done.stderr


@needs_tools
def test_curl_tells_bytes_and_times(base: str) -> None:
    transfers = bench_wado_clients.fetch([f"{base}/a", f"{base}/b"], ["Accept: text/plain"])
    assert [transfer.size for transfer in transfers] == [len(BODY)] * 2
    assert all(0 < transfer.first_byte <= transfer.total for transfer in transfers)
    size, seconds = bench_wado_clients.fetch_together(3, f"{base}/a", [])
    assert (size, seconds > 0) == (3 * len(BODY), True)


@needs_tools
def test_an_answer_that_is_not_200_ends_the_benchmark(base: str, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="404"):
        bench_wado_clients.fetch([f"{base}/a", f"{base}/absent"], [])
    with pytest.raises(StepFailed, match="errors"):
        bench_wado_clients.hammer(tmp_path, base, ["/a", "/absent"], [], 2, 1)


@needs_tools
def test_wrk_counts_what_was_answered(base: str, tmp_path: Path) -> None:
    done = bench_wado_clients.hammer(tmp_path, base, ["/a", "/b"], ["Accept: text/plain"], 2, 1)
    assert done.requests > 10
    assert done.rate == pytest.approx(done.requests, rel=0.5)
    assert done.p99_ms > 0


@needs_tools
def test_the_bare_stream_is_the_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "bare"
    file.write_bytes(BODY * 3000)
    by_curl, by_socket = bench_wado_clients.stream_bare(file, 2)
    assert min(by_curl, by_socket) > 1


def test_an_absent_program_is_named_by_its_package() -> None:
    with pytest.raises(StepFailed, match="apt-get install absent-package"):
        bench_wado_clients.check_installed({"sh": "dash", "no-such-program": "absent-package"})


def test_memory_and_time_are_those_of_the_whole_tree() -> None:
    command = [sys.executable, "-c", "import os, sys; os.fork(); print('up', flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.stdout.readline()
        memory = bench_wado_processes.memory_mb(parent.pid)
        assert memory["processes"] == 2
        assert 1 < memory["pss"] < memory["rss"]
        assert parent.pid in bench_wado_processes.tree(os.getpid())
        assert bench_wado_processes.cpu_seconds(os.getpid()) > bench_wado_processes.cpu_seconds(parent.pid)
        with pytest.raises(StepFailed, match="drimbox web"):
            bench_wado_processes.find_command(parent.pid, "web")
        parent.communicate("")


def test_options_are_replaced_or_added_in_their_room(tmp_path: Path) -> None:
    config = tmp_path / "drimbox.toml"
    config.write_text('[web]\nkey = "a"\n\n[psc]\nkey = "b"\ncache = 2\n\n[log]\ncache = 7\n', "utf-8")
    bench_wado_peers.set_options(config, {"web": {"proxies": ["127.0.0.1"]}, "psc": {"cache": 30}})
    assert tomllib.loads(config.read_text("utf-8")) == {
        "web": {"proxies": ["127.0.0.1"], "key": "a"},
        "psc": {"cache": 30, "key": "b"},
        "log": {"cache": 7},
    }


def test_ratios_are_medians_of_rounds_and_more_than_one_is_better() -> None:
    def one(ours: float, theirs: float) -> dict[str, dict[str, float]]:
        figures = {
            **dict.fromkeys(("study_mb_per_second", "series_mb_per_second", "single_per_second"), 0.0),
            **dict.fromkeys(("study_ttfb_ms", "qido_ms", "metadata_ms"), 0.0),
        }
        return {
            "drimbox": dict.fromkeys(figures, ours),
            "orthanc": dict.fromkeys(figures, theirs),
            "loopback": {
                "study_curl_mb_per_second": ours * 2,
                "study_socket_mb_per_second": ours * 4,
                "series_curl_mb_per_second": ours * 5,
                "series_socket_mb_per_second": ours * 8,
            },
        }

    ratios = bench_wado.ratios([one(8, 1), one(6, 2), one(4, 4)], "drimbox", "orthanc")
    assert ratios["study_ratio_to_orthanc"] == 3
    assert (ratios["study_ratio_to_loopback"], ratios["study_ratio_to_socket"]) == (0.5, 0.25)
    assert (ratios["series_ratio_to_loopback"], ratios["series_ratio_to_socket"]) == (0.2, 0.12)
    assert ratios["qido_ratio"] == 0.33


@needs_tools
@pytest.mark.soak
def test_the_benchmark_in_small(tmp_path: Path) -> None:
    plan = bench_wado.Plan(rounds=1, seconds=1, gets=150, clients=3)
    figures = bench_wado.bench_wado(tmp_path, 8, plan)
    assert figures["instances"] == 8
    assert set(figures["medians"]) == {"drimbox", "orthanc", "loopback"}
    assert all(figures[name] > 0 for name in figures if name.endswith("_ratio") or "ratio_to" in name)
    assert set(figures["memory_mb"]) == {"start", "after_100", "after_150", "end"}
    assert figures["mutual_tls"]["study_mb_per_second"] > 0
