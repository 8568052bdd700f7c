"""Time and memory of reading an annotation file of COCO's size, beside parsing its JSON alone.

python benchmarks/annotations.py             # 118,000 images and 860,000 annotations, generated
python benchmarks/annotations.py --share 0.1 # a tenth of it
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES, ANNOTATIONS, CLASSES = 118_000, 860_000, 80

PLAIN = "import json, sys; json.loads(open(sys.argv[1], encoding='utf-8').read())"
CHECKED = "import sys; from pathlib import Path; from refexp.data.coco import read_coco; read_coco(Path(sys.argv[1]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="share of COCO's size")
    share = parser.parse_args().share
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generated.json"
        path.write_text(json.dumps(generated(round(IMAGES * share), round(ANNOTATIONS * share))))
        print(f"generated: {round(IMAGES * share):,} images, {round(ANNOTATIONS * share):,} annotations,", end=" ")
        print(f"{path.stat().st_size / 1e6:,.0f} MB")
        for name, code in (("import alone", CHECKED.rsplit(";", 1)[0]), ("json alone", PLAIN), ("checked", CHECKED)):
            seconds, cpu, peak = measured(code, path)
            print(f"{name:12}  {seconds:6.1f} s  {cpu:6.1f} CPU s  peak {peak:6,.0f} MiB", flush=True)


def generated(images: int, annotations: int) -> dict:
    """A COCO set of polygons with 12 to 60 corners, most alone in their annotation, like COCO's."""
    rng = np.random.default_rng(0)
    frame = (640, 480)
    records = []
    for number in range(annotations):
        corners = int(rng.integers(12, 60))
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = rng.uniform(8, 90) * rng.uniform(0.7, 1, corners)
        center = rng.uniform(100, 380, 2)
        xy = np.stack([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)], axis=1).round(2)
        (x1, y1), (x2, y2) = xy.min(0), xy.max(0)
        x, y = xy.T
        area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        records.append(
            {"id": number + 1, "image_id": int(rng.integers(images)), "category_id": int(rng.integers(CLASSES)) + 1,
             "iscrowd": 0, "area": round(float(area), 4), "segmentation": [xy.ravel().tolist()],
             "bbox": [float(x1), float(y1), round(float(x2 - x1), 2), round(float(y2 - y1), 2)]}
        )  # fmt: skip
    return {
        "images": [
            {"id": i, "file_name": f"{i:012}.jpg", "width": frame[0], "height": frame[1]} for i in range(images)
        ],
        "annotations": records,
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(CLASSES)],
    }


def measured(code: str, path: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory in MiB of a fresh Python that runs `code` on `path`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    report = f"{code}; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    said = subprocess.run([sys.executable, "-c", report, str(path)], check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu, int(said) / 1024


if __name__ == "__main__":
    main()
