"""In which order a pipeline rank runs its microbatches: 1F1B, plain and interleaved."""


def one_forward_one_backward(
    ranks: int, rank: int, microbatches: int, chunks: int = 1
) -> list[tuple[str, int, int]]:
    """The passes of one iteration on one rank.

    Args:
      ranks: length of the pipeline.
      rank: position in it, from 0.
      microbatches: number of microbatches; with several chunks a multiple of ``ranks``.
      chunks: model chunks on a rank (virtual pipeline); 1 is the plain schedule.

    Returns:
      ("F" or "B", microbatch, chunk), in order.

    Raises:
      ValueError: the microbatches do not divide into groups of ``ranks``.

    Source: PipeDream-Flush and Megatron-LM's interleaved schedule (arXiv 2104.04473, section 2.2).

    Example:
      >>> one_forward_one_backward(2, 0, 3)[:4]
      [('F', 0, 0), ('F', 1, 0), ('B', 0, 0), ('F', 2, 0)]
    """
    total = microbatches * chunks
    if chunks == 1:
        warmup = min(ranks - rank - 1, total)
    elif microbatches % ranks:
        raise ValueError(
            f"schedule_trace: {microbatches} microbatches on {ranks} ranks with {chunks} chunks: "
            "the interleaved schedule needs a multiple of the ranks."
        )
    elif microbatches == ranks:
        warmup = total
    else:
        warmup = min(2 * (ranks - rank - 1) + (chunks - 1) * ranks, total)

    def step(kind: str, number: int) -> tuple[str, int, int]:
        turn, place = divmod(number, ranks * chunks)
        chunk = place // ranks
        microbatch = turn * ranks + place % ranks
        if chunks == 1:
            return kind, number, 0
        return kind, microbatch, chunk if kind == "F" else chunks - 1 - chunk

    forward = [step("F", number) for number in range(total)]
    backward = [step("B", number) for number in range(total)]
    steady = [
        item
        for pair in zip(forward[warmup:], backward[: total - warmup], strict=True)
        for item in pair
    ]
    return forward[:warmup] + steady + backward[total - warmup :]
