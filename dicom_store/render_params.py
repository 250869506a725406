"""Query parameters of rendered resources (PS3.18 8.3.5), parsed and bounded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dicom_store.status import HttpRefusal

MAX_SIDE = 8192  # pixels of a viewport
DEFAULT_QUALITY = 90
_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_NUMBER = re.compile(r"[+-]?(\d{1,9}(\.\d{0,9})?|\.\d{1,9})")


T = TypeVar("T")


class _Nonsense(ValueError):
    """What is wrong with one parameter."""


@dataclass(frozen=True, slots=True)
class Viewport:
    """8.3.5.1.3: fit the region of the image in `width` x `height`; a negative region side flips. 0 = to the edge."""

    width: int
    height: int
    x: float = 0.0
    y: float = 0.0
    region_width: float = 0.0
    region_height: float = 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """8.3.5.1.4. `function`: LINEAR, LINEAR_EXACT or SIGMOID (PS3.3 C.11.2.1)."""

    center: float
    width: float
    function: str = "LINEAR"


@dataclass(frozen=True, slots=True)
class RenderParams:
    """How an image is to look. `media_type`: image/jpeg or image/png; `quality`: 1..100, of JPEG."""

    media_type: str = "image/jpeg"
    viewport: Viewport | None = None
    window: Window | None = None
    quality: int = DEFAULT_QUALITY


def parse_render_params(query: Mapping[str, Sequence[str]], media_type: str = "image/jpeg") -> RenderParams:
    """The parameters of a request, as `urllib.parse.parse_qs` gives them; unknown ones mean nothing here.

    Raises `HttpRefusal` 400 `rendering-parameters` with every fault.
    """
    faults: list[str] = []
    viewport = _parsed(query, "viewport", _viewport, faults)
    window = _parsed(query, "window", _window, faults)
    quality = _parsed(query, "quality", _quality, faults)
    if faults:
        detail = "; ".join(faults)
        raise HttpRefusal(400, "rendering-parameters", "Rendering parameters not understood", detail)
    return RenderParams(media_type, viewport, window, quality or DEFAULT_QUALITY)


def _parsed(
    query: Mapping[str, Sequence[str]], name: str, parse: Callable[[str], T], faults: list[str]
) -> T | None:
    values = query.get(name, ())
    if not values:
        return None
    try:
        if len(values) > 1:
            raise _Nonsense("given more than once")
        return parse(values[0])
    except _Nonsense as error:
        faults.append(f"{name}: {error}")
        return None


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text.strip()):
        raise _Nonsense("not a decimal number")
    return float(text)


def _viewport(text: str) -> Viewport:
    parts = text.split(",")
    if len(parts) not in (2, 6):
        raise _Nonsense("must be vw,vh or vw,vh,sx,sy,sw,sh")
    sides = [_number(part) for part in parts[:2]]
    if not all(side.is_integer() and 1 <= side <= MAX_SIDE for side in sides):
        raise _Nonsense(f"vw and vh must be whole numbers from 1 to {MAX_SIDE}")
    region = [_number(part) if part.strip() else 0.0 for part in parts[2:]]
    if region and min(region[:2]) < 0:
        raise _Nonsense("sx and sy must not be negative")
    return Viewport(int(sides[0]), int(sides[1]), *region)


def _window(text: str) -> Window:
    parts = text.split(",")
    if len(parts) != 3:
        raise _Nonsense("must be center,width,function")
    function = _FUNCTIONS.get(parts[2].strip().lower().replace("_", "-"))
    if function is None:
        raise _Nonsense("the function must be linear, linear-exact or sigmoid")
    center, width = _number(parts[0]), _number(parts[1])
    if width <= 0 or (function == "LINEAR" and width < 1) or not math.isfinite(center):
        raise _Nonsense("the width is too small")
    return Window(center, width, function)


def _quality(text: str) -> int:
    quality = _number(text)
    if not (quality.is_integer() and 1 <= quality <= 100):
        raise _Nonsense("must be a whole number from 1 to 100")
    return int(quality)
