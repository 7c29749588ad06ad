"""Traces written as scripts: one event a word, such as ``a+512 b+2M a-``."""

import re

from jaxlab.stweaver import Trace

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def number(text: str) -> int:
    """Bytes of ``20M`` or ``20M-512``."""
    total = 0
    for sign, digits, unit in re.findall(r"([+-]?)(\d+)([KMG]?)", text):
        total += (-1 if sign == "-" else 1) * int(digits) * UNITS[unit]
    return total


def script(words: str) -> Trace:
    """Event ``i`` happens at time ``i``; what is not freed is freed after the last event."""
    size, start, end, names, stream = [], [], [], [], []
    events = words.split()
    for time, word in enumerate(events):
        if word.endswith("-"):
            end[names.index(word[:-1])] = time
            continue
        name, bytes_text = re.fullmatch(r"(\w+)\+(.*)", word).groups()
        bytes_text, _, on = bytes_text.partition("@")
        names.append(name)
        size.append(number(bytes_text))
        start.append(time)
        end.append(len(events))
        stream.append(int(on or 0))
    return Trace.of(size=size, start=start, end=end, id=names, stream=stream)
