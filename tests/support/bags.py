"""Lists of ids in plain Python: what options do to them, and a dataset's rows as lists.

It imports nothing of the package, so the tests can hold an ingest against it.
"""

UNKNOWN = 2**64 - 1


def last(bags, most):
    """The last ids of each list."""
    return [bag[max(len(bag) - most, 0) :] for bag in bags]


def prepared(bags, max_ind_range=None, by_appearance=False, min_count=1):
    """The ids that are written: an id counts as often as it occurs in all lists."""
    if max_ind_range:
        bags = [[value % max_ind_range for value in bag] for bag in bags]
    if min_count == 1 and not by_appearance:
        return bags
    order = [value for bag in bags for value in bag]
    kept = [value for value in dict.fromkeys(order) if order.count(value) >= min_count]
    numbers = {value: place if by_appearance else value for place, value in enumerate(kept)}
    rare = len(kept) if by_appearance else max_ind_range or UNKNOWN
    return [[numbers.get(value, rare) for value in bag] for bag in bags]


def bags_of(batch, num_multi_hot):
    """For each multi-hot feature of a batch, the list of each row, as pairs of id and weight."""
    values = batch.values.tolist()
    weights = [1.0] * len(values) if batch.weights is None else batch.weights.tolist()
    pairs, ends = list(zip(values, weights, strict=True)), batch.offsets.tolist()
    rows = (len(ends) - 1) // num_multi_hot
    return [
        [pairs[ends[place] : ends[place + 1]] for place in range(rows * t, rows * (t + 1))]
        for t in range(num_multi_hot)
    ]
