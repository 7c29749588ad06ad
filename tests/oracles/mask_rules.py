"""The mask rules token by token, in plain loops, written from their statements."""

import itertools
import math

import numpy as np


def raster_coordinates(grid):
    return [tuple(c) for c in itertools.product(*(range(size) for size in grid))]


def any_pair(tokens, block):
    """Active blocks of a token mask: any pair inside attends."""
    count = math.ceil(len(tokens) / block)
    blocks = np.zeros((count, count), bool)
    for q, k in np.argwhere(tokens):
        blocks[q // block, k // block] = True
    return blocks


def text_blocks(blocks, video, text, block):
    """Blocks that hold text, dense."""
    for i in range(video + text if text else 0):
        if i >= video:
            blocks[i // block, :] = True
            blocks[:, i // block] = True
    return blocks


# Sparge


def cosine(a, b):
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b) / length if length > 0 else 0.0


def sparge(
    q, k, q_block, kv_block, similarity, cdf, top_k=None, sink=False, smooth=True, causal=False
):
    """Blocks [batch, heads, q_blocks, kv_blocks], one batch entry and head at a time."""
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    batch, q_len, heads, dim = q.shape
    kv_len, kv_heads = k.shape[1:3]
    rows, columns = math.ceil(q_len / q_block), math.ceil(kv_len / kv_block)
    out = np.zeros((batch, heads, rows, columns), bool)
    for b, h in itertools.product(range(batch), range(heads)):
        queries, keys = q[b, :, h], k[b, :, h * kv_heads // heads]
        if smooth:
            keys = keys - keys.mean(0)
        q_parts = [queries[i : i + q_block] for i in range(0, q_len, q_block)]
        k_parts = [keys[i : i + kv_block] for i in range(0, kv_len, kv_block)]

        def similar(part):
            return np.mean([cosine(x, y) for x in part for y in part]) > similarity

        k_similar = [similar(part) for part in k_parts]
        for i, q_part in enumerate(q_parts):
            past = [
                not causal
                or any(
                    key <= query
                    for query in range(i * q_block, i * q_block + len(q_part))
                    for key in range(j * kv_block, j * kv_block + len(k_part))
                )
                for j, k_part in enumerate(k_parts)
            ]
            score = {
                j: q_part.mean(0) @ k_parts[j].mean(0) / math.sqrt(dim)
                for j in range(columns)
                if k_similar[j] and past[j]
            }
            peak = max(score.values(), default=0)
            mass = {j: math.exp(s - peak) for j, s in score.items()}
            falling = sorted(mass, key=lambda j: (-mass[j], j))
            kept, gathered = [], 0.0
            for j in falling:
                if top_k is None and kept and gathered >= cdf * sum(mass.values()):
                    break
                if top_k is not None and len(kept) == max(1, int(top_k * columns + 1e-9)):
                    break
                kept.append(j)
                gathered += mass[j]
            for j in range(columns):
                keep = j in kept or not k_similar[j] or not similar(q_part)
                diagonal = causal and any(
                    j * kv_block <= t < j * kv_block + len(k_parts[j])
                    for t in range(i * q_block, i * q_block + len(q_part))
                )
                out[b, h, i, j] = (keep and past[j]) or diagonal or (sink and j == 0)
    return out


# Radial


def radial(grid, block, decay, neighbor=1.0, sink=True, text=0):
    frames, height, width = grid
    frame = height * width
    video = frames * frame
    tokens = np.zeros((video, video), bool)
    for q, k in itertools.product(range(video), range(video)):
        distance = abs(q // frame - k // frame)
        apart = abs(q % frame - k % frame)
        if distance == 0:
            tokens[q, k] = True
        elif distance == 1:
            tokens[q, k] = apart <= neighbor * frame
        else:
            unfloored = 2 ** len(f"{frame:b}") / 2 ** len(f"{distance:b}")
            tokens[q, k] = apart <= max(unfloored * decay, block)
            if unfloored < block and distance % math.floor(block / unfloored):
                tokens[q, k] = False
        if sink and k < frame:
            tokens[q, k] = True
    count = math.ceil((video + text) / block)
    blocks = np.zeros((count, count), bool)
    for i, j in itertools.product(range(math.ceil(video / block)), repeat=2):
        part = tokens[i * block : (i + 1) * block, j * block : (j + 1) * block]
        densities = [column.mean() for column in part.T if column.any()]
        dense = [density for density in densities if density > 1 / 3]
        blocks[i, j] = i == j or (bool(densities) and len(dense) / len(densities) > 0.6)
    return text_blocks(blocks, video, text, block)


# Sliding tiles


def sliding_tile(grid, tile, window, block, order, text=0):
    coordinates = raster_coordinates(grid)

    def tile_of(c):
        return tuple(x // size for x, size in zip(c, tile, strict=True))

    if order == "tile":
        coordinates = sorted(coordinates, key=lambda c: (tile_of(c), c))
    video = len(coordinates)
    tiles = [math.ceil(size / step) for size, step in zip(grid, tile, strict=True)]
    tokens = np.zeros((video, video), bool)
    for q, k in itertools.product(range(video), range(video)):
        tokens[q, k] = True
        pairs = zip(tile_of(coordinates[q]), tile_of(coordinates[k]), tiles, window, strict=True)
        for center, key, count, size in pairs:
            first = max(0, min(center - size // 2, count - size))
            tokens[q, k] &= first <= key < first + size
    blocks = np.zeros((math.ceil((video + text) / block),) * 2, bool)
    small = any_pair(tokens, block)
    blocks[: len(small), : len(small)] = small
    return text_blocks(blocks, video, text, block)


# SVG


def svg_places(grid, kind):
    """Place of every raster-order token in the order of its kind of head."""
    frames, height, width = grid
    if kind == "spatial":
        return list(range(frames * height * width))
    return [(y * width + x) * frames + t for t, y, x in raster_coordinates(grid)]


def svg_tokens(grid, kind, block, width, text=0):
    """Token mask [tokens, tokens] in raster order: which pairs share an active block."""
    frame = grid[1] * grid[2]
    video = grid[0] * frame
    place = svg_places(grid, kind) + list(range(video, video + text))
    tokens = np.zeros((video + text, video + text), bool)
    for q, k in itertools.product(range(video + text), repeat=2):
        i, j = place[q] // block, place[k] // block
        near = abs(i - j) < width * frame / block
        first = j * block < frame
        holds_text = text > 0 and max(i, j) >= video // block
        tokens[q, k] = near or first or holds_text
    return tokens


def svg(grid, kind, block, width, text=0):
    """Blocks in raster order."""
    video = math.prod(grid)
    tokens = svg_tokens(grid, kind, block, width)
    blocks = np.zeros((math.ceil((video + text) / block),) * 2, bool)
    small = any_pair(tokens, block)
    blocks[: len(small), : len(small)] = small
    return text_blocks(blocks, video, text, block)


def softmax_rows(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def svg_errors(q, k, v, grid, rows, block, width, text=0):
    """Squared output errors {kind: [heads]} over the given query rows."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    batch, _, heads, dim = q.shape
    errors = {}
    for kind in ("spatial", "temporal"):
        tokens = svg_tokens(grid, kind, block, width, text)
        errors[kind] = np.zeros(heads)
        for b, h, row in itertools.product(range(batch), range(heads), rows):
            kv = h * k.shape[2] // heads
            scores = k[b, :, kv] @ q[b, row, h] / math.sqrt(dim)
            full = softmax_rows(scores) @ v[b, :, kv]
            seen = np.where(tokens[row], scores, -np.inf)
            errors[kind][h] += ((softmax_rows(seen) @ v[b, :, kv] - full) ** 2).sum()
    return errors


# PARO


def axis_places(grid, axes):
    """Place of every raster-order token when the grid is walked with ``axes[0]`` slowest."""
    walked = sorted(raster_coordinates(grid), key=lambda c: tuple(c[a] for a in axes))
    return [walked.index(c) for c in raster_coordinates(grid)]


def paro(q, k, grid, density, block, text=0):
    """Chosen axes of every head and its blocks [heads, n, n]."""
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    batch, tokens, heads, dim = q.shape
    group = heads // k.shape[2]
    video = math.prod(grid)
    count = math.ceil(tokens / block)
    kept = max(count, int(density * count * count + 1e-9))
    gathered, masks = np.zeros((heads, 6)), {}
    for h in range(heads):
        attention = np.zeros((tokens, tokens))
        for b in range(batch):
            attention += softmax_rows(q[b, :, h] @ k[b, :, h // group].T / math.sqrt(dim))
        for number, axes in enumerate(itertools.permutations(range(3))):
            place = axis_places(grid, axes) + list(range(video, tokens))
            mass = np.zeros((count, count))
            for x, y in itertools.product(range(tokens), repeat=2):
                mass[place[x] // block, place[y] // block] += attention[x, y]
            first = {(i, int(mass[i].argmax())) for i in range(count)}
            pairs = sorted(
                itertools.product(range(count), repeat=2),
                key=lambda p, mass=mass, first=first: (p not in first, -mass[p], p),
            )
            blocks = np.zeros((count, count), bool)
            for p in pairs[:kept]:
                blocks[p] = True
            masks[h, number] = blocks
            gathered[h, number] = mass[blocks].sum()
    shared = gathered.reshape(-1, group, 6).sum(1).argmax(1).repeat(group)
    axes = list(itertools.permutations(range(3)))
    return [axes[c] for c in shared], np.stack([masks[h, c] for h, c in enumerate(shared)])
