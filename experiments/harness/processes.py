"""Joining several processes into one run, before jax touches a device."""


def join_processes(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> int:
    """Call ``jax.distributed.initialize`` and say which process this is.

    Args:
      coordinator_address: ``host:port`` of process 0; found by jax itself on known clusters.
      num_processes: how many processes take part.
      process_id: index of this one, from 0.

    Returns:
      The index of this process.

    Raises:
      ValueError: when an argument is out of range, or when jax finds no cluster and is told
        of none.
    """
    import jax

    if coordinator_address is not None:
        host, _, port = coordinator_address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise ValueError(
                f"--coordinator-address {coordinator_address!r} is not host:port, "
                "such as 10.0.0.1:8476"
            )
    if num_processes is not None and num_processes < 1:
        raise ValueError(f"--num-processes {num_processes} is less than 1")
    if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
        raise ValueError(
            f"--process-id {process_id} is not between 0 and {num_processes} (not included)"
        )
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except ValueError as error:
        raise ValueError(
            f"jax cannot join the processes ({error}): give --coordinator-address host:port, "
            "--num-processes N and --process-id K"
        ) from error
    return jax.process_index()
