"""What a file is by its first bytes, for messages about files that are not what their name says."""

from __future__ import annotations

from pathlib import Path

HEAD = 512
"""Number of bytes that `kind_of` needs."""

TEXTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself (fetch it with: git lfs pull)"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML file"),
    (b"<svg", "an SVG drawing"),
    (b"{", "a JSON file"),
)
"""Beginnings of text files, in lower case."""

MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b", "a gzip file (unpack it with: gunzip)"),
    (0, b"PK\x03\x04", "a zip archive (unpack it with: unzip)"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"BZh", "a bzip2 file (unpack it with: bunzip2)"),
    (0, b"\xfd7zXZ", "an xz file (unpack it with: unxz)"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file (unpack it with: unzstd)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (257, b"ustar", "a tar archive (unpack it with: tar -xf)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x80\x02", "a pickle"),
    (0, b"\x80\x03", "a pickle"),
    (0, b"\x80\x04", "a pickle"),
    (0, b"\x80\x05", "a pickle"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"\x7fELF", "a program"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"BM", "a BMP image"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xffO\xffQ", "a JPEG 2000 image"),
    (8, b"CR\x02\0", "a raw photograph (CR2)"),
    (4, b"ftypcrx", "a raw photograph (CR3)"),
    (0, b"FUJIFILMCCD-RAW", "a raw photograph (RAF)"),
    (0, b"IIRO", "a raw photograph (ORF)"),
    (0, b"IIU\0", "a raw photograph (RW2)"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"II+\0", "a TIFF image"),
    (0, b"MM\0+", "a TIFF image"),
    (0, b"%!PS", "a PostScript drawing"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript drawing"),
    (0, b"v/1\x01", "an OpenEXR image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (8, b"WEBP", "a WebP image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypavis", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftyphev", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftypmsf1", "a HEIC image"),
    (4, b"ftypqt", "a video"),
    (4, b"ftyp", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (0, b"RIFF", "a RIFF file (sound or video)"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"gimp xcf", "a GIMP document"),
    (0, b"SIMPLE  =", "a FITS file"),
    (128, b"DICM", "a DICOM file"),
)
"""Signatures of binary files: position, bytes, and what the file is."""


def kind_of(head: bytes) -> str | None:
    """Return what a file is by its first `HEAD` bytes, such as "a web page". None if they say nothing."""
    if not head:
        return "an empty file (0 bytes)"
    for position, magic, kind in MAGIC:
        if head[position : position + len(magic)] == magic:
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "an SVG drawing"
    found = next((kind for start, kind in TEXTS if text.startswith(start)), None)
    return found or ("a file of zero bytes only" if not head.strip(b"\0") else None)


def kind_of_file(path: Path) -> str | None:
    """Return what a file is by its first bytes. None if they say nothing, or the file cannot be read."""
    if path.is_dir():
        return "a folder"
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD))
    except OSError:
        return None
