"""Samples on the dashboard: pictures of images, and words for everything."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from cloud_hub.samples import store
from cloud_hub.samples.pictures import SIDE, in_words, is_pictured, picture_of
from fleet.protocol.messages import Sample
from fleet.protocol.tensors import to_array


def decoded(png: bytes) -> np.ndarray:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    (size,) = struct.unpack(">I", png[33:37])
    assert (
        depth == 8
        and png[37:41] == b"IDAT"
        and zlib.crc32(png[37 : 41 + size]) == int.from_bytes(png[41 + size : 45 + size], "big")
    )
    raw = np.frombuffer(zlib.decompress(png[41 : 41 + size]), np.uint8).reshape(height, -1)
    assert (raw[:, 0] == 0).all()
    return raw[:, 1:].reshape(height, width, -1) if colour == 2 else raw[:, 1:]


@pytest.mark.parametrize("shape", [(1, 16, 12), (1, 16, 12, 1), (1, 16, 12, 3), (1, 3, 16, 12), (1, 1, 16, 12)])
def test_an_image_of_any_layout_is_shown_upright(shape) -> None:
    values = np.zeros(shape, np.float32)
    plane = values.reshape(16, 12, -1) if shape[1] == 16 else np.moveaxis(values[0], 0, -1)
    plane[2, 9] = 5.0
    array = to_array("image", values)
    pixels = decoded(picture_of((array,)))
    assert is_pictured((array,)) and pixels.shape[:2] == (16, 12)
    assert (pixels[2, 9] == 255).all() and pixels.astype(int).sum() == 255 * (3 if pixels.ndim == 3 else 1)


@pytest.mark.parametrize(
    "values", [np.ones((1, 64)), np.ones((1, 2, 3)), np.ones((2, 16, 16)), np.asarray([[b"a"]], object)]
)
def test_what_is_no_image_has_no_picture(values) -> None:
    array = to_array("x", values if values.dtype.kind == "O" else values.astype(np.float32))
    assert picture_of((array,)) is None and not is_pictured((array,))


def test_large_and_broken_images_are_shown_all_the_same() -> None:
    values = np.full((1, 1000, 600, 1), np.nan, np.float32)
    values[0, 500:] = np.inf
    pixels = decoded(picture_of((to_array("x", values),)))
    assert max(pixels.shape) <= SIDE and (pixels == 0).all()


def test_words_say_numbers_figures_and_text() -> None:
    text = in_words(
        (
            to_array("a", np.asarray([[1.5, -2.0, 3.0, 4.0, 5.0]], np.float32)),
            to_array("image", np.full((1, 16, 16), 0.25, np.float32)),
            to_array("note", np.asarray([[b"hot"]], object)),
        )
    )
    assert text == "a: 1.5, -2, 3, 4, …; image: brightness 0.25, contrast 0, detail 0; note: hot"


def test_the_page_of_samples_shows_them(hub) -> None:
    hub.model()
    image = to_array("image", np.eye(16, dtype=np.float32)[None])
    sample = Sample(
        id="s1",
        model="digits",
        release=1,
        variant="v",
        at=hub.clock(),
        reason="random",
        inputs=(image,),
        outputs=(),
        confidence=0.5,
        prediction=1,
    )
    store.commit(hub.hub, "d-0", [sample])
    assert hub.client.get("/samples/s1/picture", follow_redirects=False).status_code in (303, 307, 401)
    hub.client.post("/login", data={"token": hub.admin_token})
    page = hub.client.get("/models/digits/samples").text
    assert 'src="/samples/s1/picture"' in page and "brightness" in page
    shown = hub.client.get("/samples/s1/picture")
    assert shown.headers["content-type"] == "image/png" and decoded(shown.content)[3, 3] == 255
    assert hub.client.get("/samples/none/picture").status_code == 404
