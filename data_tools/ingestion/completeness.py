"""Whether an ingest made all that it planned: only then may it become a dataset."""

from data_tools.errors import DatasetError
from data_tools.ingestion.plan import Plan
from data_tools.ingestion.shard_records import COUNTS, STATE, Record, Records, file_path


def check_complete(plan: Plan, records: Records, shards: str) -> None:
    """Require a record of every planned shard, and its file; drop records that were not planned.

    Parameters
    ----------
    shards : str     Subfolder of the shards.

    Raises
    ------
    DatasetError : some are missing; the message says which, and what can be done.
    """
    folder, kind = records.folder, records.kind
    planned: dict[tuple[int, int], Record] = {}
    for source, facts in enumerate(plan.sources):
        found = {record.number: record for record in records.of(source)}
        count = facts.num_shards
        if count is None:  # only the last record tells
            last = [number for number, record in found.items() if record.last]
            count = max(last) + 1 if last else max(found, default=-1) + 2
        missing = [number for number in range(count) if number not in found]
        if missing:
            raise DatasetError(
                f"{facts.address}: shard {missing[0]} (of {len(missing)} of its {count} shards) "
                f"has no record in {folder.path(f'{STATE}/{kind}')}, so its rows would be missing; "
                "run the same again to make it. Workers on other machines must reach this folder "
                "by this name"
            )
        planned |= {(source, number): found[number] for number in range(count)}
    sizes = folder.sizes(f"{STATE}/{COUNTS}" if kind == COUNTS else shards)
    for record in planned.values():
        path = file_path(kind, shards, record)
        if path is not None and sizes.get(record.name) != record.bytes:
            raise DatasetError(
                f"{folder.path(path)} is missing or has not the {record.bytes} bytes that were "
                "written; run the same again to make it"
            )
    records.found = planned
