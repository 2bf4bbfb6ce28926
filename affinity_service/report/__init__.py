"""The HTML report of a study: one file that needs nothing else to be read."""

from affinity_service.report.page import write_report

__all__ = ["write_report"]
