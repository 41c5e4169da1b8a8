"""How much a channel matters: one file and one line here for each score."""

from __future__ import annotations

from edgevision.pruning.importance.base import Importance
from edgevision.registry import Registry

IMPORTANCES: Registry[type[Importance]] = Registry("importance")
IMPORTANCES.add("magnitude", "edgevision.pruning.importance.magnitude:Magnitude")
IMPORTANCES.add("taylor", "edgevision.pruning.importance.taylor:Taylor")
IMPORTANCES.add("hessian", "edgevision.pruning.importance.hessian:Hessian")
IMPORTANCES.add("activation", "edgevision.pruning.importance.activation:Activation")
IMPORTANCES.add("bn-scale", "edgevision.pruning.importance.bn_scale:BnScale")
IMPORTANCES.add("lamp", "edgevision.pruning.importance.lamp:Lamp")
IMPORTANCES.add("random", "edgevision.pruning.importance.random:Random")

__all__ = ["IMPORTANCES", "Importance"]
