from . import hooks, loops, optimizers, schedulers  # noqa: F401
