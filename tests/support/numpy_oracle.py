"""The oracle for large batches: multiply-shift ROBE and a DLRM on it, in whole NumPy arrays.

It imports nothing of the package. Tests compare it with `naive.py`, which goes element by
element and is slower by orders of magnitude.
"""

import numpy as np

CHUNK = 1 << 22  # elements that are worked on together
U32 = np.uint64(32)
LOW_WORD = np.uint64(0xFFFFFFFF)


def mix(x):
    """MurmurHash3's 64-bit finaliser of uint64 (n,)."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def philox(seed, stream, count):
    """The first `count` words of NumPy's Philox stream keyed by (seed, stream)."""
    return np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(count)


def high_product(x, n):
    """(x n) >> 64 of uint64 (n,) x and a number n below 2^63, by halves of 32 bits."""
    x_low, x_high = x & LOW_WORD, x >> U32
    n_low, n_high = np.uint64(n % 2**32), np.uint64(n // 2**32)
    middle = x_high * n_low + (x_low * n_low >> U32)
    return x_high * n_high + (middle >> U32) + ((middle & LOW_WORD) + x_low * n_high >> U32)


def read_starts(ids, tables, spec):
    """int64 (n, blocks): where the blocks of reads begin, given ids (n,) and their tables (n,)."""
    num_blocks = -(-spec.embedding_dim // spec.block_size)
    num_starts = -(-spec.array_size // spec.alignment)
    words = 3 if num_starts <= 2**32 else 6
    streams = [philox(spec.seed, t, num_blocks * words) for t in range(spec.num_tables)]
    c = np.array(streams).reshape(spec.num_tables, num_blocks, words)[tables]
    key = mix(ids.astype(np.uint64))[:, None]
    low, high = key & LOW_WORD, key >> U32
    h = c[..., 0] * low + c[..., 1] * high + c[..., 2] >> U32
    if words == 3:
        starts = h * np.uint64(num_starts) >> U32
    else:
        second = c[..., 3] * low + c[..., 4] * high + c[..., 5] >> U32
        starts = high_product(h << U32 | second, num_starts)
    return starts.astype(np.int64) * spec.alignment


def read_signs(ids, tables, spec):
    """+1 or -1 (n, d) for the elements of reads."""
    elements = np.arange(spec.embedding_dim)
    groups = -(-spec.embedding_dim // 64)
    keys = np.array([philox(spec.seed, 2**32 + t, groups) for t in range(spec.num_tables)])
    words = mix(mix(ids.astype(np.uint64))[:, None] ^ keys[tables])[:, elements // 64]
    return 1 - 2 * (words >> (elements % 64).astype(np.uint64) & np.uint64(1)).astype(np.int8)


def read_places(ids, tables, spec):
    """Where in the array the elements of reads are, int64 (n, d), and their signs (n, d) or 1."""
    elements = np.arange(spec.embedding_dim)
    starts = read_starts(ids, tables, spec)[:, elements // spec.block_size]
    places = (starts + elements % spec.block_size) % spec.array_size
    return places, read_signs(ids, tables, spec) if spec.sign else 1


def parts(count, spec):
    """Slices of `count` reads, of about CHUNK elements each."""
    step = max(CHUNK // spec.embedding_dim, 1)
    return [slice(begin, begin + step) for begin in range(0, count, step)]


def reads_of(indices):
    """Ids (n,) and tables (n,) of indices (batch, num_tables)."""
    return indices.reshape(-1), np.tile(np.arange(indices.shape[1]), len(indices))


def block_starts(indices, spec):
    """int64 (batch, num_tables, blocks)."""
    ids, tables = reads_of(indices)
    starts = np.empty((ids.size, -(-spec.embedding_dim // spec.block_size)), np.int64)
    for part in parts(ids.size, spec):
        starts[part] = read_starts(ids[part], tables[part], spec)
    return starts.reshape(*indices.shape, starts.shape[1])


def lookup(array, indices, spec):
    """(batch, num_tables, d), of the array's dtype."""
    ids, tables = reads_of(indices)
    out = np.empty((ids.size, spec.embedding_dim), array.dtype)
    for part in parts(ids.size, spec):
        places, signs = read_places(ids[part], tables[part], spec)
        out[part] = array[places] * np.asarray(signs, array.dtype)
    return out.reshape(*indices.shape, spec.embedding_dim)


def lookup_gradient(grad_out, indices, spec, starts=None):
    """float64 (m,): sums of grad_out (batch, num_tables, d); starts (batch, num_tables, blocks), if
    given, are where blocks begin instead of where ids are hashed to.
    """
    ids, tables = reads_of(indices)
    elements = np.arange(spec.embedding_dim)
    grads = grad_out.reshape(ids.size, spec.embedding_dim)
    starts = None if starts is None else starts.reshape(ids.size, starts.shape[-1])
    gradient = np.zeros(spec.array_size)
    for part in parts(ids.size, spec):
        places, signs = read_places(ids[part], tables[part], spec)
        if starts is not None:
            given = starts[part][:, elements // spec.block_size]
            places = (given + elements % spec.block_size) % spec.array_size
        np.add.at(gradient, places, grads[part] * np.float64(1) * signs)
    return gradient


def embedding_bag(array, indices, offsets, spec, mode, weights, padding_idx):
    """(batch, num_tables, d), added up in the order of the bag in the array's dtype; of bags with
    offsets[0] = 0, without NaN.
    """
    num_bags = len(offsets) - 1
    batch, sizes = num_bags // spec.num_tables, np.diff(offsets)
    out = np.zeros((num_bags, spec.embedding_dim), array.dtype)
    counts = np.zeros(num_bags, np.int64)
    kept = np.ones(len(indices), bool)
    if padding_idx is not None:
        kept = indices.astype(np.uint64) != np.uint64(padding_idx % 2**64)
    for j in range(sizes.max(initial=0)):
        bags = np.flatnonzero(sizes > j)
        bags = bags[kept[offsets[bags] + j]]
        for part in parts(bags.size, spec):
            bag = bags[part]
            read = offsets[bag] + j
            places, signs = read_places(indices[read], bag // batch, spec)
            rows = array[places] * np.asarray(signs, array.dtype)
            if weights is not None:
                rows = weights[read][:, None] * rows
            first = (counts[bag] == 0)[:, None]
            both = np.maximum(out[bag], rows) if mode == "max" else out[bag] + rows
            out[bag] = np.where(first, rows, both) if mode == "max" else both
            counts[bag] += 1
    if mode == "mean":
        out /= np.maximum(counts, 1).astype(array.dtype)[:, None]
    return out.reshape(spec.num_tables, batch, spec.embedding_dim).swapaxes(0, 1)


def adagrad(array, state_sum, gradient, lr, eps, state_block):
    """float64 array and state after the step, as `naive.block_adagrad` has them."""
    size = len(array)
    lengths = np.minimum(np.arange(len(state_sum)) * -state_block + size, state_block)
    padded = np.zeros(len(state_sum) * state_block)
    padded[:size] = gradient**2
    state = state_sum + padded.reshape(-1, state_block).sum(axis=1) / lengths
    with np.errstate(divide="ignore", invalid="ignore"):
        step = lr * gradient / (np.repeat(np.sqrt(state), state_block)[:size] + eps)
    return np.where(gradient == 0, array, array - step), state


class DLRM:
    """A DLRM with dot interaction on ROBE rows, which SGD trains; all in float64.

    Parameters
    ----------
    parameters : by the names of the package's, "embedding.array" among them.
    """

    def __init__(self, parameters, spec):
        self.parameters = {name: array.astype(np.float64) for name, array in parameters.items()}
        self._spec = spec

    def _layers(self, name):
        count = sum(key.startswith(f"{name}.") for key in self.parameters) // 2
        return [f"{name}.{layer}" for layer in range(count)]

    def _forward(self, name, x, final_relu):
        """The output of each layer, the input first."""
        outputs, layers = [x], self._layers(name)
        for layer in layers:
            weight, bias = (self.parameters[f"{layer}.{kind}"] for kind in ("weight", "bias"))
            x = x @ weight.T + bias
            outputs.append(np.maximum(x, 0) if final_relu or layer != layers[-1] else x)
            x = outputs[-1]
        return outputs

    def _backward(self, name, outputs, grad, final_relu, gradients):
        """The gradient of the input; those of the layers go into `gradients`."""
        layers = self._layers(name)
        for number, layer in reversed(list(enumerate(layers))):
            if final_relu or layer != layers[-1]:
                grad = grad * (outputs[number + 1] > 0)
            gradients[f"{layer}.weight"] = grad.T @ outputs[number]
            gradients[f"{layer}.bias"] = grad.sum(axis=0)
            grad = grad @ self.parameters[f"{layer}.weight"]
        return grad

    def _run(self, dense, indices):
        bottom = self._forward("bottom", dense.astype(np.float64), True)
        rows = lookup(self.parameters["embedding.array"], indices, self._spec)
        every = np.concatenate([bottom[-1][:, None], rows], axis=1)
        pairs = np.tril_indices(every.shape[1], -1)
        products = (every @ every.transpose(0, 2, 1))[:, *pairs]
        joined = np.concatenate([bottom[-1], products], axis=1)
        return bottom, every, pairs, self._forward("top", joined, False)

    def probabilities(self, dense, indices):
        """(batch,) of clicks."""
        return 1 / (1 + np.exp(-self._run(dense, indices)[-1][-1][:, 0]))

    def gradients(self, dense, indices, labels):
        """The mean cross-entropy of a batch, and its gradient by the name of each parameter."""
        bottom, every, pairs, top = self._run(dense, indices)
        logits, gradients = top[-1][:, 0], {}
        loss = np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean()
        grad = (1 / (1 + np.exp(-logits)) - labels) / len(labels)
        grad = self._backward("top", top, grad[:, None], False, gradients)
        dim = self._spec.embedding_dim
        products = np.zeros((len(labels), every.shape[1], every.shape[1]))
        products[:, *pairs] = grad[:, dim:]
        vectors = (products + products.transpose(0, 2, 1)) @ every
        self._backward("bottom", bottom, vectors[:, 0] + grad[:, :dim], True, gradients)
        gradients["embedding.array"] = lookup_gradient(vectors[:, 1:], indices, self._spec)
        return loss, gradients

    def train_step(self, dense, indices, labels, lr):
        """The mean cross-entropy of a batch before the step."""
        loss, gradients = self.gradients(dense, indices, labels)
        for name, gradient in gradients.items():
            self.parameters[name] -= lr * gradient
        return loss
