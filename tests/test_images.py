import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from posterior import UserError
from posterior.images import list_images, load_image, to_pixels


def save(path, mode="RGB", size=(8, 6), colour=None):
    Image.new(mode, size, colour if colour is not None else 100).save(path)
    return path


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{tmp_path} holds no image file"):
        list_images(tmp_path)


def test_ids_are_sorted_relative_paths_without_extension(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ["c.png", "b/z.JPG", "a.jpeg"]:
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert list(list_images(tmp_path)) == ["a", "b/z", "c"]


def test_two_files_of_one_id_are_refused(tmp_path):
    save(tmp_path / "a.png"), save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="same image id 'a'"):
        list_images(tmp_path)


def test_truncated_file_is_named(tmp_path):
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"broken\.png cannot be decoded"):
        load_image(path)


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    opaque, partly = tmp_path / "opaque.png", tmp_path / "partly.png"
    save(opaque, "RGBA", colour=(10, 20, 30, 255)), save(partly, "RGBA", colour=(10, 20, 30, 200))
    assert load_image(opaque)[:, 0, 0].add(1).mul(127.5).round().tolist() == [10, 20, 30]
    with pytest.raises(UserError, match=r"partly\.png is partly transparent"):
        load_image(partly)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "LA"])
def test_other_modes_become_rgb(tmp_path, mode):
    colour = (100, 255) if mode == "LA" else None
    assert load_image(save(tmp_path / "x.png", mode, colour=colour)).shape == (3, 6, 8)


ORIENTATIONS = {
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    6: lambda pixels: np.rot90(pixels, -1),  # the camera was turned to the left
    8: np.rot90,
}
"""Of EXIF 2.3, tag 0x0112: what makes a picture upright."""


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_picture_is_turned_as_its_camera_says(tmp_path, orientation):
    pixels, exif = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(to_pixels(load_image(tmp_path / "x.png")), ORIENTATIONS[orientation](pixels))


def test_colours_of_a_palette_and_of_print_are_kept(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 250, 120, 7])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png")
    assert to_pixels(load_image(tmp_path / "palette.png")).tolist() == [[[1, 2, 3], [250, 120, 7]]]
    save(tmp_path / "print.jpg", "CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    assert abs(to_pixels(load_image(tmp_path / "print.jpg")).astype(int) - [255, 0, 0]).max() <= 2


def deep_png(path, kind, colours, alpha):
    """A PNG file of 2x2 pixels with 16 bits a channel; an alpha channel is opaque."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 2, 16, kind, 0, 0, 0)
    row = b"\x00" + (b"\x12\x34" * colours + b"\xff\xff" * alpha) * 2
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize(
    ("kind", "colours", "alpha"),
    [(0, 1, 0), (2, 3, 0), (4, 1, 1), (6, 3, 1)],
    ids=["grey", "RGB", "grey with alpha", "RGB with alpha"],
)
def test_sixteen_bits_are_refused(tmp_path, kind, colours, alpha):
    deep_png(tmp_path / "deep.png", kind, colours, alpha)
    with pytest.raises(
        UserError, match=r"image .*deep\.png has more than 8 bits a channel, which are not read"
    ) as caught:
        load_image(tmp_path / "deep.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_tiff_files_are_refused(tmp_path, kind):
    Image.fromarray(np.full((4, 4), 200, dtype=kind)).save(tmp_path / "deep.png", format="TIFF")
    with pytest.raises(UserError, match="more than 8 bits"):
        load_image(tmp_path / "deep.png")


def test_more_pixels_than_pillow_allows_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    save(tmp_path / "large.png", size=(20, 11))
    with pytest.raises(UserError, match=r"image .*large\.png cannot be decoded \(Image size \(220 pixels\)") as caught:
        load_image(tmp_path / "large.png")
    assert "\n" not in str(caught.value)


def test_linked_folders_are_read(tmp_path):
    (tmp_path / "far").mkdir(), (tmp_path / "root").mkdir()
    save(tmp_path / "far" / "x.png")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "far")
    assert list(list_images(tmp_path / "root")) == ["link/x"]


def test_crop_is_central_and_must_fit(tmp_path):
    pixels = np.arange(36, dtype=np.uint8).reshape(6, 6)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    cropped = load_image(tmp_path / "x.png", crop=2)
    assert np.array_equal(to_pixels(cropped)[..., 0], pixels[2:4, 2:4])
    with pytest.raises(UserError, match="6x6, smaller than the crop of 7"):
        load_image(tmp_path / "x.png", crop=7)


def test_resizing_needs_a_square(tmp_path):
    save(tmp_path / "x.png")
    with pytest.raises(UserError, match="not square"):
        load_image(tmp_path / "x.png", size=4)
    assert load_image(tmp_path / "x.png", crop=6, size=3).shape == (3, 3, 3)


def test_pixels_survive_the_round_trip(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.array_equal(to_pixels(load_image(tmp_path / "x.png")), pixels)


def test_nan_is_never_written():
    with pytest.raises(ValueError, match="NaN"):
        to_pixels(torch.full((3, 2, 2), float("nan")))


def zipped(folder, path):
    """A zip of a folder, with what StyleGAN's tool and macOS add."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder).as_posix())
        archive.writestr("dataset.json", '{"labels": null}')
        archive.writestr("__MACOSX/00000/._img00000000.png", b"junk")
    return path


def test_a_zip_has_the_ids_and_pixels_of_its_folder(tmp_path):
    for number, name in enumerate(("00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.png")):
        (tmp_path / "ffhq" / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / "ffhq" / name, "RGB", colour=(10 * number, 20, 30))
    folder = list_images(tmp_path / "ffhq")
    archive = list_images(zipped(tmp_path / "ffhq", tmp_path / "ffhq.zip"))
    assert list(folder) == list(archive) == ["00000/img00000000", "00000/img00000001", "00001/img00001000"]
    for image_id in folder:
        assert torch.equal(load_image(folder[image_id]), load_image(archive[image_id]))


def test_a_bad_zip_and_a_bad_file_in_a_zip_are_named(tmp_path):
    with pytest.raises(UserError, match=r"zip .*none\.zip does not exist"):
        list_images(tmp_path / "none.zip")
    (tmp_path / "bad.zip").write_bytes(b"PK no")
    with pytest.raises(UserError, match=r"bad\.zip cannot be read as a zip"):
        list_images(tmp_path / "bad.zip")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/b.png", b"no picture")
    with pytest.raises(UserError, match=r"image .*x\.zip/a/b\.png cannot be decoded"):
        load_image(list_images(tmp_path / "x.zip")["a/b"])
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("dataset.json", "{}")
    with pytest.raises(UserError, match="holds no image file"):
        list_images(tmp_path / "empty.zip")


def test_damaged_and_leading_out_members_are_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "x.png", "x.png")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "x.zip").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"x\.zip/x\.png cannot be decoded"):
        load_image(list_images(tmp_path / "x.zip")["x"])
    for name in ("../../evil.png", "/abs/x.png"):
        with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(UserError, match="which leads out of it"):
            list_images(tmp_path / "out.zip")
