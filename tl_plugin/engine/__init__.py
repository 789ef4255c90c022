"""How a run trains: which weights, how fast, on what batches, and what watches over it."""

import tl_plugin.reliability  # noqa: F401
from tl_plugin.reliability.initial_weights import announce_in_every_run
from tl_plugin.reliability.sharded_resume import repair_sharded_resume

from . import hooks, loops, optimizers, schedulers  # noqa: F401
from .loops import interpolation_loop  # noqa: F401

# Before any model is built: a runner asks for its hooks first.
announce_in_every_run()
repair_sharded_resume()
