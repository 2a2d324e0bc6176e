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


def deep_png(path, kind, pixels, *further):
    """Write a PNG file of (H, W, C) numbers of 16 bits, by hand; ``further`` chunks, name and data, come first."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in pixels)
    chunks = (b"IHDR", header), *further, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks))


KINDS = {"grey": (0, 1, 0), "RGB": (2, 3, 0), "grey with alpha": (4, 1, 1), "RGB with alpha": (6, 3, 1)}
"""Of PNG -> its number, channels of colour and of transparency."""


@pytest.mark.parametrize("kind", KINDS)
def test_png_of_sixteen_bits_keeps_all_of_them(tmp_path, kind):
    number, colours, alpha = KINDS[kind]
    pixels = np.random.default_rng(0).integers(0, 65536, (3, 5, colours + alpha))
    pixels[0, 0] = 0x1234
    pixels[..., colours:] = 65535
    deep_png(tmp_path / "deep.png", number, pixels)
    right = np.broadcast_to(pixels[..., :colours], (3, 5, 3)).transpose(2, 0, 1) / 32767.5 - 1
    found = load_image(tmp_path / "deep.png")
    assert found.dtype == torch.float32
    assert float(found[0, 0, 0]) == pytest.approx(
        -0.857786, abs=1e-6
    )  # 4660 / 32767.5 - 1; of its upper 8 bits -0.858824
    assert np.abs(found.numpy() - right).max() < 1e-7


@pytest.mark.parametrize("damage", ["filter", "checksum", "end"])
def test_damaged_pixels_of_sixteen_bits_are_one_line(tmp_path, damage):
    """Chunks are whole, what they hold is not: at that, libpng by way of torchvision ends the process."""
    deep_png(tmp_path / "deep.png", 2, np.random.default_rng(0).integers(0, 65536, (9, 9, 3)))
    content = (tmp_path / "deep.png").read_bytes()
    start, end = content.index(b"IDAT"), content.index(b"IEND") - 8  # of the chunk's name, and of what it holds
    rows = bytearray(zlib.decompress(content[start + 4 : end]))
    rows[0] = 7 if damage == "filter" else 0
    packed = bytearray(zlib.compress(bytes(rows)))
    packed[-1] ^= damage == "checksum"
    data = bytes(packed[: len(packed) // 2] if damage == "end" else packed)
    chunk = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    (tmp_path / "deep.png").write_bytes(content[: start - 4] + chunk + content[end + 4 :])
    with pytest.raises(UserError, match=r"image .*deep\.png cannot be decoded \(.*\): replace it"):
        load_image(tmp_path / "deep.png")


def test_white_of_sixteen_bits_is_that_of_eight(tmp_path):
    deep_png(tmp_path / "deep.png", 2, np.array([[[65535] * 3, [0] * 3, [257 * 77] * 3]]))
    Image.fromarray(np.array([[[255] * 3, [0] * 3, [77] * 3]], dtype=np.uint8)).save(tmp_path / "x.png")
    assert torch.allclose(load_image(tmp_path / "deep.png"), load_image(tmp_path / "x.png"), atol=1e-7)


def test_transparent_pictures_of_sixteen_bits_are_refused(tmp_path):
    opaque = np.full((2, 2, 4), 65535)
    partly, keyed = opaque.copy(), np.full((2, 2, 3), 300)
    partly[1, 1, 3], keyed[0, 1] = 65534, 301
    deep_png(tmp_path / "partly.png", 6, partly)
    deep_png(tmp_path / "keyed.png", 2, keyed, (b"tRNS", struct.pack(">3H", 301, 301, 301)))
    for name in ("partly", "keyed"):
        with pytest.raises(UserError, match=rf"{name}\.png is partly transparent"):
            load_image(tmp_path / f"{name}.png")
    deep_png(tmp_path / "no_such.png", 2, keyed, (b"tRNS", struct.pack(">3H", 301, 301, 302)))
    assert to_pixels(load_image(tmp_path / "no_such.png")).tolist() == [[[1, 1, 1]] * 2] * 2


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_of_sixteen_bits_are_turned_too(tmp_path, orientation):
    pixels, exif = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)), Image.Exif()
    exif[0x0112] = orientation
    deep_png(tmp_path / "deep.png", 2, pixels, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    right = ORIENTATIONS[orientation](pixels).transpose(2, 0, 1) / 32767.5 - 1
    assert np.abs(load_image(tmp_path / "deep.png").numpy() - right).max() < 1e-7


def test_pictures_of_sixteen_bits_are_cut_and_reduced(tmp_path):
    """Near the middle of the range, where the upper 8 bits are the same for all of them."""
    pixels = 32768 + np.random.default_rng(0).integers(0, 256, (6, 8, 3))
    deep_png(tmp_path / "deep.png", 2, pixels)
    cut = load_image(tmp_path / "deep.png", crop=4)
    assert np.abs(cut.numpy() - (pixels[1:5, 2:6].transpose(2, 0, 1) / 32767.5 - 1)).max() < 1e-7
    small = load_image(tmp_path / "deep.png", crop=6, size=3)
    assert small.shape == (3, 3, 3)
    assert small.std() > 1e-4  # 8 bits would be 1 / 255 apart, or the same


@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_tiff_of_sixteen_bits_keeps_all_of_them(tmp_path, order):
    pixels = np.array([[0, 4660, 65535], [1, 256, 65534]], dtype=f"{order}u2")
    (tmp_path / "deep.png").write_bytes(tiff(pixels[..., None], order))
    found = load_image(tmp_path / "deep.png")
    assert np.abs(found.numpy() - np.stack([pixels / 32767.5 - 1] * 3)).max() < 1e-7


def tiff(pixels, order, black_is_zero=True, planes=False):
    """The content of a TIFF file of (H, W, C) numbers of 16 bits, in one strip, by hand; ``planes``: one a channel."""
    height, width, channels = pixels.shape
    mark, colours, start = {"<": b"II", ">": b"MM"}[order], 2 if channels == 3 else int(black_is_zero), 8
    data = pixels.astype(f"{order}u2").tobytes()
    depth_at = start + len(data)
    depth = (258, 3, channels, 16 if channels == 1 else depth_at)
    tags = [(256, 4, 1, width), (257, 4, 1, height), depth, (259, 3, 1, 1), (262, 3, 1, colours)]
    tags += [(273, 4, 3, depth_at + 6) if planes else (273, 4, 1, start), (277, 3, 1, channels), (278, 4, 1, height)]
    tags += [(279, 4, 1, len(data)), (284, 3, 1, 2 if planes else 1)]
    content = mark + struct.pack(f"{order}HI", 42, depth_at + 18) + data + struct.pack(f"{order}3H", 16, 16, 16)
    content += struct.pack(f"{order}3I", *(start + 2 * height * width * place for place in range(3)))
    content += struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        short = kind == 3 and count == 1
        content += struct.pack(f"{order}HHI{'HH' if short else 'I'}", tag, kind, count, value, *([0] if short else []))
    return content + bytes(4)


DEEP = "has more than 8 bits a channel, of which PNG of 16 bits and grey TIFF .* are read: save it as PNG"


def test_other_deep_files_are_refused_and_not_cut_to_eight_bits(tmp_path):
    """Of colours Pillow would keep the upper 8 bits."""
    colours, path = np.full((2, 2, 3), 0x1234), tmp_path / "deep.png"
    for content in (
        tiff(colours, "<"),
        tiff(colours, ">"),
        tiff(colours, "<", planes=True),  # which Pillow would read as planes of 8 bits
        tiff(colours[..., :1], "<", black_is_zero=False),  # which Pillow would read as if it were
        b"P6 2 2 65535\n" + colours.astype(">u2").tobytes(),
        b"P6 2 2 1023\n" + colours.astype(">u2").tobytes(),
        b"P5 2 2 65535\n" + colours[..., 0].astype(">u2").tobytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"image .*deep\.png {DEEP}") as caught:
            load_image(path)
        assert "\n" not in str(caught.value)
    for kind in (np.int32, np.float32):
        Image.fromarray(np.full((4, 4), 200, dtype=kind)).save(path, format="TIFF")
        with pytest.raises(UserError, match=DEEP):
            load_image(path)


def test_colours_in_sixteen_bits_a_pixel_are_no_deep_file(tmp_path):
    """BMP with 5 bits of red, green and blue: white, and pure red."""
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    data = struct.pack("<HH", 0x7FFF, 0x7C00)
    (tmp_path / "x.png").write_bytes(struct.pack("<2sIHHI", b"BM", 58, 0, 0, 54) + header + data)
    assert to_pixels(load_image(tmp_path / "x.png")).tolist() == [[[255] * 3, [255, 0, 0]]]


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
