"""Hardware counters of kernels by ncu: the command, and a table of its output."""

import csv

METRICS = (
    "gpu__time_duration.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__t_sector_hit_rate.pct",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "smsp__inst_executed.sum",
    "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "launch__registers_per_thread",
    "launch__occupancy_limit_registers",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
)
# Columns of the table: a title, a metric, and its factor.
COLUMNS = (
    ("us", "gpu__time_duration.sum", 1e-3),
    ("MB read", "dram__bytes_read.sum", 1e-6),
    ("MB written", "dram__bytes_write.sum", 1e-6),
    ("DRAM %", "dram__throughput.avg.pct_of_peak_sustained_elapsed", 1),
    ("L2 hits %", "lts__t_sector_hit_rate.pct", 1),
    ("warps %", "sm__warps_active.avg.pct_of_peak_sustained_active", 1),
    ("issue %", "smsp__issue_active.avg.pct_of_peak_sustained_active", 1),
    ("M instructions", "smsp__inst_executed.sum", 1e-6),
    ("registers", "launch__registers_per_thread", 1),
)
NAME = "Kernel Name"
COMMAND = [
    *("ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"),
    *("--print-units", "base", "--launch-count", "60"),
]
# Our metrics, or ncu's own choice where it lacks some of them.
CHOICES = (["--metrics", ",".join(METRICS)], ["--set", "basic"])


def table(text: str) -> str:
    """A line for each launch in ncu's output; empty if there is none."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    launches = [
        row for row in csv.DictReader(lines) if row.get("ID")
    ]  # the line of units has no ID
    if not launches:
        return ""
    head = " | ".join([*(title for title, _, _ in COLUMNS), "kernel"])
    return "\n".join([f"  {head}", *(f"  {_cells(row)}" for row in launches)])


def _cells(row: dict[str, str]) -> str:
    cells = [_number(row.get(metric), factor) for _, metric, factor in COLUMNS]
    return " | ".join([*cells, (row.get(NAME) or "")[:80]])


def _number(text: str | None, factor: float) -> str:
    try:
        return f"{float((text or '').replace(',', '')) * factor:.1f}"
    except ValueError:
        return "?"
