"""The last table of `gpu_check.py`: what was measured against what must be reached."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf.gpu.checker.report import read
from robe_numba.formatting import markdown_table

HEAD = ("work", "ms", "share of copy or ratio", "must reach", "reached?")
TABLE = "summary.md"
Found = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Bound:
    """A line of the table: a share of the copy's bandwidth, or a ratio to another's time."""

    work: str
    share: float | None = None  # of the copy, at least
    against: str | None = None
    ratio: float | None = None  # how many times as fast, at least


TARGETS = (
    Bound("lookup S1 Z=128 alignment 128"),
    Bound("lookup S1 Z=128 alignment 32", share=0.85),
    Bound("lookup S1 Z=128 alignment 1", share=0.70),
    Bound("lookup S1 Z=32 alignment 1", against="torch S1 forward, uniform ids", ratio=1.3),
    Bound("lookup S1 Z=8 alignment 1", against="torch S1 forward, uniform ids"),
    Bound("lookup S2 Z=16 alignment 1", against="torch S2 forward, uniform ids"),
    Bound("bags S3 Z=64 alignment 32", against="torch S3 forward, uniform ids", ratio=1.3),
    Bound("bags S3 Z=64 alignment 1", against="torch S3 forward, uniform ids", ratio=1.3),
    Bound("step S1 SGD, uniform ids", against="torch S1 SGD, uniform ids", ratio=3),
    Bound("step S1 SGD, uniform ids", against="published S1 SGD, uniform ids", ratio=10),
    Bound("step S1 Adagrad, uniform ids", against="torch S1 Adagrad, uniform ids", ratio=3),
    Bound("step S1 SGD, zipf ids", against="torch S1 SGD, zipf ids", ratio=3),
    Bound("step S1 Adagrad, zipf ids", against="torch S1 Adagrad, zipf ids", ratio=3),
    Bound("update S1 SGD, uniform ids"),
    Bound("update S1 Adagrad, uniform ids"),
    Bound("lookup and dot S1", against="torch lookup and dot S1"),
    Bound("lookup and dot S1", against="lookup and dot S1, two passes", ratio=1),
    Bound("starts S1 Z=128"),
    Bound("robe step mlperf 65536", against="torch step mlperf 65536", ratio=1.5),
    Bound("robe step mlperf 2048", against="torch step mlperf 2048", ratio=1.5),
)
# Host calls, and at most how many microseconds.
HOST = (
    ("lookup, CuPy", 30.0),
    ("lookup, torch", 30.0),
    ("sgd_update, CuPy", None),
    ("DLRM.logits, batch 1", None),
)
PEERS = (("full", 3.1), ("torch", None))  # of inference: how many times as fast at the best batch
TRAINING_RATIO, LOSS_TOLERANCE = 10.0, 1e-3


def write(folder: Path) -> str:
    """Write the table into the folder, and return it."""
    found = {result["work"]: result for result in read(folder)}
    text = markdown_table(HEAD, rows(found))
    (folder / TABLE).write_text(text + "\n")
    return text


def rows(found: Found) -> Iterator[tuple[str, ...]]:
    """Every line, also those of missing results."""
    copy = found.get("copy", {})
    yield "copy", _ms(copy), f"{copy.get('gb_per_s', 0):,.0f} GB/s", "", ""
    for target in TARGETS:
        yield _share(target, found) if target.against is None else _ratio(target, found)
    for name, bound in HOST:
        microseconds = found.get(name, {}).get("us")
        must = "" if bound is None else f"<= {bound:g} us"
        shown = "" if microseconds is None else f"{microseconds:.1f} us"
        reached = None if microseconds is None or bound is None else microseconds <= bound
        yield f"host, {name}", "", shown, must, _word(reached, bound)
    for precision in ("float32", "TF32"):
        for peer, bound in PEERS:
            yield _inference(precision, peer, bound, found)
    for batch in (2048, 16_384):
        yield from _training(batch, found)
    for name in ("all checks", "tests", "memcheck", "racecheck"):
        result = {k: v for k, v in found.get(name, {}).items() if k not in ("section", "work")}
        yield name, "", ", ".join(f"{k} {v}" for k, v in result.items()) or "missing", "", ""


def _at_least(value: float | None, bound: float | None) -> str:
    """Whether a bound was reached, in a word."""
    return _word(None if value is None or bound is None else value >= bound, bound)


def _share(target: Bound, found: Found) -> tuple[str, ...]:
    """The share of a copy's bandwidth."""
    ours, copy = found.get(target.work, {}), found.get("copy", {}).get("gb_per_s")
    rate = ours.get("gb_per_s")
    share = rate / copy if rate and copy else None
    shown = "" if share is None else f"{share:.0%}"
    must = "" if target.share is None else f">= {target.share:.0%}"
    return target.work, _ms(ours), shown, must, _at_least(share, target.share)


def _ratio(target: Bound, found: Found) -> tuple[str, ...]:
    """The ratio to another's time."""
    ours, other = found.get(target.work, {}), found.get(target.against or "", {})
    ratio = other["ms"] / ours["ms"] if ours.get("ms") and other.get("ms") else None
    shown = "" if ratio is None else f"{ratio:.2f}x of {target.against}, {_ms(other)} ms"
    must = "" if target.ratio is None else f">= {target.ratio:g}x"
    return target.work, _ms(ours), shown, must, _at_least(ratio, target.ratio)


def _inference(precision: str, peer: str, bound: float | None, found: Found) -> tuple[str, ...]:
    """The batch at which ours leads most, by the GPU's clock."""
    ratios = {}
    for name, theirs in found.items():
        begin = f"{peer} inference {precision} "
        ours = found.get(name.replace(begin, f"robe inference {precision} "), {})
        if name.startswith(begin) and ours.get("ms") and theirs.get("ms"):
            batch = int(name.removeprefix(begin))
            ratios[batch] = theirs["ms"] / ours["ms"], theirs["wall_ms"] / ours["wall_ms"], ours
    must = "" if bound is None else f">= {bound:g}x"
    work = f"inference {precision} against {peer}"
    if not ratios:
        return work, "", "", must, _word(None, bound)
    best = max(ratios, key=lambda batch: ratios[batch][0])
    ratio, wall, ours = ratios[best]
    shown = f"{ratio:.2f}x at batch {best}; by the host's clock {wall:.2f}x"
    return work, _ms(ours), shown, must, _at_least(ratio, bound)


def _training(batch: int, found: Found) -> Iterator[tuple[str, ...]]:
    """Speed of training on the GPU against the host, and how far the losses are apart."""
    host, gpu = (found.get(f"train {device} {batch}", {}) for device in ("cpu", "cuda"))
    rates = [run["rows_per_second"] for run in (gpu, host) if run.get("rows_per_second")]
    ratio = rates[0] / rates[1] if len(rates) == 2 else None
    shown = " against ".join(f"{rate:,.0f}" for rate in rates) + " rows/s"
    if ratio is not None:
        shown = f"{ratio:.1f}x: {shown}"
    work, must = f"training of kaggle, batches of {batch}", f">= {TRAINING_RATIO:g}x"
    yield work, "", shown, must, _at_least(ratio, TRAINING_RATIO)
    pairs = list(zip(host.get("losses", []), gpu.get("losses", []), strict=False))
    apart = max((abs(a - b) / a for a, b in pairs), default=None)
    shown = "" if apart is None else f"{apart:.1e} apart"
    reached = None if apart is None else apart <= LOSS_TOLERANCE
    must = f"<= {LOSS_TOLERANCE:g}"
    yield f"its losses, batches of {batch}", "", shown, must, _word(reached, LOSS_TOLERANCE)


def _ms(result: Mapping[str, Any]) -> str:
    if result.get("ms") is None:
        return "missing"
    return f"{result['ms']:.3f}" + (" (*)" if result.get("note") else "")


def _word(reached: bool | None, bound: Any) -> str:
    if bound is None:
        return ""
    return "?" if reached is None else ("yes" if reached else "NO")
