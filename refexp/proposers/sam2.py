"""SAM2 over a grid of points (METHOD 2.3)."""

from __future__ import annotations

import importlib.resources
import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest import mock

import torch
from pydantic import Field

from refexp.errors import RefexpError, first_line
from refexp.machine import checkpoints
from refexp.machine.networks import Precision, computing, normalise
from refexp.masks import Rle, in_both, upscale_to_rle
from refexp.proposers.base import Proposer
from refexp.proposers.sam2_decoder import Image, SharedDecoder
from refexp.types import MaskProposals, Target, Weights

Model = Literal[
    "sam2_hiera_t", "sam2_hiera_s", "sam2_hiera_b+", "sam2_hiera_l",
    "sam2.1_hiera_t", "sam2.1_hiera_s", "sam2.1_hiera_b+", "sam2.1_hiera_l",
]  # fmt: skip

ON_OBJECT, TOP_LEFT, BOTTOM_RIGHT = 1, 2, 3
"""SAM2's labels of points."""
STABILITY, STABILITY_MARGIN = 0.98, 0.05
"""A single mask is unstable if less than this share of it stays when its logits are lowered by twice the margin.

These are the values with which SAM2 builds its image predictor.
"""


def point_grid(image_size: int, points_per_side: int) -> torch.Tensor:
    """f32 [n * n, 2] as (x, y) in pixels: `linspace(0, size - 1, n) + 0.5` in both axes, x varying slowest."""
    line = torch.linspace(0, image_size - 1, points_per_side) + 0.5
    return torch.cartesian_prod(line, line)


class SAM2Proposer(Proposer):
    """For each grid point the best of the decoder's three masks, if its predicted IoU exceeds `iou_threshold`.

    points_per_batch: points decoded together; None takes 32 on a CPU and 64 on a GPU. It bounds memory and does not
        change results.
    no_mem_embed: add SAM2's "no memory" embedding for the grid's points, as its own image predictor does; off in the
        paper.
    precision: see `networks.computing`; "bfloat16" moves predicted IoUs by some 1e-3.
    compile: torch.compile the image encoder.
    weights: "official" reads the published file in `checkpoints_dir`; "random" is seeded, for tests and benchmarks.
    Raises RefexpError for a missing checkpoint, before anything is built.
    """

    image_size = 1024
    inert = Proposer.inert | {"points_per_batch"}

    def __init__(
        self,
        model: Model,
        checkpoints_dir: str = "checkpoints",
        weights: Literal["official", "random"] = "official",
        points_per_side: Annotated[int, Field(ge=1)] = 32,
        points_per_batch: Annotated[int, Field(ge=1)] | None = None,
        iou_threshold: Annotated[float, Field(ge=0, le=1)] = 0.4,
        no_mem_embed: bool = False,
        precision: Precision = "float32",
        compile: bool = False,
        random_seed: int = 0,
    ) -> None:
        if importlib.util.find_spec("sam2") is None:
            raise RefexpError(
                "proposer: SAM2 is not installed: SAM2_BUILD_CUDA=0 pip install --no-build-isolation 'sam2>=1.1,<2'"
            )
        self.model_name: str = model
        self.points = point_grid(self.image_size, points_per_side)
        self.points_per_batch = points_per_batch
        self.iou_threshold = iou_threshold
        self.no_mem_embed = no_mem_embed
        self.precision: Precision = precision
        self.compile = compile
        self.random_seed = random_seed
        self.file = checkpoints.locate(model, Path(checkpoints_dir)) if weights == "official" else None

    def provenance(self) -> Weights:
        return checkpoints.describe(self.model_name, self.file) if self.file else Weights.random()

    def load(self, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_seed)
            model = build_sam2(self.model_name)
        if self.file:
            load_official(model, self.file, self.model_name)
        # The video half of SAM2 (its memory of earlier frames) is not used here.
        del model.memory_attention, model.memory_encoder
        self.model = model.eval().requires_grad_(False).to(device)
        if self.compile:
            self.model.image_encoder = torch.compile(self.model.image_encoder)
        self.device = device
        self.batch = self.points_per_batch or (64 if device.type == "cuda" else 32)
        with torch.inference_mode(), computing(device):
            self.decoder = SharedDecoder(self.model.sam_mask_decoder)
            self.prompts = self.embed_prompts(self.points[:, None], (ON_OBJECT,))
            self.position = self.model.sam_prompt_encoder.get_dense_pe()

    @torch.inference_mode()
    def propose(self, target: Target) -> MaskProposals:
        with computing(self.device, self.precision):
            image = self.embed(target.square, self.no_mem_embed)
        quality, masks_lr, masks = [], [], []
        for prompts in self.prompts.split(self.batch):
            with computing(self.device, self.precision):
                iou, logits = self.decode(prompts, image)
            quality.append(iou)
            masks_lr.append(logits > 0)
            masks += upscale_to_rle(logits, target.size)
        found = MaskProposals(torch.cat(quality), torch.cat(masks_lr), masks)
        rows = in_both(found.masks_lr, masks)
        return found if len(rows) == len(found) else found.pick(rows)

    @torch.inference_mode()
    def masks_in_boxes(self, target: Target, boxes: torch.Tensor) -> list[Rle]:
        """One mask a box, as SAM2's own image predictor makes it: a box is its two corners as prompts."""
        height, width = target.size
        corners = boxes.reshape(-1, 2, 2) * torch.tensor([self.image_size / width, self.image_size / height])
        masks: list[Rle] = []
        with computing(self.device, self.precision):
            image = self.embed(target.square, no_mem_embed=True)
            for prompts in self.embed_prompts(corners, (TOP_LEFT, BOTTOM_RIGHT)).split(self.batch):
                masks += upscale_to_rle(self.decode_boxes(prompts, image), target.size)
        return masks

    def embed(self, square: torch.Tensor, no_mem_embed: bool) -> Image:
        """f32 [3, 1024, 1024] in [0, 1] -> what all prompts on this image share."""
        backbone = self.model.forward_image(normalise(square.to(self.device, non_blocking=True))[None])
        _, features, _, sizes = self.model._prepare_backbone_features(backbone)
        if no_mem_embed:
            features[-1] = features[-1] + self.model.no_mem_embed
        *finer, embedding = (f.permute(1, 2, 0).reshape(1, -1, *size) for f, size in zip(features, sizes, strict=True))
        no_mask = self.model.sam_prompt_encoder.no_mask_embed.weight[:, :, None, None]
        return self.decoder.prepare(embedding + no_mask, self.position, finer)

    def embed_prompts(self, points: torch.Tensor, kinds: tuple[int, ...]) -> torch.Tensor:
        """B prompts of P points each, f32 [B, P, 2] in pixels of the square, -> embeddings f32 [B, P + 1, D].

        kinds: what each of the P points is: ON_OBJECT, TOP_LEFT or BOTTOM_RIGHT.
        """
        labels = torch.tensor([kinds], dtype=torch.int32).expand(len(points), len(kinds))
        prompts = points.to(self.device), labels.to(self.device)
        with computing(self.device):  # bfloat16 would move a point by up to 4 pixels
            return self.model.sam_prompt_encoder(points=prompts, boxes=None, masks=None)[0]

    def decode(self, prompts: torch.Tensor, image: Image) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedded points [B, 2, D] -> predicted IoU f32 [M] and logits f32 [M, 256, 256] of those above the threshold.

        Waits for a GPU once, to learn which ones these are: they are a third to all, and upscaling is half the work.
        """
        tokens, state = self.decoder.attend(prompts, image)
        with computing(self.device):  # predicted IoUs rank and drop proposals: no TF32 here
            iou, hyper = self.decoder.best(tokens)
        passed = torch.nonzero(iou > self.iou_threshold)[:, 0]
        return iou[passed], self.decoder.upscale(state, passed, hyper[passed], image).float()

    def decode_boxes(self, prompts: torch.Tensor, image: Image) -> torch.Tensor:
        """Embedded boxes [B, 3, D] -> logits f32 [B, 256, 256]: the single mask, or if unstable the best of three."""
        tokens, state = self.decoder.attend(prompts, image)
        every = torch.arange(len(tokens), device=tokens.device)
        logits = self.decoder.upscale(state, every, self.decoder.single(tokens), image).float()
        inner, outer = ((logits > margin).sum(dim=(1, 2)) for margin in (STABILITY_MARGIN, -STABILITY_MARGIN))
        shaky = torch.nonzero(inner < STABILITY * outer)[:, 0]
        if len(shaky):
            _, hyper = self.decoder.best(tokens[shaky])
            logits[shaky] = self.decoder.upscale(state, shaky, hyper, image).float()
        return logits


def build_sam2(name: str) -> Any:
    """The network `name` with fresh weights, from the configuration that the `sam2` package carries.

    `sam2` composes its configurations through Hydra's global state, which belongs to the running experiment (or to
    nobody, in a library); so the file is read as plain YAML and that state is left as it was. It also puts tables on
    the first GPU while it is built, even for a run on the CPU, which then fails if that GPU is full; it sees none here.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    was_initialized = GlobalHydra.instance().is_initialized()
    import sam2

    if not was_initialized:
        GlobalHydra.instance().clear()
    folder = name.split("_")[0]
    text = importlib.resources.files(sam2).joinpath("configs", folder, f"{name}.yaml").read_text()
    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        return instantiate(OmegaConf.create(text).model)


def load_official(model: torch.nn.Module, file: Path, name: str) -> None:
    """Read the published layout `{"model": state_dict}`. Raises RefexpError if the file holds something else."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict(content["model"])
    except Exception as error:  # torch.load raises anything from pickle errors to zip errors on a damaged file
        raise RefexpError(f"{file} does not hold the weights of {name}: {first_line(error)}") from None
