"""The steps from matching to detections, under the names that a configuration uses.

A postprocess config names steps, in the order in which they run. Each step gets the candidates of one image in rank
order and the proposals of the image. It returns some of the candidates, or candidates and proposals if it changes
masks.
"""

from refexp.postprocess.diffusion import GraphDiffusion
from refexp.postprocess.keeping import Sort, TopK
from refexp.postprocess.merging import SoftMerge
from refexp.postprocess.nms import NMS, ClassNMS, SoftNMS
from refexp.postprocess.shape import FillHoles, LargestComponent, MinimumArea

__all__ = [
    "NMS",
    "ClassNMS",
    "FillHoles",
    "GraphDiffusion",
    "LargestComponent",
    "MinimumArea",
    "SoftMerge",
    "SoftNMS",
    "Sort",
    "TopK",
]
