"""Times of every public function on the GPU alone, beside its copy."""

from typing import Any

from perf.gpu import calls
from perf.gpu.checker.report import Report
from perf.gpu.device_times import device_times
from perf.harness.places import here

COPY_BYTES = 4 << 30  # of an array that is copied


def run(report: Report, options: Any) -> None:
    """Medians of 20 calls, behind a delay."""
    for kind, items in calls.KINDS.items():
        with report.attempt(kind):
            for item in items(options.tiny):
                report.time(item.name, device_times(item.run), bytes=item.bytes)
        here().release()


def copy_ceiling(report: Report, tiny: bool) -> None:
    """Device to device, bytes read and written."""
    size = 1 << 10 if tiny else COPY_BYTES // 4
    xp = here().xp
    source, target = (xp.zeros((size,), "float32") for _ in range(2))
    source[...] = 1
    report.time("copy", device_times(lambda: xp.copyto(target, source)), bytes=8 * size)
