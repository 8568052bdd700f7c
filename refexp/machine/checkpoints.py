"""Official weights: their URLs, their local files, and how to download them.

refexp weights                                  # list all weights, and which are present
refexp weights sam2_hiera_l dinov2_vitl14       # download these
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refexp.errors import RefexpError, did_you_mean
from refexp.files import sha256
from refexp.machine import fetching
from refexp.types import Weights

META = "https://dl.fbaipublicfiles.com"


@dataclass(frozen=True)
class Checkpoint:
    """A published file. Meta publishes no checksums; these are recorded in several independent projects."""

    url: str
    sha256: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


def _dinov2(arch: str, suffix: str, sha256: str) -> Checkpoint:
    return Checkpoint(f"{META}/dinov2/dinov2_{arch}/dinov2_{arch}{suffix}_pretrain.pth", sha256)


def _sam2(release: str, file: str, sha256: str) -> Checkpoint:
    return Checkpoint(f"{META}/segment_anything_2/{release}/{file}.pt", sha256)


CHECKPOINTS = {
    "dinov2_vits14": _dinov2("vits14", "", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
    "dinov2_vitb14": _dinov2("vitb14", "", "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
    "dinov2_vitl14": _dinov2("vitl14", "", "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
    "dinov2_vitg14": _dinov2("vitg14", "", "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3"),
    "dinov2_vits14_reg": _dinov2("vits14", "_reg4", "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb"),
    "dinov2_vitb14_reg": _dinov2("vitb14", "_reg4", "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71"),
    "dinov2_vitl14_reg": _dinov2("vitl14", "_reg4", "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51"),
    "dinov2_vitg14_reg": _dinov2("vitg14", "_reg4", "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283"),
    "sam2_hiera_t": _sam2("072824", "sam2_hiera_tiny", "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
    "sam2_hiera_s": _sam2("072824", "sam2_hiera_small", "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    "sam2_hiera_b+": _sam2("072824", "sam2_hiera_base_plus", "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    "sam2_hiera_l": _sam2("072824", "sam2_hiera_large", "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
    "sam2.1_hiera_t": _sam2("092824", "sam2.1_hiera_tiny", "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    "sam2.1_hiera_s": _sam2("092824", "sam2.1_hiera_small", "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    "sam2.1_hiera_b+": _sam2("092824", "sam2.1_hiera_base_plus", "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    "sam2.1_hiera_l": _sam2("092824", "sam2.1_hiera_large", "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
}  # fmt: skip


def locate(name: str, folder: Path) -> Path:
    """Path of a local checkpoint. Raises MissingWeights that names file, URL and the command to download it."""
    checkpoint = CHECKPOINTS[name]
    path = folder / checkpoint.file
    if not path.is_file():
        raise MissingWeights([name], folder)
    return path


class MissingWeights(RefexpError):
    """Checkpoints are missing. The message names files, URLs and the command that downloads them.

    short: the same without URLs, for a message that names more.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names, self.folder = list(names), folder
        files = ", ".join(CHECKPOINTS[name].file for name in names)
        self.short = f"missing weights in {folder}: {files} (run: refexp weights {' '.join(names)} --dir {folder})"
        puts = ", ".join(f"{CHECKPOINTS[name].url} at {folder / CHECKPOINTS[name].file}" for name in names)
        super().__init__(
            f"the weights of {' and '.join(names)} are missing. Put {puts}, "
            f"or run: refexp weights {' '.join(names)} --dir {folder} (checkpoints.dir sets the folder)"
        )


def describe(name: str, path: Path) -> Weights:
    """The origin of the weights at `path`: the official file if its SHA-256 matches, else another file."""
    digest = sha256(path)
    official = digest == CHECKPOINTS[name].sha256
    origin = f"official {path.name}" if official else f"UNOFFICIAL weights in {path.name} (SHA-256 differs)"
    return Weights(origin, path, digest, "published" if official else "other")


def fetch(name: str, folder: Path) -> Path:
    """Download one checkpoint with a progress bar, check its SHA-256, and only then move it to its place."""
    if name not in CHECKPOINTS:
        raise RefexpError(f"'{name}': no such checkpoint. {did_you_mean(name, CHECKPOINTS)}")
    checkpoint = CHECKPOINTS[name]
    path = folder / checkpoint.file
    if path.is_file():
        print(f"{path} already exists")
        return path
    print(f"{checkpoint.url} -> {path}", flush=True)
    fetching.fetch(checkpoint.url, path, "sha256", checkpoint.sha256)
    return path
