"""Results as Markdown tables: a line for each of our contenders, a column for each peer."""

from collections.abc import Mapping, Sequence
from typing import Any

from perf.harness.race import Row
from robe_numba.formatting import markdown_table

BEGIN, END = "<!-- table -->", "<!-- /table -->"


def heading(about: Mapping[str, Any]) -> str:
    """Machine, threads and versions in one line."""
    versions = ", ".join(
        f"{name} {version or 'absent'}" for name, version in about["versions"].items()
    )
    threads = f" {about['threads']} threads;" if about["device"] == "cpu" else ""
    return (
        f"{about['machine']};{threads} {about['ids']} ids; medians of "
        f"{about['repeats']} interleaved repeats; {versions}."
    )


def table_of(rows: Sequence[Row]) -> str:
    """The table of one benchmark's rows."""
    return comparison_table(rows) if rows[0].x is None else sweep_table(rows)


def comparison_table(rows: Sequence[Row]) -> str:
    """The table of all rows that are not part of a sweep, and below it why anything is absent."""
    rows = [row for row in rows if row.x is None]
    ours = [row for row in rows if row.role == "ours"]
    peers = list(dict.fromkeys(row.contender for row in rows if row.role == "peer"))
    with_floor = any(row.role == "floor" for row in rows)
    with_memory = any(row.peak_bytes is not None for row in rows)
    header = ["what", "ms", "M/s", "GB/s"]
    header += ["floor, ms (reached)"] * with_floor
    header += [f"{name}, ms (times ours)" for name in peers]
    header += ["memory / output"] * with_memory
    lines = []
    for row in ours:
        others = same_race(row, rows)
        cells = [label(row, rows), *_speed(row)]
        cells += [_floor(row, others)] * with_floor
        cells += [_peer(row, others, name) for name in peers]
        cells += [_memory(row)] * with_memory
        lines.append(cells)
    notes = dict.fromkeys(
        f"{row.contender} {row.note}." for row in rows if row.note.startswith("absent")
    )
    return "\n".join([markdown_table(header, lines), *([""] if notes else []), *notes])


def sweep_table(rows: Sequence[Row]) -> str:
    """The table of sweeps: million embeddings per second, a line for each value."""
    names = list(dict.fromkeys(row.contender for row in rows))
    lines = []
    for work, x in dict.fromkeys((row.work, row.x) for row in rows):
        speeds = {row.contender: _speed(row) for row in rows if (row.work, row.x) == (work, x)}
        cells = [speeds[name][1] or speeds[name][0] if name in speeds else "" for name in names]
        lines.append([work, f"{x:,g}", *cells])
    return markdown_table(["sweep", "value", *(f"{name}, M/s" for name in names)], lines)


def device_table(rows: Sequence[Row]) -> str:
    """CPU against GPU, in millions per second since batches differ in size."""
    ours = [row for row in rows if row.role == "ours" and row.ms and row.x is None]
    lines = []
    for row in (row for row in ours if row.device == "cuda"):
        for host in (other for other in ours if other.device == "cpu"):
            if _what(host) == _what(row):
                cpu, gpu = (r.items / r.ms / 1e3 for r in (host, row) if r.ms)
                cells = [label(row, [row]), f"{cpu:,.3g}", f"{gpu:,.3g}", f"{gpu / cpu:.1f}"]
                lines.append(cells)
    return markdown_table(["what", "CPU, M/s", "GPU, M/s", "times"], lines)


def label(row: Row, rows: Sequence[Row]) -> str:
    """Shape, work, block size and variant; threads where the same was run on several."""
    parts = [row.shape, row.work]
    parts += [f"Z={row.block_size}"] * (row.block_size is not None)
    parts += [row.contender.removeprefix("robe").strip(", ")]
    same = [other.threads for other in rows if _what(other) == _what(row)]
    parts += [f"{row.threads} thread{'s' * (row.threads > 1)}"] * (len(set(same)) > 1)
    return ", ".join(part for part in parts if part)


def _what(row: Row) -> tuple[Any, ...]:
    return row.bench, row.shape, row.work, row.contender, row.block_size


def same_race(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Peers and floors that did the same work in the same race as one of our rows."""
    return [
        other
        for other in rows
        if (other.bench, other.shape, other.work, other.threads, other.device)
        == (row.bench, row.shape, row.work, row.threads, row.device)
        and other.role != "ours"
        and other.block_size in (None, row.block_size)
    ]


def _speed(row: Row) -> list[str]:
    """Milliseconds, million items and gigabytes per second."""
    if row.ms is None:
        return ["absent", "", ""]
    moved = "" if row.bytes is None else f"{row.bytes / row.ms / 1e6:.1f}"
    return [f"{row.ms:.2f}", f"{row.items / row.ms / 1e3:,.3g}", moved]


def fastest_floor(rows: Sequence[Row]) -> float | None:
    """Milliseconds of the fastest floor of a race, which is the one that counts."""
    return min((row.ms for row in rows if row.role == "floor" and row.ms), default=None)


def _floor(row: Row, others: Sequence[Row]) -> str:
    """The floor's time, and which share of its speed was reached."""
    floor = fastest_floor(others)
    if floor is None:
        return ""
    return f"{floor:.2f}" + (f" ({floor / row.ms:.0%})" if row.ms else "")


def _peer(row: Row, others: Sequence[Row], name: str) -> str:
    """A peer's time, and how many times as fast ours is."""
    for other in others:
        if other.contender == name:
            if other.ms is None:
                return "absent"
            return f"{other.ms:.2f}" + (f" ({other.ms / row.ms:.2f}x)" if row.ms else "")
    return ""


def _memory(row: Row) -> str:
    """Most bytes that one call allocates, over those of the output."""
    if row.peak_bytes is None or not row.output_bytes:
        return ""
    return f"{row.peak_bytes / row.output_bytes:.2f}"
