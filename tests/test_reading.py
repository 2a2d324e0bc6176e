import io
import os
import pickle
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from posterior import UserError
from posterior.checkpoint import load_checkpoint
from posterior.listing import Member
from posterior.reading import (
    check_file,
    open_dataset,
    png_bytes,
    read_array,
    read_arrays,
    read_picture,
    read_state,
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)


def dataset(path):
    with open_dataset(path, "kspace") as (_, data):
        return [data[number] for number in range(data.shape[0])]


READERS = {
    "npy": lambda path: read_array(path, "array"),
    "mapped npy": lambda path: np.array(read_array(path, "array", mmap=True)),
    "npz": lambda path: read_arrays(path, "arrays"),
    "pt": read_state,
    "legacy pt": read_state,
    "safetensors": read_state,
    "png": read_picture,
    "jpg": read_picture,
    "h5": dataset,
}


def written(kind, path):
    """A good file of a kind."""
    state = {"weight": torch.randn(4, 8), "bias": torch.zeros(4)}
    if kind in ("npy", "mapped npy"):
        with open(path, "wb") as file:
            np.save(file, RNG.standard_normal((3, 4, 5)))
    elif kind == "npz":
        with open(path, "wb") as file:
            np.savez(file, a=RNG.standard_normal((3, 4)), b=np.array(["x", "yz"]))
    elif kind == "pt":
        torch.save(state, path)
    elif kind == "legacy pt":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["kspace"] = RNG.standard_normal((2, 4, 4)).astype(np.complex64)
    else:
        Image.fromarray(PIXELS).save(path, "PNG" if kind == "png" else "JPEG")
    return Path(path)


@pytest.fixture
def good(tmp_path):
    return {kind: written(kind, tmp_path / f"good {kind}") for kind in READERS}


def one_line(error):
    return "\n" not in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize("kind", READERS)
def test_a_good_file_is_read_and_a_missing_one_named(good, kind):
    READERS[kind](good[kind])
    with pytest.raises(UserError, match=r"none does not exist") as error:
        READERS[kind](good[kind].with_name("none"))
    assert one_line(error)


HOSTILE = {
    "huge npy": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr':'<f8','fortran_order':False,'shape':(99999999999,9999)}".ljust(118),
    "negative npy": b"\x93NUMPY\x01\x00v\x00" + b"{'descr':'<f8','fortran_order':False,'shape':(-4,)}".ljust(118),
    "npy of nothing": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr':'|S0','fortran_order':False,'shape':(10000000000000,)}".ljust(118),
    "npy of code": b"\x93NUMPY\x01\x00v\x00" + b"__import__('os')".ljust(118),
    "npy of brackets": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000,
    "npy without header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "npy of the future": b"\x93NUMPY\x09\x00v\x00",
    "safetensors of all memory": struct.pack("<Q", 2**60) + b"{}",
    "safetensors of no tensors": struct.pack("<Q", 14) + b'{"a":{"b":[1]}',
    "pickle that runs code": pickle.dumps(os.getcwd),
    "pickle bomb": b"\x80\x02" + b"(" * 100_000,
    "text": b"hello, this is text",
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "one byte": b"\x80",
    "PK": b"PK\x03\x04",
    "empty zip": b"PK\x05\x06" + bytes(18),
    "page": b"  <!DOCTYPE HTML><html>sign in</html>",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "empty": b"",
    "jpeg start": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "hdf start": b"\x89HDF\r\n\x1a\n" + b"\x00" * 100,
}


def damages(content, others):
    """Name -> content of a file that is bad, or not what is expected."""
    yield from HOSTILE.items()
    yield from others.items()
    for share in (0.02, 0.2, 0.5, 0.9, 0.99):
        yield f"cut at {share}", content[: int(share * len(content))]
    yield "one byte short", content[:-1]
    yield "one byte more", content + b"\x00"
    yield "zeros inside", content[: len(content) // 3] + bytes(40) + content[len(content) // 3 + 40 :]
    rng = np.random.default_rng(1)
    for number in range(24):
        flipped = np.frombuffer(content, np.uint8).copy()
        places = rng.integers(0, len(flipped) if number % 2 else min(400, len(flipped)), 1 + number // 6)
        flipped[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
        yield f"bits {number}", flipped.tobytes()


@pytest.mark.parametrize("kind", READERS)
def test_a_bad_file_is_named_or_read_and_nothing_else_happens(good, kind, tmp_path):
    others = {f"a {other} file": path.read_bytes() for other, path in good.items()}
    told = {}
    for name, content in damages(good[kind].read_bytes(), others):
        path = tmp_path / "bad file"
        path.write_bytes(content)
        try:
            READERS[kind](path)
        except UserError as error:
            told[name] = str(error)
    assert len(told) > 40
    for name, message in told.items():
        assert str(path) in message, name
        assert "\n" not in message, name
        assert "weights_only" not in message, name


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_is_never_opened(tmp_path, kind, monkeypatch):
    """Opening a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        server.bind("socket")
    told = {
        "pipe": "is a pipe, not a file",
        "folder": "is a folder, not a file",
        "loop": "its symbolic links lead in a circle",
        "dangling": "is a link to a file that does not exist",
        "socket": "is a socket, not a file",
        "x" * 300: "cannot be reached: File name too long",
        "a\0b": "cannot be reached: .*null",
        "folder/x": "does not exist",
        "line\nbreak": "does not exist",
        "/dev/zero": "is a device, not a file",
        "/proc/self/status": "is empty|is not|cannot be|is neither",
    }
    for name, message in told.items():
        with pytest.raises(UserError, match=message) as error:
            READERS[kind](tmp_path / name)
        assert one_line(error)


def test_files_without_permission_are_named(tmp_path):
    path = written("npy", tmp_path / "x.npy")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(UserError, match=r"x.npy cannot be opened: Permission denied"):
        read_array(path, "array")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: get or write it again"),
        (b" \n<HTML><body>404", "is a web page, not the file itself: .* get it again"),
        (b"<!doctype html>", "is a web page"),
        (HOSTILE["lfs"], "is a pointer of git LFS, not the file itself: run 'git lfs pull'"),
    ],
)
def test_what_was_downloaded_instead_is_recognised(tmp_path, content, message):
    (tmp_path / "ffhq_10m.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"checkpoint .*ffhq_10m\.pt {message}"):
        check_file(tmp_path / "ffhq_10m.pt", "checkpoint")


def test_arrays_come_in_types_that_torch_knows(tmp_path):
    for number, values in enumerate(
        (np.arange(3, dtype=">f4"), np.arange(3, dtype=np.longdouble), np.arange(3, dtype=np.clongdouble), np.arange(3))
    ):
        np.save(tmp_path / f"{number}.npy", values)
        found = read_array(tmp_path / f"{number}.npy", "array")
        assert torch.from_numpy(found).tolist() == [0, 1, 2]
        np.savez(tmp_path / "x.npz", x=values)
        assert torch.from_numpy(read_arrays(tmp_path / "x.npz", "arrays")["x"]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("save", [np.save, lambda path, values: np.savez(path, x=values)])
def test_pickled_objects_are_refused_in_plain_words(tmp_path, save):
    with open(tmp_path / "x", "wb") as file:
        save(file, np.array([{}, []], dtype=object))
    reader = read_array if save is np.save else read_arrays
    with pytest.raises(UserError, match="pickled objects are not read: save an array of numbers"):
        reader(tmp_path / "x", "array")


def test_a_header_is_not_believed(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros((4, 4)))
    for name, raw in (("less", content.getvalue()[:-8]), ("more", content.getvalue() + bytes(8))):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(UserError, match=r"its header says float64\[4, 4\], 128 bytes, but 1.. follow"):
            read_array(tmp_path / name, "array")
    header = content.getvalue()[:128].replace(b"(4, 4)", b"(9**9)")
    (tmp_path / "more").write_bytes(header)
    with pytest.raises(UserError, match=r"is not a readable .npy file"):
        read_array(tmp_path / "more", "array")


def test_zip_bombs_are_refused(tmp_path):
    for reader, name in ((read_arrays, "x.npy"), (read_state, "archive/data.pkl")):
        with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_BZIP2) as archive:
            archive.writestr(name, bytes(100 * 2**20))
        with pytest.raises(UserError, match=r"claims to hold 104857600 bytes in \d+, as no honest file does"):
            reader(tmp_path / "bomb", "file")


def test_a_checksum_that_is_wrong_is_found(tmp_path):
    path = written("pt", tmp_path / "x.pt")
    content = bytearray(path.read_bytes())
    place = bytes(content).index(torch.load(path)["weight"].numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"x.pt is not a readable state dict: the checksum of its part .* is wrong"):
        read_state(path)


def test_the_kind_of_a_state_dict_is_told_by_its_content(tmp_path):
    for kind in ("pt", "legacy pt", "safetensors"):
        for suffix in (".pt", ".safetensors", ".ckpt", ""):
            assert read_state(written(kind, tmp_path / f"x{suffix}"))["weight"].shape == (4, 8)


def test_torchs_advice_to_load_unsafely_is_not_passed_on(tmp_path):
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"holds objects of Python, .* save the state_dict\(\)") as error:
        read_state(tmp_path / "x.pt")
    assert "weights_only" not in str(error.value)
    assert one_line(error)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "step": 3}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"is not a state dict \(names to tensors\); it holds state_dict, step"):
        read_state(tmp_path / "x.pt")
    torch.save({"a": torch.zeros(2).to_sparse()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="a is sparse"):
        read_state(tmp_path / "x.pt")
    torch.save({3: torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="one of its names is 3"):
        read_state(tmp_path / "x.pt")
    torch.save({"a": torch.zeros(1).expand(10**6, 10**4)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"a claims to be \[1000000, 10000\], more than the file can hold"):
        read_state(tmp_path / "x.pt")


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("used", torch.ones(2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layer.weight", torch.full((3, 2), torch.nan), "layer.weight holds NaN or infinite values"),
        ("layer.bias", torch.full((3,), 1e300, dtype=torch.float64), "layer.bias holds NaN or infinite values"),
        ("layer.bias", torch.ones(3, dtype=torch.int64), "layer.bias is torch.int64, where torch.float32 is needed"),
        ("layer.bias", torch.ones(3, dtype=torch.bool), "layer.bias is torch.bool"),
        ("layer.bias", torch.ones(3, dtype=torch.complex64), "layer.bias is torch.complex64"),
        ("steps", torch.tensor(3.0), "steps is torch.float32, where torch.int64 is needed"),
    ],
)
def test_tensors_that_are_no_weights_are_named(tmp_path, key, value, message):
    for half in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        state = {k: v.to(half) if v.is_floating_point() else v for k, v in Counting().state_dict().items()}
        torch.save(state, tmp_path / "x.pt")
        load_checkpoint(Counting(), tmp_path / "x.pt")
    torch.save(state | {key: value}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=f"checkpoint .*x.pt: {message}"):
        load_checkpoint(Counting(), tmp_path / "x.pt")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path):
    """Pillow shows other colours, and says nothing."""
    stream = bytearray(zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS), 0))
    first, last = chunk(b"IDAT", bytes(stream[:-4])), chunk(b"IDAT", bytes(stream[-4:]))
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    content = bytearray(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + first + last + chunk(b"IEND", b""))
    (tmp_path / "x.png").write_bytes(bytes(content))
    assert np.array_equal(np.asarray(read_picture(tmp_path / "x.png")), PIXELS)
    content[200] ^= 0xFF
    (tmp_path / "x.png").write_bytes(bytes(content))
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), PIXELS)
    with pytest.raises(UserError, match=r"x.png cannot be decoded \(the checksum of its chunk IDAT is wrong\)"):
        read_picture(tmp_path / "x.png")


@pytest.mark.parametrize("missing", [0, 49, 490])
def test_a_png_whose_pixels_end_too_early_is_refused(tmp_path, missing):
    """Its chunks and its stream are whole; Pillow makes rows that are missing black, and says nothing."""
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    stream = zlib.compress(rows[: len(rows) - missing])
    parts = chunk(b"IDAT", stream[:7]) + chunk(b"IDAT", b"") + chunk(b"IDAT", stream[7:])
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + parts + chunk(b"IEND", b""))
    if missing == 0:
        assert np.array_equal(np.asarray(read_picture(tmp_path / "x.png")), PIXELS)
        return
    assert not np.asarray(Image.open(tmp_path / "x.png"))[-missing // 49 :].any()
    with pytest.raises(UserError, match=r"x.png cannot be decoded \(pixels are missing at its end\)"):
        read_picture(tmp_path / "x.png")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (4, 5), (8, 8), (13, 9)])
@pytest.mark.parametrize("bits", [1, 2, 4, 24, 64])
def test_the_bytes_of_a_png_by_counting_its_pixels(width, height, bits):
    """Adam7 by its picture in the specification: the pass of each pixel of a square of eight."""
    square = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    passes = [[int(square[y % 8][x % 8]) for x in range(width)] for y in range(height)]
    rows = [row.count(number) for number in range(1, 8) for row in passes if number in row]
    assert png_bytes(width, height, bits, interlaced=True) == sum(1 + -(-count * bits // 8) for count in rows)
    assert png_bytes(width, height, bits, interlaced=False) == height * (1 + -(-width * bits // 8))


def test_a_picture_of_too_many_pixels_or_frames_is_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "big.png").write_bytes(png)
    with pytest.raises(UserError, match=r"big.png cannot be decoded \(Image size \(10000000000 pixels\)"):
        read_picture(tmp_path / "big.png")
    frames = [Image.fromarray(np.roll(PIXELS, n, 0)) for n in range(3)]
    for name in ("x.png", "x.gif", "x.webp", "x.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(UserError, match=f"{name} has several frames"):
            read_picture(tmp_path / name)
    frames[0].save(tmp_path / "camera.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "camera.jpg").size == (16, 16)


def test_whatever_a_decoder_raises_names_the_picture(tmp_path, monkeypatch):
    written("png", tmp_path / "x.png")
    monkeypatch.setattr("posterior.reading.ImageOps.exif_transpose", lambda picture: 1 / 0)
    with pytest.raises(UserError, match=r"image .*x.png cannot be decoded \(division by zero\)"):
        read_picture(tmp_path / "x.png")


def test_members_of_a_zip_are_read_like_files(tmp_path, good):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(good["png"], "a.png")
        archive.write(good["npy"], "a.npy")
        archive.writestr("b.png", good["png"].read_bytes()[:-20])
    assert np.array_equal(np.asarray(read_picture(Member(tmp_path / "x.zip", "a.png"))), PIXELS)
    assert read_array(Member(tmp_path / "x.zip", "a.npy"), "array").shape == (3, 4, 5)
    with pytest.raises(UserError, match=r"image .*x.zip/b.png cannot be decoded \(it is cut off\)"):
        read_picture(Member(tmp_path / "x.zip", "b.png"))
    with pytest.raises(UserError, match=r"x.zip/c.png cannot be decoded"):
        read_picture(Member(tmp_path / "x.zip", "c.png"))


def test_data_sets_that_are_none_are_named(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_group("group")
        file["loop"] = h5py.SoftLink("/loop")
        file["far"] = h5py.ExternalLink("other.h5", "/kspace")
        file["objects"] = np.array([b"a", b"bc"], dtype=h5py.string_dtype())
        file["number"] = 3.0
        file.create_dataset("huge", (4, 10**6, 10**6), "f4", chunks=(1, 100, 100))
        file.create_dataset("long", (10**9, 2, 2), "f4", chunks=(100, 2, 2))
        file.create_dataset("outside", (2, 2, 2), "f4", external=[(str(tmp_path / "raw"), 0, 32)])
    told = {
        "group": "'group' must be an array of numbers, it is a group",
        "loop": "is not a readable HDF5 file|has no 'loop'",
        "far": "'far' is a link to another file, which is not followed",
        "objects": "'objects' must be an array of numbers, it is object",
        "number": "must be an array of numbers, it is float64",
        "huge": r"'huge' claims to be float32\[4, 1000000, 1000000\], more than can be meant",
        "long": "more than can be meant",
        "outside": "the data of 'outside' lie in other files",
        "none/below": "has no 'none/below'; it has far, group, huge",
    }
    for key, message in told.items():
        with pytest.raises(UserError, match=message) as error, open_dataset(path, key) as (_, data):
            data[0]
        assert one_line(error)
