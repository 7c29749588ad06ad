"""db-SP: balanced sequence parallelism for block-sparse attention.

Block-sparse masks give devices unequal work, and every ring step waits for the slowest device.

1. ``plan``              which device computes which heads and token blocks: a ``Plan``
   ``greedy_plans``      the paper's plans for several degrees at once
   ``fit_home``          one static token order in which hardly any block has to move
2. ``work_table``        active blocks of every (group, query shard, key shard) of a plan
3. ``imbalance_ratio``, ``device_imbalance_ratio``   how far from perfect balance that is
   ``movement_bound``    how near any plan with so little movement could come
4. ``head_groups``, ``block_groups``   the two levels of the paper's planner by themselves
5. ``device_plan``       a plan as arrays (``DevicePlan``), so that new plans do not recompile
6. ``to_home``, ``from_home``   the token order of a static home, once a model call
7. ``sharded_attention`` the attention layer on a mesh, by a plan; differentiable
8. ``traffic``           bytes that the layer needs and sends, padding included (``Traffic``)
9. ``CostModel``, ``layer_time``   seconds of a layer, with its communication over ``Links``
10. ``select``           the Ulysses and ring degrees with the least predicted time
11. ``ReplanPolicy``, ``DriftPolicy``, ``replay``   when drifting masks need another plan

A plan is a placement: it moves work and never changes the result. Making and judging plans takes
numba (the extra ``planning``); the layer itself runs without.
"""

from jaxlab.dbsp.blocks import block_groups
from jaxlab.dbsp.bound import movement_bound
from jaxlab.dbsp.cost import CostModel, LayerTime, Links, layer_time
from jaxlab.dbsp.device_plan import DevicePlan, device_plan
from jaxlab.dbsp.heads import head_groups
from jaxlab.dbsp.home import fit_home
from jaxlab.dbsp.imbalance import device_imbalance_ratio, imbalance_ratio, work_table
from jaxlab.dbsp.layer import sharded_attention
from jaxlab.dbsp.plan import Plan
from jaxlab.dbsp.planner import greedy_plans, plan
from jaxlab.dbsp.replan import DriftPolicy, ReplanPolicy, ReplanState, Replay, replay
from jaxlab.dbsp.selection import select
from jaxlab.dbsp.token_order import from_home, to_home
from jaxlab.dbsp.traffic import Bytes, Traffic, traffic

__all__ = [
    "Bytes",
    "CostModel",
    "DevicePlan",
    "DriftPolicy",
    "LayerTime",
    "Links",
    "Plan",
    "ReplanPolicy",
    "ReplanState",
    "Replay",
    "Traffic",
    "block_groups",
    "device_imbalance_ratio",
    "device_plan",
    "fit_home",
    "from_home",
    "greedy_plans",
    "head_groups",
    "imbalance_ratio",
    "layer_time",
    "movement_bound",
    "plan",
    "replay",
    "select",
    "sharded_attention",
    "to_home",
    "traffic",
    "work_table",
]
