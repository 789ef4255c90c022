"""How adversarial training goes: what ails it, and how far to back off."""

from .ills import Limits, name_ills
from .monitor import AdversaryMonitor

__all__ = ['AdversaryMonitor', 'Limits', 'name_ills']
