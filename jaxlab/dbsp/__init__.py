"""db-SP: balanced sequence parallelism for block-sparse attention.

Block-sparse masks give devices unequal work, and every ring step waits for the slowest device.

1. ``Plan``              which device holds which heads and token blocks
2. ``work_table``        active blocks of every (group, query shard, key shard) of a plan
3. ``imbalance_ratio``, ``device_imbalance_ratio``   how far from perfect balance that is
4. ``head_groups``       heads for each Ulysses group, greedily balanced

A plan is a placement: it moves work and never changes the result.
"""

from jaxlab.dbsp.heads import head_groups
from jaxlab.dbsp.imbalance import device_imbalance_ratio, imbalance_ratio, work_table
from jaxlab.dbsp.plan import Plan

__all__ = ["Plan", "device_imbalance_ratio", "head_groups", "imbalance_ratio", "work_table"]
