"""SAM2 prompted with a grid of points (METHOD 2.3)."""

from __future__ import annotations

import importlib.resources
import importlib.util
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest import mock

import torch
from pydantic import Field

from refexp.errors import RefexpError, first_line
from refexp.machine import checkpoints
from refexp.machine.networks import Precision, computing, normalise, switched
from refexp.machine.runtime import side_by_side
from refexp.masks import Rle, in_both, upscale_to_rle
from refexp.proposers.base import Proposer
from refexp.proposers.sam2_decoder import Image, SharedDecoder
from refexp.types import MaskProposals, Target, Weights

Model = Literal[
    "sam2_hiera_t", "sam2_hiera_s", "sam2_hiera_b+", "sam2_hiera_l",
    "sam2.1_hiera_t", "sam2.1_hiera_s", "sam2.1_hiera_b+", "sam2.1_hiera_l",
]  # fmt: skip

ON_OBJECT, TOP_LEFT, BOTTOM_RIGHT = 1, 2, 3
"""SAM2's labels of prompt points."""
STABILITY, STABILITY_MARGIN = 0.98, 0.05
"""The single mask is unstable if its area above +margin is less than STABILITY times its area above -margin.

SAM2's image predictor uses the same values.
"""


def point_grid(image_size: int, points_per_side: int) -> torch.Tensor:
    """Make a grid of (x, y) in pixels, f32 [n * n, 2]: `linspace(0, size - 1, n) + 0.5` on both axes, x slowest."""
    line = torch.linspace(0, image_size - 1, points_per_side) + 0.5
    return torch.cartesian_prod(line, line)


class SAM2Proposer(Proposer):
    """Keeps, for each grid point, the best of the decoder's three masks if its predicted IoU exceeds `iou_threshold`.

    points_per_batch: number of points decoded together, on a CPU by each thread. None takes 8 on a CPU and 256 on a
        GPU. It limits the memory and does not change the results.
    no_mem_embed: add SAM2's "no memory" embedding for the grid points, as its image predictor does. The paper does not.
    precision: see `networks.computing`. "bfloat16" changes predicted IoUs by about 1e-3.
    compile: compile the image encoder with torch.compile.
    weights: "official" reads the published file in `checkpoints_dir`. "random" is seeded, for tests and benchmarks.
    Source: METHOD 2.3; SAM 2, arXiv 2408.00714.
    Cost: one pass of the image encoder and points_per_side^2 points of the decoder per image: 14 s (T) to 24 s (L) on
        two CPU cores if 300 points survive, 0.1 to 0.3 s on an H100 (benchmarks/RESULTS.md).
    Raises RefexpError for a missing checkpoint, before the network is built.
    """

    image_size = 1024
    inert = Proposer.inert | {"points_per_batch"}
    revision = 1

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
        # SAM2's memory of earlier video frames is not used here.
        del model.memory_attention, model.memory_encoder
        self.model = model.eval().requires_grad_(False).to(device)
        if self.compile:
            self.model.image_encoder = torch.compile(self.model.image_encoder)
        self.device = device
        self.batch = self.points_per_batch or (256 if device.type == "cuda" else 8)
        with torch.inference_mode(), computing(device):
            self.decoder = SharedDecoder(self.model.sam_mask_decoder)
            self.prompts = self.embed_prompts(self.points[:, None], (ON_OBJECT,))
            self.position = self.model.sam_prompt_encoder.get_dense_pe()

    @torch.inference_mode()
    def propose(self, target: Target) -> MaskProposals:
        with computing(self.device, self.precision):
            image = self.embed(target.square, self.no_mem_embed)

            def propose_by(prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[Rle]]:
                iou, logits = self.decode(prompts, image)
                return iou, logits > 0, upscale_to_rle(logits, target.size)

            batches = side_by_side(propose_by, self.prompts.split(self.batch), self.device)
        quality, masks_lr, masks = zip(*batches, strict=True)
        found = MaskProposals(torch.cat(quality), torch.cat(masks_lr), list(chain(*masks)))
        rows = in_both(found.masks_lr, found.masks)
        return found if len(rows) == len(found) else found.pick(rows)

    @torch.inference_mode()
    def masks_in_boxes(self, target: Target, boxes: torch.Tensor) -> list[Rle]:
        """Make one mask for each box as SAM2's image predictor does: the two corners of the box are the prompts."""
        height, width = target.size
        corners = boxes.reshape(-1, 2, 2) * torch.tensor([self.image_size / width, self.image_size / height])
        with computing(self.device, self.precision):
            image = self.embed(target.square, no_mem_embed=True)

            def mask_by(prompts: torch.Tensor) -> list[Rle]:
                return upscale_to_rle(self.decode_boxes(prompts, image), target.size)

            batches = self.embed_prompts(corners, (TOP_LEFT, BOTTOM_RIGHT)).split(self.batch)
            return list(chain(*side_by_side(mask_by, batches, self.device)))

    def embed(self, square: torch.Tensor, no_mem_embed: bool) -> Image:
        """Encode an image, f32 [3, 1024, 1024] in [0, 1]. All prompts on the image share the result."""
        backbone = self.model.forward_image(normalise(square.to(self.device, non_blocking=True))[None])
        _, features, _, sizes = self.model._prepare_backbone_features(backbone)
        if no_mem_embed:
            features[-1] = features[-1] + self.model.no_mem_embed
        *finer, embedding = (f.permute(1, 2, 0).reshape(1, -1, *size) for f, size in zip(features, sizes, strict=True))
        no_mask = self.model.sam_prompt_encoder.no_mask_embed.weight[:, :, None, None]
        return self.decoder.prepare(embedding + no_mask, self.position, finer)

    def embed_prompts(self, points: torch.Tensor, kinds: tuple[int, ...]) -> torch.Tensor:
        """Embed B prompts of P points each, f32 [B, P, 2] in pixels of the square, as f32 [B, P + 1, D].

        kinds: the label of each of the P points: ON_OBJECT, TOP_LEFT or BOTTOM_RIGHT.
        """
        labels = torch.tensor([kinds], dtype=torch.int32).expand(len(points), len(kinds))
        prompts = points.to(self.device), labels.to(self.device)
        with computing(self.device):  # in bfloat16 a point would shift by up to 4 pixels
            return self.model.sam_prompt_encoder(points=prompts, boxes=None, masks=None)[0]

    def decode(self, prompts: torch.Tensor, image: Image) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode embedded points [B, 2, D]. Returns predicted IoU f32 [M] and logits f32 [M, 256, 256].

        Only masks with a predicted IoU above the threshold are returned.
        It waits for the GPU once to select these masks. This is worth it: upscaling is half of the work, and a third to
        all of the masks are above the threshold.
        """
        tokens, state = self.decoder.attend(prompts, image)
        with switched(tf32=False):  # because predicted IoUs rank and drop proposals
            iou, hyper = self.decoder.best(tokens)
        passed = torch.nonzero(iou > self.iou_threshold)[:, 0]
        return iou[passed], self.decoder.upscale(state, passed, hyper[passed], image).float()

    def decode_boxes(self, prompts: torch.Tensor, image: Image) -> torch.Tensor:
        """Decode embedded boxes [B, 3, D] to logits f32 [B, 256, 256].

        Each is the single mask or, if that is unstable, the best of three masks.
        """
        tokens, state = self.decoder.attend(prompts, image)
        every = torch.arange(len(tokens), device=tokens.device)
        logits = self.decoder.upscale(state, every, self.decoder.single(tokens), image).float()
        inner, outer = ((logits > margin).sum(dim=(1, 2)) for margin in (STABILITY_MARGIN, -STABILITY_MARGIN))
        unstable = torch.nonzero(inner < STABILITY * outer)[:, 0]
        if len(unstable):
            _, hyper = self.decoder.best(tokens[unstable])
            logits[unstable] = self.decoder.upscale(state, unstable, hyper, image).float()
        return logits


def build_sam2(name: str) -> Any:
    """Build the network `name` with new random weights, from the configuration in the `sam2` package.

    `sam2` composes its configurations through Hydra's global state, which belongs to the running experiment. So the
    file is read as plain YAML, and the state does not change. While it is built, `sam2` also puts tables on the first
    GPU, even for a run on the CPU, and fails if this GPU is full. So the GPUs are hidden from it here.
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
    """Read the published layout `{"model": state_dict}`. Raises RefexpError for a file with other content."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict(content["model"])
    except Exception as error:  # for a damaged file, torch.load raises pickle errors, zip errors and others
        raise RefexpError(f"{file} does not contain the weights of {name}: {first_line(error)}") from None
