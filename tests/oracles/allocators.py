"""Slow, literal allocators: objects and sorted lists, one method for each step of the originals."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

MIB = 1 << 20
INFINITE = 1 << 62


@dataclasses.dataclass(eq=False)
class Block:
    address: int
    size: int
    small: bool = False
    stream: int = 0
    used: bool = False
    mapped: bool = True
    requested: int = 0
    born: int = 0
    prev: "Block | None" = None
    next: "Block | None" = None

    @property
    def key(self) -> tuple[int, int]:
        return self.size, self.address

    def is_split(self) -> bool:
        return self.prev is not None or self.next is not None


def link(left: Block | None, right: Block | None) -> None:
    if left is not None:
        left.next = right
    if right is not None:
        right.prev = left


class Caching:
    """PyTorch's caching allocator; ``pages`` gives it expandable segments, ``stitch`` GMLake's."""

    def __init__(
        self,
        capacity: int = INFINITE,
        max_split: int = INFINITE,
        divisions: int = 0,
        gc_threshold: float = 0.0,
        virtual_range: int = 0,
        stitch: int = 0,
    ) -> None:
        self.capacity, self.max_split, self.divisions = capacity, max_split, divisions
        self.gc_threshold, self.virtual_range, self.stitch = gc_threshold, virtual_range, stitch
        self.blocks: list[Block] = []
        self.searches = {True: 0, False: 0}
        self.reserved = self.top = self.retries = self.collections = self.ooms = self.stitches = 0

    def round(self, size: int) -> int:
        if size < 512:
            return 512
        if self.divisions > 1 and size > 512 * self.divisions:
            low = 1 << (size.bit_length() - 1)
            steps = [low + i * low // self.divisions for i in range(self.divisions + 1)]
            return min(step for step in steps if step >= size)
        size = (size + 511) // 512 * 512
        return (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB if self.stitch and size > MIB else size

    def free_blocks(self, small: bool, stream: int) -> list[Block]:
        found = [
            b
            for b in self.blocks
            if b.small == small and b.stream == stream and b.mapped and not b.used
        ]
        return sorted(found, key=lambda b: b.key)

    def malloc(self, request: int, stream: int = 0) -> list[Block] | None:
        size = self.round(request)
        small = size <= MIB
        block = self.search(size, small, stream)
        if block is None and self.stitch and not small and size >= self.stitch:
            parts = self.take_parts(size, stream)
            if parts is not None:
                return self.hand_out(parts, request)
        if block is None:
            if self.gc_threshold:
                self.collect()
            block = self.extend(size, small, stream)
        if block is None and self.release_oversize(size, small, stream):
            block = self.extend(size, small, stream)
        if block is None:
            self.release_cached()
            self.retries += 1
            block = self.extend(size, small, stream)
        if block is None:
            self.ooms += 1
            return None
        rest = block.size - size
        if small or self.virtual_range:
            cut = rest >= 512
        elif self.stitch:
            cut = rest >= 2 * MIB
        else:
            cut = size < self.max_split and rest > MIB
        if cut:
            self.cut(block, size)
        return self.hand_out([block], request)

    def hand_out(self, parts: list[Block], request: int) -> list[Block]:
        for part in parts:
            part.used = True
            part.requested = min(request, part.size)
            request -= part.requested
        return parts

    def cut(self, block: Block, size: int) -> None:
        rest = Block(block.address + size, block.size - size, block.small, block.stream)
        rest.born = self.searches[block.small]
        link(rest, block.next)
        link(block, rest)
        block.size = size
        self.blocks.append(rest)

    def search(self, size: int, small: bool, stream: int) -> Block | None:
        self.searches[small] += 1
        candidates = [b for b in self.free_blocks(small, stream) if b.size >= size]
        if not candidates:
            return None
        block = candidates[0]
        if self.virtual_range:

            def room(b: Block) -> int:
                return b.size + (b.next.size if b.next is not None and not b.next.mapped else 0)

            for larger in candidates[1:]:
                if room(larger) >= room(block):
                    break
                block = larger
        if size < self.max_split <= block.size:
            return None
        if size >= self.max_split and block.size >= size + 20 * MIB:
            return None
        return block

    def extend(self, size: int, small: bool, stream: int) -> Block | None:
        if small:
            segment = 2 * MIB
        elif size < 10 * MIB:
            segment = 20 * MIB
        else:
            segment = (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
        if self.reserved + segment > self.capacity:
            return None
        if self.virtual_range:
            return self.grow(size, small, stream)
        block = Block(self.top, segment, small, stream)
        self.top += segment
        self.reserved += segment
        self.blocks.append(block)
        return block

    def release(self, block: Block) -> None:
        assert not block.used
        assert not block.is_split()
        self.reserved -= block.size
        self.blocks.remove(block)

    def release_oversize(self, size: int, small: bool, stream: int) -> bool:
        if self.max_split == INFINITE:
            return False
        wanted = max(size, self.max_split)
        free = self.free_blocks(small, stream)
        for block in free:
            if block.size >= wanted:
                self.release(block)
                return True
        total = 0
        for block in reversed(free):
            if total >= wanted or block.size < self.max_split:
                break
            total += block.size
            self.release(block)
        return total >= wanted

    def release_cached(self) -> None:
        streams = sorted({b.stream for b in self.blocks})
        for small in (False, True):
            for stream in streams:
                for block in self.free_blocks(small, stream):
                    if self.virtual_range:
                        self.unmap(block)
                    elif not block.is_split():
                        self.release(block)

    def collect(self) -> None:
        threshold = int(self.gc_threshold * self.capacity)
        if self.reserved <= threshold:
            return
        self.collections += 1
        target = self.reserved - threshold
        reclaimed = 0
        while reclaimed < target:
            now = self.searches[False]
            whole = [b for b in self.blocks if not (b.small or b.used or b.is_split()) and b.mapped]
            if not whole:
                return
            mean = sum(now - b.born for b in whole) / len(whole)
            old = [b for b in whole if now - b.born >= mean]
            for block in old:
                reclaimed += block.size
                self.release(block)

    def take_parts(self, size: int, stream: int) -> list[Block] | None:
        parts: list[Block] = []
        for block in reversed(self.free_blocks(False, stream)):
            if sum(p.size for p in parts) >= size:
                break
            parts.append(block)
        surplus = sum(p.size for p in parts) - size
        if surplus < 0 or len(parts) < 2:
            return None
        if surplus >= 2 * MIB:
            self.cut(parts[-1], parts[-1].size - surplus)
        self.stitches += 1
        return parts

    def free(self, parts: list[Block]) -> None:
        for block in reversed(parts):  # the last part is the head of the chain
            block.used = False
            block.requested = 0
            self.join(block)
            block.born = self.searches[block.small]

    def join(self, block: Block) -> None:
        for other in (block.prev, block.next):
            if other is None or other.used or other.mapped != block.mapped:
                continue
            block.address = min(block.address, other.address)
            block.size += other.size
            if other is block.prev:
                link(other.prev, block)
            else:
                link(block, other.next)
            self.blocks.remove(other)

    # Expandable segments.

    @staticmethod
    def page(block: Block) -> int:
        return (2 if block.small else 20) * MIB

    def grow(self, size: int, small: bool, stream: int) -> Block | None:
        block = self.find(size, small, stream)
        if block is None:
            return None
        if not block.mapped:
            block = self.map(block, min(size, block.size))
        while block is not None and block.size < size:
            assert block.next is not None
            block = self.map(block.next, min(size - block.size, block.next.size))
        return block

    def find(self, size: int, small: bool, stream: int) -> Block | None:
        spaces = [
            b for b in self.blocks if not b.mapped and b.small == small and b.stream == stream
        ]
        for space in sorted(spaces, key=lambda b: b.address):
            first = space
            if space.prev is not None and not space.prev.used:
                first = space.prev
            room, block = 0, first
            while block is not None and not block.used and room < size:
                room += block.size
                block = block.next
            if room >= size:
                return first
        page = (2 if small else 20) * MIB
        span = (self.virtual_range + page - 1) // page * page
        if size > span:
            return None
        block = Block(self.top, span, small, stream, mapped=False)
        self.top += (span + 20 * MIB - 1) // (20 * MIB) * 20 * MIB
        self.blocks.append(block)
        return block

    def map(self, space: Block, size: int) -> Block | None:
        page = self.page(space)
        bytes_mapped = (size + page - 1) // page * page
        if self.reserved + bytes_mapped > self.capacity:
            return None
        assert space.address % page == 0
        if bytes_mapped < space.size:
            rest = Block(
                space.address + bytes_mapped,
                space.size - bytes_mapped,
                space.small,
                space.stream,
                mapped=False,
            )
            link(rest, space.next)
            link(space, rest)
            space.size = bytes_mapped
            self.blocks.append(rest)
        space.mapped = True
        self.reserved += bytes_mapped
        self.join(space)
        space.born = self.searches[space.small]
        return space

    def unmap(self, block: Block) -> None:
        page = self.page(block)
        inside = [
            p
            for p in range(block.address // page * page, block.address + block.size, page)
            if p >= block.address and p + page <= block.address + block.size
        ]
        if not inside:
            return
        first, last = inside[0], inside[-1] + page
        head, tail = first - block.address, block.address + block.size - last
        if tail:
            self.cut(block, block.size - tail)
        if head:
            self.cut(block, head)
            assert block.next is not None
            block = block.next
        block.mapped = False
        self.reserved -= last - first
        self.join(block)
        if not block.is_split():
            self.blocks.remove(block)

    def check(self) -> None:
        check_tiling(self.blocks)
        assert self.reserved == sum(b.size for b in self.blocks if b.mapped) <= self.capacity


def check_tiling(blocks: list[Block]) -> None:
    """Blocks tile their segments, and no two neighbors are free in the same way."""
    ends: list[tuple[int, int]] = []
    seen = 0
    for block in blocks:
        if block.prev is not None:
            continue
        start = block.address
        while block is not None:
            seen += 1
            assert block.size > 0
            after = block.next
            if after is not None:
                assert after.prev is block
                assert after.address == block.address + block.size
                both_idle = not block.used and not after.used
                assert not (both_idle and block.mapped == after.mapped)
            else:
                ends.append((start, block.address + block.size))
            block = after
    assert seen == len(blocks)
    ends.sort()
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))


class Bfc:
    """XLA's allocator with its 21 bins."""

    def __init__(
        self,
        limit: int = INFINITE,
        allow_growth: bool = True,
        max_waste: int = 128 * MIB,
        capacity: int = INFINITE,
    ) -> None:
        self.limit, self.max_waste, self.capacity = limit, max_waste, capacity
        self.region = self.round(min(limit, 2 * MIB) if allow_growth else limit)
        self.bins: list[list[Block]] = [[] for _ in range(21)]
        self.blocks: list[Block] = []
        self.reserved = self.top = self.ooms = 0

    @staticmethod
    def round(size: int) -> int:
        return (size + 255) // 256 * 256

    @staticmethod
    def bin_of(size: int) -> int:
        return min(20, (size // 256).bit_length() - 1)

    def malloc(self, request: int, stream: int = 0) -> list[Block] | None:
        size = self.round(request)
        block = self.find(size)
        if block is None and self.extend(size):
            block = self.find(size)
        if block is None:
            self.ooms += 1
            return None
        block.used, block.requested = True, request
        return [block]

    def find(self, size: int) -> Block | None:
        for number in range(self.bin_of(size), 21):
            for block in sorted(self.bins[number], key=lambda b: b.key):
                if block.size >= size:
                    self.bins[number].remove(block)
                    if block.size >= 2 * size or block.size - size >= self.max_waste:
                        rest = Block(block.address + size, block.size - size)
                        link(rest, block.next)
                        link(block, rest)
                        block.size = size
                        self.blocks.append(rest)
                        self.bins[self.bin_of(rest.size)].append(rest)
                    return block
        return None

    def extend(self, size: int) -> bool:
        available = (self.limit - self.reserved) // 256 * 256
        if size > available:
            return False
        grown = False
        while size > self.region:
            self.region *= 2
            grown = True
        wanted = min(self.region, available)
        while self.reserved + wanted > self.capacity:
            wanted = self.round(int(np.float32(wanted) * np.float32(0.9)))
            if wanted < size:
                return False
        if not grown:
            self.region *= 2
        block = Block(self.top, wanted)
        self.top += (wanted + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
        self.reserved += wanted
        self.blocks.append(block)
        self.bins[self.bin_of(wanted)].append(block)
        return True

    def free(self, parts: list[Block]) -> None:
        (block,) = parts
        block.used, block.requested = False, 0
        for other in (block.prev, block.next):
            if other is not None and not other.used:
                self.bins[self.bin_of(other.size)].remove(other)
                self.blocks.remove(other)
                block.address = min(block.address, other.address)
                block.size += other.size
                if other is block.prev:
                    link(other.prev, block)
                else:
                    link(block, other.next)
        self.bins[self.bin_of(block.size)].append(block)

    def check(self) -> None:
        check_tiling(self.blocks)
        assert self.reserved == sum(b.size for b in self.blocks) <= min(self.limit, self.capacity)
        idle = [b for b in self.blocks if not b.used]
        assert sorted(map(id, idle)) == sorted(id(b) for each in self.bins for b in each)


class Floor:
    """Best fit, buddy and bump on one heap, kept as a list of live ranges."""

    def __init__(self, kind: str, capacity: int = INFINITE, alignment: int = 512) -> None:
        self.kind, self.capacity, self.alignment = kind, capacity, alignment
        self.live: list[Block] = []
        self.reserved = self.ooms = self.top = 0

    def malloc(self, request: int, stream: int = 0) -> list[Block] | None:
        size = (request + self.alignment - 1) // self.alignment * self.alignment
        if self.kind == "buddy":
            size = max(self.alignment, 1 << (size - 1).bit_length())
        address = self.place(size)
        if address + size > self.capacity:
            self.ooms += 1
            return None
        block = Block(address, size, used=True, requested=request)
        self.live.append(block)
        self.top = max(self.top, address + size)
        self.reserved = max(self.reserved, address + size)
        return [block]

    def place(self, size: int) -> int:
        if self.kind == "bump":
            return self.top
        if self.kind == "buddy":
            # The smallest free aligned power of two: halve the whole heap around what is live.
            free = [part for part in self.halves(0, 1 << 61) if part[0] >= size]
            return min(free)[1]
        ends = [0, *(b.address + b.size for b in self.live)]
        starts = [*(b.address for b in self.live), INFINITE]
        holes = [
            (start - end, end)
            for end in ends
            for start in [min(s for s in starts if s >= end)]
            if start - end >= size
            and not any(b.address <= end < b.address + b.size for b in self.live)
        ]
        return min(holes)[1]

    def halves(self, start: int, size: int) -> Iterator[tuple[int, int]]:
        inside = [b for b in self.live if start <= b.address < start + size]
        if not inside:
            yield size, start
        elif not (len(inside) == 1 and inside[0].size == size):
            yield from self.halves(start, size // 2)
            yield from self.halves(start + size // 2, size // 2)

    def free(self, parts: list[Block]) -> None:
        self.live.remove(parts[0])
        if self.kind == "bump" and not self.live:
            self.top = 0

    @property
    def blocks(self) -> list[Block]:
        return self.live

    def check(self) -> None:
        ranges = sorted((b.address, b.address + b.size) for b in self.live)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))
        assert all(end <= self.reserved <= self.capacity for _, end in ranges)


def replay(
    allocator: Caching | Bfc | Floor,
    events: Iterator[tuple[int, bool]],
    sizes: list[int],
    streams: list[int] | None = None,
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Addresses, and (reserved, allocated, requested) after every event, all invariants checked."""
    held: dict[int, list[Block]] = {}
    addresses = [-1] * len(sizes)
    curve = []
    for row, is_malloc in events:
        if is_malloc and sizes[row]:
            parts = allocator.malloc(sizes[row], streams[row] if streams else 0)
            if parts is not None:
                held[row] = parts
                addresses[row] = parts[0].address
                if len(parts) > 1:
                    addresses[row] = allocator.top
                    allocator.top += (sizes[row] + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
        elif not is_malloc and row in held:
            allocator.free(held.pop(row))
        allocator.check()
        used = [b for b in allocator.blocks if b.used]
        curve.append(
            (allocator.reserved, sum(b.size for b in used), sum(b.requested for b in used))
        )
    return addresses, curve


def tflite(size: list[int], start: list[int], end: list[int], alignment: int) -> list[int]:
    """Offsets by the rule of the arena planner; lifetimes half open."""
    first, last = min(start), max(end)
    whole = [(s, e) == (first, last) for s, e in zip(start, end, strict=True)]
    order = sorted(
        range(len(size)),
        key=lambda i: (0, 0, 0, i) if whole[i] else (1, -size[i], start[i], i),
    )
    offsets: dict[int, int] = {}
    for tensor in order:
        meeting = sorted(
            (offsets[other], size[other])
            for other in offsets
            if start[other] < end[tensor] and start[tensor] < end[other]
        )
        gaps = []
        reach = 0
        for offset, bytes_there in meeting:
            aligned = (reach + alignment - 1) // alignment * alignment
            if aligned + size[tensor] <= offset:
                gaps.append((offset - aligned, offset - reach, aligned))
            reach = max(reach, offset + bytes_there)
        best, best_gap = (reach + alignment - 1) // alignment * alignment, INFINITE
        for gap, raw, aligned in gaps:
            if gap < best_gap:
                best, best_gap = aligned, raw
        offsets[tensor] = best
    return [offsets[i] for i in range(len(size))]
