from . import hooks, loops, optimizers, schedulers  # noqa: F401
from .resume.start import tell_in_every_run

# Before any model is built: a runner asks for its hooks first.
tell_in_every_run()
