"""AST whose labels are learned and whose start epochs come from DATM's growing window: --method
ast_soft_window:AST_SOFT_WINDOW."""

from astdistill.methods.initialisation import ExpertLabels
from astdistill.methods.segments import GrowingWindow
from astdistill.methods.trajectory_matching import AST

AST_SOFT_WINDOW = AST.replace(
    name="ast-soft-window",
    paper="AST (arXiv 2310.10541) with the labels and the window of DATM (arXiv 2310.05773), equations of their §3",
    labels=ExpertLabels(),
    learn=("images", "targets", "lr"),
    sample=GrowingWindow(begins=2, full_by=1000),
)
