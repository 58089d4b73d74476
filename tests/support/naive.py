"""The oracle: ROBE in plain Python integers, one element at a time. It imports nothing of the
package and shares no constant with it; a spec is read by its attributes alone.
"""

import numpy as np

WORD = 2**64


def mix(x):
    """MurmurHash3's 64-bit finaliser."""
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD % WORD
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 % WORD
    x ^= x >> 33
    return x


def philox(seed, stream, position, count):
    """`count` words from `position` on of NumPy's Philox stream keyed by (seed, stream)."""
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
    return [int(word) for word in generator.random_raw(position + count)[position:]]


def multiply_shift_start(spec, t, x, k):
    """((a x_lo + a' x_hi + b) mod 2^64) >> 32, then (h n) >> 32, of the mixed id."""
    num_starts = -(-spec.array_size // spec.alignment)
    words = 3 if num_starts <= 2**32 else 6
    c = philox(spec.seed, t, k * words, words)
    key = mix(x)
    low, high = key % 2**32, key // 2**32
    h = (c[0] * low + c[1] * high + c[2]) % WORD // 2**32
    if words == 3:
        return h * num_starts // 2**32 * spec.alignment
    h = h * 2**32 + (c[3] * low + c[4] * high + c[5]) % WORD // 2**32
    return h * num_starts // WORD * spec.alignment


def paper_start(spec, t, x, k):
    """(A t + B x + C k + D) mod P mod n."""
    prime = 2**31 - 1
    a, b, c, d = (word % prime for word in philox(spec.seed, 2 * 2**32, 0, 4))
    h = (a * t + (b or 1) * (x % prime) + c * k + d) % prime
    return h % -(-spec.array_size // spec.alignment) * spec.alignment


def uma_start(spec, t, x, k):
    """((x + offset_t) A + k B + C) mod P mod (m - Z + 1)."""
    prime = 2038074743
    r = [prime, *np.random.RandomState(spec.seed).randint(0, prime, 50).tolist()]
    offset = sum((spec.num_embeddings or ())[:t])
    h = ((x + offset) * r[3] + k * r[2] + r[1]) % prime
    return h % (spec.array_size - spec.block_size + 1)


def table_start(spec, t, x, k):
    """Rows of plain tables, one after the other."""
    return (sum(spec.num_embeddings[:t]) + x) * spec.embedding_dim


STARTS = {"multiply-shift": multiply_shift_start, "paper": paper_start, "uma": uma_start}


def start(spec, t, x, k):
    """Position of block k of row x of table t; x in two's complement."""
    family = STARTS[spec.hash] if hasattr(spec, "hash") else table_start
    return family(spec, t, int(x) % WORD, k)


def sign(spec, t, x, i):
    """+1 or -1 for element i of row x of table t."""
    if not spec.sign:
        return 1
    key = int(x) % WORD
    key = mix(key) if spec.hash == "multiply-shift" else key % (2**31 - 1)
    word = mix(key ^ philox(spec.seed, 2**32 + t, i // 64, 1)[0])
    return -1 if (word >> (i % 64)) % 2 else 1


def places(spec, t, x):
    """Array position and sign of each element of a row."""
    blocks = -(-spec.embedding_dim // spec.block_size)
    starts = [start(spec, t, x, k) for k in range(blocks)]
    return [
        (
            (starts[i // spec.block_size] + i % spec.block_size) % spec.array_size,
            sign(spec, t, x, i),
        )
        for i in range(spec.embedding_dim)
    ]


def dequantized(values, scales, block):
    """float32 (m,): each int8 times the scale of its block."""
    return np.array([np.float32(x) * scales[i // block] for i, x in enumerate(values.tolist())],
                    np.float32)  # fmt: skip


def block_starts(indices, spec):
    """int64 (batch, num_tables, blocks)."""
    blocks = -(-spec.embedding_dim // spec.block_size)
    rows = [
        [[start(spec, t, x, k) for k in range(blocks)] for t, x in enumerate(r)] for r in indices
    ]
    return np.array(rows, dtype=np.int64).reshape(len(indices), spec.num_tables, blocks)


def row(array, spec, t, x):
    """The embedding, of the array's dtype."""
    return np.array([s * array[p] for p, s in places(spec, t, x)], dtype=array.dtype)


def lookup(array, indices, spec):
    """(batch, num_tables, d)."""
    out = np.empty((len(indices), spec.num_tables, spec.embedding_dim), dtype=array.dtype)
    for b, t in np.ndindex(out.shape[:2]):
        out[b, t] = row(array, spec, t, indices[b, t])
    return out


def interaction(vectors, dense):
    """float64 (2, batch, d + pairs): the dense vector and the dot product of each pair of it and
    the vectors (batch, num_tables, d); then the sums of absolute products, 0 for the dense part.
    """
    every = np.concatenate([dense[:, None], vectors], axis=1).astype(np.float64)
    out = [[*dense.T.astype(np.float64)], [*np.zeros(dense.T.shape)]]
    for i in range(every.shape[1]):
        for j in range(i):
            products = every[:, i] * every[:, j]
            out[0].append(products.sum(axis=1))
            out[1].append(np.abs(products).sum(axis=1))
    return np.array(out).transpose(0, 2, 1)


def bag_members(indices, offsets, spec, padding_idx):
    """For each bag: its sample, its table, and the positions of its ids that are not padding."""
    batch = (len(offsets) - 1) // spec.num_tables
    for bag in range(len(offsets) - 1):
        positions = range(int(offsets[bag]), int(offsets[bag + 1]))
        kept = [
            i
            for i in positions
            if padding_idx is None or int(indices[i]) % WORD != padding_idx % WORD
        ]
        yield bag % batch, bag // batch, kept


def bag_starts(indices, offsets, spec, padding_idx):
    """int64 (n, blocks), -1 for padding."""
    blocks = -(-spec.embedding_dim // spec.block_size)
    starts = np.full((len(indices), blocks), -1, dtype=np.int64)
    for _, t, kept in bag_members(indices, offsets, spec, padding_idx):
        for i in kept:
            starts[i] = [start(spec, t, indices[i], k) for k in range(blocks)]
    return starts


def mode_of(mode, table):
    """How a table is pooled, given one mode for all or one for each."""
    return mode if isinstance(mode, str) else mode[table]


def embedding_bag(array, indices, offsets, spec, mode, weights, padding_idx):
    """(batch, num_tables, d), added up in the order of the bag in the array's dtype."""
    batch = (len(offsets) - 1) // spec.num_tables
    out = np.zeros((batch, spec.num_tables, spec.embedding_dim), dtype=array.dtype)
    for b, t, kept in bag_members(indices, offsets, spec, padding_idx):
        rows = [row(array, spec, t, indices[i]) for i in kept]
        if weights is not None:
            rows = [weights[i] * r for i, r in zip(kept, rows, strict=True)]
        if rows and mode_of(mode, t) == "max":
            out[b, t] = np.max(rows, axis=0)
            continue
        for r in rows:
            out[b, t] += r
        if rows and mode_of(mode, t) == "mean":
            out[b, t] /= array.dtype.type(len(rows))
    return out


def lookup_gradient(grad_out, indices, spec):
    """float64 (2, array_size): the gradient, and the sum of the absolute contributions."""
    gradient = np.zeros((2, spec.array_size))
    for b, t in np.ndindex(grad_out.shape[:2]):
        for i, (p, s) in enumerate(places(spec, t, indices[b, t])):
            gradient[0, p] += s * float(grad_out[b, t, i])
            gradient[1, p] += abs(float(grad_out[b, t, i]))
    return gradient


def embedding_bag_gradient(
    grad_out, indices, offsets, spec, mode, weights, padding_idx, array=None
):
    """float64 (2, array_size), as `lookup_gradient`."""
    gradient = np.zeros((2, spec.array_size))
    for b, t, kept in bag_members(indices, offsets, spec, padding_idx):
        way = mode_of(mode, t)
        if way == "max" and kept:
            rows = np.array([row(array, spec, t, indices[i]) for i in kept])
            winners = np.argmax(rows, axis=0)
        for n, i in enumerate(kept):
            factor = 1.0 / len(kept) if way == "mean" else 1.0
            factor *= 1.0 if weights is None else float(weights[i])
            for e, (p, s) in enumerate(places(spec, t, indices[i])):
                if way == "max" and winners[e] != n:
                    continue
                gradient[0, p] += s * factor * float(grad_out[b, t, e])
                gradient[1, p] += abs(factor * float(grad_out[b, t, e]))
    return gradient


def sgd(array, gradient, lr):
    """float64 array after the step."""
    return array.astype(np.float64) - lr * gradient


def adagrad(array, state_sum, gradient, lr, eps):
    """float64 array and state after the step; what has no gradient does not move."""
    state = state_sum.astype(np.float64) + gradient**2
    step = np.zeros_like(gradient)
    moved = gradient != 0
    step[moved] = lr * gradient[moved] / (np.sqrt(state[moved]) + eps)
    return array.astype(np.float64) - step, state


def block_adagrad(array, state_sum, gradient, lr, eps, state_block):
    """float64 array and state after the step; sum b is of the elements from b * state_block on, and
    grows by the mean of their squares. What has no gradient does not move.
    """
    array, state = array.astype(np.float64), state_sum.astype(np.float64)
    for b in range(len(state)):
        block = range(b * state_block, min((b + 1) * state_block, len(array)))
        state[b] += sum(float(gradient[i]) ** 2 for i in block) / len(block)
        for i in block:
            if gradient[i] != 0:
                array[i] -= lr * float(gradient[i]) / (np.sqrt(state[b]) + eps)
    return array, state


def mlp(x, parameters, name, final_relu):
    """Affine layers "<name>.0.weight", "<name>.0.bias", ... with ReLU between them."""
    count = sum(key.startswith(f"{name}.") for key in parameters) // 2
    for layer in range(count):
        x = x @ parameters[f"{name}.{layer}.weight"].T + parameters[f"{name}.{layer}.bias"]
        if final_relu or layer < count - 1:
            x = np.maximum(x, 0)
    return x


def cross(first, parameters):
    """x_(l+1) = x_0 (U (V x_l) + b) + x_l for each layer, float64 (batch, n)."""
    first = x = first.astype(np.float64)
    for layer in range(sum(name.startswith("cross.") for name in parameters) // 3):
        v, u, bias = (
            parameters[f"cross.{layer}.{part}"].astype(np.float64) for part in ("v", "u", "bias")
        )
        x = first * (x @ v.T @ u.T + bias) + x
    return x


def dlrm_logits(parameters, embeddings, dense, kind):
    """float64 (batch,) of embeddings (batch, num_tables, d)."""
    x = mlp(dense, parameters, "bottom", True)
    if kind == "dot":
        joined = interaction(embeddings, x)[0]
    else:
        joined = np.concatenate([x, embeddings.reshape(len(x), -1)], axis=1)
    if kind == "dcn":
        joined = cross(joined, parameters)
    return mlp(joined, parameters, "top", False)[:, 0]


def cross_entropy(logits, labels):
    """The mean of -log of the probability that each row's label has."""
    return np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean()
