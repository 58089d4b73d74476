"""A plot of scoring time against batch size, from the results of `gpu_check.py`.

python -m perf.gpu.plot_inference results.jsonl curve.png
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from perf.gpu.checker.report import read
from perf.harness.plots import label_axes, save

# Titles of the section `inference`, and how they are drawn.
LINES = {
    "robe, CUDA graph": ("ROBE, 100 MB, one CUDA graph", "C0", "-"),
    "robe": ("ROBE, 100 MB, launch by launch", "C0", ":"),
    "full": ("our full tables, 100 GB, launch by launch", "C2", ":"),
    "torch": ("torch, 100 GB, one EmbeddingBag", "C1", "--"),
    "torch, EmbeddingBags apart": ("torch, 100 GB, 26 EmbeddingBags", "C3", "--"),
}
PRECISIONS = ("float32", "TF32")


def main(results: Path, plot: Path) -> None:
    """Draw milliseconds of one call by the host's clock, for each precision of the products."""
    found = {result["work"]: result for result in read(results.parent)}
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, precision in zip(axes, PRECISIONS, strict=True):
        for title, (label, color, style) in LINES.items():
            begin = f"{title} inference {precision} "
            points = sorted(
                (int(work.removeprefix(begin)), result["wall_ms"])
                for work, result in found.items()
                if work.startswith(begin)
            )
            if points:
                axis.plot(*zip(*points, strict=True), style, color=color, marker="o", label=label)
        axis.set(xscale="log", yscale="log")
        label_axes(axis, precision, "rows of a batch", "")
    axes[0].set_ylabel("ms for a batch, by the host's clock")
    axes[0].legend(fontsize=8)
    figure.suptitle("Scoring with a DLRM of the preset mlperf on one NVIDIA H200")
    save(figure, plot)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
