"""Rollouts in the hub: what `fleet.rollouts` decides is stored, published and told.

facts     from the database's rows to what the rules need to know
outlook   who can belong to a cohort, and what traffic was measured
create    a new rollout: forecast, plan, salt, first stage
engine    one step of every live rollout; crash-safe and idempotent
orders    rollouts as the API shows them, and what an operator orders
"""

from __future__ import annotations

from cloud_hub.rollouts.create import create_rollout
from cloud_hub.rollouts.engine import services, settle

__all__ = ["create_rollout", "services", "settle"]
