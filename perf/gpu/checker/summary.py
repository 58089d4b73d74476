"""The last table: what was measured beside what must be reached."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf.gpu.checker.report import read

HEAD = ("work", "ms", "share of copy or ratio", "must reach", "reached?")
TABLE = "summary.md"
Found = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """A line of the table: a share of the copy's bandwidth, or a ratio to another's time."""

    work: str
    share: float | None = None  # of the copy, at the least
    against: str | None = None
    ratio: float | None = None  # how many times as fast, at the least


LINES = (
    Line("lookup S1 Z=128 alignment 128"),
    Line("lookup S1 Z=128 alignment 32", share=0.85),
    Line("lookup S1 Z=128 alignment 1", share=0.70),
    Line("lookup S1 Z=32 alignment 1", against="torch S1 forward, uniform ids", ratio=1.3),
    Line("lookup S1 Z=8 alignment 1", against="torch S1 forward, uniform ids"),
    Line("lookup S2 Z=16 alignment 1", against="torch S2 forward, uniform ids"),
    Line("bags S3 Z=64 alignment 32", against="torch S3 forward, uniform ids", ratio=1.3),
    Line("bags S3 Z=64 alignment 1", against="torch S3 forward, uniform ids", ratio=1.3),
    Line("step S1 SGD, uniform ids", against="torch S1 SGD, uniform ids", ratio=3),
    Line("step S1 SGD, uniform ids", against="published S1 SGD, uniform ids", ratio=10),
    Line("step S1 Adagrad, uniform ids", against="torch S1 Adagrad, uniform ids", ratio=3),
    Line("step S1 SGD, zipf ids", against="torch S1 SGD, zipf ids", ratio=3),
    Line("step S1 Adagrad, zipf ids", against="torch S1 Adagrad, zipf ids", ratio=3),
    Line("update S1 SGD, uniform ids"),
    Line("update S1 Adagrad, uniform ids"),
    Line("lookup and dot S1", against="torch lookup and dot S1"),
    Line("lookup and dot S1", against="lookup and dot S1, two passes", ratio=1),
    Line("starts S1 Z=128"),
    Line("robe step mlperf 65536", against="torch step mlperf 65536", ratio=1.5),
    Line("robe step mlperf 2048", against="torch step mlperf 2048", ratio=1.5),
)
HOST = (("lookup, CuPy", 30.0), ("lookup, torch", 30.0), ("sgd_update, CuPy", None))
HOST_MODEL = ("DLRM.logits, batch 1", None)
RIVALS = (("full", 3.1), ("torch", None))  # of inference, and how many times as fast at some batch
TRAINING_RATIO, LOSS_TOLERANCE = 10.0, 1e-3


def write(folder: Path) -> str:
    """The table, which is left in the folder too."""
    found = {result["work"]: result for result in read(folder)}
    lines = [HEAD, ("---",) * len(HEAD), *rows(found)]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    (folder / TABLE).write_text(text + "\n")
    return text


def rows(found: Found) -> Iterator[tuple[str, ...]]:
    """Every line, also of what is missing."""
    copy = found.get("copy", {})
    yield "copy", _ms(copy), f"{copy.get('gb_per_s', 0):,.0f} GB/s", "", ""
    for line in LINES:
        yield _line(line, found)
    for name, bound in (*HOST, HOST_MODEL):
        microseconds = found.get(name, {}).get("us")
        must = "" if bound is None else f"<= {bound:g} us"
        shown = "" if microseconds is None else f"{microseconds:.1f} us"
        reached = None if microseconds is None or bound is None else microseconds <= bound
        yield f"host, {name}", "", shown, must, _word(reached, bound)
    for precision in ("float32", "TF32"):
        for rival, bound in RIVALS:
            yield _inference(precision, rival, bound, found)
    yield from _training(found)
    for name in ("all checks", "tests", "memcheck", "racecheck"):
        result = {k: v for k, v in found.get(name, {}).items() if k not in ("section", "work")}
        yield name, "", ", ".join(f"{k} {v}" for k, v in result.items()) or "missing", "", ""


def _line(line: Line, found: Found) -> tuple[str, ...]:
    ours = found.get(line.work, {})
    ms = ours.get("ms")
    if line.against is None:
        copy = found.get("copy", {}).get("gb_per_s")
        rate = ours.get("gb_per_s")
        share = rate / copy if rate and copy else None
        shown = "" if share is None else f"{share:.0%}"
        must = "" if line.share is None else f">= {line.share:.0%}"
        reached = None if share is None or line.share is None else share >= line.share
        return line.work, _ms(ours), shown, must, _word(reached, line.share)
    other = found.get(line.against, {})
    theirs = other.get("ms")
    ratio = theirs / ms if ms and theirs else None
    shown = "" if ratio is None else f"{ratio:.2f}x of {line.against}, {_ms(other)} ms"
    must = "" if line.ratio is None else f">= {line.ratio:g}x"
    reached = None if ratio is None or line.ratio is None else ratio >= line.ratio
    return line.work, _ms(ours), shown, must, _word(reached, line.ratio)


def _inference(precision: str, rival: str, bound: float | None, found: Found) -> tuple[str, ...]:
    """The batch at which ours is the most ahead, on the GPU alone."""
    ratios = {}
    for name, theirs in found.items():
        begin = f"{rival} inference {precision} "
        ours = found.get(name.replace(begin, f"robe inference {precision} "), {})
        if name.startswith(begin) and ours.get("ms") and theirs.get("ms"):
            batch = int(name.removeprefix(begin))
            ratios[batch] = theirs["ms"] / ours["ms"], theirs["wall_ms"] / ours["wall_ms"], ours
    must = "" if bound is None else f">= {bound:g}x"
    work = f"inference {precision} against {rival}"
    if not ratios:
        return work, "", "", must, _word(None, bound)
    best = max(ratios, key=lambda batch: ratios[batch][0])
    ratio, wall, ours = ratios[best]
    shown = f"{ratio:.2f}x at batch {best}; by the host's clock {wall:.2f}x"
    return work, _ms(ours), shown, must, _word(None if bound is None else ratio >= bound, bound)


def _training(found: Found) -> Iterator[tuple[str, ...]]:
    for batch in (2048, 16_384):
        work = f"training of kaggle, batches of {batch}"
        host, there = (found.get(f"train {device} {batch}", {}) for device in ("cpu", "cuda"))
        rates = host.get("rows_per_second"), there.get("rows_per_second")
        ratio = rates[1] / rates[0] if all(rates) else None
        shown = " against ".join(f"{rate:,.0f}" for rate in reversed(rates) if rate) + " rows/s"
        if ratio is not None:
            shown = f"{ratio:.1f}x: {shown}"
        reached = None if ratio is None else ratio >= TRAINING_RATIO
        must = f">= {TRAINING_RATIO:g}x"
        yield work, "", shown, must, _word(reached, TRAINING_RATIO)
        pairs = list(zip(host.get("losses", []), there.get("losses", []), strict=False))
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
