"""A run's report, and the comparison of two: one HTML file each, which needs nothing else."""

from dashboards.report.compare import write_comparison
from dashboards.report.write import write_run_report

__all__ = ["write_comparison", "write_run_report"]
