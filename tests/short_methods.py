"""Methods of this package whose outer steps are short enough for the experts of `problems`."""

from __future__ import annotations

from astdistill.methods import trajectory_matching as own
from astdistill.methods.method import Method
from astdistill.methods.outer_step import TrajectoryMatching

STEP = TrajectoryMatching(syn_steps=4, expert_epochs=2, max_start_epoch=4, batch_syn=4)


def with_numbers(method: Method, **numbers: int | None) -> Method:
    """The method with other numbers of its outer step."""
    return method.replace(step=method.step.replace(**numbers))


MTT, AST, AST_AS_RELEASED, DATM, TESLA = (
    each.replace(step=STEP) for each in (own.MTT, own.AST, own.AST_AS_RELEASED, own.DATM, own.TESLA)
)
